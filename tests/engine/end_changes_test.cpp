// SPDX-License-Identifier: GPL-2.0-or-later
// Changes by hand that are told to end: they do so before their next unit, what they did is whole, and what
// comes later is refused. A store that blocks says when a change is in the middle.
#include "tests/support/pool_fixture.h"
#include "tests/support/set_fixture.h"

#include <thread>

using namespace dmremap;
using namespace dmremap::test;

namespace {

constexpr std::uint64_t sectors_of(std::uint64_t units) {
  return units * unit_sectors;
}

/// Runs `change` until a request of `where` for those sectors blocks, then tells it to end.
template <class Fixture, class Change>
auto end_in_the_middle(Fixture& f, memory_store& where, std::uint64_t first, std::uint64_t count,
                       direction when, Change change) {
  where.close_gate(first, count, when);
  std::optional<decltype(change())> answer;
  std::thread changing([&] { answer = change(); });
  where.wait_for_blocked();
  f.set->end_changes();
  where.open_gate();
  changing.join();
  return *answer;
}

bool says(const error& e, const std::string& text) {
  return e.why.find(text) != std::string::npos;
}

} // namespace

TEST_CASE("a salvage that is told to end keeps what came back") {
  pool_fixture f(2);
  f.main->add_bad({sectors_of(10), sectors_of(40), direction::read});
  for (std::uint64_t u = 10; u < 50; ++u)
    REQUIRE(f.shows(u) == "lost sector");
  f.main->clear_faults();
  // In the middle of the fourth unit: none of its sectors has come back.
  const auto done = end_in_the_middle(f, *f.main, sectors_of(13) + 2, 1, direction::read,
                                      [&] { return f.set->salvage(std::nullopt); });
  REQUIRE_FALSE(done);
  CHECK(done.error().id == "stopping");
  CHECK(says(done.error(), "24 sectors came back"));
  CHECK(says(done.error(), "37 were not tried: the set is being closed"));
  f.close();
  f.open();
  for (std::uint64_t u = 10; u < 50; ++u)
    CHECK((u < 13 ? f.original_unit(u) : f.shows(u) == "lost sector"));
  const auto again = f.set->salvage(std::nullopt); // nothing of that outlives the session
  REQUIRE(again);
  CHECK(again->recovered == sectors_of(37));
  CHECK(f.original_unit(49));
}

TEST_CASE("a remap of many units that is told to end says how many were moved") {
  pool_fixture f(2);
  // 16 go in one change; the fifth of the second one is being read.
  const auto done = end_in_the_middle(f, *f.main, sectors_of(30) + 3, 1, direction::read,
                                      [&] { return f.set->remap(sector_number(80), sectors_of(100)); });
  REQUIRE_FALSE(done);
  CHECK(done.error().id == "stopping");
  CHECK(says(done.error(), "before it 20 units were moved"));
  CHECK(f.set->stats().remapped_units == 20);
  CHECK(f.write(29, one));
  CHECK(f.write(30, two));
  f.close();
  f.open();
  CHECK(f.entry(29));
  CHECK_FALSE(f.entry(30));
  CHECK(f.shows(29) == "byte 101");
  CHECK(f.shows(30) == "byte 102");
  for (const std::uint64_t u : {10u, 28u, 31u, 109u})
    CHECK(f.original_unit(u));
}

