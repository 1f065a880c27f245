// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/disk.h"
#include "tests/support/set_fixture.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <functional>
#include <vector>

using namespace dmremap;
using namespace dmremap::test;

TEST_CASE("reads and writes of any alignment reach main and only the bytes asked for", "[disk]") {
  const auto [main_block, spare_block] = GENERATE(std::pair{512u, 512u}, std::pair{4096u, 512u},
                                                  std::pair{512u, 4096u}, std::pair{4096u, 4096u});
  set_fixture f(1u << 20, main_block, spare_block);
  for (const auto& [offset, length] : {std::pair{0, 4096},
                                      {4096, 8192},
                                      {700, 1},
                                      {511, 2},
                                      {4095, 2},
                                      {8191, 4099},
                                      {3 * 4096 + 512, 1024},
                                      {(1 << 20) - 5, 5}}) {
    const auto before = *f.read(0, 1u << 20);
    REQUIRE(f.write(static_cast<std::uint64_t>(offset), static_cast<std::uint64_t>(length), std::byte{0x5A}));
    auto expected = before;
    std::fill_n(expected.begin() + offset, length, std::byte{0x5A});
    REQUIRE(*f.read(0, 1u << 20) == expected);
  }
  REQUIRE(f.read(1u << 20, 1).error() == io_error::invalid);
  REQUIRE(f.write((1u << 20) - 1, 2, std::byte{1}).error() == io_error::invalid);
}

TEST_CASE("an unreadable sector costs only itself, is remembered, and comes back by salvage", "[disk]") {
  set_fixture f;
  f.main->add_bad({83, 1, direction::read, io_error::medium, always, false});
  REQUIRE(f.read(80 * 512, 4096).error() == io_error::lost);
  REQUIRE(f.read(83 * 512, 512).error() == io_error::lost);
  REQUIRE(f.holds_original(80, 3));
  REQUIRE(f.holds_original(84, 4));
  REQUIRE(f.set->stats().remapped_units == 1);
  REQUIRE(f.set->stats().lost_sectors == 1);
  REQUIRE(f.set->lost().size() == 1);
  REQUIRE(f.set->lost()[0].first.value == 83);

  SECTION("the drive is not touched again") {
    f.main->watch(83);
    REQUIRE_FALSE(f.read(83 * 512, 512));
    REQUIRE(f.main->touched(83, direction::read) == 0);
  }
  SECTION("a reopen remembers") {
    f.open();
    REQUIRE(f.read(83 * 512, 512).error() == io_error::lost);
    REQUIRE(f.holds_original(84, 4));
  }
  SECTION("salvage fails while it does not read, and brings it back when it does") {
    const auto none = f.set->salvage(std::nullopt);
    REQUIRE(none->tried == 1);
    REQUIRE(none->recovered == 0);
    REQUIRE(none->still_lost == 1);
    f.main->clear_faults();
    REQUIRE(f.set->salvage(std::nullopt)->recovered == 1);
    REQUIRE(f.holds_original(80, 8));
    f.open();
    REQUIRE(f.holds_original(80, 8));
    REQUIRE(f.set->stats().lost_sectors == 0);
  }
  SECTION("written whole it is found again, written in part it stays lost") {
    REQUIRE(f.write(83 * 512 + 10, 100, std::byte{9}).error() == io_error::lost);
    REQUIRE(f.read(83 * 512, 512).error() == io_error::lost);
    REQUIRE(f.write(83 * 512, 512, std::byte{9}));
    REQUIRE(f.holds(83 * 512, 512, std::byte{9}));
    REQUIRE(f.holds_original(84, 4));
    f.open();
    REQUIRE(f.holds(83 * 512, 512, std::byte{9}));
    // main may no longer answer for it: what was written wins over what main held
    f.main->clear_faults();
    REQUIRE(f.set->salvage(std::nullopt)->tried == 0);
    REQUIRE(f.holds(83 * 512, 512, std::byte{9}));
  }
  SECTION("remove_remap is refused while a sector is lost") {
    REQUIRE(f.set->unmap(sector_number(80)).error().id == "lost-sectors");
    REQUIRE(f.read(83 * 512, 512).error() == io_error::lost);
  }
}

TEST_CASE("a read over many units returns all that reads", "[disk]") {
  set_fixture f;
  f.main->add_bad({100, 1, direction::read, io_error::medium, 1, false}); // fails once: transient
  REQUIRE(f.read(0, 1u << 20));
  REQUIRE(f.holds_original(0, 2048));
  REQUIRE(f.set->stats().remapped_units == 0);
}

