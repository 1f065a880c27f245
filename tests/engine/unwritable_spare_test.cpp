// SPDX-License-Identifier: GPL-2.0-or-later
// A spare that fails every write and can be read: what it holds is served, nothing new comes to it, and it
// never brings old data back.
#include "engine/geometry.h"
#include "tests/support/pool_fixture.h"

using namespace dmremap;
using namespace dmremap::test;

namespace {

/// From now on no sector of the spare can be written: bad everywhere, or switched to read-only.
void reject_writes(pool_fixture& f, unsigned spare, io_error how = io_error::medium) {
  f.spares[spare]->add_bad({0, f.spares[spare]->size() / sector_bytes, direction::write, how});
}

open_options degraded() {
  open_options options;
  options.degraded = true;
  return options;
}

/// Units 4, 5 and 6 on the spare, flushed; then it takes no writes, and a write to unit 5 finds that out.
void prepare(pool_fixture& f, unsigned spare, io_error how = io_error::medium) {
  put_on(f, 4, spare, one);
  put_on(f, 5, spare, one);
  put_on(f, 6, spare, one);
  REQUIRE(f.set->flush());
  reject_writes(f, spare, how);
  REQUIRE(f.write(5, two));
}

} // namespace

TEST_CASE("a spare that takes no writes serves what it holds, and its units are written elsewhere") {
  const unsigned spare = GENERATE(0u, 1u, 2u);
  const io_error how = GENERATE(io_error::medium, io_error::read_only);
  CAPTURE(spare, name_of(how));
  pool_fixture f(3);
  prepare(f, spare, how);
  REQUIRE(f.shows(4) == "byte 101");
  REQUIRE(f.shows(5) == "byte 102");
  REQUIRE(f.entry(5)->spare_index != spare);
  REQUIRE(f.write_sector(6 * unit_sectors + 2, three)); // the rest of the unit comes along
  REQUIRE(f.entry(6)->spare_index != spare);
  REQUIRE(f.shows_sector(6 * unit_sectors + 2) == "byte 103");
  REQUIRE(f.shows_sector(6 * unit_sectors + 3) == "byte 101");
  f.remap(9); // nothing new comes to it
  REQUIRE(f.entry(9)->spare_index != spare);
  REQUIRE(f.set->flush().has_value());
  REQUIRE_FALSE(f.status(spare).present);
  REQUIRE(f.status(spare).readable);
  REQUIRE(f.set->stats().state == "a spare takes no writes");
  REQUIRE_FALSE(f.set->unmap(sector_number(4 * unit_sectors)).has_value());
  REQUIRE(f.shows(4) == "byte 101");
}

TEST_CASE("a set with a spare that takes no writes opens for writing where that is allowed by hand") {
  const unsigned spare = GENERATE(0u, 1u, 2u);
  const io_error how = GENERATE(io_error::medium, io_error::read_only);
  CAPTURE(spare, name_of(how));
  pool_fixture f(3);
  prepare(f, spare, how);
  REQUIRE(f.set->flush().has_value());
  SECTION("killed") {}
  SECTION("closed") {
    f.close();
  }
  const auto refused = f.try_open();
  REQUIRE_FALSE(refused.has_value());
  REQUIRE(refused.error().id == "cannot-mend");
  REQUIRE(refused.error().why.find("-o degraded") != std::string::npos);
  for (const std::byte value : {two, three}) {
    f.open(true);
    REQUIRE(f.shows(4) == "byte 101");
    REQUIRE(f.shows(5) == (value == two ? "byte 102" : "byte 103"));
    REQUIRE(f.status(spare).readable);
    REQUIRE_FALSE(f.status(spare).present);
    REQUIRE(f.write(5, three));
    REQUIRE(f.set->flush().has_value());
  }
  REQUIRE(f.write(4, two));
  f.spares[spare]->clear_faults(); // it takes writes again
  f.open();
  REQUIRE(f.status(spare).present);
  REQUIRE(f.shows(4) == "byte 102");
  REQUIRE(f.shows(5) == "byte 103");
  REQUIRE(f.shows(6) == "byte 101");
  REQUIRE(f.set->unmap(sector_number(4 * unit_sectors)).has_value());
  REQUIRE(f.shows(4) == "byte 102");
  f.close();
  f.open();
  REQUIRE(f.set->info()->notices.empty());
}