TEST_CASE("a forget that is told to end leaves every other unit to the absent spare") {
  pool_fixture f(3);
  for (std::uint64_t u = 3; u < 103; u += 2) // no two are neighbours: 32 become lost at once
    put_on(f, u, 0, one);
  f.kill();
  f.there[0] = false;
  f.open(true);
  REQUIRE_FALSE(f.status(0).present);
  const auto whole = f.spares[1]->size() / sector_bytes;
  const auto done =
      end_in_the_middle(f, *f.spares[1], 0, whole, direction::write, [&] { return f.set->forget_spare(0); });
  REQUIRE_FALSE(done);
  CHECK(done.error().id == "stopping");
  CHECK(says(done.error(), "32 units became lost"));
  const auto as_it_was_left = [&](const std::string& others) {
    for (std::uint64_t u = 3; u < 103; u += 2)
      CHECK(f.shows(u) == (u < 3 + 2 * 32 ? "lost sector" : others));
  };
  as_it_was_left("its spare is absent");
  CHECK(f.status(0).uuid != ""); // the set lists it
  f.close();
  SECTION("the next session goes on") {
    f.open(true);
    as_it_was_left("its spare is absent");
    const auto rest = f.set->forget_spare(0);
    REQUIRE(rest);
    CHECK(rest->units == 18);
    f.close();
    f.open();
    for (std::uint64_t u = 3; u < 103; u += 2)
      CHECK(f.shows(u) == "lost sector");
  }
  SECTION("the spare comes back with what it still serves") {
    f.there[0] = true;
    f.open();
    as_it_was_left("byte 101");
  }
}

TEST_CASE("an evacuation that is told to end keeps what was moved") {
  pool_fixture f(2);
  for (std::uint64_t u = 3; u < 13; ++u)
    put_on(f, u, 0, one);
  const auto done = f.set->evacuate_spare(0, [&](std::uint64_t moved, std::uint64_t) {
    if (moved == 4)
      f.set->end_changes();
    return true;
  });
  REQUIRE_FALSE(done);
  CHECK(done.error().id == "stopping");
  CHECK(says(done.error(), "4 units were moved"));
  f.close();
  f.open();
  for (std::uint64_t u = 3; u < 13; ++u) {
    CHECK(f.entry(u)->spare_index == (u < 7 ? 1 : 0));
    CHECK(f.shows(u) == "byte 101");
  }
}

TEST_CASE("an add_remap that is told to end says where the rest begins") {
  set_fixture f(16u << 20, 512, 512, 64u << 20); // so many free neighbours has no smaller spare
  // 1024 units go in one change; its first table write blocks.
  const auto done = end_in_the_middle(f, *f.spare, 0, f.spare->size() / sector_bytes, direction::write, [&] {
    return f.set->add_remap(sector_number(0), std::nullopt, sectors_of(1500));
  });
  REQUIRE_FALSE(done);
  CHECK(done.error().id == "stopping");
  CHECK(says(done.error(), "the rest begins at main sector 8192"));
  CHECK(f.set->stats().remapped_units == 1024);
  CHECK(f.set->info()->spares.front().allocated_units == 1024); // what was taken for the rest is free again
  f.close();
  f.open();
  CHECK(f.set->stats().remapped_units == 1024);
  CHECK(f.holds_original(sectors_of(1024), 100));
}

TEST_CASE("once changes are to end all are refused, and nothing else is") {
  pool_fixture f(2);
  put_on(f, 3, 0, one);
  f.set->end_changes();
  const auto refused = [](const auto& answer) { return !answer && answer.error().id == "stopping"; };
  CHECK(refused(f.set->remap(sector_number(80))));
  CHECK(refused(f.set->unmap(sector_number(3 * unit_sectors))));
  CHECK(refused(f.set->add_remap(sector_number(80), std::nullopt, 8)));
  CHECK(refused(f.set->add_spare(pool_fixture::new_spare(2))));
  CHECK(refused(f.set->remove_spare(1)));
  CHECK(refused(f.set->evacuate_spare(0)));
  f.main->add_bad({sectors_of(5), unit_sectors, direction::write});
  CHECK(f.write(3, two));
  CHECK(f.write(5, three)); // an error moves its unit as ever
  CHECK(f.set->flush());
  CHECK(f.set->sync());
  f.close();
  f.open();
  CHECK(f.shows(3) == "byte 102");
  CHECK(f.shows(5) == "byte 103");
  CHECK(f.entry(5));
  CHECK(f.status(0).present);
  CHECK(f.status(1).present);
  CHECK(f.set->stats().remapped_units == 2);
}
