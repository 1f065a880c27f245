// SPDX-License-Identifier: GPL-2.0-or-later
// Sets of several spares where two things go wrong, one after the other: whatever was shown before must not
// come back, and what was acknowledged must not be forgotten.
#include "engine/codec.h"
#include "engine/geometry.h"
#include "tests/support/pool_fixture.h"

#include <atomic>
#include <thread>

using namespace dmremap;
using namespace dmremap::test;

namespace {

void without(pool_fixture& f, unsigned spare) {
  f.kill();
  f.there[spare] = false;
  f.open(true);
}

constexpr std::uint64_t sixth_start = 4096 - 18; // the first sixth replica that a spare of 16 MiB takes in

bad_range units(std::uint64_t first, std::uint64_t count, direction when, io_error error = io_error::medium) {
  return {first * unit_sectors, count * unit_sectors, when, error};
}

/// Replicas 1 to 4 of the table block that describes a unit of the spare cannot be written any more.
void weaken(memory_store& spare, spare_unit u) {
  const auto g = make_geometry(spare.size());
  REQUIRE(g.has_value());
  for (unsigned r = 1; r < own_replicas; ++r)
    spare.add_bad(units(g->block_place(r, geometry::block_of(u)).value, 1, direction::write));
}

} // namespace

TEST_CASE("the map of an absent spare stays known though the spare that holds it leaves") {
  pool_fixture f(3);
  put_on(f, 4, 1, one);
  put_on(f, 5, 1, one);
  REQUIRE(f.set->flush());
  const auto host = static_cast<unsigned>(f.status(1).protected_by);
  put_on(f, 3, host, two);
  REQUIRE(f.set->flush());
  if (GENERATE(true, false)) {
    without(f, 1);
  } else {
    f.break_spare(1);
    REQUIRE(f.shows(4) == "its spare is absent");
  }
  REQUIRE(f.status(1).protected_by == static_cast<int>(host));
  f.break_spare(host); // for good
  REQUIRE(f.shows(3) == "its spare is absent");
  REQUIRE_FALSE(f.status(host).present);
  REQUIRE(f.write(5, three));
  REQUIRE(f.set->flush());
  f.kill();
  f.there[host] = false;
  f.mend_spare(1);
  if (GENERATE(true, false)) { // it is not back at once
    f.there[1] = false;
    f.open(true);
    REQUIRE(f.shows(4) == "its spare is absent");
    REQUIRE(f.shows(5) == "byte 103");
    REQUIRE(f.set->forget_spare(host).has_value());
    f.close();
  }
  f.there[1] = true;
  f.open(true);
  REQUIRE(f.shows(4) == "byte 101");
  REQUIRE(f.shows(5) == "byte 103");
}

TEST_CASE("a spare that holds the map of an absent one is removed once another one holds that map") {
  pool_fixture f(3);
  put_on(f, 4, 1, one);
  REQUIRE(f.set->flush());
  const auto host = static_cast<unsigned>(f.status(1).protected_by);
  without(f, 1);
  SECTION("there is room") {
    REQUIRE(f.set->remove_spare(host).has_value());
    REQUIRE(f.status(1).protected_by == static_cast<int>(2 - host));
    f.there[host] = false;
  }
  SECTION("there is none") {
    REQUIRE(f.set->evacuate_spare(2 - host).has_value()); // takes nothing new
    const auto removed = f.set->remove_spare(host);
    REQUIRE_FALSE(removed.has_value());
    REQUIRE(removed.error().id == "spare-in-use");
    REQUIRE(f.status(1).protected_by == static_cast<int>(host));
  }
  REQUIRE(f.shows(4) == "its spare is absent");
  f.kill();
  f.there[1] = true;
  f.open();
  REQUIRE(f.shows(4) == "byte 101");
}

