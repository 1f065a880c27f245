// SPDX-License-Identifier: GPL-2.0-or-later
// Copies of a table's block that fail, and flushes that do: how many are left, and that the change is
// completed.
#include "engine/geometry.h"
#include "tests/support/pool_fixture.h"
#include "tests/support/set_fixture.h"

using namespace dmremap;
using namespace dmremap::test;

TEST_CASE("a table block of which no copy is left is written as soon as it can be") {
  pool_fixture f(2);
  for (std::uint64_t u = 0; u < 5; ++u) {
    f.remap(u);
    REQUIRE(f.write(u, one));
  }
  REQUIRE(f.set->flush());
  REQUIRE(f.status(0).protected_by == 1);
  const auto places = make_geometry(f.spares[0]->size());
  const auto block = geometry::block_of(f.entry(0)->spare);
  // Each of its own copies is torn by one write that fails; then all writes work again.
  for (unsigned r = 0; r < own_replicas; ++r)
    f.spares[0]->add_bad({byte_of(places->block_place(r, block)) / sector_bytes + 1, 1, direction::write,
                          io_error::medium, 1});
  SECTION("the host of the other spare is full") {
    f.spares[1]->add_bad({0, f.spares[1]->size() / sector_bytes, direction::write, io_error::no_space});
  }
  SECTION("the other spare goes") {
    f.break_spare(1);
  }
  REQUIRE_FALSE(f.set->remap(sector_number(6 * unit_sectors)));
  (void)f.shows(6);
  (void)f.set->save();
  (void)f.set->close();
  f.kill();
  f.spares[0]->clear_faults();
  f.spares[1]->clear_faults();
  const auto opened = f.try_open();
  if (!opened)
    FAIL(opened.error().id + ": " + opened.error().text());
  for (std::uint64_t u = 0; u < 5; ++u)
    REQUIRE(f.shows(u) == "byte 101");
}

TEST_CASE("two flushes that fail cost no copy of a table") {
  set_fixture f;
  REQUIRE(f.set->remap(sector_number(0)));
  const auto free_before = f.set->info()->spares[0].free_units;
  f.main->add_bad({8, 1, direction::read});
  f.spare->fail_flushes(2, io_error::medium, 2);
  REQUIRE(f.read(8 * sector_bytes, unit_bytes).error() == io_error::lost);
  REQUIRE(f.set->save()); // what the flushes left in doubt is completed
  CHECK(f.set->stats().state == "lost sectors");
  CHECK(f.set->info()->spares[0].free_units == free_before - 1);
  CHECK(f.set->info()->spares[0].weakest_block_copies == 5);
}

TEST_CASE("a change that one copy and the sixth replica hold is completed") {
  pool_fixture f(2);
  f.remap(0);
  const auto places = make_geometry(f.spares[0]->size());
  const auto block = geometry::block_of(f.entry(0)->spare);
  const auto fail_once = [&](unsigned r) {
    f.spares[0]->add_bad({byte_of(places->block_place(r, block)) / sector_bytes, unit_sectors,
                          direction::write, io_error::medium, 1});
  };
  for (const unsigned r : {1u, 2u, 3u})
    fail_once(r);
  f.remap(1);
  REQUIRE(f.status(0).weakest_block_copies == 2); // 0 and 4
  REQUIRE(f.status(0).protected_by == 1);
  fail_once(0);
  f.spares[0]->fail_flushes(1, io_error::medium, 3); // of the superblock that says so
  (void)f.set->remap(sector_number(2 * unit_sectors));
  f.spares[0]->clear_faults();
  for (int n = 0; n < 3; ++n)
    (void)f.set->save();
  CHECK(f.set->stats().state != "a table change is in doubt");
  CHECK(f.original_unit(2));
  CHECK(f.set->close());
}

TEST_CASE("a flush that fails once while a chunk is prepared does not close the chunk") {
  set_fixture f;
  const auto before = f.set->info()->spares[0].free_units;
  const std::uint64_t source = (254 * 9 + 20) * 8; // in a chunk that nobody has used
  f.spare->fail_flushes(1);
  CHECK_FALSE(f.set->add_remap(sector_number(0), sector_number(source), 8));
  const auto again = f.set->add_remap(sector_number(0), sector_number(source), 8);
  if (!again)
    FAIL_CHECK(again.error().text());
  REQUIRE(f.set->remap(sector_number(64)));
  CHECK(f.set->info()->spares[0].free_units >= before - 2);
}
