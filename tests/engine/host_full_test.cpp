// SPDX-License-Identifier: GPL-2.0-or-later
// Spares whose host has no space left (ENOSPC): told as that, and nothing is condemned.
#include "engine/codec.h"
#include "engine/geometry.h"
#include "tests/support/pool_fixture.h"
#include "tests/support/set_fixture.h"

using namespace dmremap;
using namespace dmremap::test;

namespace {

constexpr const char* full_state = "no space left on the file system of a spare";

bad_range units(std::uint64_t first, std::uint64_t count, io_error error = io_error::no_space) {
  return {first * unit_sectors, count * unit_sectors, direction::write, error};
}

/// From here on no block of the spare that automatic remaps use can be written: those of its own metadata
/// were when it was formatted. `hosted`: nor what is meant for a guest's replica.
void fill_host(memory_store& spare, bool hosted = false) {
  const auto g = make_geometry(spare.size());
  REQUIRE(g);
  const std::uint64_t end = hosted ? g->units : g->units - 64;
  for (std::uint64_t u = 1025; u < end; ++u)
    if (!g->is_metadata(spare_unit(u)))
      spare.add_bad(units(u, 1));
}

void no_good_writes(memory_store& main) {
  main.add_bad(units(0, main.size() / unit_bytes, io_error::medium));
}

spare_status status(set_fixture& f) {
  return f.set->info()->spares.front();
}

std::uint32_t sixth_start(memory_store& spare) {
  block_bytes bytes;
  REQUIRE(spare.read(bytes.span(), 0));
  const auto super = decode_superblock(bytes, 0, spare_unit(0));
  REQUIRE(super);
  return super->sixth_start;
}

} // namespace

TEST_CASE("ENOSPC of a spare's host is EIO for the write that needs space, and no sign of bad hardware") {
  set_fixture f;
  const auto before = status(f);
  fill_host(*f.spare);
  no_good_writes(*f.main);
  for (unsigned n = 0; n < 200; ++n) { // many more than would trip the breaker
    const auto wrote = f.write(n % 100 * unit_bytes, unit_bytes, one);
    REQUIRE_FALSE(wrote);
    REQUIRE(wrote.error() == io_error::host_full);
    REQUIRE(to_errno(wrote.error()) == EIO);
  }
  const auto full = f.set->stats();
  CHECK(full.state == full_state);
  CHECK(full.spare_host_full_errors == 200);
  CHECK(full.spare_write_errors == 0);
  CHECK_FALSE(full.breaker_open);
  CHECK_FALSE(full.main_gone);
  CHECK(full.remapped_units == 0);
  const auto now = status(f);
  CHECK(now.host_full);
  CHECK(now.present);
  CHECK(now.usable_units == before.usable_units); // none retired
  CHECK(now.allocated_units == 0);
  CHECK(now.weakest_block_copies == before.weakest_block_copies);
  CHECK(now.super_copies_valid == 5);
  CHECK(f.holds_original(0, 800));

  f.spare->clear_faults(); // room was made
  REQUIRE(f.write(0, unit_bytes, two));
  CHECK(f.holds(0, unit_bytes, two));
  CHECK(f.holds_original(8, 792));
  CHECK(f.set->stats().state == "ok");
  CHECK_FALSE(status(f).host_full);
}

TEST_CASE("a remapped unit whose place finds no space keeps its place, and says when there is room") {
  set_fixture f;
  REQUIRE(f.set->remap(sector_number(0)));
  std::uint64_t place = 0;
  f.set->for_each_remap([&](const remap_entry& e) { place = e.spare.value; });
  f.spare->add_bad(units(place, 1));
  const bool whole = GENERATE(true, false);
  const auto wrote = f.write(whole ? 0 : 100, whole ? unit_bytes : 700, one);
  REQUIRE_FALSE(wrote);
  CHECK(wrote.error() == io_error::host_full);
  CHECK(f.set->stats().state == full_state);
  CHECK(status(f).host_full);
  REQUIRE(f.set->remap(sector_number(80))); // another place finds room; the one that failed has not
  f.spare->clear_faults();
  REQUIRE(f.write(0, unit_bytes, two));
  CHECK(f.holds(0, unit_bytes, two));
  CHECK_FALSE(status(f).host_full);
  std::uint64_t now = 0;
  f.set->for_each_remap([&](const remap_entry& e) { now = e.main.value == 0 ? e.spare.value : now; });
  CHECK(now == place);
}