TEST_CASE(
    "the only map of an absent spare, on a spare that is gone, is written anew as soon as there is room") {
  pool_fixture f(3);
  put_on(f, 4, 1, one);
  REQUIRE(f.set->flush());
  const auto host = static_cast<unsigned>(f.status(1).protected_by);
  put_on(f, 3, host, two);
  without(f, 1);
  REQUIRE(f.set->evacuate_spare(2 - host).has_value()); // takes nothing new
  f.break_spare(host);
  REQUIRE(f.shows(3) == "its spare is absent");
  REQUIRE(f.status(1).protected_by == static_cast<int>(host));
  f.set->refill_spare(2 - host);
  f.spares[2 - host]->add_bad(units(0, 4096, direction::write, io_error::no_space));
  const auto forgotten = f.set->forget_spare(host);
  REQUIRE_FALSE(forgotten.has_value());
  REQUIRE(forgotten.error().id == "spare-in-use");
  REQUIRE(f.shows(3) == "its spare is absent"); // not lost, as it stays
  f.spares[2 - host]->clear_faults();
  SECTION("on a new spare") {
    f.spares.push_back(pool_fixture::new_spare(3));
    f.there.push_back(true);
    REQUIRE(f.set->add_spare(f.spares[3]).has_value());
    REQUIRE(f.status(1).protected_by >= 0);
    REQUIRE(f.status(1).protected_by != static_cast<int>(host));
  }
  SECTION("on the other one, to forget this one") {
    REQUIRE(f.set->forget_spare(host).has_value());
    REQUIRE(f.shows(3) == "lost sector");
    REQUIRE(f.status(1).protected_by == static_cast<int>(2 - host));
  }
  f.kill();
  f.there[host] = false;
  f.there[1] = true;
  f.open(true);
  REQUIRE(f.shows(4) == "byte 101");
}

TEST_CASE("a unit that two absent spares know stays where it is while one of them may come back") {
  pool_fixture f(3);
  put_on(f, 4, 1, one);
  REQUIRE(f.set->flush());
  without(f, 1);
  REQUIRE(f.set->evacuate_spare(0).has_value()); // takes nothing new
  REQUIRE(f.write(4, two));
  REQUIRE(f.entry(4)->spare_index == 2);
  f.set->refill_spare(0);
  REQUIRE(f.set->flush());
  f.break_spare(2);
  REQUIRE(f.shows(4) == "its spare is absent");
  REQUIRE(f.write(4, three));
  REQUIRE(f.entry(4)->spare_index == 0);
  REQUIRE(f.set->forget_spare(1).has_value());
  if (f.set->unmap(sector_number(4 * unit_sectors))) // it had better not
    REQUIRE(f.write(4, three));
  f.close();
  f.mend_spare(2);
  f.open();
  REQUIRE(f.shows(4) == "byte 103");
}

TEST_CASE("a retired place of a removed spare says nothing of unit 0") {
  pool_fixture f(3);
  put_on(f, 0, 1, one);
  put_on(f, 5, 2, two);
  f.spares[2]->add_bad(units(f.entry(5)->spare.value, 1, direction::write));
  REQUIRE(f.write(5, three));
  REQUIRE(f.entry(5)->spare_index == 0);
  REQUIRE(f.set->flush());
  f.break_spare(1);
  REQUIRE(f.shows(0) == "its spare is absent");
  REQUIRE(f.write(0, two));
  REQUIRE(f.entry(0)->spare_index == 0);
  REQUIRE(f.set->remove_spare(2).has_value());
  f.there[2] = false;
  if (f.set->unmap(sector_number(0)))
    REQUIRE(f.write(0, two));
  f.close();
  f.mend_spare(1);
  f.open();
  REQUIRE(f.shows(0) == "byte 102");
}

TEST_CASE("an old place that could not be released never serves again") {
  pool_fixture f(2);
  put_on(f, 4, 0, one);
  weaken(*f.spares[0], f.entry(4)->spare);
  put_on(f, 5, 0, one); // costs the block four copies
  REQUIRE(f.set->evacuate_spare(0).has_value());
  REQUIRE(f.entry(4)->spare_index == 1);
  REQUIRE(f.write(4, two));
  if (f.set->unmap(sector_number(4 * unit_sectors)))
    REQUIRE(f.write(4, two));
  REQUIRE(f.set->flush());
  f.open();
  REQUIRE(f.shows(4) == "byte 102");
}

