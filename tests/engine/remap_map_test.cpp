// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/remap_map.h"

#include "tests/support/sanitized.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <fstream>
#include <map>
#include <random>
#include <thread>
#include <unistd.h>

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

namespace {

constexpr std::uint64_t filter_bytes = 128 * 1024;

map_entry numbered(std::uint64_t n) {
  return map_entry::make(0, spare_unit(n & 0xFFFFFFFF), static_cast<std::uint8_t>(n >> 13), false);
}

/// All different, over a main of 2^40 units.
main_unit churned(std::uint64_t n) {
  return main_unit((n * 0x9E3779B97F4A7C15ull >> 24 & ~1ull) | 1);
}

/// Even, so never one of churned(), nor its neighbour below.
main_unit staying(std::uint64_t n) {
  return main_unit((n + 1) * 2 * 777777);
}

struct process_memory {
  std::uint64_t addresses = 0, resident = 0; // bytes
};

process_memory memory_now() {
  process_memory m;
  std::ifstream("/proc/self/statm") >> m.addresses >> m.resident;
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  return {m.addresses * page, m.resident * page};
}

/// Looks for entries in the window of those that are there now; what is wrong is counted.
class churn_reader {
public:
  churn_reader(const remap_map& map, const std::atomic<std::uint64_t>& placed,
               const std::atomic<std::uint64_t>& removed, const std::atomic<bool>& over)
      : thread_([&, this] {
          std::mt19937_64 random(3);
          while (!over.load()) {
            const std::uint64_t from = removed.load(), to = placed.load();
            if (to <= from)
              continue;
            const std::uint64_t n = from + random() % (to - from);
            const map_entry found = map.lookup(churned(n));
            // Absent only where its removal has begun.
            wrong += found.present() ? found != numbered(n) : removed.load() <= n;
            const std::uint64_t s = random() % stays;
            wrong += map.lookup(staying(s)) != numbered(s);
            wrong += !map.any_in(staying(s), 1);
            wrong += map.lookup(main_unit(churned(n).value - 1)).present();
            ++looked;
          }
        }) {}
  void join() { thread_.join(); }

  static constexpr std::uint64_t stays = 100;
  std::uint64_t wrong = 0, looked = 0; // after join()

private:
  std::thread thread_;
};

} // namespace

TEST_CASE("two million units that come and go leave no memory behind, under readers", "[remap_map]") {
  constexpr std::uint64_t rounds = 2'000'000, most_live = 1000;
  remap_map map;
  for (std::uint64_t s = 0; s < churn_reader::stays; ++s)
    map.set(staying(s), numbered(s));
  std::atomic<std::uint64_t> placed{0}, removed{0}; // removed: stored before the removal begins
  std::atomic<bool> over{false};
  churn_reader one(map, placed, removed, over), two(map, placed, removed, over);
  const process_memory at_first = memory_now();
  std::uint64_t most_bytes = 0;
  for (std::uint64_t n = 0; n < rounds; ++n) {
    map.set(churned(n), numbered(n));
    placed.store(n + 1);
    if (n >= most_live) {
      removed.store(n - most_live + 1);
      map.erase(churned(n - most_live));
    }
    most_bytes = std::max(most_bytes, map.bytes());
  }
  const process_memory at_last = memory_now();
  over = true;
  one.join();
  two.join();
  CHECK(one.wrong == 0);
  CHECK(two.wrong == 0);
  CHECK(one.looked + two.looked > 1000);
  CHECK(map.size() == most_live + churn_reader::stays);
  CHECK(map.units().size() == map.size());
  CHECK(most_bytes <= filter_bytes + 2 * 64 * 1024); // two tables of 4096 cells
  if (!test::sanitized) {                            // whose shadow memory comes and stays
    CHECK(at_last.resident < at_first.resident + 4 * 1024 * 1024);
    CHECK(at_last.addresses < at_first.addresses + 4 * 1024 * 1024);
  }
}

TEST_CASE("a map that was large gives its memory back, to the last entry", "[remap_map]") {
  constexpr std::uint64_t many = 300'000;
  remap_map map;
  for (std::uint64_t n = 0; n < many; ++n) {
    map.set(churned(n), numbered(n));
    if (n >= 1000 && map.bytes() > filter_bytes + map.size() * 43)
      FAIL(map.bytes() << " bytes for " << map.size() << " entries");
  }
  const std::uint64_t at_most = memory_now().resident;
  for (std::uint64_t n = 1; n < many; ++n)
    map.erase(churned(n));
  CHECK(map.bytes() <= filter_bytes + 4096);
  if (!test::sanitized)
    CHECK(memory_now().resident + 6 * 1024 * 1024 < at_most);
  CHECK(map.size() == 1);
  CHECK(map.lookup(churned(0)) == numbered(0));
  CHECK(map.units() == std::vector{churned(0)});
  map.erase(churned(0));
  CHECK(map.size() == 0);
  CHECK(map.units().empty());
}

TEST_CASE("a region that holds no entry any more leaves the filter", "[remap_map]") {
  remap_map map;
  const main_unit once(5ull << 20), always(6ull << 20);
  map.set(always, numbered(1));
  map.set(once, numbered(2));
  REQUIRE(map.any_in(once, 1));
  map.erase(once);
  for (std::uint64_t n = 0; n < 1000; ++n) { // in one region
    map.set(main_unit(n % 256), numbered(n));
    map.erase(main_unit(n % 256));
  }
  CHECK_FALSE(map.any_in(once, 1));
  CHECK(map.any_in(always, 1));
  CHECK(map.lookup(always) == numbered(1));
}
