// SPDX-License-Identifier: GPL-2.0-or-later
// A spare that dies while its units are moved: what cannot be read from it now is not lost for that.
#include "engine/codec.h"
#include "engine/spare_metadata.h"
#include "tests/support/pool_fixture.h"

#include <cstring>

using namespace dmremap;
using namespace dmremap::test;

TEST_CASE("an evacuation of a spare that dies ends there, and throws nothing away") {
  const io_error how = GENERATE(io_error::gone, io_error::medium); // dead paths often say plain EIO
  const unsigned count = GENERATE(2u, 3u);
  pool_fixture f(count);
  for (unsigned n = 0; n < 10; ++n)
    put_on(f, 3 + n, 0, one);
  REQUIRE(f.set->flush());
  const auto done = f.set->evacuate_spare(0, [&](std::uint64_t moved, std::uint64_t) {
    if (moved == 4)
      f.break_spare(0, how);
    return true;
  });
  REQUIRE_FALSE(done.has_value());
  CHECK(done.error().id == "spare-absent");
  CHECK(f.set->lost().empty());
  CHECK_FALSE(f.status(0).present);
  for (unsigned n = 0; n < 10; ++n)
    CHECK(f.shows(3 + n) == (n < 4 ? "byte 101" : "its spare is absent"));
  f.kill();
  f.mend_spare(0);
  f.open();
  for (unsigned n = 0; n < 10; ++n)
    CHECK(f.shows(3 + n) == "byte 101");
}

TEST_CASE("a spare that only answers reads and then dies loses nothing to an evacuation") {
  pool_fixture f(2);
  for (unsigned n = 0; n < 3; ++n)
    put_on(f, 3 + n, 0, one);
  REQUIRE(f.set->flush());
  f.spares[0]->add_bad({0, f.spares[0]->size() / sector_bytes, direction::write});
  REQUIRE(f.write(5, two)); // found out
  REQUIRE(f.status(0).readable);
  f.break_spare(0, io_error::medium);
  const auto done = f.set->evacuate_spare(0);
  REQUIRE_FALSE(done.has_value());
  CHECK(done.error().id == "spare-absent");
  CHECK(f.set->lost().empty());
  CHECK_FALSE(f.status(0).readable);
  f.kill();
  f.mend_spare(0);
  f.open();
  CHECK(f.shows(3) == "byte 101");
  CHECK(f.shows(4) == "byte 101");
  CHECK(f.shows(5) == "byte 102");
}

TEST_CASE("a bad place on a spare costs an evacuation what it holds, not more") {
  pool_fixture f(2);
  put_on(f, 3, 0, one);
  put_on(f, 4, 0, two);
  f.spares[0]->add_bad({f.entry(3)->spare.value * unit_sectors, unit_sectors, direction::read});
  const auto done = f.set->evacuate_spare(0);
  REQUIRE(done.has_value());
  CHECK(done->moved == 2);
  CHECK(done->lost_sectors == 8);
  CHECK(f.status(0).present);
  CHECK(f.shows(3) == "lost sector");
  CHECK(f.shows(4) == "byte 102");
}

TEST_CASE("a write to a part of a unit on a dead spare leaves the rest of it alone") {
  const io_error how = GENERATE(io_error::gone, io_error::medium);
  pool_fixture f(2);
  put_on(f, 3, 0, one);
  put_on(f, 4, 0, one);
  put_on(f, 5, 0, one);
  REQUIRE(f.set->flush());
  if (GENERATE(false, true)) { // only its writes failed, up to now
    f.spares[0]->add_bad({0, f.spares[0]->size() / sector_bytes, direction::write});
    REQUIRE(f.write(5, two));
    REQUIRE(f.status(0).readable);
  }
  f.break_spare(0, how);
  CHECK_FALSE(f.write_sector(3 * unit_sectors + 1, two).has_value());
  CHECK(f.set->lost().empty());
  CHECK(f.write(4, two)); // whole: nothing of the dead one is needed
  f.kill();
  f.mend_spare(0);
  f.open();
  CHECK(f.shows_sector(3 * unit_sectors) == "byte 101");
  CHECK(f.shows_sector(3 * unit_sectors + 7) == "byte 101");
  CHECK(f.shows(4) == "byte 102");
}