TEST_CASE("a superseded slot that cannot be released does not keep a set from being opened") {
  pool_fixture f(1);
  put_on(f, 4, 0, one);
  const spare_unit place = f.entry(4)->spare;
  weaken(*f.spares[0], place);
  put_on(f, 5, 0, one);
  f.spares[0]->add_bad({place.value * unit_sectors, 1, direction::read});
  REQUIRE(f.shows_sector(4 * unit_sectors) == "lost sector");
  REQUIRE(f.entry(4)->spare != place);
  REQUIRE(f.write(4, two));
  REQUIRE(f.set->flush());
  f.open();
  REQUIRE(f.shows(4) == "byte 102");
  (void)f.set->unmap(sector_number(4 * unit_sectors));
  REQUIRE(f.write(4, three));
  f.close();
  f.open();
  REQUIRE(f.shows(4) == "byte 103");
}

TEST_CASE("a unit that left an absent spare in a change that was in doubt stays until that spare is back") {
  pool_fixture f(3);
  put_on(f, 4, 1, one);
  REQUIRE(f.set->flush());
  without(f, 1);
  f.remap(6); // its chunk is prepared
  const auto places = make_geometry(f.spares[0]->size());
  for (unsigned r = 0; r < own_replicas; ++r)
    f.spares[0]->add_bad(
        units(places->block_place(r, geometry::block_of(f.entry(6)->spare)).value, 1, direction::write));
  // The one that is not written over cannot be read now: so nothing can be taken back.
  f.spares[0]->add_bad(
      units(places->block_place(own_replicas - 1, geometry::block_of(f.entry(6)->spare)).value, 1,
            direction::read));
  REQUIRE_FALSE(f.write(4, two).has_value());
  f.spares[0]->clear_faults();
  REQUIRE(f.shows(4) == "byte 102");
  if (f.set->unmap(sector_number(4 * unit_sectors)))
    REQUIRE(f.write(4, two));
  f.close();
  f.there[1] = true;
  f.open();
  REQUIRE(f.shows(4) == "byte 102");
}

TEST_CASE("a sixth replica that missed a change is not listed when the change is answered") {
  pool_fixture f(2);
  put_on(f, 3, 0, one);
  const auto check = [&] {
    REQUIRE(f.set->flush());
    f.kill();
    f.spares[1]->clear_faults();
    f.there[0] = false;
    open_options options;
    options.degraded = true;
    if (f.try_open(options))
      REQUIRE(f.shows(7) == "its spare is absent");
  };
  SECTION("the host's superblock cannot be written at first") {
    f.spares[1]->add_bad(units(sixth_start, 18, direction::write));
    f.spares[1]->add_bad(units(0, 1, direction::write, io_error::no_space));
    (void)f.set->remap(sector_number(7 * unit_sectors));
    if (f.write(7, two))
      check();
  }
  SECTION("a new listing was written in one copy only") {
    f.spares[1]->add_bad(units(sixth_start, 18, direction::write));
    f.spares[1]->add_bad(units(128, 1, direction::write, io_error::no_space));
    (void)f.set->remap(sector_number(6 * unit_sectors));
    (void)f.shows(6);
    f.spares[1]->add_bad(units(0, 1, direction::write, io_error::no_space));
    (void)f.set->remap(sector_number(7 * unit_sectors));
    if (f.write(7, two))
      check();
  }
}

TEST_CASE("a removal that fails leaves no old copy of a map listed") {
  pool_fixture f(3);
  put_on(f, 3, 0, one);
  REQUIRE(f.status(0).protected_by == 1);
  // Spare 0 moves to spare 2; once that one lists it, spare 0 takes no superblock for a while.
  f.spares[2]->on_change([&](std::uint64_t offset, std::uint64_t, const std::byte*) {
    if (offset == 0)
      f.spares[0]->add_bad(units(0, 1, direction::write, io_error::no_space));
    return true;
  });
  REQUIRE_FALSE(f.set->remove_spare(1).has_value());
  f.spares[2]->on_change({});
  f.spares[0]->clear_faults();
  f.remap(7);
  REQUIRE(f.write(7, two));
  REQUIRE(f.set->flush());
  f.kill();
  f.there[0] = false;
  open_options options;
  options.degraded = true;
  if (f.try_open(options))
    REQUIRE(f.shows(7) == "its spare is absent");
}