TEST_CASE("a spare that takes no writes and that nobody protects is read, too, and must be there") {
  pool_fixture f(2);
  put_on(f, 4, 1, one);
  f.spares[0]->add_bad({3300 * unit_sectors, 796 * unit_sectors, direction::write}); // no room for its sixth
  put_on(f, 5, 1, one);
  REQUIRE(f.status(1).protected_by < 0);
  REQUIRE(f.set->flush());
  reject_writes(f, 1);
  REQUIRE(f.write(5, two));
  REQUIRE(f.shows(4) == "byte 101");
  REQUIRE_FALSE(f.try_open().has_value());
  f.open(true);
  REQUIRE(f.shows(4) == "byte 101");
  REQUIRE(f.shows(5) == "byte 102");
  REQUIRE(f.write(4, three));
  REQUIRE(f.set->flush().has_value());
  f.there[1] = false;
  REQUIRE_FALSE(f.try_open(degraded()).has_value());
  f.there[1] = true;
  f.spares[1]->clear_faults();
  f.open();
  REQUIRE(f.shows(4) == "byte 103");
  REQUIRE(f.shows(5) == "byte 102");
}

TEST_CASE("a change in doubt on a spare that takes no writes any more is not shown from there") {
  pool_fixture f(2);
  put_on(f, 4, 1, one);
  f.spares[0]->add_bad({3300 * unit_sectors, 796 * unit_sectors, direction::write});
  put_on(f, 5, 1, one);
  REQUIRE(f.status(1).protected_by < 0);
  REQUIRE(f.set->flush());
  REQUIRE(f.set->evacuate_spare(0).has_value()); // new units go to spare 1
  // The metadata cannot be written any more, the data can.
  const spare_unit first_data = f.entry(4)->spare;
  f.spares[1]->add_bad({0, first_data.value * unit_sectors, direction::write});
  f.main->add_bad({7 * unit_sectors, unit_sectors, direction::write});
  (void)f.write(7, two);
  const std::string shown = f.shows(7);
  f.kill();
  f.spares[1]->clear_faults();
  f.open();
  if (shown == "byte 102") // what was shown once stays
    REQUIRE(f.shows(7) == "byte 102");
  REQUIRE(f.shows(4) == "byte 101");
}

TEST_CASE("a spare that takes no writes is emptied and forgotten without losing a sector") {
  pool_fixture f(3);
  prepare(f, 1, GENERATE(io_error::medium, io_error::read_only));
  const auto too_soon = f.set->forget_spare(1);
  REQUIRE_FALSE(too_soon.has_value());
  REQUIRE(too_soon.error().id == "spare-in-use");
  const auto moved = f.set->evacuate_spare(1);
  REQUIRE(moved.has_value());
  REQUIRE(moved->moved == 2);
  REQUIRE(moved->lost_sectors == 0);
  REQUIRE(f.shows(4) == "byte 101");
  REQUIRE(f.set->forget_spare(1).has_value());
  REQUIRE(f.shows(6) == "byte 101");
  f.there[1] = false;
  f.close();
  f.open();
  REQUIRE(f.shows(4) == "byte 101");
  REQUIRE(f.shows(5) == "byte 102");
  REQUIRE(f.set->info()->notices.empty());
}