TEST_CASE("a read error on main while the spare's host is full loses nothing") {
  set_fixture f;
  fill_host(*f.spare);
  f.main->add_bad({3, 1, direction::read});
  CHECK_FALSE(f.read(0, unit_bytes));
  CHECK(f.holds_original(4, 4));
  CHECK(f.set->stats().lost_sectors == 0);
  CHECK(f.set->stats().state == full_state);
  f.main->clear_faults();
  CHECK(f.holds_original(0, 8));
}

TEST_CASE("table and superblock writes that find no space are made later") {
  set_fixture f;
  const auto g = make_geometry(f.spare->size());
  REQUIRE(g);
  REQUIRE(f.set->remap(sector_number(800))); // the chunk is prepared
  const auto before = status(f);
  SECTION("a table block") {
    f.spare->add_bad(units(g->block_place(GENERATE(0u, 3u), 4).value, 1));
    f.main->add_bad(units(0, 1, io_error::medium));
    REQUIRE_FALSE(f.write(0, unit_bytes, one));
    CHECK(f.set->stats().state == full_state);
    f.spare->clear_faults();
    REQUIRE(f.write(0, unit_bytes, one));
    CHECK(f.holds(0, unit_bytes, one));
  }
  SECTION("a superblock") {
    f.spare->add_bad(units(g->super_place(GENERATE(0u, 1u, 9u)).value, 1));
    const auto saved = f.set->save();
    REQUIRE_FALSE(saved);
    CHECK(saved.error().why.find("no space left") != std::string::npos);
    f.spare->clear_faults();
    REQUIRE(f.set->save());
  }
  const auto now = status(f);
  CHECK(now.super_copies_valid == 5);
  CHECK(now.head_copies_valid == 5);
  CHECK(now.weakest_block_copies == before.weakest_block_copies);
  CHECK(now.usable_units == before.usable_units);
  CHECK_FALSE(now.host_full);
  CHECK(f.set->stats().state == "ok");
  f.close();
  f.open();
  CHECK(f.holds_original(800, 8));
}

TEST_CASE("a full host costs no other spare's room") {
  pool_fixture f(2);
  fill_host(*f.spares[0]);
  no_good_writes(*f.main);
  REQUIRE(f.write(3, one));
  CHECK(f.entry(3)->spare_index == 1);
  CHECK(f.shows(3) == "byte 101");
  CHECK(f.status(0).present);
  CHECK(f.status(0).host_full);
  CHECK_FALSE(f.status(1).host_full);
}

TEST_CASE("a sixth replica whose host has no space is made again when there is some") {
  pool_fixture f(2);
  REQUIRE(f.status(0).protected_by == 1);
  f.remap(3); // on spare 0
  const auto usable = f.status(1).usable_units;
  const auto start = sixth_start(*f.spares[0]);
  REQUIRE(start >= 4096 - 64);
  fill_host(*f.spares[1], true);
  // More commits than there are tries for a host that fails.
  for (unsigned n = 0; n < 100; ++n) {
    f.remap(10 + n);
    REQUIRE(f.status(0).protected_by == -1);
  }
  CHECK(f.status(1).present);
  f.spares[1]->clear_faults();
  SECTION("by the next sync") {
    REQUIRE(f.set->sync());
  }
  SECTION("or by itself, some commits later") {
    for (unsigned n = 0; n < 130 && f.status(0).protected_by != 1; ++n)
      f.remap(120 + n);
  }
  CHECK(f.status(0).protected_by == 1);
  CHECK(f.status(1).usable_units == usable); // the place before is free again
  f.close();
  f.there[0] = false;
  f.open(true);
  for (const std::uint64_t unit : {3u, 10u, 109u})
    CHECK(f.shows(unit) == "its spare is absent"); // its map is known
  CHECK(f.original_unit(9));
}