TEST_CASE("bad places of a forgotten spare are not taken for places of the one that follows it") {
  pool_fixture f(2);
  put_on(f, 4, 1, one);
  REQUIRE(f.set->evacuate_spare(0).has_value());
  f.spares[1]->add_bad(units(f.entry(4)->spare.value + 1, 200, direction::write));
  REQUIRE(f.set->flush());
  REQUIRE_FALSE(f.set->remap(sector_number(5 * unit_sectors)).has_value());
  f.set->refill_spare(0);
  f.break_spare(1);
  REQUIRE(f.shows(4) == "its spare is absent");
  REQUIRE(f.set->forget_spare(1).has_value());
  f.use_up_places();
  f.spares.push_back(pool_fixture::new_spare(3));
  f.there = {true, false, true};
  const auto place = f.set->add_spare(f.spares[2]);
  REQUIRE(place.has_value());
  REQUIRE(*place == 1);
  for (std::uint64_t unit = 10; unit < 20; ++unit)
    put_on(f, unit, 1, two);
  f.remap(30);
  REQUIRE(f.set->flush());
  f.open();
  for (std::uint64_t unit = 10; unit < 20; ++unit)
    REQUIRE(f.shows(unit) == "byte 102");
}

TEST_CASE("what a flush would have said of a spare is said though the spare has left") {
  pool_fixture f(2);
  put_on(f, 4, 0, one);
  REQUIRE(f.set->flush());
  SECTION("a flush for the tables failed, then the spare was removed") {
    REQUIRE(f.write(4, two));
    f.spares[0]->fail_flushes(1);
    f.remap(5);
    REQUIRE(f.set->evacuate_spare(0).has_value());
    REQUIRE(f.set->remove_spare(0).has_value());
    REQUIRE_FALSE(f.set->flush().has_value());
    REQUIRE(f.set->flush().has_value());
  }
  SECTION("it vanished and was forgotten") {
    REQUIRE(f.write(4, two));
    f.break_spare(0);
    REQUIRE(f.shows(4) == "its spare is absent");
    REQUIRE(f.set->forget_spare(0).has_value());
    REQUIRE_FALSE(f.set->flush().has_value());
    REQUIRE(f.set->flush().has_value());
  }
  SECTION("it had nothing to say") {
    REQUIRE(f.write(4, two));
    REQUIRE(f.set->evacuate_spare(0).has_value());
    REQUIRE(f.set->remove_spare(0).has_value());
    REQUIRE(f.set->flush().has_value());
  }
}

TEST_CASE("a spare whose host is full for a moment is not gone") {
  pool_fixture f(2);
  put_on(f, 3, 0, one);
  f.spares[0]->add_bad(units(0, 1, direction::write, io_error::no_space));
  REQUIRE_FALSE(f.set->save().has_value());
  f.spares[0]->clear_faults();
  f.spares[0]->add_bad({f.entry(3)->spare.value * unit_sectors, 1, direction::read});
  REQUIRE(f.shows_sector(3 * unit_sectors) == "lost sector");
  REQUIRE(f.shows_sector(3 * unit_sectors + 1) == "byte 101");
  REQUIRE(f.status(0).present);
}

TEST_CASE("a session record that had to be written again does not part the spares") {
  pool_fixture f(3);
  put_on(f, 3, 0, one);
  put_on(f, 4, 2, two);
  REQUIRE(f.set->flush());
  f.spares[1]->add_bad(units(0, 1, direction::write, io_error::no_space));
  f.break_spare(2);
  REQUIRE(f.shows(4) == "its spare is absent"); // spare 0 has the record, spare 1 has not
  f.spares[1]->clear_faults();
  SECTION("the one that had it goes") {
    f.break_spare(0);
    REQUIRE(f.shows(3) == "its spare is absent");
  }
  SECTION("the one that had it is gone when it is written again") {
    f.break_spare(0);
    (void)f.set->remap(sector_number(9 * unit_sectors));
    REQUIRE(f.shows(3) == "its spare is absent");
  }
  SECTION("killed before all have it") {
    f.spares[1]->add_bad(units(128, 1, direction::write, io_error::no_space));
    (void)f.set->remap(sector_number(9 * unit_sectors)); // one copy has it there
    f.spares[1]->add_bad(units(0, 1, direction::write, io_error::no_space));
    (void)f.set->remap(sector_number(9 * unit_sectors));
  }
  f.kill();
  for (unsigned n = 0; n < 3; ++n)
    f.mend_spare(n);
  const auto opened = f.try_open();
  if (!opened)
    FAIL(opened.error().id);
  REQUIRE(f.shows(3) == "byte 101");
  REQUIRE(f.shows(4) == "byte 102");
}