TEST_CASE("a spare that takes no writes and then goes for good answers an error") {
  pool_fixture f(3);
  prepare(f, 1);
  f.break_spare(1);
  REQUIRE(f.shows(4) == "its spare is absent");
  REQUIRE_FALSE(f.status(1).readable);
  REQUIRE(f.set->stats().state == "spare absent");
  REQUIRE(f.shows(5) == "byte 102");
  REQUIRE(f.write(4, three));
  REQUIRE(f.shows(4) == "byte 103");
  REQUIRE(f.set->forget_spare(1).has_value());
  REQUIRE(f.shows(6) == "lost sector");
}

TEST_CASE("bad places of a spare that takes no writes move on with what is left") {
  pool_fixture f(3);
  prepare(f, 1);
  f.spares[1]->add_bad({f.entry(4)->spare.value * unit_sectors + 8 * 0, 8, direction::read});
  REQUIRE(f.shows(4) == "lost sector");
  REQUIRE(f.entry(4)->spare_index != 1);
  REQUIRE(f.shows(6) == "byte 101");
  REQUIRE(f.status(1).readable);
}

TEST_CASE("a flush tells once of what a spare that takes no writes may have dropped") {
  pool_fixture f(3);
  put_on(f, 4, 1, one);
  put_on(f, 5, 1, one);
  REQUIRE(f.set->flush());
  REQUIRE(f.write(4, two)); // in its cache
  reject_writes(f, 1);
  f.spares[1]->fail_flushes(always);
  REQUIRE(f.write(5, two));
  REQUIRE_FALSE(f.set->flush().has_value());
  REQUIRE(f.set->flush().has_value());
  REQUIRE(f.write(6, two));
  REQUIRE(f.set->flush().has_value());
}

TEST_CASE("a spare that was switched to read-only holds nothing up") {
  const unsigned spare = GENERATE(0u, 1u);
  const io_error how = GENERATE(io_error::medium, io_error::read_only);
  CAPTURE(spare, name_of(how));
  pool_fixture f(2);
  put_on(f, 4, spare, one);
  put_on(f, 5, 1 - spare, one);
  REQUIRE(f.set->flush());
  reject_writes(f, spare, how);
  SECTION("a unit is moved") {
    REQUIRE(f.write(9, two));
    f.remap(9);
  }
  SECTION("main cannot write one") {
    f.main->add_bad({9 * unit_sectors, unit_sectors, direction::write});
    REQUIRE(f.write(9, two));
  }
  SECTION("a sector of a unit on it is written, then main cannot write another") {
    REQUIRE(f.write_sector(4 * unit_sectors + 1, three));
    f.main->add_bad({9 * unit_sectors, unit_sectors, direction::write});
    REQUIRE(f.write(9, two));
    REQUIRE(f.shows_sector(4 * unit_sectors + 1) == "byte 103");
  }
  REQUIRE(f.entry(9)->spare_index == 1 - spare);
  REQUIRE(f.shows(9) == "byte 102");
  REQUIRE(f.shows_sector(4 * unit_sectors) == "byte 101");
  REQUIRE(f.shows(5) == "byte 101");
  (void)f.set->flush(); // one may tell of what it dropped
  REQUIRE(f.set->flush());
  REQUIRE(f.status(spare).readable);
  f.kill();
  f.open(true);
  REQUIRE(f.shows(9) == "byte 102");
  REQUIRE(f.shows_sector(4 * unit_sectors) == "byte 101");
  REQUIRE(f.write(4, two));
  REQUIRE(f.entry(4)->spare_index == 1 - spare);
  f.kill();
  f.spares[spare]->clear_faults();
  f.open();
  REQUIRE(f.shows(4) == "byte 102");
  REQUIRE(f.shows(9) == "byte 102");
}

