// SPDX-License-Identifier: GPL-2.0-or-later
// A spare that has bad places of its own.
#include "engine/geometry.h"
#include "tests/support/pool_fixture.h"
#include "tests/support/set_fixture.h"

#include <catch2/catch.hpp>

using namespace dmremap;
using namespace dmremap::test;

namespace {

/// Makes the `count` units that automatic allocation would use next fail writes.
void break_next_units(set_fixture& f, std::uint64_t count) {
  const auto made = f.set->remap(sector_number(2040));
  REQUIRE(made);
  f.spare->add_bad(
      {made->spare_sector.value + 8, count * 8, direction::write, io_error::medium, always, false});
}

} // namespace

TEST_CASE("a bad area of the spare is stepped over and retired", "[spare]") {
  set_fixture f;
  break_next_units(f, 20);
  const std::uint64_t usable = f.set->info()->spares[0].usable_units;
  f.main->add_bad({40, 8, direction::write, io_error::medium, always, false});
  REQUIRE(f.write(40 * 512, 4096, std::byte{7}));
  REQUIRE(f.holds(40 * 512, 4096, std::byte{7}));
  REQUIRE(f.set->info()->spares[0].usable_units == usable - 20);
  f.open();
  REQUIRE(f.holds(40 * 512, 4096, std::byte{7}));
  REQUIRE(f.set->info()->spares[0].usable_units == usable - 20);
}

TEST_CASE("a bad area too large for one request is not met again by the next", "[spare]") {
  set_fixture f;
  break_next_units(f, 100);
  const std::uint64_t usable = f.set->info()->spares[0].usable_units;
  REQUIRE_FALSE(f.set->remap(sector_number(40)));
  const auto made = f.set->remap(sector_number(40));
  REQUIRE(made);
  std::uint64_t where = 0;
  f.set->for_each_remap([&](const remap_entry& e) {
    if (e.main.value == 5)
      where = e.spare.value;
  });
  REQUIRE(made->spare_sector.value == where * 8);
  REQUIRE(f.holds_original(40, 8));
  f.open();
  REQUIRE(f.holds_original(40, 8));
  REQUIRE(f.set->info()->spares[0].usable_units == usable - 100);
}

TEST_CASE("a spare that does not answer has no unit retired", "[spare]") {
  set_fixture f;
  REQUIRE(f.set->remap(sector_number(0)));
  const auto before = f.set->info()->spares[0];
  fault_table dead;
  dead.all = io_error::medium;
  f.spare->set_faults(dead);
  for (int i = 0; i < 3; ++i)
    REQUIRE_FALSE(f.set->remap(sector_number(40)));
  f.spare->clear_faults();
  REQUIRE(f.set->remap(sector_number(40)));
  REQUIRE(f.set->info()->spares[0].usable_units == before.usable_units);
  REQUIRE(f.set->info()->spares[0].allocated_units == before.allocated_units + 1);
}

TEST_CASE("a table block that cannot be written holds up its own units only", "[spare]") {
  set_fixture f;
  const auto made = f.set->remap(sector_number(2040));
  REQUIRE(made);
  const auto places = make_geometry(f.spare->size());
  const std::uint32_t block = geometry::block_of(spare_unit(made->spare_sector.value / 8));
  for (unsigned r = 0; r < own_replicas; ++r)
    f.spare->add_bad(
        {byte_of(places->block_place(r, block)) / 512, 8, direction::write, io_error::medium, always, false});
  f.main->add_bad({40, 24, direction::write, io_error::medium, always, false});
  REQUIRE_FALSE(f.write(40 * 512, 4096, std::byte{7}));
  f.set->for_each_remap([](const remap_entry& e) { REQUIRE(e.spare.value != 0); }); // no unit of the metadata
  REQUIRE(f.write(48 * 512, 4096, std::byte{8}));
  REQUIRE(f.holds(48 * 512, 4096, std::byte{8}));
  REQUIRE_FALSE(f.read(40 * 512, 4096));
  REQUIRE(f.write(56 * 512, 4096, std::byte{9}));
  SECTION("it is completed when it can be") {
    f.spare->clear_faults();
    REQUIRE(f.read(40 * 512, 4096)); // old or new
    REQUIRE(f.write(40 * 512, 4096, std::byte{10}));
    f.open();
    REQUIRE(f.holds(40 * 512, 4096, std::byte{10}));
  }
  SECTION("what was answered meanwhile survives") {
    f.spare->clear_faults();
    f.open();
  }
  REQUIRE(f.holds(48 * 512, 4096, std::byte{8}));
  REQUIRE(f.holds(56 * 512, 4096, std::byte{9}));
}

TEST_CASE("a lost sector is overwritten where one good copy is left of the place that says so") {
  const auto spares = GENERATE(1u, 2u);
  CAPTURE(spares);
  pool_fixture f(spares);
  f.main->add_bad({4 * unit_sectors + 2, 2, direction::read});
  REQUIRE(f.shows(4) == "lost sector");
  const auto before = f.entry(4);
  REQUIRE(before);
  const unsigned own = before->spare_index;
  const auto places = make_geometry(f.spares[own]->size());
  for (unsigned r = 1; r < own_replicas; ++r)
    f.spares[own]->add_bad({byte_of(places->block_place(r, geometry::block_of(before->spare))) / sector_bytes,
                            unit_sectors, direction::write});
  while (f.status(own).weakest_block_copies > 1) // finds out that the copies cannot be written
    REQUIRE(f.set->add_remap(sector_number(9 * unit_sectors), std::nullopt, unit_sectors, own));
  SECTION("the unit as a whole") {
    REQUIRE(f.write(4, one));
    REQUIRE(f.shows(4) == "byte 101");
  }
  SECTION("one sector: the others come along as they are") {
    REQUIRE(f.write_sector(4 * unit_sectors + 2, one));
    REQUIRE(f.shows_sector(4 * unit_sectors + 2) == "byte 101");
    REQUIRE(f.shows_sector(4 * unit_sectors + 3) == "lost sector");
    REQUIRE(f.shows_sector(4 * unit_sectors + 1) ==
            "byte " + std::to_string(std::to_integer<unsigned>(f.original(4 * unit_sectors + 1))));
    REQUIRE(f.write_sector(4 * unit_sectors + 3, one));
  }
  REQUIRE(f.set->stats().lost_sectors == 0);
  const auto now = f.entry(4);
  REQUIRE((now->spare_index != own || now->spare != before->spare));
  const auto unit = f.shows_sector(4 * unit_sectors + 2);
  for (unsigned opens = 0; opens < 2; ++opens) { // its old slot cannot be released
    f.open();
    REQUIRE(f.shows_sector(4 * unit_sectors + 2) == unit);
    REQUIRE(f.entry(4)->spare == now->spare);
    REQUIRE(f.set->stats().lost_sectors == 0);
  }
}