TEST_CASE("a new spare that fails while it is added is in no record") {
  pool_fixture f(2);
  put_on(f, 3, 0, one);
  f.spares.push_back(pool_fixture::new_spare(2));
  f.there.push_back(false);
  f.break_spare(2);
  unsigned records = 0, listings = 0;
  for (unsigned n = 0; n < 2; ++n)
    f.spares[n]->on_change([&](std::uint64_t offset, std::uint64_t, const std::byte* bytes) {
      block_bytes block;
      if (offset == 0)
        std::copy_n(bytes, unit_bytes, block.bytes.data());
      if (const auto s = decode_superblock(block, 0, spare_unit(0)); s) {
        ++records;
        listings += s->spare_uuids[2] != uuid_bytes{} ? 1 : 0;
      }
      return true;
    });
  REQUIRE_FALSE(f.set->add_spare(f.spares[2]).has_value());
  for (unsigned n = 0; n < 2; ++n)
    f.spares[n]->on_change({});
  REQUIRE(records > 0);
  REQUIRE(listings == 0);
  f.open();
  REQUIRE(f.shows(3) == "byte 101");
}

TEST_CASE("a unit whose change is in doubt on a spare that is gone can be written whole") {
  pool_fixture f(3);
  put_on(f, 4, 2, one);
  REQUIRE(f.set->flush());
  const auto host = static_cast<unsigned>(f.status(2).protected_by);
  REQUIRE(host == 0);
  // No protection: nobody takes its sixth replica any more.
  for (unsigned n = 0; n < 2; ++n)
    f.spares[n]->add_bad(units(3500, 596, direction::write));
  put_on(f, 5, 2, one);
  REQUIRE(f.status(2).protected_by < 0);
  f.spares[2]->fail_flushes(always, io_error::medium, 0);
  (void)f.set->unmap(sector_number(5 * unit_sectors));
  f.break_spare(2);
  REQUIRE_FALSE(f.shows(4) == "byte 101");
  REQUIRE_FALSE(f.status(2).present);
  REQUIRE(f.shows(5) != "byte 101");
  REQUIRE(f.write(5, two));
  REQUIRE(f.shows(5) == "byte 102");
  REQUIRE_FALSE(f.set->flush().has_value()); // what had been written on the spare before
  REQUIRE(f.set->flush().has_value());
}

TEST_CASE("a close that fails leaves no clean mark behind") {
  pool_fixture f(2);
  put_on(f, 3, 0, one);
  f.spares[0]->add_bad(units(128, 1, direction::write, io_error::no_space));
  REQUIRE_FALSE(f.set->close().has_value());
  f.spares[0]->clear_faults();
  REQUIRE_FALSE(f.status(1).clean);
}

TEST_CASE("a host that is full for a while keeps its room") {
  pool_fixture f(2);
  put_on(f, 3, 0, one);
  const std::uint64_t usable = f.status(1).usable_units;
  f.spares[1]->add_bad(units(3300, 796, direction::write, io_error::no_space));
  for (std::uint64_t unit = 10; unit < 30; ++unit)
    f.remap(unit);
  REQUIRE(f.status(0).protected_by == -1);
  REQUIRE(f.status(1).usable_units == usable + 18); // the place of the replica that was given up is free
  f.spares[1]->clear_faults();
  REQUIRE(f.set->sync());
  REQUIRE(f.status(0).protected_by == 1);
  REQUIRE(f.status(1).usable_units == usable);
}

