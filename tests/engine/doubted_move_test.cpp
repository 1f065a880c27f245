// SPDX-License-Identifier: GPL-2.0-or-later
// A unit that was to move to a spare that went, and nobody knows whether it did: where it was before may be
// the only place that holds it.
#include "engine/geometry.h"
#include "tests/support/asleep.h"
#include "tests/support/pool_fixture.h"

#include <chrono>
#include <future>
#include <thread>
#include <unistd.h>

using namespace dmremap;
using namespace dmremap::test;

namespace {

/// The spare goes at the first write of its table.
void dies_in_its_table(memory_store& spare) {
  const auto places = make_geometry(spare.size());
  for (unsigned r = 0; r < own_replicas; ++r)
    spare.add_bad({byte_of(places->block_place(r, 0)) / sector_bytes, places->table_blocks * unit_sectors,
                   direction::write, io_error::gone});
}

/// So does spare 0, and its sixth replica's place on spare 1 is bad: nobody knows what it has.
void goes_without_a_map(pool_fixture& f) {
  dies_in_its_table(*f.spares[0]);
  f.spares[1]->add_bad({0, f.spares[1]->size() / sector_bytes, direction::write, io_error::medium, 1});
}

/// Unit 4 was to move from spare 2 to spare 0.
void leave_in_doubt(pool_fixture& f) {
  put_on(f, 4, 2, one);
  REQUIRE(f.set->flush());
  REQUIRE(f.status(0).protected_by == 1);
  goes_without_a_map(f);
  REQUIRE_FALSE(f.set->evacuate_spare(2).has_value());
  REQUIRE_FALSE(f.status(0).present);
  REQUIRE(f.shows(4) == "its spare is absent");
}

} // namespace

TEST_CASE("a place is not removed while nobody knows whether the next one holds") {
  pool_fixture f(3);
  leave_in_doubt(f);
  REQUIRE(f.set->evacuate_spare(2)); // nothing more to be seen on it
  const auto removed = f.set->remove_spare(2);
  CHECK_FALSE(removed.has_value());
  f.kill();
  f.mend_spare(0);
  f.there[2] = !removed;
  f.open();
  REQUIRE(f.shows(4) == "byte 101");
}

TEST_CASE("nor forgotten") {
  pool_fixture f(4);
  leave_in_doubt(f);
  f.set->refill_spare(2);
  put_on(f, 9, 2, two);
  f.break_spare(2);
  REQUIRE(f.shows(9) != "byte 102"); // finds that out
  REQUIRE_FALSE(f.status(2).present);
  const auto forgot = f.set->forget_spare(2);
  f.kill();
  f.mend_spare(0);
  f.mend_spare(2);
  f.there[2] = !forgot;
  f.open();
  const std::string shown = f.shows_sector(4 * unit_sectors);
  REQUIRE((shown == "byte 101" || shown == "lost sector"));
}

TEST_CASE("nor removed where one failure is enough, as the spare is not protected") {
  pool_fixture f(1);
  auto big = std::make_shared<memory_store>(1u << 30);
  store_identity identity;
  identity.path = "/big";
  big->set_identity(identity);
  REQUIRE(f.set->add_spare(big));
  auto small = pool_fixture::new_spare(2);
  REQUIRE(f.set->add_spare(small));
  REQUIRE(f.status(1).protected_by == -1); // its table is larger than any gap on the others
  put_on(f, 4, 2, one);
  REQUIRE(f.set->flush());
  REQUIRE(f.set->evacuate_spare(0)); // is to leave as well: takes no new data
  f.remap(9);                        // its chunk is prepared
  REQUIRE(f.entry(9)->spare_index == 1);
  dies_in_its_table(*big);
  (void)f.set->evacuate_spare(2);
  REQUIRE_FALSE(f.status(1).present);
  REQUIRE(f.shows(4) == "its spare is absent");
  const auto removed = f.set->remove_spare(2);
  CHECK_FALSE(removed.has_value());
  f.kill();
  big->clear_faults();
  f.spares = {f.spares[0], big};
  f.there = {true, true};
  if (!removed) {
    f.spares.push_back(small);
    f.there.push_back(true);
  }
  f.open();
  REQUIRE(f.shows(4) == "byte 101");
}

