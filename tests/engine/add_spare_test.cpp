// SPDX-License-Identifier: GPL-2.0-or-later
// What an add may cost the set, and which place a new spare gets.
#include "tests/support/pool_fixture.h"

#include <utility>

using namespace dmremap;
using namespace dmremap::test;

namespace {

void fail_writes(memory_store& s, io_error how, std::uint64_t times = always) {
  s.add_bad({0, s.size() / sector_bytes, direction::write, how, times});
}

void gone_after(memory_store& s, std::uint64_t writes) {
  fault_table soon;
  soon.all = io_error::gone;
  soon.all_after_writes = writes;
  s.set_faults(soon);
}

/// A set of one spare with a unit on it, and a spare to add.
struct lone : pool_fixture {
  lone() : pool_fixture(1), fresh(new_spare(1)) {
    put_on(*this, 5, 0, one);
    REQUIRE(set->flush());
  }
  void take_fresh() {
    spares.push_back(fresh);
    there.push_back(true);
  }
  /// The set takes changes, and what it holds is there at the next open, too. An add that is in doubt is
  /// settled by the first change.
  void check_serves() {
    CHECK(shows(5) == "byte 101");
    CHECK(write(5, two));
    main->add_bad({9 * unit_sectors, unit_sectors, direction::write});
    CHECK(write(9, three));
    CHECK(set->flush());
    open();
    CHECK(shows(5) == "byte 102");
    CHECK(shows(9) == "byte 103");
  }

  const std::shared_ptr<memory_store> fresh;
};

} // namespace

TEST_CASE("an add that fails does not cost the set its only spare, which has a bad moment meanwhile") {
  const bool before = GENERATE(true, false); // the moment begins
  unsigned failed = 0;
  for (const std::uint64_t moment : {10u, 20u, 40u}) // failed writes of the old one: ten are a superblock
    for (unsigned new_writes = 0; new_writes < 40; ++new_writes) {
      CAPTURE(before, moment, new_writes);
      lone f;
      if (before)
        fail_writes(*f.spares[0], io_error::medium, moment);
      else
        f.fresh->on_change([&, first = true](std::uint64_t, std::uint64_t, const std::byte*) mutable {
          if (std::exchange(first, false))
            fail_writes(*f.spares[0], io_error::medium, moment);
          return true;
        });
      gone_after(*f.fresh, new_writes);
      if (f.set->add_spare(f.fresh))
        continue;
      f.spares[0]->clear_faults();
      ++failed;
      if (f.status(0).present)
        f.check_serves();
      else
        CHECK((moment == 40 && new_writes >= 10)); // the new one had shown itself, and died since
    }
  CHECK(failed > 30);
}

TEST_CASE("a spare that dies for good while another one is added is replaced by that one") {
  for (unsigned writes = 0; writes < 20; ++writes) {
    CAPTURE(writes);
    lone f;
    gone_after(*f.spares[0], writes);
    if (auto added = f.set->add_spare(f.fresh); !added)
      FAIL(added.error().text());
    f.main->add_bad({9 * unit_sectors, unit_sectors, direction::write});
    CHECK(f.write(9, three));
    CHECK(f.set->flush());
    CHECK_FALSE(f.status(0).present);
    f.kill();
    f.mend_spare(0);
    f.take_fresh();
    f.open();
    CHECK(f.shows(5) == "byte 101");
    CHECK(f.shows(9) == "byte 103");
  }
}

TEST_CASE("a drive that drops what is written to it does not replace a spare that takes no writes") {
  const unsigned honest_writes = GENERATE(range(0u, 40u));
  lone f;
  fail_writes(*f.spares[0], io_error::read_only);
  unsigned writes = 0;
  f.fresh->on_change(
      [&](std::uint64_t, std::uint64_t, const std::byte*) { return ++writes <= honest_writes; });
  CAPTURE(honest_writes);
  REQUIRE_FALSE(f.set->add_spare(f.fresh));
  f.spares[0]->clear_faults();
  CHECK(f.shows(5) == "byte 101");
  if (honest_writes < 20) // twice all superblocks: when it was asked, and once it was to replace the other
    f.check_serves();
}

TEST_CASE("a spare that takes no writes is replaced by the one that is added") {
  const io_error how = GENERATE(io_error::read_only, io_error::medium, io_error::gone);
  lone f;
  fail_writes(*f.spares[0], how);
  REQUIRE(f.set->add_spare(f.fresh));
  f.take_fresh();
  CHECK_FALSE(f.status(0).present);
  CHECK(f.status(1).present);
  CHECK(f.shows(5) == "byte 101"); // it is read on
  CHECK(f.write(5, two));
  CHECK(f.entry(5)->spare_index == 1);
  CHECK(f.set->flush());
  CHECK(f.shows(5) == "byte 102");
  f.spares[0]->clear_faults();
  f.open();
  CHECK(f.shows(5) == "byte 102");
}

TEST_CASE("a spare that was forgotten long ago is known as that, whoever came and went since") {
  pool_fixture f(2);
  put_on(f, 5, 0, one);
  f.close();
  f.there[1] = false;
  f.open(true);
  REQUIRE(f.set->forget_spare(1));
  std::vector<unsigned> places;
  for (unsigned n = 0; n < 20; ++n) {
    const auto place = f.set->add_spare(pool_fixture::new_spare(2));
    REQUIRE(place);
    places.push_back(*place);
    REQUIRE(f.set->remove_spare(*place));
  }
  CHECK(places == std::vector<unsigned>(20, 2)); // what was erased is not in the way
  REQUIRE(f.set->save());
  f.close();
  f.there[1] = true; // its line is still there
  f.open();
  CHECK(f.shows(5) == "byte 101");
  CHECK(f.set->info()->spares.size() == 1);
}

TEST_CASE("places that spares have had are used again once there is no other") {
  pool_fixture f(1);
  put_on(f, 5, 0, one);
  for (unsigned n = 1; n < 16 + 4; ++n) {
    const unsigned expected = n < 16 ? n : 1;
    const auto fresh = pool_fixture::new_spare(n);
    const auto place = f.set->add_spare(fresh);
    REQUIRE(place);
    CHECK(*place == expected);
    fault_table faults; // it cannot be erased
    faults.all = io_error::gone;
    fresh->set_faults(faults);
    REQUIRE(f.set->save());
    REQUIRE_FALSE(f.status(expected).present);
    REQUIRE(f.set->forget_spare(expected));
  }
  CHECK(f.shows(5) == "byte 101");
}

TEST_CASE("nothing is to be done to a new spare while the set cannot take one") {
  lone f;
  CHECK(f.set->ready_for_spare("/spare1"));
  // An add that cannot be taken back: the record of that is on its way.
  gone_after(*f.fresh, 10);
  f.spares[0]->add_bad({0, f.spares[0]->size() / sector_bytes, direction::write, io_error::no_space, 60});
  const auto added = f.set->add_spare(f.fresh);
  REQUIRE_FALSE(added);
  const auto ready = f.set->ready_for_spare("/spare1");
  REQUIRE_FALSE(ready);
  CHECK(ready.error().id == "format-failed");
  CHECK(ready.error().why.find("nothing changed") != std::string::npos);
  f.spares[0]->clear_faults();
  CHECK(f.set->ready_for_spare("/spare1"));
  f.open(); // and the set does not ask for the one that was to be added
  CHECK(f.shows(5) == "byte 101");
}
