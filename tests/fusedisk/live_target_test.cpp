// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/live_target.h"

#include "tests/support/pool_fixture.h"
#include "tests/support/temp_dir.h"

#include <boost/filesystem.hpp>
#include <nlohmann/json.hpp>
#include <thread>

using namespace dmremap;
using namespace dmremap::test;

namespace {

/// A running set in memory, without a mount; its folder is called "one".
struct running {
  running() : info(*f.set->info()) {
    set_members members;
    for (const std::shared_ptr<store>& io :
         {std::shared_ptr<store>(f.main), std::shared_ptr<store>(f.spares[0])}) {
      open_member member;
      member.spec.path = io->identity().path;
      member.io = io;
      members.members.push_back(member);
    }
    pool = std::make_unique<spare_pool>(*f.set, log, members, info, false, "0:0");
    auto claimed = run_files::claim("one");
    REQUIRE(claimed);
    files = std::move(*claimed);
    target =
        std::make_unique<live_target>(daemon_parts{*f.set, log, workers, *files, {}, "0:0", *pool, {}}, info);
  }
  [[nodiscard]] nlohmann::json read_info() const {
    return nlohmann::json::parse(slurp(files->path() + "/info.json"), nullptr, false);
  }

  temp_dir dir;
  scoped_env run{"DMREMAP_RUN_DIR", dir / "run"}, state{"DMREMAP_STATE_DIR", dir / "state"},
      conf{"DMREMAP_CONF_DIR", dir / "conf"};
  pool_fixture f{1};
  disk_info info;
  event_log log{log_level::error};
  worker_pool workers{{}, [](worker_pool::place&, bool) { return std::unique_ptr<request_source>(); }};
  std::unique_ptr<spare_pool> pool;
  std::unique_ptr<run_files> files;
  std::unique_ptr<live_target> target;
};

} // namespace

TEST_CASE("info.json is whole, and of the last name, whoever writes it at once") {
  running set;
  unsigned refused[3] = {};
  const auto write = [&](unsigned& failed) {
    for (unsigned n = 0; n < 2000; ++n)
      failed += set.target->write_info_file() ? 0u : 1u;
  };
  std::thread one([&] { write(refused[0]); }), other([&] { write(refused[1]); });
  for (unsigned n = 0; n < 300; ++n)
    // A short name and a long one: what is left of a longer text shows.
    refused[2] += set.target->rename(n % 2 == 0 ? std::string(60, 'a') : "b") ? 0u : 1u;
  const std::string now = set.read_info().is_object() ? set.read_info().value("name", "") : "broken";
  one.join();
  other.join();
  CHECK(refused[0] == 0);
  CHECK(refused[1] == 0);
  CHECK(refused[2] == 0);
  CHECK(now == "b");
  REQUIRE(set.read_info().is_object());
  CHECK(set.read_info()["name"] == "b");
}

TEST_CASE("a set has its new name though its folder cannot say so") {
  running set;
  boost::filesystem::create_directory(set.files->path() + "/info.json");
  REQUIRE(set.target->rename("two"));
  CHECK(set.files->path() == set.dir / "run/.sets/two");
  CHECK(set.f.set->info()->set_name == "two");
  boost::filesystem::remove(set.files->path() + "/info.json");
}