TEST_CASE("what was to move on the spare that went is lost with it") {
  pool_fixture f(2);
  put_on(f, 4, 0, one);
  REQUIRE(f.set->flush());
  goes_without_a_map(f);
  f.spares[0]->add_bad({f.entry(4)->spare.value * unit_sectors, 1, direction::read});
  (void)f.shows(4); // its place is bad: another one there
  REQUIRE_FALSE(f.status(0).present);
  REQUIRE(f.entry(4)->spare_index == 0);
  REQUIRE(f.shows_sector(4 * unit_sectors + 3) == "its spare is absent");
  const auto done = f.set->forget_spare(0);
  if (!done)
    FAIL(done.error().text());
  CHECK(done->units == 1);
  CHECK(f.shows(4) == "lost sector");
  CHECK(f.write(4, three));
  CHECK(f.shows(4) == "byte 103");
}

TEST_CASE("where the spare that it was to move to is forgotten, it is served from where it was") {
  pool_fixture f(4);
  const bool from_main = GENERATE(false, true);
  if (from_main) { // its move by hand is in doubt
    goes_without_a_map(f);
    REQUIRE(f.write(4, one));
    REQUIRE_FALSE(f.set->remap(sector_number(4 * unit_sectors)));
    REQUIRE_FALSE(f.status(0).present);
    REQUIRE(f.shows(4) == "its spare is absent");
  } else {
    leave_in_doubt(f);
  }
  const auto plan = f.set->plan_forget(0);
  if (!plan)
    FAIL(plan.error().text());
  CHECK(plan->units == 0);
  const auto done = f.set->forget_spare(0);
  if (!done)
    FAIL(done.error().text());
  CHECK(done->units == 0);
  CHECK(f.shows(4) == "byte 101");
  CHECK(f.write(4, two));
  REQUIRE(f.set->flush());
  CHECK(f.shows(4) == "byte 102");
  f.kill();
  f.there[0] = false;
  f.open();
  CHECK(f.shows(4) == "byte 102");
}

TEST_CASE("nor does a request that still goes by that place touch the spare that gets its number") {
  pool_fixture f(4);
  leave_in_doubt(f);
  const auto doubted = f.entry(4)->spare;
  REQUIRE(f.entry(4)->spare_index == 0);
  f.use_up_places();
  // It has looked unit 4 up, and is held up at unit 5.
  f.main->close_gate(5 * unit_sectors, unit_sectors, direction::write);
  io_result written;
  std::thread writing([&] {
    const auto own = f.set->make_context();
    written = f.set->write(*own, std::vector<std::byte>(2 * unit_bytes, two), 4 * unit_bytes);
  });
  f.main->wait_for_blocked();
  std::promise<pid_t> thread_of;
  auto changed = std::async(std::launch::async, [&]() -> result<void> {
    thread_of.set_value(::gettid());
    CHECK_OK(f.set->forget_spare(0));
    const unsigned place = TRY(f.set->add_spare(pool_fixture::new_spare(0)));
    if (place != 0)
      return fail("another-place", std::to_string(place), "it was to be the one that was forgotten");
    CHECK_OK(f.set->add_remap(sector_number(7 * unit_sectors), sector_number(doubted.value * unit_sectors),
                              unit_sectors, place));
    return {};
  });
  const pid_t thread = thread_of.get_future().get();
  while (changed.wait_for(std::chrono::seconds(0)) != std::future_status::ready && !is_asleep(thread))
    std::this_thread::yield();
  f.main->open_gate();
  writing.join();
  const auto done = changed.get();
  if (!done)
    FAIL(done.error().text());
  CHECK(written);
  CHECK(f.entry(7)->spare == doubted);
  REQUIRE(f.write(7, three));
  CHECK(f.set->flush());
  CHECK(f.shows(4) == "byte 102");
  CHECK(f.shows(5) == "byte 102");
  CHECK(f.shows(7) == "byte 103");
  f.remap(8); // another unit does not get its place
  CHECK_FALSE(f.entry(8)->spare == doubted);
}