TEST_CASE("a spare that dies between two sectors of a unit has not lost the others") {
  pool_fixture f(2);
  put_on(f, 3, 0, one);
  put_on(f, 4, 1, one);
  REQUIRE(f.set->flush());
  fault_table faults; // all but the first sectors of the unit, as if it had died behind them
  const std::uint64_t at = f.entry(3)->spare.value * unit_sectors;
  faults.bad.push_back({0, at, direction::both});
  faults.bad.push_back({at + 3, f.spares[0]->size() / sector_bytes - at - 3, direction::both});
  f.spares[0]->set_faults(faults);
  const auto done = f.set->evacuate_spare(0);
  REQUIRE_FALSE(done.has_value());
  CHECK(f.set->lost().empty());
  CHECK(f.shows(3) == "its spare is absent");
  f.kill();
  f.mend_spare(0);
  f.open();
  CHECK(f.shows(3) == "byte 101");
}

TEST_CASE("to forget a spare leaves main the answers that only main has") {
  pool_fixture f(2);
  f.main->add_bad({3 * unit_sectors + 2, 1, direction::read});
  CHECK(f.shows(3) == "lost sector"); // its slot is on spare 0, main may answer
  REQUIRE(f.entry(3)->spare_index == 0);
  REQUIRE(f.entry(3)->main_may_answer == 4);
  f.main->add_bad({4 * unit_sectors, 2, direction::read});
  CHECK(f.shows(4) == "lost sector");
  REQUIRE(f.entry(4)->main_may_answer == 3);
  REQUIRE(f.write_sector(4 * unit_sectors, one)); // newer than what main holds, and only on the spare
  put_on(f, 5, 0, one);
  REQUIRE(f.set->flush());
  f.break_spare(0);
  CHECK(f.shows(5) == "its spare is absent");
  if (GENERATE(false, true)) {
    f.kill();
    f.there[0] = false;
    f.open(true);
  }
  REQUIRE(f.set->forget_spare(0).has_value());
  CHECK(f.entry(3)->lost == 0xFF);
  CHECK(f.entry(3)->main_may_answer == 4);
  CHECK(f.entry(4)->main_may_answer == 2); // not the sector that was written since
  CHECK(f.entry(5)->main_may_answer == 0);
  f.main->clear_faults();
  const auto back = f.set->salvage(std::nullopt);
  REQUIRE(back.has_value());
  CHECK(back->recovered == 2);
  CHECK(back->not_allowed == 7 + 7 + 8);
  f.kill();
  f.there[0] = false;
  f.open();
  const auto original = [](std::uint64_t sector) {
    return "byte " + std::to_string(std::to_integer<unsigned>(pool_fixture::original(sector)));
  };
  CHECK(f.shows_sector(3 * unit_sectors + 2) == original(3 * unit_sectors + 2));
  CHECK(f.shows_sector(3 * unit_sectors + 1) == "lost sector");
  CHECK(f.shows_sector(4 * unit_sectors) == "lost sector");
  CHECK(f.shows_sector(4 * unit_sectors + 1) == original(4 * unit_sectors + 1));
  CHECK(f.shows(5) == "lost sector");
}

TEST_CASE("salvage leaves a place that is bad, and goes on to the other units") {
  const bool reading = GENERATE(false, true);
  const bool alone = GENERATE(false, true);
  pool_fixture f(alone ? 1 : 2);
  for (const std::uint64_t unit : {3u, 4u, 5u}) {
    f.main->add_bad({unit * unit_sectors, 2, direction::read});
    CHECK(f.shows(unit) == "lost sector");
  }
  const spare_unit place = f.entry(4)->spare;
  // Sector 7 is one of those that were moved well.
  f.spares[0]->add_bad({place.value * unit_sectors + 7, 1, reading ? direction::both : direction::write});
  f.main->clear_faults();
  const auto back = f.set->salvage(std::nullopt);
  REQUIRE(back.has_value());
  CHECK(back->recovered == 6);
  CHECK(back->still_lost == (reading ? 1 : 0));
  CHECK(f.entry(4)->spare != place);
  f.spares[0]->clear_faults();
  f.open();
  CHECK(f.original_unit(3));
  CHECK(f.original_unit(5));
  CHECK(f.original_unit(4) == !reading);
  CHECK(f.entry(4)->lost == (reading ? 0x80 : 0));
  CHECK(f.entry(4)->main_may_answer == 0);
}

