// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/remap_map.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <map>
#include <random>
#include <thread>

using namespace dmremap;

TEST_CASE("the map agrees with std::map through growth, rewrites and removals", "[remap_map]") {
  std::mt19937_64 random(11);
  remap_map map;
  std::map<std::uint64_t, std::uint64_t> model;
  for (unsigned i = 0; i < 200000; ++i) {
    const std::uint64_t u = (random() % 3 == 0) ? random() % (1ull << 48) : random() % 5000;
    if (random() % 3 == 0) {
      map.erase(main_unit(u));
      model.erase(u);
    } else {
      const auto e =
          map_entry::make(0, spare_unit(random() & 0xFFFFFFFF), static_cast<std::uint8_t>(random()), false);
      map.set(main_unit(u), e);
      model[u] = e.word();
    }
    const std::uint64_t probe = random() % 5000;
    const auto at = model.find(probe);
    REQUIRE(map.lookup(main_unit(probe)).word() == (at == model.end() ? 0 : at->second));
  }
  REQUIRE(map.size() == model.size());
  const auto units = map.units();
  REQUIRE(units.size() == model.size());
  std::size_t n = 0;
  for (const auto& [u, word] : model) {
    REQUIRE(units[n++].value == u);
    REQUIRE(map.lookup(main_unit(u)).word() == word);
  }
}

TEST_CASE("an entry keeps its fields apart", "[remap_map]") {
  const auto e = map_entry::make(15, spare_unit(0xFFFFFFFF), 0x81, true);
  REQUIRE(e.present());
  REQUIRE(e.spare() == 15);
  REQUIRE(e.unit().value == 0xFFFFFFFF);
  REQUIRE(e.lost() == 0x81);
  REQUIRE(e.by_hand());
  REQUIRE_FALSE(e.in_doubt());
  REQUIRE(e.doubtful().in_doubt());
  REQUIRE(e.doubtful().unit() == e.unit());
}

TEST_CASE("readers see an entry or none while a writer grows the map", "[remap_map]") {
  remap_map map;
  std::atomic<std::uint64_t> written{0};
  std::atomic<bool> wrong{false};
  const auto expected = [](std::uint64_t u) { return map_entry::make(0, spare_unit(u * 7 + 1), 0, false); };
  std::thread reader([&] {
    std::mt19937_64 random(3);
    for (;;) {
      const std::uint64_t top = written.load();
      if (top == 50000)
        return;
      if (top == 0)
        continue;
      const std::uint64_t u = random() % top;
      if (map.lookup(main_unit(u)) != expected(u) || map.lookup(main_unit(u + (1u << 30))).present())
        wrong = true;
    }
  });
  for (std::uint64_t u = 0; u < 50000; ++u) {
    map.set(main_unit(u), expected(u));
    written.store(u + 1);
  }
  reader.join();
  REQUIRE_FALSE(wrong);
}