TEST_CASE("a write error is moved to the spare before the acknowledgement", "[disk]") {
  const std::uint32_t block = GENERATE(512u, 4096u);
  set_fixture f(1u << 20, block, block);
  f.main->add_bad({40, 8, direction::write, io_error::medium, always, false});
  REQUIRE(f.write(40 * 512, 4096, std::byte{7}));
  REQUIRE(f.holds(40 * 512, 4096, std::byte{7}));
  REQUIRE(f.set->stats().auto_remaps == 1);
  f.open(); // as after a crash: nothing was closed
  REQUIRE(f.holds(40 * 512, 4096, std::byte{7}));
  REQUIRE(f.holds_original(48, 8));
  REQUIRE(f.holds_original(32, 8));
}

TEST_CASE("a partial write to a bad unit keeps the other sectors, lost ones as lost", "[disk]") {
  set_fixture f;
  f.main->add_bad({42, 1, direction::both, io_error::medium, always, false});
  f.main->add_bad({45, 1, direction::both, io_error::medium, always, false});
  REQUIRE(f.write(42 * 512, 512, std::byte{7}));
  REQUIRE(f.holds(42 * 512, 512, std::byte{7}));
  REQUIRE(f.holds_original(40, 2));
  REQUIRE(f.holds_original(46, 2));
  REQUIRE(f.read(45 * 512, 512).error() == io_error::lost);
}

TEST_CASE("a large write over scattered bad units ends on both members", "[disk]") {
  set_fixture f;
  for (const std::uint64_t s : {16u, 80u, 88u, 1000u, 1999u})
    f.main->add_bad({s, 1, direction::write, io_error::medium, always, false});
  REQUIRE(f.write(0, 1u << 20, std::byte{3}));
  REQUIRE(f.holds(0, 1u << 20, std::byte{3}));
  REQUIRE(f.set->stats().remapped_units == 5);
  f.close();
  f.open();
  REQUIRE(f.holds(0, 1u << 20, std::byte{3}));
}

TEST_CASE("with automatic remapping off an error is an error", "[disk]") {
  set_fixture f;
  f.set->set_auto_remap(false);
  f.main->add_bad({40, 8, direction::both, io_error::medium, always, false});
  REQUIRE_FALSE(f.write(40 * 512, 4096, std::byte{7}));
  REQUIRE_FALSE(f.read(40 * 512, 512));
  REQUIRE(f.set->stats().remapped_units == 0);
}

TEST_CASE("a main that does not answer at all costs no spare unit", "[disk]") {
  set_fixture f;
  fault_table dead;
  SECTION("it says so") {
    dead.all = io_error::gone;
  }
  SECTION("it looks like a medium error everywhere") {
    dead.all = io_error::medium;
  }
  f.main->set_faults(dead);
  REQUIRE_FALSE(f.read(0, 4096));
  REQUIRE_FALSE(f.write(0, 4096, std::byte{1}));
  REQUIRE(f.set->stats().remapped_units == 0);
  REQUIRE(f.set->stats().main_gone);
  f.main->clear_faults();
  REQUIRE(f.holds_original(0, 8));
}

namespace {

/// A main of 2048 units that reads well and fails every write to the first 2000.
struct unwritable_main : set_fixture {
  explicit unwritable_main(const open_options& options = {}) : set_fixture(8u << 20) {
    open(options);
    main->add_bad({0, 16000, direction::write, io_error::medium, always, false});
  }
  /// Writes each of the first 2000 units, `between` after each; how many were moved. Every unit holds what it
  /// should.
  std::uint64_t moved(const std::function<void(std::uint64_t)>& between = [](std::uint64_t) {}) {
    std::vector<bool> moved(2000);
    for (std::uint64_t u = 0; u < moved.size(); ++u) {
      moved[u] = write(u * 4096, 4096, std::byte{0x5A}).has_value();
      between(u);
    }
    for (std::uint64_t u = 0; u < moved.size(); ++u)
      REQUIRE((moved[u] ? holds(u * 4096, 4096, std::byte{0x5A}) : holds_original(u * 8, 8)));
    const auto n = static_cast<std::uint64_t>(std::count(moved.begin(), moved.end(), true));
    REQUIRE(set->stats().remapped_units == n);
    return n;
  }
};

} // namespace

