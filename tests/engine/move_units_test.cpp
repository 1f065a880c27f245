// SPDX-License-Identifier: GPL-2.0-or-later
// Many units moved by one request: as many as there is room for, and nobody waits for a slow drive longer
// than for some of them.
#include "engine/dust_store.h"
#include "tests/support/set_fixture.h"

using namespace dmremap;
using namespace dmremap::test;

namespace {

/// The set opened again, with a main whose reads can be made slow.
dust_control& slow_main(set_fixture& f) {
  f.context.reset();
  f.set.reset();
  const auto main = std::make_shared<dust_store>(f.main);
  auto opened = disk::open(main, {f.spare}, {});
  REQUIRE(opened);
  f.set = std::move(*opened);
  f.context = f.set->make_context();
  return *main->control();
}

/// Flushes of the spare that a remap of six units from `unit` takes: so many for each table change.
std::uint64_t flushes_to_move(set_fixture& f, std::uint64_t unit) {
  const std::uint64_t before = f.spare->counts().flushes;
  const auto moved = f.set->remap(sector_number(unit * unit_sectors), std::uint64_t{6} * unit_sectors);
  REQUIRE(moved);
  REQUIRE(moved->units == 6);
  return f.spare->counts().flushes - before;
}

} // namespace

TEST_CASE("units of a slow main are moved in several changes") {
  set_fixture f;
  dust_control& dust = slow_main(f);
  (void)flushes_to_move(f, 10); // the first change of a chunk costs more
  const std::uint64_t fast = flushes_to_move(f, 20);
  REQUIRE(fast > 0);
  REQUIRE(dust.set_read_delay(30 * unit_sectors, std::uint64_t{6} * unit_sectors,
                              std::chrono::milliseconds(50)));
  CHECK(flushes_to_move(f, 30) >= 2 * fast);
  f.open();
  for (const std::uint64_t unit : {10u, 20u, 30u}) {
    CHECK(f.holds_original(unit * unit_sectors, std::uint64_t{6} * unit_sectors));
    for (std::uint64_t u = unit; u < unit + 6; ++u)
      CHECK(f.set->unmap(sector_number(u * unit_sectors)));
  }
}

TEST_CASE("a remap of more than there is room for takes what there is, and says how much that was") {
  set_fixture f(32u << 20);
  // All but 21 units.
  std::uint64_t next = 0;
  while (f.set->remap(sector_number(next * unit_sectors)))
    ++next;
  REQUIRE(next > 2000);
  for (std::uint64_t u = 100; u < 121; ++u)
    REQUIRE(f.set->unmap(sector_number(u * unit_sectors)));
  const auto refused = f.set->remap(sector_number(next * unit_sectors), std::uint64_t{64} * unit_sectors);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().id == "no-spare-capacity");
  CHECK(refused.error().why == "No spare capacity available; before it 21 units were moved");
  f.open();
  CHECK(f.set->stats().remapped_units == next);
  CHECK(f.set->unmap(sector_number((next + 20) * unit_sectors)));
  CHECK(f.set->unmap(sector_number((next + 21) * unit_sectors)).error().id == "not-remapped");
  CHECK(f.holds_original(next * unit_sectors, std::uint64_t{64} * unit_sectors));
}
