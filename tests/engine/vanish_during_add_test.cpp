// SPDX-License-Identifier: GPL-2.0-or-later
// A spare vanishes while add_spare() settles an older record: the new spare was made from what the set said
// before that, and where it takes the first place it leads.
#include "engine/geometry.h"
#include "engine/spare_metadata.h"
#include "tests/support/pool_fixture.h"

using namespace dmremap;
using namespace dmremap::test;

namespace {

/// Spares 1 and 2 are left; the first place is free, as where spare 0 was replaced. A record is pending.
struct replaced : pool_fixture {
  explicit replaced(unsigned count) : pool_fixture(count) {
    use_up_places();
    REQUIRE(set->remove_spare(0));
    there[0] = false;
  }
  /// An add that fails because spare 1 has no space for a moment: what was recorded meanwhile has to be taken
  /// back.
  void leave_record_pending() {
    spares[1]->add_bad({0, spares[1]->size() / sector_bytes, direction::write, io_error::no_space, 4});
    const auto failed = set->add_spare(new_spare(7));
    REQUIRE_FALSE(failed);
    spares[1]->clear_faults();
  }
  void add_new() {
    const auto fresh = new_spare(4);
    const auto place = set->add_spare(fresh);
    if (!place)
      FAIL(place.error().text());
    REQUIRE(*place == 0);
    spares.push_back(fresh);
    there.push_back(true);
  }
};

} // namespace

TEST_CASE("old bytes do not come back with a spare that vanished during an add") {
  replaced f(3);
  put_on(f, 5, 2, one);
  REQUIRE(f.set->flush());
  REQUIRE(f.status(2).protected_by == 1);
  // The release of unit 5 cannot be written into spare 2's own table: it is in doubt. Its superblocks are
  // well.
  const auto g = *make_geometry(16u << 20);
  const auto block = geometry::block_of(f.entry(5)->spare);
  for (unsigned r = 0; r < own_replicas; ++r)
    f.spares[2]->add_bad({g.block_place(r, block).value * unit_sectors, unit_sectors, direction::write});
  const auto unmapped = f.set->unmap(sector_number(5 * unit_sectors));
  REQUIRE_FALSE(unmapped);
  REQUIRE(unmapped.error().id == "commit-in-doubt");
  REQUIRE(f.status(2).present);
  const bool pending = GENERATE(true, false);
  if (pending)
    f.leave_record_pending();
  f.break_spare(2);
  if (!pending)
    (void)f.set->save(); // the same without an add in the middle: found dead before
  f.add_new();
  REQUIRE_FALSE(f.status(2).present);
  REQUIRE(f.write(5, two));
  REQUIRE(f.set->flush());
  REQUIRE(f.shows(5) == "byte 102"); // acknowledged, flushed
  f.kill();
  f.mend_spare(2);
  SECTION("with the spare that vanished") {
    f.open();
    CHECK(f.shows(5) == "byte 102");
  }
  SECTION("without it") {
    f.there[2] = false;
    open_options degraded;
    degraded.degraded = true;
    CHECK(f.try_open(degraded));
  }
}

TEST_CASE("spares that vanish one after the other during an add do not make a fork") {
  unsigned refused = 0;
  for (unsigned writes = 0; writes < 60; ++writes) {
    replaced f(4);
    put_on(f, 5, 1, one);
    put_on(f, 6, 2, two);
    REQUIRE(f.set->flush());
    f.leave_record_pending();
    f.break_spare(2);
    fault_table soon;
    soon.all = io_error::gone;
    soon.all_after_writes = writes;
    f.spares[1]->set_faults(soon);
    const auto fresh = pool_fixture::new_spare(4);
    const auto place = f.set->add_spare(fresh);
    f.kill();
    f.mend_spare(1);
    f.mend_spare(2);
    if (place) {
      f.spares.push_back(fresh);
      f.there.push_back(true);
    }
    refused += f.try_open() ? 0 : 1;
  }
  CHECK(refused == 0);
}
