// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/spare_metadata.h"
#include "tests/support/set_fixture.h"

#include <catch2/catch.hpp>

using namespace dmremap;
using namespace dmremap::test;

TEST_CASE("a flush that fails while superblocks are written does not end all later superblock writes",
          "[disk]") {
  bool flush_fails = false;
  set_fixture f;
  f.spare_flush_fails = &flush_fails;
  f.open();
  const unsigned failing_write = GENERATE(1u, 2u, 10u); // the flush behind this superblock write fails
  unsigned changes = 0;
  f.spare->on_change([&](std::uint64_t, std::uint64_t, const std::byte*) {
    flush_fails = ++changes >= failing_write;
    return true;
  });
  REQUIRE_FALSE(f.set->save());
  f.spare->on_change({});
  flush_fails = false;
  REQUIRE(f.set->save());
  REQUIRE(f.set->info()->spares[0].super_copies_valid == 5);
  REQUIRE(f.set->info()->spares[0].head_copies_valid == 5);
}

namespace {

/// The metadata of a closed set, loaded by itself.
struct metadata_fixture {
  explicit metadata_fixture(std::uint64_t spare_bytes = 16u << 20) : set(1u << 20, 512, 512, spare_bytes) {
    set.close();
    load();
    counter = {m->highest_sequence() + 1, m->highest_sequence() + 100000};
    unit = m->places().first_automatic();
    while (m->places().is_metadata(unit))
      unit = unit.plus(1);
    block = geometry::block_of(unit);
    chunk = m->places().chunk_of(block);
  }
  void load() {
    auto loaded = spare_metadata::load(set.spare, rules);
    if (!loaded)
      FAIL(loaded.error().text());
    m = std::move(*loaded);
  }
  [[nodiscard]] std::uint64_t sector(unsigned replica, std::uint32_t number) const {
    return byte_of(m->places().block_place(replica, number)) / sector_bytes;
  }
  void break_writes(unsigned replica, std::uint32_t number, io_error error = io_error::medium) {
    set.spare->add_bad({sector(replica, number), 8, direction::write, error, always, false});
  }
  void remap(spare_unit u, std::uint64_t main) {
    m->set(u, slot::make(slot_kind::remap, main_unit(main), 0, 0, counter.take()));
  }
  [[nodiscard]] io_result write(std::vector<std::uint32_t> blocks) {
    return m->write_blocks(blocks, counter);
  }

  set_fixture set;
  commit_rules rules;
  std::unique_ptr<spare_metadata> m;
  sequence_counter counter;
  spare_unit unit;
  std::uint32_t block = 0, chunk = 0;
};

} // namespace

TEST_CASE("the only copy that surely holds a table block is not written over", "[spare_metadata]") {
  metadata_fixture f;
  for (unsigned r = 0; r < 4; ++r)
    f.break_writes(r, f.block);
  f.set.spare->watch(f.sector(4, f.block));
  f.remap(f.unit, 7);
  REQUIRE_FALSE(f.write({f.block}));
  REQUIRE(f.set.spare->touched(f.sector(4, f.block), direction::write) == 0);
  f.set.spare->clear_faults();
  REQUIRE(f.write({f.block}));
  f.load();
  REQUIRE(f.m->get(f.unit).main().value == 7);
  REQUIRE(f.m->super.good_replicas(f.chunk) == 0x1F);
}

TEST_CASE("no copy is written over while a superblock may say that it is the only one left",
          "[spare_metadata]") {
  metadata_fixture f;
  for (unsigned r = 0; r < 4; ++r)
    f.break_writes(r, f.block);
  f.remap(f.unit, 7);
  REQUIRE_FALSE(f.write({f.block}));
  f.set.spare->fail_flushes(1); // behind the first superblock copy
  REQUIRE_FALSE(f.m->withdraw(f.block, f.counter));
  f.set.spare->clear_faults();
  // The power goes while the last of the copies is written.
  const std::uint64_t last = f.sector(4, f.block) * sector_bytes;
  bool off = false;
  f.set.spare->on_change([&](std::uint64_t offset, std::uint64_t, const std::byte*) {
    off = off || offset == last;
    return !off;
  });
  static_cast<void>(f.write({f.block}));
  REQUIRE(off);
  f.set.spare->on_change({});
  REQUIRE(f.set.spare->zero(last, sector_bytes));
  f.load();
  REQUIRE(f.m->get(f.unit).main().value == 7);
}

TEST_CASE("good bits that could not be cleared yet are cleared before the next answer", "[spare_metadata]") {
  metadata_fixture f;
  f.break_writes(3, f.block);
  f.set.spare->add_bad({0, 8, direction::write, io_error::transient, 1, false}); // the first superblock copy
  f.remap(f.unit, 7);
  REQUIRE_FALSE(f.write({f.block}));
  REQUIRE(f.write({f.block}));
  f.load();
  REQUIRE(f.m->super.good_replicas(f.chunk) == 0x17);
  REQUIRE(f.m->get(f.unit).main().value == 7);
}

TEST_CASE("a change that no good replica holds in full is not answered", "[spare_metadata]") {
  metadata_fixture f(2ull << 30); // chunks of more than one block
  const std::uint32_t one = f.block, other = f.block + 1;
  REQUIRE(f.m->places().chunk_of(other) == f.chunk);
  const spare_unit there(std::uint64_t{other} * slots_per_block);
  f.break_writes(3, one);
  f.break_writes(4, one);
  REQUIRE(f.m->prepare_chunk(f.chunk, f.counter));
  REQUIRE(f.m->super.good_replicas(f.chunk) == 0x7);
  // Each of the three fails for one block or the other, none for both.
  f.break_writes(0, other);
  f.break_writes(1, one);
  f.break_writes(2, one);
  f.remap(f.unit, 7);
  f.remap(there, 8);
  const auto written = f.write({one, other});
  f.load();
  CHECK(f.m->super.good_replicas(f.chunk) == 0x7);
  if (written) {
    CHECK(f.m->get(f.unit).main().value == 7);
    CHECK(f.m->get(there).main().value == 8);
  }
  REQUIRE_FALSE(written);
  f.set.spare->clear_faults();
  f.counter.next += 100;
  f.remap(f.unit, 7);
  f.remap(there, 8);
  REQUIRE(f.write({one, other}));
  f.load();
  CHECK(f.m->get(f.unit).main().value == 7);
  CHECK(f.m->get(there).main().value == 8);
}

TEST_CASE("a close that failed leaves no clean mark to later writes", "[spare_metadata]") {
  set_fixture f;
  f.spare->add_bad({0, 8, direction::write, io_error::transient, 1, false});
  REQUIRE_FALSE(f.set->close());
  REQUIRE(f.write(0, 4096, std::byte{7}));
  REQUIRE(f.set->save());
  REQUIRE_FALSE(f.set->info()->spares[0].clean);
  f.open(); // main differs from its samples: they must not count
  REQUIRE(f.holds(0, 4096, std::byte{7}));
}

TEST_CASE("the other replicas wait for the first one, unless the rule is off", "[spare_metadata]") {
  metadata_fixture f;
  f.rules.others_after_first = GENERATE(true, false);
  const auto before = f.set.spare->counts();
  f.remap(f.unit, 7);
  REQUIRE(f.write({f.block}));
  const auto after = f.set.spare->counts();
  REQUIRE(after.writes - before.writes == 5);
  REQUIRE(after.flushes - before.flushes == (f.rules.others_after_first ? 2 : 1));
  REQUIRE(after.reads - before.reads == (f.rules.others_after_first ? 1 : 0));
}