TEST_CASE("a unit that salvage cannot bring back does not keep it from the others") {
  pool_fixture f(2);
  for (const std::uint64_t unit : {3u, 4u, 5u}) {
    f.main->add_bad({unit * unit_sectors, 2, direction::read});
    CHECK(f.shows(unit) == "lost sector");
  }
  const spare_unit place = f.entry(3)->spare;
  f.spares[0]->add_bad({place.value * unit_sectors, unit_sectors, direction::write, io_error::no_space});
  f.main->clear_faults();
  const auto back = f.set->salvage(std::nullopt);
  REQUIRE_FALSE(back.has_value());
  CHECK(back.error().id == "spare-unwritable");
  CHECK(back.error().what == "sector 24");
  CHECK(back.error().why.find("4 sectors came back, 2 are still lost, 1 units failed") != std::string::npos);
  CHECK(f.original_unit(4));
  CHECK(f.original_unit(5));
  CHECK(f.shows(3) == "lost sector");
  f.spares[0]->clear_faults();
  REQUIRE(f.set->salvage(std::nullopt)->recovered == 2);
  CHECK(f.original_unit(3));
}

TEST_CASE("a dead main is known though the units that it would be asked for are all remapped") {
  pool_fixture f(1);
  const std::uint64_t units = (1u << 20) / unit_bytes;
  for (const std::uint64_t asked :
       {std::uint64_t{0}, units / 7, units / 3, units / 2, units * 5 / 7, units - 1}) {
    f.remap(asked);
    f.remap((asked + 1) % units); // and their neighbours
  }
  const auto before = f.set->stats().remapped_units;
  fault_table dead;
  dead.all = io_error::medium;
  f.main->set_faults(dead);
  CHECK(f.shows(9) == "the device does not answer");
  CHECK_FALSE(f.write(10, one));
  CHECK_FALSE(f.set->remap(sector_number(11 * unit_sectors)));
  CHECK(f.set->stats().remapped_units == before);
  CHECK(f.set->lost().empty());
  f.main->clear_faults();
  CHECK(f.original_unit(9));
}

TEST_CASE("a record that could not be confirmed is confirmed before a table changes") {
  pool_fixture f(3);
  put_on(f, 3, 2, one);
  put_on(f, 4, 0, one); // its table takes changes from now on without a word in the superblock
  REQUIRE(f.set->flush());
  const auto confirmed = [&](unsigned n) {
    const auto meta = spare_metadata::load_supers(f.spares[n], {});
    REQUIRE(meta);
    const superblock& s = (*meta)->super;
    return s.sessions[0].held == s.session && s.sessions[1].held == s.session;
  };
  // Spare 0 confirms the record as the first; spare 1 takes nothing then, for a while.
  f.spares[0]->on_change([&](std::uint64_t offset, std::uint64_t, const std::byte* bytes) {
    block_bytes block;
    superblock s;
    if (offset == 0 && bytes != nullptr) {
      std::memcpy(block.bytes.data(), bytes, unit_bytes);
      s = decode_superblock(block, 0, spare_unit(0)).value();
      if (s.session != 0 && s.sessions[0].held == s.session)
        f.spares[1]->add_bad({0, f.spares[1]->size() / sector_bytes, direction::write, io_error::no_space});
    }
    return true;
  });
  f.break_spare(2);
  CHECK(f.shows(3) == "its spare is absent");
  f.spares[0]->on_change({});
  REQUIRE_FALSE(f.spares[1]->faults().bad.empty());
  REQUIRE_FALSE(confirmed(1));
  f.spares[1]->clear_faults();

  const auto places = (*spare_metadata::load_supers(f.spares[0], {}))->places();
  bool changed = false, too_early = false;
  f.spares[0]->on_change([&](std::uint64_t offset, std::uint64_t, const std::byte*) {
    const spare_unit u(offset / unit_bytes);
    if (u >= places.block_place(0, 0) && u < places.block_place(0, places.table_blocks)) {
      changed = true;
      too_early = too_early || !confirmed(1);
    }
    return true;
  });
  REQUIRE(f.set->add_remap(sector_number(6 * unit_sectors), std::nullopt, unit_sectors, 0));
  f.spares[0]->on_change({});
  CHECK(changed);
  CHECK_FALSE(too_early);
}

