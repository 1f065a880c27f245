// SPDX-License-Identifier: GPL-2.0-or-later
// What a set does where its spares have no room, or less than is asked for: refused as a whole, and told.
#include "engine/geometry.h"
#include "tests/support/pool_fixture.h"

#include <algorithm>
#include <chrono>
#include <future>
#include <utility>

using namespace dmremap;
using namespace dmremap::test;

namespace {

constexpr std::uint64_t main_bytes = 40u << 20;
constexpr std::uint64_t first_filler = 1000; // units of main below are the test's own

/// Takes units of the spare until it has only `leave` for remaps. Its head is left alone.
void fill(pool_fixture& f, unsigned spare, std::uint64_t leave) {
  static_assert(main_bytes / unit_bytes - first_filler > 2 * 4096);
  const std::uint64_t from = first_filler + spare * 4096;
  std::uint64_t next = from;
  f.set->for_each_remap([&](const remap_entry& e) {
    if (e.main.value >= from && e.main.value < from + 4096)
      next = std::max(next, e.main.value + 1);
  });
  std::uint64_t at_once = 256;
  while (f.status(spare).free_units > leave) {
    at_once = std::min(at_once, f.status(spare).free_units - leave);
    if (f.set->add_remap(sector_number(next * unit_sectors), std::nullopt, at_once * unit_sectors, spare))
      next += at_once;
    else
      at_once = (at_once + 1) / 2;
  }
  const auto now = f.status(spare);
  REQUIRE(now.free_units == leave);
  REQUIRE(now.usable_units - now.allocated_units > leave + 900); // the head
}

/// Units 0 to count - 1 of main, with a content of their own, on the spare.
void put_units(pool_fixture& f, unsigned count, unsigned spare) {
  for (unsigned u = 0; u < count; ++u)
    put_on(f, u, spare, std::byte(u + 1));
  REQUIRE(f.set->flush());
}

void check_units(pool_fixture& f, unsigned count) {
  for (unsigned u = 0; u < count; ++u)
    CHECK(f.shows(u) == "byte " + std::to_string(u + 1));
}

} // namespace

TEST_CASE("to forget a spare is refused as a whole where the others have room in their heads only") {
  pool_fixture f(2, main_bytes);
  put_units(f, 10, 1);
  fill(f, 0, 4);
  f.kill();
  f.there[1] = false;
  f.open(true);
  REQUIRE(f.status(0).free_units == 4);
  CHECK(f.status(1).free_units == 0); // nothing goes to one that is away
  const auto plan = f.set->plan_forget(1);
  REQUIRE_FALSE(plan);
  CHECK(plan.error().id == "no-spare-capacity");
  const auto refused = f.set->forget_spare(1);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().id == "no-spare-capacity");
  CHECK(refused.error().why == "10 units must be marked lost on other spares, which have 4 free for remaps: "
                               "add a spare first (6 units short)");
  CHECK(f.set->stats().lost_sectors == 0);
  CHECK(f.status(0).free_units == 4);
  for (unsigned u = 0; u < 10; ++u)
    CHECK(f.shows(u) == "its spare is absent");
  f.kill();
  f.there[1] = true;
  f.open();
  check_units(f, 10); // what it holds was not given up
}

TEST_CASE("a remap in between cannot take a place from a spare that is being forgotten") {
  constexpr unsigned count = 10, bad = 500;
  pool_fixture f(2, main_bytes);
  put_units(f, count, 1);
  f.kill();
  f.there[1] = false;
  f.open(true);
  fill(f, 0, count);
  f.main->add_bad({std::uint64_t{bad} * unit_sectors, 1, direction::write});
  const auto table = *make_geometry(16u << 20);
  f.spares[0]->close_gate((table.replica_start[0] + 1) * unit_sectors, table.table_blocks * unit_sectors,
                          direction::write);
  auto forgotten = std::async(std::launch::async, [&] { return f.set->forget_spare(1); });
  f.spares[0]->wait_for_blocked(); // its first table change
  auto written = std::async(std::launch::async, [&] { return f.write(bad, one); });
  // One that found a place waits for the table.
  const bool refused = written.wait_for(std::chrono::seconds(60)) == std::future_status::ready;
  f.spares[0]->open_gate();
  const auto done = forgotten.get();
  CHECK(refused);
  CHECK(written.get() == io_fail(io_error::no_place));
  REQUIRE(done);
  CHECK(done->units == count);
  CHECK(f.set->stats().lost_sectors == count * unit_sectors);
  CHECK(f.status(0).free_units == table.table_blocks + 1u); // the map of the one that is forgotten was there
  for (unsigned u = 0; u < count; ++u)
    CHECK(f.shows(u) == "lost sector");
}