TEST_CASE("a main that fails every write trips the breaker before the spare is eaten up", "[disk]") {
  unwritable_main f;
  SECTION("nothing else is written") {
    REQUIRE(f.moved() == 64);
  }
  SECTION("what the spare takes is no sign of main's health") {
    REQUIRE(f.moved([&](std::uint64_t u) {
      for (int n = 0; n < 2; ++n) // of a unit that is on the spare
        REQUIRE(f.write(u % 64 * 4096, 4096, std::byte{0x5A}));
    }) == 64);
  }
  SECTION("nor are holes in main") {
    REQUIRE(f.moved([&](std::uint64_t) { REQUIRE(f.set->zero(*f.context, 2040 * 4096, 4096)); }) == 64);
    REQUIRE(f.holds(2040 * 4096, 4096, std::byte{0}));
  }
  REQUIRE(f.set->stats().breaker_open);
  f.main->clear_faults();
  f.set->reset_breaker();
  REQUIRE(f.write(1999 * 4096, 4096, std::byte{2}));
  REQUIRE(f.holds(1999 * 4096, 4096, std::byte{2}));
}

TEST_CASE("a main that fails every write trips the breaker however slowly that comes", "[disk]") {
  open_options options;
  options.breaker_seconds = 0; // each write comes after the end of the window before
  unwritable_main f(options);
  REQUIRE(f.moved() == 64);
  REQUIRE(f.set->stats().breaker_open);
}

TEST_CASE("bad places of a main that takes other writes do not trip the breaker", "[disk]") {
  set_fixture f(8u << 20);
  for (std::uint64_t u = 0; u < 600; u += 3)
    f.main->add_bad({u * 8, 1, direction::write, io_error::medium, always, false});
  const std::uint64_t at_once = GENERATE(1u, 3u, 60u); // in one request or in many
  for (std::uint64_t u = 0; u < 600; u += at_once)
    REQUIRE(f.write(u * 4096, at_once * 4096, std::byte{0x5A}));
  REQUIRE(f.holds(0, 600 * 4096, std::byte{0x5A}));
  REQUIRE(f.set->stats().remapped_units == 200);
  REQUIRE_FALSE(f.set->stats().breaker_open);
}

TEST_CASE("failed writes that spent nothing do not trip the breaker", "[disk]") {
  set_fixture f;
  f.main->add_bad({5 * 8, 8, direction::write, io_error::medium, always, false});
  fault_table away;
  away.all = GENERATE(io_error::gone, io_error::transient, io_error::read_only, io_error::no_space);
  f.spare->set_faults(away);
  for (int n = 0; n < 100; ++n)
    REQUIRE_FALSE(f.write(5 * 4096, 4096, std::byte{1}));
  REQUIRE_FALSE(f.set->stats().breaker_open);
  f.spare->clear_faults();
  REQUIRE(f.write(5 * 4096, 4096, std::byte{2}));
  REQUIRE(f.holds(5 * 4096, 4096, std::byte{2}));
}

TEST_CASE("remap by hand keeps the bytes and unmap writes them back", "[disk]") {
  set_fixture f;
  const auto reply = f.set->remap(sector_number(2045));
  REQUIRE(reply);
  REQUIRE(reply->units == 1);
  REQUIRE(f.set->remap(sector_number(2040))->already == 1);
  REQUIRE(f.holds_original(2040, 8));
  REQUIRE(f.write(2041 * 512, 512, std::byte{0x77}));
  f.open();
  REQUIRE(f.holds(2041 * 512, 512, std::byte{0x77}));
  REQUIRE(f.set->unmap(sector_number(2047)));
  REQUIRE(f.set->stats().remapped_units == 0);
  std::vector<std::byte> raw(512);
  REQUIRE(f.main->read(raw, 2041 * 512));
  REQUIRE(raw == std::vector<std::byte>(512, std::byte{0x77}));
  f.open();
  REQUIRE(f.holds(2041 * 512, 512, std::byte{0x77}));
  REQUIRE(f.set->unmap(sector_number(2047)).error().id == "not-remapped");
  REQUIRE(f.set->remap(sector_number(2048)).error().id == "out-of-range");
}

TEST_CASE("unmap is refused where main does not hold the bytes", "[disk]") {
  set_fixture f;
  REQUIRE(f.set->remap(sector_number(0)));
  REQUIRE(f.write(0, 4096, std::byte{0x11}));
  f.main->add_bad({3, 1, direction::write, io_error::medium, always, false});
  REQUIRE(f.set->unmap(sector_number(0)).error().id == "main-still-bad");
  REQUIRE(f.holds(0, 4096, std::byte{0x11}));
  f.open();
  REQUIRE(f.holds(0, 4096, std::byte{0x11}));
}

