// SPDX-License-Identifier: GPL-2.0-or-later
// The locks under the run folder: of a daemon that lives, and of commands that take turns.
#include "engine/run_lock.h"
#include "tests/support/temp_dir.h"

#include <catch2/catch.hpp>
#include <thread>

using namespace dmremap;
using namespace dmremap::test;
using namespace std::chrono_literals;

TEST_CASE("who looks whether a daemon lives is in nobody's way") {
  const temp_dir dir;
  CHECK_FALSE(pid_file_locked(dir.path()));
  std::vector<std::jthread> lookers;
  for (unsigned n = 0; n < 3; ++n)
    lookers.emplace_back([&](const std::stop_token& over) {
      while (!over.stop_requested())
        static_cast<void>(pid_file_locked(dir.path()));
    });
  for (unsigned n = 0; n < 2000; ++n) {
    const auto lock = lock_pid_file(dir.path(), "one");
    if (!lock)
      FAIL(lock.error().text());
    if (n % 100 == 0) {
      CHECK(pid_file_locked(dir.path()));
      CHECK(lock_pid_file(dir.path(), "one").error().id == "in-use");
    }
  }
  lookers.clear();
  CHECK_FALSE(pid_file_locked(dir.path()));
}

TEST_CASE("one command at a time has its turn with a set") {
  const temp_dir dir;
  const scoped_env run_dir{"DMREMAP_RUN_DIR", dir / "run"};
  std::vector<std::string> notices;
  const auto turn = [&](const std::string& uuid, std::chrono::milliseconds limit) {
    return lock_set(
        "one", uuid, [&](const std::string& text) { notices.push_back(text); }, limit);
  };
  auto first = turn("a8454238-aa1e-403c-84d4-09318855e3d3", 0ms);
  REQUIRE(first);
  CHECK(turn("b8454238-aa1e-403c-84d4-09318855e3d3", 0ms)); // another set
  const auto refused = turn("A8454238-AA1E-403C-84D4-09318855E3D3", 1200ms);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().id == "in-use");
  REQUIRE(notices.size() == 1);
  CHECK(notices.front().find("process " + std::to_string(::getpid())) != std::string::npos);
  first->reset();
  CHECK(turn("A8454238-AA1E-403C-84D4-09318855E3D3", 0ms));
}
