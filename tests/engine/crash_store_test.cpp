// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/crash_store.h"

#include "tests/support/crash_replay.h"
#include "tests/support/oracle.h"

#include <catch2/catch.hpp>

#include <set>
#include <thread>

using namespace dmremap;
using namespace dmremap::test;

namespace {

struct bench {
  std::shared_ptr<crash_log> log = std::make_shared<crash_log>();
  std::shared_ptr<memory_store> memory = std::make_shared<memory_store>(1 << 20);
  crash_store drive{log, memory};

  void write(std::uint64_t sector, std::uint64_t count, version v) {
    std::vector<std::byte> bytes(count * 512);
    fill_tags(bytes, sector, v);
    (void)drive.write(bytes, sector * 512);
  }
  version visible(std::uint64_t sector) {
    std::vector<std::byte> bytes(512);
    REQUIRE(drive.read(bytes, sector * 512).has_value());
    return read_tag(bytes, sector);
  }
  /// What the sector may hold if the power goes at the end of the log.
  std::set<version> after_crash(std::uint64_t sector) {
    replay_limits limits;
    limits.first_event = log->size();
    crash_replay replay(*log, limits);
    std::set<version> all;
    replay.run([&](const crash_state& state) {
      std::vector<std::byte> bytes(512);
      state.devices[0]->content.read(bytes, sector * 512);
      all.insert(read_tag(bytes, sector));
      return true;
    });
    return all;
  }
};

using versions = std::set<version>;

} // namespace

TEST_CASE("a write is durable with the first flush that was called after it") {
  bench b;
  b.write(8, 8, 1);
  REQUIRE(b.after_crash(8) == versions{0, 1});
  REQUIRE(b.drive.flush().has_value());
  REQUIRE(b.after_crash(8) == versions{1});
  b.write(8, 8, 2);
  b.write(8, 8, 3);
  REQUIRE(b.visible(8) == 3);
  REQUIRE(b.after_crash(8) == versions{1, 2, 3});
  REQUIRE(b.drive.flush().has_value());
  REQUIRE(b.after_crash(8) == versions{3});
  REQUIRE(b.drive.zero(4096, 4096).has_value());
  REQUIRE(b.after_crash(8) == versions{3, 0});
}

TEST_CASE("a write that comes while a flush is under way is not covered by it") {
  bench b;
  b.write(8, 8, 1);
  b.memory->close_flush_gate();
  std::thread flusher([&] { REQUIRE(b.drive.flush().has_value()); });
  b.memory->wait_for_blocked();
  b.write(16, 8, 1);
  b.memory->open_gate();
  flusher.join();
  REQUIRE(b.after_crash(8) == versions{1});
  REQUIRE(b.after_crash(16) == versions{0, 1});
}

TEST_CASE("what a failed flush gave up is covered by no later one") {
  bench b;
  const bool loses = GENERATE(true, false);
  b.drive.failed_flush_loses(loses);
  b.write(8, 2, 1);
  b.memory->fail_flushes(1);
  REQUIRE_FALSE(b.drive.flush().has_value());
  REQUIRE(b.visible(8) == 1);
  REQUIRE(b.drive.flush().has_value());
  REQUIRE(b.after_crash(8) == (loses ? versions{0, 1} : versions{1}));
  b.write(8, 1, 2); // written again, it is durable; its neighbour is not
  REQUIRE(b.drive.flush().has_value());
  REQUIRE(b.after_crash(8) == versions{2});
  REQUIRE(b.after_crash(9) == (loses ? versions{0, 1} : versions{1}));
}

TEST_CASE("dropped and forgotten writes") {
  bench b;
  b.drive.set_fate([](std::uint64_t index, std::uint64_t, std::uint64_t) {
    return index == 0 ? write_fate::dropped : index == 1 ? write_fate::forgotten : write_fate::kept;
  });
  b.write(8, 8, 1);
  REQUIRE(b.visible(8) == 0);
  b.write(16, 8, 1);
  REQUIRE(b.visible(16) == 1);
  b.write(24, 8, 1);
  REQUIRE(b.drive.flush().has_value());
  REQUIRE(b.after_crash(8) == versions{0});
  REQUIRE(b.after_crash(16) == versions{0});
  REQUIRE(b.after_crash(24) == versions{1});
  REQUIRE(b.drive.writes_seen() == 3);
}

TEST_CASE("a failed write may have changed the sectors before the bad one") {
  bench b;
  b.memory->add_bad({10, 1, direction::write});
  b.write(8, 8, 1);
  REQUIRE(b.after_crash(8) == versions{0, 1});
  REQUIRE(b.after_crash(10) == versions{0});
  REQUIRE(b.after_crash(12) == versions{0});
}
