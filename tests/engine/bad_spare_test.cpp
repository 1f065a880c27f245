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

/// From now on this copy of the block that says where the unit is cannot be written; or read, so that it
/// holds what is written there and nobody can tell.
void break_copy(pool_fixture& f, const remap_entry& e, unsigned replica, direction when = direction::write) {
  const auto places = make_geometry(f.spares[e.spare_index]->size());
  f.spares[e.spare_index]->add_bad(
      {byte_of(places->block_place(replica, geometry::block_of(e.spare))) / sector_bytes, unit_sectors,
       when});
}

/// Unit 4 with sectors 2 and 3 lost, in a block of the table of which two copies are left, and then one,
/// which nobody knows yet. Units that are remapped beside it find out.
remap_entry wear_out(pool_fixture& f) {
  f.main->add_bad({4 * unit_sectors + 2, 2, direction::read});
  REQUIRE(f.shows(4) == "lost sector");
  const auto e = f.entry(4);
  REQUIRE(e);
  for (unsigned replica = 0; replica < 3; ++replica) {
    break_copy(f, *e, replica);
    f.remap(9 + replica);
    REQUIRE(f.status(e->spare_index).weakest_block_copies == 4 - replica);
  }
  break_copy(f, *e, 3, direction::read);
  return *e;
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

TEST_CASE("a table block that cannot be written costs nothing but its place") {
  pool_fixture f(GENERATE(1u, 2u));
  f.remap(255);
  const auto e = f.entry(255);
  for (unsigned replica = 0; replica < own_replicas; ++replica)
    break_copy(f, *e, replica);
  f.main->add_bad({5 * unit_sectors, 3 * unit_sectors, direction::write});
  for (std::uint64_t unit = 5; unit < 8; ++unit)
    REQUIRE(f.write(unit, two));
  f.set->for_each_remap(
      [](const remap_entry& one) { REQUIRE(one.spare.value != 0); }); // none of the metadata
  REQUIRE(f.original_unit(255));
  f.spares[0]->clear_faults();
  f.open();
  for (std::uint64_t unit = 5; unit < 8; ++unit)
    REQUIRE(f.shows(unit) == "byte 102");
  REQUIRE(f.original_unit(255));
}

TEST_CASE("a table block that cannot be written holds up its own units only", "[spare]") {
  pool_fixture f(2);
  f.remap(255);
  const auto e = f.entry(255);
  REQUIRE(e->spare_index == 0);
  for (unsigned replica = 0; replica < own_replicas; ++replica)
    break_copy(f, *e, replica);
  // The one that is not written over cannot be read now: so nothing can be taken back.
  const auto places = make_geometry(f.spares[0]->size());
  const spare_unit last = places->block_place(own_replicas - 1, geometry::block_of(e->spare));
  f.spares[0]->add_bad({last.value * unit_sectors, unit_sectors, direction::read});
  f.main->add_bad({5 * unit_sectors, 3 * unit_sectors, direction::write});
  REQUIRE_FALSE(f.write(5, one));
  f.set->for_each_remap(
      [](const remap_entry& one) { REQUIRE(one.spare.value != 0); }); // none of the metadata
  REQUIRE(f.write(6, two));
  REQUIRE(f.shows(6) == "byte 102");
  REQUIRE(f.shows(5) == "lost sector");
  REQUIRE(f.write(7, three));
  SECTION("it is completed when it can be") {
    f.spares[0]->clear_faults();
    REQUIRE(f.shows(5) == "byte 101");
    REQUIRE(f.write(5, three));
    f.open();
    REQUIRE(f.shows(5) == "byte 103");
  }
  SECTION("what was answered meanwhile survives") {
    f.spares[0]->clear_faults();
    f.open();
  }
  REQUIRE(f.shows(6) == "byte 102");
  REQUIRE(f.shows(7) == "byte 103");
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

TEST_CASE("a change for which no copy is left to be spared is taken back, and the unit moves on") {
  pool_fixture f(1);
  const remap_entry before = wear_out(f);
  SECTION("the unit as a whole is written") {
    REQUIRE(f.write(4, one));
    REQUIRE(f.shows(4) == "byte 101");
  }
  SECTION("one lost sector") {
    REQUIRE(f.write_sector(4 * unit_sectors + 2, one));
    REQUIRE(f.write_sector(4 * unit_sectors + 3, one));
    REQUIRE(f.shows_sector(4 * unit_sectors + 4) ==
            "byte " + std::to_string(std::to_integer<unsigned>(f.original(4 * unit_sectors + 4))));
  }
  SECTION("main is read again") {
    f.main->clear_faults();
    REQUIRE_FALSE(f.set->salvage(std::nullopt)); // finds out
    const auto salvaged = f.set->salvage(std::nullopt);
    REQUIRE(salvaged);
    REQUIRE(salvaged->recovered == 2);
    REQUIRE(f.original_unit(4));
  }
  const auto shown = f.shows_sector(4 * unit_sectors + 3);
  REQUIRE(shown != "lost sector");
  REQUIRE(f.entry(4)->spare != before.spare);
  REQUIRE(f.set->flush().has_value());
  f.close();
  for (unsigned opens = 0; opens < 2; ++opens) {
    f.open();
    REQUIRE(f.shows_sector(4 * unit_sectors + 3) == shown);
    REQUIRE(f.original_unit(9));
    REQUIRE(f.set->stats().lost_sectors == 0);
  }
}

TEST_CASE("a spare that takes no metadata for a moment keeps all copies") {
  pool_fixture f(1);
  f.remap(255);
  const auto e = f.entry(255);
  const auto places = make_geometry(f.spares[0]->size());
  for (unsigned replica = 0; replica < own_replicas; ++replica)
    break_copy(f, *e, replica);
  for (unsigned copy = 0; copy < super_copies; ++copy)
    f.spares[0]->add_bad({byte_of(places->super_place(copy)) / sector_bytes, unit_sectors, direction::write});
  f.main->add_bad({5 * unit_sectors, unit_sectors, direction::write});
  REQUIRE_FALSE(f.write(5, one));
  REQUIRE(f.shows(5) == "lost sector"); // nobody knows yet
  f.spares[0]->clear_faults();
  REQUIRE(f.shows(5) == "byte 101");
  REQUIRE(f.status(0).weakest_block_copies == own_replicas);
  REQUIRE(f.write(5, two));
  f.open();
  REQUIRE(f.shows(5) == "byte 102");
  REQUIRE(f.status(0).weakest_block_copies == own_replicas);
}

TEST_CASE("a change that was taken back never comes to light") {
  pool_fixture f(1);
  const remap_entry before = wear_out(f);
  f.set->set_auto_remap(false); // nor may it be put elsewhere
  REQUIRE_FALSE(f.write(4, one));
  REQUIRE(f.shows_sector(4 * unit_sectors + 2) == "lost sector");
  REQUIRE(f.entry(4)->spare == before.spare);
  f.spares[0]->clear_faults(); // and the other copies read well, whatever they hold
  f.open();
  REQUIRE(f.shows_sector(4 * unit_sectors + 2) == "lost sector");
  REQUIRE(f.entry(4)->lost == before.lost);
}

TEST_CASE("a set opens for writing where an older slot cannot be released") {
  pool_fixture f(1);
  const remap_entry before = wear_out(f);
  REQUIRE(f.write(5, two));
  f.spares[0]->add_bad({before.spare.value * unit_sectors + 7, 1, direction::read});
  REQUIRE(f.shows_sector(4 * unit_sectors + 7) == "lost sector"); // it moved, the older slot could not go
  REQUIRE(f.entry(4)->spare != before.spare);
  REQUIRE(f.shows_sector(4 * unit_sectors + 6) ==
          "byte " + std::to_string(std::to_integer<unsigned>(f.original(4 * unit_sectors + 6))));
  SECTION("closed") {
    f.close();
  }
  SECTION("killed") {}
  for (unsigned opens = 0; opens < 2; ++opens) {
    f.open();
    REQUIRE(f.shows_sector(4 * unit_sectors + 7) == "lost sector");
    REQUIRE(f.shows(5) == "byte 102");
  }
  REQUIRE(f.write(4, one));
  f.open();
  REQUIRE(f.shows(4) == "byte 101");
}