TEST_CASE("a spare that fails while another is forgotten leaves some lost, and that is told") {
  constexpr unsigned count = 40; // no neighbours: more than one table change takes
  unsigned in_the_middle = 0;
  for (std::uint64_t writes = 0; writes < 60; ++writes) {
    CAPTURE(writes);
    pool_fixture f(2, main_bytes);
    for (unsigned u = 0; u < count; ++u)
      put_on(f, 2 * u, 1, std::byte(u + 1));
    REQUIRE(f.set->flush());
    f.kill();
    f.there[1] = false;
    f.open(true);
    fault_table later;
    later.all = io_error::gone;
    later.all_after_writes = writes;
    f.spares[0]->set_faults(later);
    const auto cut = f.set->forget_spare(1);
    f.spares[0]->clear_faults();
    if (cut)
      break; // it makes no more writes than that
    const std::uint64_t lost = f.set->stats().lost_sectors / unit_sectors;
    INFO(cut.error().text());
    if (lost > 0 && lost < count) {
      ++in_the_middle;
      CHECK(cut.error().why.find("; before it " + std::to_string(lost) + " units became lost (" +
                                 std::to_string(lost * unit_sectors) +
                                 " sectors); to forget it again goes on") != std::string::npos);
      CHECK(cut.error().why.find("nothing changed") == std::string::npos);
    }
    REQUIRE(f.set->forget_spare(1));
    CHECK(f.set->stats().lost_sectors == count * unit_sectors);
    CHECK_FALSE(f.set->find_spare("/spare1"));
  }
  CHECK(in_the_middle > 0);
}

TEST_CASE("a spare whose units do not fit on the others is not emptied at all") {
  pool_fixture f(2, main_bytes);
  put_units(f, 30, 0);
  fill(f, 1, 20);
  const auto plan = f.set->plan_evacuate(0);
  REQUIRE_FALSE(plan);
  CHECK(plan.error().id == "no-spare-capacity");
  const auto refused = f.set->evacuate_spare(0);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().id == "no-spare-capacity");
  CHECK(refused.error().text() ==
        "/spare0: holds 30 units, and the other spares have 20 free for remaps: add "
        "a spare first (10 units short)");
  CHECK_FALSE(f.status(0).draining);
  CHECK(f.status(0).allocated_units == 30);
  CHECK(f.status(1).free_units == 20);
  check_units(f, 30);
}

TEST_CASE("as many units as fit are moved from a spare where that is asked for") {
  pool_fixture f(2, main_bytes);
  put_units(f, 30, 0);
  fill(f, 1, 20);
  CHECK(f.set->plan_evacuate(0, true) == 20u);
  const auto stopped = f.set->evacuate_spare(0, {}, true);
  REQUIRE_FALSE(stopped);
  CHECK(stopped.error().text() ==
        "/spare0: No spare capacity available: 20 units were moved, 10 are left, and the other spares have 0 "
        "free for remaps; add a spare, then evacuate again (10 units short)");
  CHECK(f.status(0).allocated_units == 10);
  CHECK(f.set->plan_evacuate(0, true).error().id == "no-spare-capacity"); // nothing could be moved
  check_units(f, 30);
  f.break_spare(0);
  f.kill();
  f.there[0] = false;
  f.open(true); // what was moved outlives the spare
  unsigned saved = 0, away = 0;
  for (unsigned u = 0; u < 30; ++u) {
    saved += f.shows(u) == "byte " + std::to_string(u + 1) ? 1 : 0;
    away += f.shows(u) == "its spare is absent" ? 1 : 0;
  }
  CHECK(saved == 20);
  CHECK(away == 10);
}

TEST_CASE("an evacuation whose room other remaps take says how far it came and what is missing") {
  pool_fixture f(2, main_bytes);
  put_units(f, 30, 0);
  fill(f, 1, 30);
  bool taken = false;
  const auto stopped = f.set->evacuate_spare(0, [&](std::uint64_t done, std::uint64_t) {
    if (done == 12 && !std::exchange(taken, true))
      fill(f, 1, 8);
    return true;
  });
  REQUIRE_FALSE(stopped);
  CHECK(stopped.error().id == "no-spare-capacity");
  CHECK(stopped.error().text() ==
        "/spare0: No spare capacity available: 20 units were moved, 10 are left, and the other spares have 0 "
        "free for remaps; add a spare, then evacuate again (10 units short)");
  CHECK(f.set->stats().state == "No spare capacity available");
  CHECK(f.status(0).draining);
  CHECK(f.status(0).free_units == 0);
  check_units(f, 30);
  f.spares.push_back(pool_fixture::new_spare(2));
  f.there.push_back(true);
  REQUIRE(f.set->add_spare(f.spares[2]));
  CHECK(f.set->stats().state == "ok");
  const auto rest = f.set->evacuate_spare(0);
  REQUIRE(rest);
  CHECK(rest->moved == 10);
  check_units(f, 30);
}

