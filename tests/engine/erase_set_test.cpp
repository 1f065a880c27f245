// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/erase_set.h"

#include "tests/support/set_fixture.h"

using namespace dmremap;
using namespace dmremap::test;

TEST_CASE("a set that was used since it was looked at is not the one that may go") {
  set_fixture f;
  f.close();
  f.open();
  f.close();
  open_options look;
  look.read_only = true;
  f.open(look);
  const std::uint64_t seen = f.set->info()->sequence_end;
  f.context.reset();
  f.set.reset();
  CHECK(check_unused_since(*f.spare, seen));

  f.open();
  REQUIRE(f.set->remap(sector_number(80)));
  f.close();
  const auto changed = check_unused_since(*f.spare, seen);
  REQUIRE_FALSE(changed);
  CHECK(changed.error().id == "set-changed");
  const auto newest = f.spare->image();
  f.open(look);
  const std::uint64_t seen_now = f.set->info()->sequence_end;
  f.context.reset();
  f.set.reset();
  CHECK(check_unused_since(*f.spare, seen_now));
  CHECK(newest.hash() == f.spare->image().hash());

  REQUIRE(erase_set(*f.spare));
  CHECK(check_unused_since(*f.spare, 0)); // nothing is left
}
