// SPDX-License-Identifier: GPL-2.0-or-later
// What a lookup in the map costs and how much memory a remap takes, beside std::unordered_map and a binary
// search in a sorted vector, in one run: the three take turns, and the median of the turns counts. Prints one
// line of JSON a row. Usage: bench_lookup [MOST]        (MOST: leave out maps of more entries)
#include "engine/remap_map.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <limits>
#include <random>
#include <unordered_map>
#include <utility>
#include <vector>

namespace {

using namespace dmremap;

constexpr std::uint64_t main_units = 1ull << 30; // 4 TiB
constexpr std::uint64_t cluster = 64;            // neighbours that went bad together
constexpr std::size_t looks = 1 << 20, turns = 5;

/// Counts what a container takes from the heap; malloc's own 8 to 16 bytes a piece are not in it.
std::uint64_t heap_bytes = 0;
template <class T>
struct counting {
  using value_type = T;
  counting() = default;
  template <class U>
  counting(const counting<U>&) {}
  T* allocate(std::size_t n) {
    heap_bytes += n * sizeof(T);
    return std::allocator<T>().allocate(n);
  }
  void deallocate(T* p, std::size_t n) {
    heap_bytes -= n * sizeof(T);
    std::allocator<T>().deallocate(p, n);
  }
  friend bool operator==(counting, counting) { return true; }
};

using entry = std::pair<std::uint64_t, std::uint64_t>;
using hashed = std::unordered_map<std::uint64_t, std::uint64_t, std::hash<std::uint64_t>, std::equal_to<>,
                                  counting<std::pair<const std::uint64_t, std::uint64_t>>>;

std::vector<std::uint64_t> drawn_units(std::uint64_t count, bool clustered, std::mt19937_64& random) {
  std::vector<std::uint64_t> units;
  while (units.size() < count) {
    while (units.size() < count + count / 16) {
      const std::uint64_t at = random() % main_units;
      for (std::uint64_t n = 0; n < (clustered ? cluster : 1); ++n)
        units.push_back((clustered ? at / cluster * cluster : at) + n);
    }
    std::sort(units.begin(), units.end());
    units.erase(std::unique(units.begin(), units.end()), units.end());
  }
  if (!clustered)
    std::shuffle(units.begin(), units.end(), random);
  units.resize(count);
  return units;
}

/// Of the processor: what others do meanwhile costs cache, but no time.
double processor_nanoseconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

/// Nanoseconds a lookup.
template <class Look>
double time_of(const std::vector<std::uint64_t>& wanted, std::uint64_t& sum, Look&& look) {
  const double begin = processor_nanoseconds();
  for (const std::uint64_t u : wanted)
    sum += look(u);
  return (processor_nanoseconds() - begin) / static_cast<double>(wanted.size());
}

struct contestants {
  remap_map map;
  hashed other;
  std::vector<entry> sorted;

  std::array<double, 3> median_times(const std::vector<std::uint64_t>& wanted) const {
    std::array<std::array<double, turns>, 3> times;
    for (std::size_t turn = 0; turn < turns; ++turn) {
      std::array<std::uint64_t, 3> sums{};
      times[0][turn] = time_of(wanted, sums[0], [&](auto u) { return map.lookup(main_unit(u)).word(); });
      times[1][turn] = time_of(wanted, sums[1], [&](auto u) {
        const auto at = other.find(u);
        return at == other.end() ? 0 : at->second;
      });
      times[2][turn] = time_of(wanted, sums[2], [&](auto u) {
        const auto at = std::lower_bound(sorted.begin(), sorted.end(), entry{u, 0});
        return at == sorted.end() || at->first != u ? 0 : at->second;
      });
      if (sums[0] != sums[1] || sums[0] != sums[2]) {
        std::fprintf(stderr, "bench_lookup: the three maps answer differently\n");
        std::exit(1);
      }
    }
    std::array<double, 3> medians{};
    for (std::size_t i = 0; i < 3; ++i) {
      std::nth_element(times[i].begin(), times[i].begin() + turns / 2, times[i].end());
      medians[i] = times[i][turns / 2];
    }
    return medians;
  }
};

void print(std::uint64_t count, bool clustered, const char* what, const std::array<double, 3>& v) {
  std::printf(R"({"remaps": %llu, "clustered": %s, "what": "%s", "remap_map": %.2f, "unordered_map": %.2f, )"
              R"("sorted_vector": %.2f})"
              "\n",
              static_cast<unsigned long long>(count), clustered ? "true" : "false", what, v[0], v[1], v[2]);
  std::fflush(stdout);
}

void measure(std::uint64_t count, bool clustered) {
  std::mt19937_64 random(count + (clustered ? 1 : 0));
  const std::vector<std::uint64_t> units = drawn_units(count, clustered, random);
  contestants c;
  heap_bytes = 0;
  for (std::size_t n = 0; n < units.size(); ++n) {
    const std::uint64_t word = map_entry::make(0, spare_unit(n), 0, false).word();
    c.map.set(main_unit(units[n]), map_entry(word));
    c.other.emplace(units[n], word);
    c.sorted.emplace_back(units[n], word);
  }
  std::sort(c.sorted.begin(), c.sorted.end());
  const double each = 1.0 / static_cast<double>(count);
  print(count, clustered, "bytes a remap",
        {static_cast<double>(c.map.bytes()) * each, static_cast<double>(heap_bytes) * each, sizeof(entry)});

  std::vector<std::uint64_t> there(looks), elsewhere(looks);
  for (std::uint64_t& u : there)
    u = units[random() % units.size()];
  for (std::uint64_t& u : elsewhere)
    do
      u = random() % main_units;
    while (c.other.contains(u));
  print(count, clustered, "ns, remapped", c.median_times(there));
  print(count, clustered, "ns, not remapped", c.median_times(elsewhere));
}

} // namespace

int main(int argc, char** argv) {
  const std::uint64_t most =
      argc > 1 ? std::strtoull(argv[1], nullptr, 10) : std::numeric_limits<std::uint64_t>::max();
  for (const std::uint64_t count : {10'000ull, 1'000'000ull, 10'000'000ull})
    if (count <= most)
      for (const bool clustered : {false, true})
        measure(count, clustered);
}