TEST_CASE("the state says that no unit can be given out, also after a restart") {
  pool_fixture f(1, main_bytes);
  const std::uint64_t room = f.status(0).free_units;
  REQUIRE(room > 2000);
  std::uint64_t next = first_filler;
  for (; f.status(0).free_units != 0; ++next)
    REQUIRE(f.set->remap(sector_number(next * unit_sectors)));
  CHECK(next - first_filler == room);
  CHECK(f.set->stats().state == "No spare capacity available"); // no write had to fail first
  CHECK(f.set->remap(sector_number(0)).error().id == "no-spare-capacity");
  f.main->add_bad({0, 1, direction::write});
  CHECK(f.write(0, one) == io_fail(io_error::no_place));
  f.close();
  f.open();
  CHECK(f.set->stats().state == "No spare capacity available");
  CHECK(f.status(0).free_units == 0);
  REQUIRE(f.set->unmap(sector_number(first_filler * unit_sectors)));
  CHECK(f.set->stats().state == "ok");
  CHECK(f.status(0).free_units == 1);
  CHECK(f.write(0, one));
  CHECK(f.set->stats().state == "No spare capacity available");
  CHECK(f.shows(0) == "byte 101");
}

TEST_CASE("add_remap auto says how long a run is free where that is not enough") {
  pool_fixture f(1, main_bytes);
  const std::uint64_t room = f.status(0).free_units;
  const auto refused = f.set->add_remap(sector_number(0), std::nullopt, room * unit_sectors);
  REQUIRE_FALSE(refused); // table replicas lie in between
  CHECK(refused.error().id == "no-spare-capacity");
  const std::string& why = refused.error().why;
  INFO(why);
  const std::string before = "No spare capacity available for " + std::to_string(room) +
                             " units next to each other: the longest free run on spare 0 has ";
  REQUIRE(why.find(before) == 0);
  const std::uint64_t longest = std::stoull(why.substr(before.size()));
  REQUIRE(longest < room);
  CHECK(why ==
        before + std::to_string(longest) + " units (" + std::to_string(longest * unit_sectors) + " sectors)");
  CHECK_FALSE(f.set->add_remap(sector_number(0), std::nullopt, (longest + 1) * unit_sectors));
  REQUIRE(f.set->add_remap(sector_number(0), std::nullopt, longest * unit_sectors));
  CHECK(f.status(0).allocated_units == longest);
  fill(f, 0, 0);
  const std::uint64_t last = main_bytes / sector_bytes - unit_sectors;
  CHECK(f.set->add_remap(sector_number(last), std::nullopt, unit_sectors).error().why ==
        "No spare capacity available");
}

TEST_CASE("add_remap names the nearest free range where it contradicts a remap, and refuses no sectors") {
  pool_fixture f(1, main_bytes);
  put_on(f, 5, 0, one);
  const std::uint64_t place = f.entry(5)->spare.value;
  const auto refused = f.set->add_remap(sector_number(4 * unit_sectors), sector_number(place * unit_sectors),
                                        2 * unit_sectors);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().id == "contradicts-remap");
  INFO(refused.error().why);
  const std::string nearest = "; the nearest free range of this length starts at spare sector ";
  const auto at = refused.error().why.find(nearest);
  REQUIRE(at != std::string::npos);
  const std::uint64_t named = std::stoull(refused.error().why.substr(at + nearest.size()));
  REQUIRE(f.set->unmap(sector_number(5 * unit_sectors)));
  CHECK(f.set->add_remap(sector_number(4 * unit_sectors), sector_number(named), 2 * unit_sectors));
  const auto none = f.set->add_remap(sector_number(64), std::nullopt, 0);
  REQUIRE_FALSE(none);
  CHECK(none.error().id == "out-of-range");
  CHECK(none.error().why == "0 sectors are none to remap");
}

TEST_CASE("the only spare that serves units is told as both") {
  pool_fixture f(1);
  CHECK(f.set->remove_spare(0).error().id == "last-spare");
  put_on(f, 3, 0, one);
  put_on(f, 4, 0, two);
  const auto refused = f.set->remove_spare(0);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().id == "spare-in-use");
  CHECK(refused.error().why.find("Cannot remove spare /spare0: 2 active allocations; it is the only spare") ==
        0);
  CHECK(f.shows(3) == "byte 101");
}