TEST_CASE("a spare that takes no writes and serves nothing is to be forgotten, not emptied") {
  pool_fixture f(2);
  prepare(f, 1);
  REQUIRE(f.set->plan_remove(1).error().why.find("empty it") != std::string::npos);
  REQUIRE(f.set->evacuate_spare(1));
  for (const auto& refused : {f.set->plan_remove(1).error(), f.set->remove_spare(1).error()}) {
    REQUIRE(refused.id == "spare-absent");
    REQUIRE(refused.why.find("empty it") == std::string::npos);
    REQUIRE(refused.why.find("spare forget") != std::string::npos);
  }
  REQUIRE(f.set->forget_spare(1));
}

TEST_CASE(
    "spares that turn read-only one after the other, in the middle of a change, end their own use alone") {
  pool_fixture f(1);
  for (unsigned n = 1; n < 4; ++n) {
    f.spares.push_back(pool_fixture::new_spare(n));
    f.there.push_back(true);
    REQUIRE(f.set->add_spare(f.spares.back()));
  }
  put_on(f, 9, 3, one);
  // Units of spare 0 that fail: taken, and to be retired along with the next change.
  const auto g = *make_geometry(16u << 20);
  f.spares[0]->add_bad(
      {(g.first_automatic().value + 24) * unit_sectors, 400 * unit_sectors, direction::write});
  for (unsigned k = 0; k < 5; ++k) // what is free before them
    REQUIRE(f.set->remap(sector_number((20 + k) * unit_sectors)));
  f.main->add_bad({5 * unit_sectors, unit_sectors, direction::write});
  const auto stop = [](std::uint64_t, std::uint64_t) { return false; };
  (void)f.set->evacuate_spare(3, stop);
  REQUIRE(f.set->evacuate_spare(1));
  REQUIRE(f.set->evacuate_spare(2));
  (void)f.write(5, two);
  f.set->refill_spare(1);
  f.set->refill_spare(2);
  (void)f.set->evacuate_spare(0, stop);
  fault_table full; // no record can be written
  full.all = io_error::transient;
  f.spares[0]->set_faults(full);
  f.break_spare(3);
  REQUIRE(f.shows(9) == "its spare is absent");
  f.spares[0]->clear_faults();
  reject_writes(f, 0, io_error::read_only);
  for (std::uint32_t b = 0; b < g.table_blocks; ++b) // its superblocks can be written, its table cannot
    f.spares[1]->add_bad(
        {g.block_place(0, b).value * unit_sectors, unit_sectors, direction::write, io_error::read_only});
  REQUIRE(f.write(5, three)); // on spare 2
  REQUIRE(f.shows(5) == "byte 103");
  REQUIRE(f.entry(5)->spare_index == 2);
}

TEST_CASE("a spare that takes no writes and is its own map is read at the next open, too") {
  pool_fixture f(1);
  auto large = std::make_shared<memory_store>(std::uint64_t{16} << 30); // its table does not fit on the other one
  store_identity identity;
  identity.path = "/spare1";
  large->set_identity(identity);
  f.spares.push_back(large);
  f.there.push_back(true);
  REQUIRE(f.set->add_spare(large));
  put_on(f, 3, 1, one);
  put_on(f, 4, 1, one);
  REQUIRE(f.set->flush());
  REQUIRE(f.status(1).protected_by < 0);
  const io_error how = GENERATE(io_error::medium, io_error::read_only);
  large->add_bad({0, large->size() / sector_bytes, direction::write, how, always, false});
  REQUIRE(f.write(4, two)); // found out, and put elsewhere
  REQUIRE(f.status(1).readable);
  large->fail_flushes(1000, how);
  for (int opens = 0; opens < 2; ++opens) {
    f.kill();
    f.open(true);
    CHECK_FALSE(f.status(1).present);
    CHECK(f.status(1).readable);
    CHECK(f.shows(3) == "byte 101");
    CHECK(f.shows(4) == "byte 102");
  }
  f.kill();
  f.mend_spare(1);
  f.open();
  CHECK(f.status(1).present);
  CHECK(f.shows(3) == "byte 101");
  CHECK(f.shows(4) == "byte 102");
}
