// SPDX-License-Identifier: GPL-2.0-or-later
// The counter that all slots, blocks and superblocks take their numbers from.
#include "engine/commit_rules.h"
#include "tests/support/pool_fixture.h"

using namespace dmremap;
using namespace dmremap::test;

TEST_CASE("numbers never go back, however many older slots are released at an open") {
  commit_rules rules;
  rules.range_bits = 4; // so that a release of few slots exceeds what is reserved
  open_options options;
  options.rules = &rules;
  options.degraded = true;
  constexpr std::uint64_t count = 2750, unit = 4000;
  pool_fixture f(3, 20u << 20);
  REQUIRE(f.try_open(options));
  for (std::uint64_t u = 0; u < count; u += 250)
    REQUIRE(f.set->add_remap(sector_number(u * unit_sectors), std::nullopt, 250 * unit_sectors, 0));
  f.break_spare(0); // what it served is written whole, and moves on
  for (std::uint64_t u = 0; u < count; ++u)
    if (!f.write(u, one))
      REQUIRE(f.write(u, one));
  (void)f.set->flush();
  f.close();
  f.mend_spare(0);
  REQUIRE(f.try_open(options)); // its older slots are released
  put_on(f, unit, 1, one);
  REQUIRE(f.set->flush());
  f.break_spare(0);
  f.remap(unit + 1); // finds out
  f.break_spare(1);
  REQUIRE(f.shows(unit) == "its spare is absent");
  REQUIRE(f.write(unit, two)); // on the third one, under a number that must be higher
  if (!f.set->flush())
    REQUIRE(f.set->flush());
  f.kill();
  f.mend_spare(0);
  f.mend_spare(1);
  REQUIRE(f.try_open(options));
  REQUIRE(f.shows(unit) == "byte 102");
}
