// SPDX-License-Identifier: GPL-2.0-or-later
// What an answered flush promises, and what becomes of a flush that failed.
#include "tests/support/crash_replay.h"
#include "tests/support/set_fixture.h"

#include <catch2/catch.hpp>

using namespace dmremap;
using namespace dmremap::test;

namespace {

/// A set whose main may lose power.
struct volatile_main {
  set_fixture f;
  std::shared_ptr<crash_log> log = std::make_shared<crash_log>();
  std::shared_ptr<crash_store> main;
  std::unique_ptr<disk> set;
  std::unique_ptr<io_context> context;

  volatile_main() {
    f.close();
    main = std::make_shared<crash_store>(log, f.main);
    open();
  }
  ~volatile_main() { kill(); }
  void kill() {
    context.reset();
    set.reset();
  }
  void open() {
    auto opened = disk::open(main, {f.spare}, {});
    if (!opened)
      FAIL(opened.error().text());
    set = std::move(*opened);
    context = set->make_context();
  }
  [[nodiscard]] bool written(std::uint64_t offset, std::byte value) {
    return set->write(*context, std::vector<std::byte>(512, value), offset).has_value();
  }
  /// Whether main shows `value` there after every power cut that is possible now.
  [[nodiscard]] bool survives(std::uint64_t offset, std::byte value) {
    replay_limits limits;
    limits.first_event = log->size();
    crash_replay replay(*log, limits);
    return replay.run([&](const crash_state& state) {
      std::vector<std::byte> held(512);
      state.devices[0]->content.read(held, offset);
      return held == std::vector<std::byte>(512, value);
    });
  }
};

} // namespace

TEST_CASE("the first flush covers what a killed session had answered", "[flush]") {
  volatile_main v;
  REQUIRE(v.written(8192, std::byte{7}));
  REQUIRE_FALSE(v.survives(8192, std::byte{7}));
  v.kill();
  v.open();
  REQUIRE(v.set->flush());
  REQUIRE(v.survives(8192, std::byte{7}));
}

TEST_CASE("a flush that failed is told once, to a caller of flush", "[flush]") {
  set_fixture f;
  REQUIRE(f.write(8192, 512, std::byte{7}));
  f.main->fail_flushes(1);
  REQUIRE_FALSE(f.set->flush());
  REQUIRE(f.set->flush());
  REQUIRE(f.set->stats().flush_errors == 1);
}

TEST_CASE("a flush that failed for a table change may have given up other writes: the next flush says so",
          "[flush]") {
  set_fixture f;
  REQUIRE(f.set->remap(sector_number(0)));
  f.main->add_bad({40, 8, direction::write, io_error::medium, always, false});
  SECTION("a write to the spare was answered before") {
    REQUIRE(f.write(0, 4096, std::byte{7}));
    f.spare->fail_flushes(1);
    REQUIRE(f.write(40 * 512, 4096, std::byte{8})); // moved at the second try, data and all
    REQUIRE_FALSE(f.set->flush());
    REQUIRE(f.set->flush());
  }
  SECTION("nothing waited for a flush") {
    f.spare->fail_flushes(1);
    REQUIRE(f.write(40 * 512, 4096, std::byte{8}));
    REQUIRE(f.set->flush());
  }
}

TEST_CASE("a lost sector's new bytes are not answered where their flush failed", "[flush]") {
  set_fixture f;
  f.main->add_bad({83, 1, direction::read, io_error::medium, always, false});
  REQUIRE_FALSE(f.read(80 * 512, 4096));
  f.spare->fail_flushes(1);
  REQUIRE_FALSE(f.write(83 * 512, 512, std::byte{9}));
  REQUIRE(f.read(83 * 512, 512).error() == io_error::lost);
  REQUIRE(f.write(83 * 512, 512, std::byte{9}));
  REQUIRE(f.holds(83 * 512, 512, std::byte{9}));
}