TEST_CASE("add_remap serves the spare's own bytes, main's where a unit is cut", "[disk]") {
  set_fixture f;
  std::vector<std::byte> pattern(104 * 512);
  for (std::size_t i = 0; i < pattern.size(); ++i)
    pattern[i] = std::byte(0x80 | (i / 512 & 0x7F));
  REQUIRE(f.spare->write(pattern, 5000 * 512));
  const auto reply = f.set->add_remap(sector_number(1000), sector_number(5000), 100);
  REQUIRE(reply);
  REQUIRE(reply->units == 13);
  const auto check = [&] {
    for (std::uint64_t s = 0; s < 100; ++s)
      REQUIRE(f.holds((1000 + s) * 512, 512, pattern[s * 512]));
    REQUIRE(f.holds_original(1100, 4)); // copied across first
    REQUIRE(f.holds_original(992, 8));
  };
  check();
  f.open();
  check();
  REQUIRE(f.set->add_remap(sector_number(1000), sector_number(5000), 100)->already == 13);

  const auto refused = [&](std::uint64_t dest, std::optional<std::uint64_t> source, std::uint64_t count) {
    const auto before = f.set->stats().remapped_units;
    const auto r = f.set->add_remap(sector_number(dest),
                                    source ? std::optional(sector_number(*source)) : std::nullopt, count);
    REQUIRE_FALSE(r);
    REQUIRE(f.set->stats().remapped_units == before);
    return r.error().id;
  };
  REQUIRE(refused(1000, 5001, 8) == "misaligned");
  REQUIRE(refused(1000, 5008, 8) == "contradicts-remap");
  REQUIRE(refused(1000, std::nullopt, 8) == "contradicts-remap");
  REQUIRE(refused(0, 5000, 8) == "spare-range-taken");
  REQUIRE(refused(0, 1024, 8) == "spare-range-taken"); // a superblock
  REQUIRE(refused(0, 8200, 8) == "spare-range-taken"); // the head of a replica
  REQUIRE(refused(0, 32768 - 8, 16) == "spare-range-taken");
  REQUIRE(refused(2047, 7, 2) == "out-of-range");
  REQUIRE(refused(0, 16, 0) == "out-of-range");
  REQUIRE(f.set->add_remap(sector_number(3), std::nullopt, 20));
}

TEST_CASE("zero yields zeros on both members and lost sectors become written", "[disk]") {
  set_fixture f;
  REQUIRE(f.set->remap(sector_number(16)));
  f.main->add_bad({33, 1, direction::read, io_error::medium, always, false});
  REQUIRE_FALSE(f.read(32 * 512, 4096));
  REQUIRE(f.set->zero(*f.context, 700, 100 * 512));
  REQUIRE(f.holds(700, 100 * 512, std::byte{0}));
  REQUIRE(f.holds(0, 512, f.original(0)));
  REQUIRE(f.holds(512, 188, f.original(1)));
  REQUIRE(f.holds_original(102, 20));
  REQUIRE(f.set->stats().remapped_units == 2);
  f.open();
  REQUIRE(f.holds(33 * 512, 512, std::byte{0}));

  fault_table no_zero;
  no_zero.zero_unsupported = true;
  f.main->set_faults(no_zero);
  REQUIRE(f.set->zero(*f.context, 512 * 1024, 65536).error() == io_error::unsupported);
  REQUIRE(f.holds_original(1024, 128));
}

TEST_CASE("a full spare fails that write alone", "[disk]") {
  set_fixture f(32u << 20);
  const std::uint64_t usable = f.set->info()->spares[0].usable_units;
  f.main->add_bad({8, 1, direction::write, io_error::medium, always, false});
  REQUIRE(f.set->add_remap(sector_number(65536 - 8 * 8), std::nullopt, 8));
  std::uint64_t taken = 1;
  for (std::uint64_t u = 100; f.set->remap(sector_number(u * 8)); ++u)
    ++taken;
  REQUIRE(taken > 2000);
  REQUIRE(taken < usable); // the front is left to explicit remaps
  REQUIRE(f.set->remap(sector_number(0)).error().why == "No spare capacity available");
  REQUIRE_FALSE(f.write(8 * 512, 512, std::byte{1}));
  REQUIRE(f.holds_original(0, 8));
  REQUIRE(f.write(0, 4096, std::byte{2}));
  f.open();
  REQUIRE(f.set->stats().remapped_units == taken);
  REQUIRE(f.holds_original(800, 4000));
}

