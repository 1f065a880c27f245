// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/spare_metadata.h"
#include "tests/support/set_fixture.h"

#include <catch2/catch.hpp>

using namespace dmremap;
using namespace dmremap::test;

TEST_CASE("a flush that fails while superblocks are written does not end all later superblock writes",
          "[disk]") {
  bool flush_fails = false;
  set_fixture f;
  f.spare_flush_fails = &flush_fails;
  f.open();
  const unsigned failing_write = GENERATE(1u, 2u, 10u); // the flush behind this superblock write fails
  unsigned changes = 0;
  f.spare->on_change([&](std::uint64_t, std::uint64_t, const std::byte*) {
    flush_fails = ++changes >= failing_write;
    return true;
  });
  REQUIRE_FALSE(f.set->save());
  f.spare->on_change({});
  flush_fails = false;
  REQUIRE(f.set->save());
  REQUIRE(f.set->info()->spares[0].super_copies_valid == 5);
  REQUIRE(f.set->info()->spares[0].head_copies_valid == 5);
}