TEST_CASE("an open that only reads writes nothing, whatever is behind or missing") {
  pool_fixture f(3);
  put_on(f, 4, 1, one);
  put_on(f, 5, 2, two);
  REQUIRE(f.set->flush());
  f.break_spare(1);
  REQUIRE(f.shows(4) == "its spare is absent");
  f.remap(9);
  f.kill();
  f.mend_spare(1);
  open_options options;
  options.read_only = true;
  options.degraded = true;
  for (const unsigned missing : {3u, 0u, 1u, 2u}) {
    for (unsigned n = 0; n < 3; ++n)
      f.there[n] = n != missing;
    std::vector<std::uint64_t> before, after;
    for (const auto& s : f.spares)
      before.push_back(s->image().hash());
    if (const auto opened = f.try_open(options); !opened)
      continue;
    f.spares[2]->add_bad({f.entry(5) ? f.entry(5)->spare.value * unit_sectors : 0, 1, direction::read});
    REQUIRE(f.shows(4) == (missing == 1 ? "its spare is absent" : "byte 101"));
    REQUIRE(f.shows_sector(5 * unit_sectors) != "byte 102");
    f.spares[2]->clear_faults();
    (void)f.set->flush();
    REQUIRE(f.set->close().has_value());
    f.kill();
    for (const auto& s : f.spares)
      after.push_back(s->image().hash());
    REQUIRE(after == before);
  }
}

TEST_CASE("spares that come back together may hold each other's maps") {
  pool_fixture f(3);
  put_on(f, 3, 0, one);
  put_on(f, 4, 1, two);
  REQUIRE(f.set->flush());
  const auto first = GENERATE(0u, 1u);
  const auto second = static_cast<unsigned>(f.status(first).protected_by);
  put_on(f, 5, second, three);
  REQUIRE(f.set->flush());
  f.break_spare(first);
  REQUIRE(f.shows(3 + first) == "its spare is absent");
  f.break_spare(second);
  REQUIRE(f.shows(5) == "its spare is absent");
  f.kill();
  f.mend_spare(first);
  f.mend_spare(second);
  f.open();
  REQUIRE(f.shows(3) == "byte 101");
  REQUIRE(f.shows(4) == "byte 102");
  REQUIRE(f.shows(5) == "byte 103");
}

TEST_CASE("requests go on while spares come and go") {
  pool_fixture f(2);
  constexpr unsigned threads = 3, each = 16;
  std::atomic<bool> stop{false};
  std::atomic<unsigned> wrong{0}, rounds{0};
  std::vector<std::thread> workers;
  for (unsigned t = 0; t < threads; ++t)
    workers.emplace_back([&, t] {
      const auto context = f.set->make_context();
      std::array<std::byte, each> shown{};
      std::vector<std::byte> buffer(unit_bytes);
      for (unsigned n = 0; !stop; ++n) {
        const unsigned unit = n % each;
        const std::uint64_t at = (std::uint64_t{unit} * threads + t) * unit_bytes;
        const auto value = std::byte(n % 250 + 1);
        const bool whole = n % 3 != 0;
        if (whole || shown[unit] != std::byte{}) {
          std::fill(buffer.begin(), buffer.end(), whole ? value : shown[unit]);
          if (!f.set->write(*context, std::span(buffer).first(whole ? unit_bytes : sector_bytes), at))
            ++wrong;
          else if (whole)
            shown[unit] = value;
        }
        if (n % 64 == 0 && !f.set->flush())
          ++wrong;
        const unsigned other = (n * 7) % each;
        if (shown[other] == std::byte{})
          continue;
        if (!f.set->read(*context, buffer, (std::uint64_t{other} * threads + t) * unit_bytes) ||
            std::any_of(buffer.begin(), buffer.end(), [&](std::byte b) { return b != shown[other]; }))
          ++wrong;
        ++rounds;
      }
    });
  for (unsigned round = 0; round < 12; ++round) {
    const auto fresh = pool_fixture::new_spare(10 + round);
    const auto place = f.set->add_spare(fresh);
    REQUIRE(place.has_value());
    for (std::uint64_t unit = round % 3; unit < threads * each; unit += 3)
      (void)f.set->remap(sector_number(unit * unit_sectors));
    unsigned out = 0;
    while (out < max_spares && !f.status(out).present)
      ++out;
    REQUIRE(f.set->evacuate_spare(out).has_value());
    const auto removed = f.set->remove_spare(out);
    if (!removed)
      FAIL(removed.error().text());
    for (std::uint64_t unit = 1 + round % 2; unit < threads * each; unit += 4)
      (void)f.set->unmap(sector_number(unit * unit_sectors));
  }
  stop = true;
  for (auto& w : workers)
    w.join();
  REQUIRE(wrong == 0);
  REQUIRE(rounds > 0);
}
