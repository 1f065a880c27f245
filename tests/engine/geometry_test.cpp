// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/geometry.h"

#include <catch2/catch.hpp>
#include <set>

using namespace dmremap;

TEST_CASE("every size from the minimum to 64 MiB has a layout that collides nowhere", "[geometry]") {
  for (std::uint64_t units = min_spare_units; units <= (64u << 20) / unit_bytes; ++units) {
    const auto g = make_geometry(units * unit_bytes);
    REQUIRE(g);
    REQUIRE(plausible(*g, units * unit_bytes));
    REQUIRE(g->units == units);
    REQUIRE(std::uint64_t{g->table_blocks} * slots_per_block >= units);
    std::set<std::uint64_t> places;
    for (unsigned c = 0; c < super_copies; ++c)
      REQUIRE(places.insert(g->super_place(c).value).second);
    for (unsigned r = 0; r < own_replicas; ++r)
      for (std::uint32_t b = 0; b < g->table_blocks; ++b)
        REQUIRE(places.insert(g->block_place(r, b).value).second);
    REQUIRE(*places.rbegin() < units);
    if (units % 97 != 0)
      continue;
    std::uint64_t metadata = 0;
    for (std::uint64_t u = 0; u < units; ++u) {
      REQUIRE(g->is_metadata(spare_unit(u)) == places.contains(u));
      metadata += places.contains(u);
    }
    REQUIRE(g->data_units() == units - metadata);
  }
}

TEST_CASE("large spares, the limit of slots, and too small ones", "[geometry]") {
  for (const std::uint64_t bytes : {1ull << 30, 10ull << 30, 4ull << 40, 16ull << 40, 64ull << 40}) {
    const auto g = make_geometry(bytes + 4095);
    REQUIRE(g);
    REQUIRE(plausible(*g, bytes + 4095));
    REQUIRE(g->units == std::min<std::uint64_t>(bytes / 4096, 0xFFFFFFFFull));
    REQUIRE(g->chunks() <= chunk_count);
  }
  REQUIRE(make_geometry((16u << 20) - 1).error().id == "spare-too-small");
}

TEST_CASE("the fixed superblocks lie at sectors 0, 1024, 2048, 4096 and 8192", "[geometry]") {
  const auto g = make_geometry(16u << 20);
  const std::uint64_t sectors[] = {0, 1024, 2048, 4096, 8192};
  for (unsigned c = 0; c < 5; ++c)
    REQUIRE(g->super_place(c).value * unit_sectors == sectors[c]);
  REQUIRE(g->first_automatic().value == (4u << 20) / unit_bytes); // a quarter of 16 MiB
  REQUIRE(make_geometry(1u << 30)->first_automatic().value == (8u << 20) / unit_bytes);
}