TEST_CASE("read-only writes nothing at all", "[disk]") {
  set_fixture f;
  REQUIRE(f.set->remap(sector_number(8)));
  f.context.reset();
  f.set.reset();
  const auto main_before = f.main->counts().writes, spare_before = f.spare->counts().writes;
  open_options ro;
  ro.read_only = true;
  f.open(ro);
  REQUIRE(f.holds_original(0, 2048));
  REQUIRE(f.write(0, 512, std::byte{1}).error() == io_error::read_only);
  REQUIRE(f.set->remap(sector_number(0)).error().id == "read-only");
  f.close();
  REQUIRE(f.main->counts().writes == main_before);
  REQUIRE(f.spare->counts().writes == spare_before);
}

TEST_CASE("the wrong main is refused and nothing is written", "[disk]") {
  set_fixture f;
  f.close();
  const auto spare_before = f.spare->counts().writes;
  const auto right = f.main;
  SECTION("another size") {
    f.main = std::make_shared<memory_store>(2u << 20);
    REQUIRE(f.try_open().error().id == "main-wrong-size");
  }
  SECTION("another content after a clean close") {
    f.main = std::make_shared<memory_store>(1u << 20);
    REQUIRE(f.try_open().error().id == "main-mismatch");
  }
  SECTION("swapped") {
    std::swap(f.main, f.spare);
    REQUIRE_FALSE(f.try_open());
    std::swap(f.main, f.spare);
  }
  REQUIRE(f.spare->counts().writes == spare_before);
  f.main = right;
  f.open();
}

TEST_CASE("writes through the set, a crash, a reopen: its own main is not refused", "[disk]") {
  set_fixture f;
  REQUIRE(f.write(0, 1u << 20, std::byte{0x33}));
  f.open();
  REQUIRE(f.holds(0, 1u << 20, std::byte{0x33}));
}

TEST_CASE("a spare that fails while the table is written leaves EIO, then the truth", "[disk]") {
  bool flush_fails = false;
  set_fixture f;
  f.spare_flush_fails = &flush_fails;
  f.open();
  f.main->add_bad({40, 8, direction::write, io_error::medium, always, false});
  REQUIRE(f.set->remap(sector_number(0))); // so that the chunk is ready
  SECTION("the data flush fails once: nothing has begun, it is simply tried again") {
    f.spare->fail_flushes(1);
    REQUIRE(f.write(40 * 512, 4096, std::byte{7}));
  }
  SECTION("a flush of the table fails: in doubt, EIO, and completed by the next access") {
    // The second change of the spare is the first table write (data comes before): fail the flush behind it.
    unsigned changes = 0;
    f.spare->on_change([&](std::uint64_t, std::uint64_t, const std::byte*) {
      if (++changes == 2)
        flush_fails = true;
      return true;
    });
    REQUIRE_FALSE(f.write(40 * 512, 4096, std::byte{7}));
    f.spare->on_change({});
    flush_fails = false;
    REQUIRE(f.set->stats().state == "a table change is in doubt");
    REQUIRE(f.set->stats().remapped_units == 2);
  }
  REQUIRE((f.write(40 * 512, 4096, std::byte{7})));
  REQUIRE(f.holds(40 * 512, 4096, std::byte{7}));
  f.open();
  REQUIRE(f.holds(40 * 512, 4096, std::byte{7}));
}

TEST_CASE("an open that cannot make durable what it has read is refused, and the next one reads anew",
          "[disk]") {
  set_fixture f;
  REQUIRE(f.set->remap(sector_number(0)));
  REQUIRE(f.write(0, 4096, std::byte{9}));
  f.context.reset();
  f.set.reset(); // killed
  f.spare->fail_flushes(1);
  const auto before = f.spare->counts().writes;
  const auto refused = f.try_open();
  REQUIRE_FALSE(refused);
  REQUIRE(refused.error().id == "cannot-mend");
  REQUIRE(refused.error().why.find("open it again") != std::string::npos);
  REQUIRE(f.spare->counts().writes == before); // nothing was written on top of it
  f.open();
  REQUIRE(f.set->flush());
  REQUIRE(f.set->stats().remapped_units == 1);
}