TEST_CASE("a spare whose joining could be neither recorded nor taken back is not erased") {
  pool_fixture f(2);
  put_on(f, 3, 0, one);
  REQUIRE(f.set->flush());
  const auto third = pool_fixture::new_spare(2);
  const bool for_ever = GENERATE(true, false);
  // All list it; then spare 0 takes nothing any more, or for a moment.
  f.spares[1]->on_change([&](std::uint64_t offset, std::uint64_t, const std::byte*) {
    if (offset == 0 && f.spares[0]->faults().bad.empty())
      f.spares[0]->add_bad({0, f.spares[0]->size() / sector_bytes, direction::write, io_error::no_space,
                            for_ever ? always : 2});
    return true;
  });
  const auto added = f.set->add_spare(third);
  f.spares[1]->on_change({});
  REQUIRE_FALSE(added);
  CHECK(added.error().id == (for_ever ? "add-in-doubt" : "format-failed"));
  f.spares[0]->clear_faults();
  f.kill();
  const auto without = f.try_open();
  CHECK(without.has_value() == !for_ever);
  CHECK(spare_metadata::load_supers(third, {}).has_value() == for_ever);
  if (for_ever) {
    CHECK(without.error().id == "spare-missing");
    f.spares.push_back(third);
    f.there.push_back(true);
    f.open();
  }
  CHECK(f.shows(3) == "byte 101");
}

TEST_CASE("a spare that cannot flush what an open found is asked for again, or left out by hand") {
  const unsigned spare = GENERATE(0u, 1u, 2u);
  pool_fixture f(3);
  put_on(f, 4, spare, one);
  REQUIRE(f.set->flush());
  f.kill();
  f.spares[spare]->fail_flushes(1);
  REQUIRE(f.try_open().error().id == "cannot-mend");
  SECTION("again") {
    f.open();
    REQUIRE(f.status(spare).present);
  }
  SECTION("without it") {
    f.spares[spare]->fail_flushes(1);
    f.open(true);
    REQUIRE_FALSE(f.status(spare).present);
    REQUIRE(f.set->stats().state != "ok");
  }
  const std::string shown = f.shows(4);
  REQUIRE((shown == "byte 101" || shown == "its spare is absent"));
  f.kill();
  f.open();
  REQUIRE(f.shows(4) == "byte 101");
}

TEST_CASE("a unit whose release is in doubt on a spare that died in the middle is listed") {
  const unsigned first = GENERATE(0u, 2u), writes = GENERATE(range(0u, 40u));
  pool_fixture f(3);
  put_on(f, 3, 1, one);
  put_on(f, 4, 1, two);
  put_on(f, 5, first, three);
  REQUIRE(f.set->flush());
  f.break_spare(first);
  if (GENERATE(false, true)) // noticed before
    (void)f.write(5, one);
  fault_table soon;
  soon.all = io_error::gone;
  soon.all_after_writes = writes;
  f.spares[1]->set_faults(soon);
  (void)f.set->unmap(sector_number(4 * unit_sectors));
  const std::string shown = f.shows(4);
  const auto listed = f.entry(4);
  CAPTURE(shown);
  if (shown != "byte 102") // what was brought back to main, too
    REQUIRE((listed && shown == "its spare is absent"));
  std::uint64_t rows = 0;
  f.set->for_each_remap([&](const remap_entry&) { ++rows; });
  REQUIRE(rows == f.set->stats().remapped_units);
  if (listed && listed->sequence == 0)
    REQUIRE((shown == "its spare is absent" && listed->spare_index == 1 && !f.status(1).present));
}

TEST_CASE("a spare that is back and cannot flush what it holds stays away, and brings nothing old back") {
  pool_fixture f(3);
  put_on(f, 4, 1, one);
  put_on(f, 5, 1, one);
  f.close();
  f.there[1] = false;
  f.open(true);
  REQUIRE(f.write(4, two)); // finds another place
  REQUIRE(f.set->flush());
  f.close();
  f.there[1] = true;
  f.spares[1]->fail_flushes(1);
  REQUIRE(f.try_open().error().id == "cannot-mend");
  f.spares[1]->fail_flushes(1);
  f.open(true);
  CHECK_FALSE(f.status(1).present);
  CHECK(f.shows(4) == "byte 102");
  const std::string held = f.shows(5);
  CHECK((held == "byte 101" || held == "its spare is absent"));
  REQUIRE(f.write(5, three)); // a whole unit: wherever
  REQUIRE(f.set->flush());
  f.kill();
  f.open();
  CHECK(f.status(1).present);
  CHECK(f.shows(4) == "byte 102");
  CHECK(f.shows(5) == "byte 103");
}
