// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/geometry.h"

#include <algorithm>

namespace dmremap {
namespace {

constexpr std::array<std::uint32_t, fixed_supers> fixed_units{0, 128, 256, 512, 1024};
constexpr std::uint32_t after_fixed = 1025;
constexpr std::uint64_t max_slots = 0xFFFFFFFFull;

bool overlap(std::uint64_t a, std::uint64_t a_len, std::uint64_t b, std::uint64_t b_len) {
  return a < b + b_len && b < a + a_len;
}

} // namespace

std::uint32_t geometry::chunk_end(std::uint32_t chunk) const {
  return static_cast<std::uint32_t>(
      std::min<std::uint64_t>((std::uint64_t{chunk} + 1) * chunk_blocks, table_blocks));
}

spare_unit geometry::super_place(unsigned copy) const {
  return spare_unit(copy < fixed_supers ? fixed_units[copy] : replica_start[copy - fixed_supers]);
}

bool geometry::is_metadata(spare_unit u) const {
  if (u.value >= units || std::find(fixed_units.begin(), fixed_units.end(), u.value) != fixed_units.end())
    return true;
  return std::any_of(replica_start.begin(), replica_start.end(), [&](std::uint64_t start) {
    return u.value >= start && u.value <= start + table_blocks;
  });
}

spare_unit geometry::first_automatic() const {
  return spare_unit(std::min<std::uint64_t>((8u << 20) / unit_bytes, units / 4));
}

std::uint64_t geometry::data_units() const {
  return units - fixed_supers - own_replicas * (std::uint64_t{table_blocks} + 1);
}

result<geometry> make_geometry(std::uint64_t bytes) {
  geometry g;
  g.units = std::min(bytes / unit_bytes, max_slots);
  if (g.units < min_spare_units)
    return fail("spare-too-small", "",
                "a spare needs at least 16 MiB; this one has " + std::to_string(bytes / 1024) + " KiB");
  g.table_blocks = static_cast<std::uint32_t>((g.units + slots_per_block - 1) / slots_per_block);
  g.chunk_blocks = (g.table_blocks + chunk_count - 1) / chunk_count;
  const std::uint64_t length = std::uint64_t{g.table_blocks} + 1;
  for (unsigned r = 0; r < own_replicas; ++r) {
    std::uint64_t start = r == 0 ? after_fixed : g.units * r / own_replicas;
    // Step over what is in the way until nothing is; each step goes up, so this ends.
    for (bool moved = true; moved;) {
      moved = false;
      for (const std::uint32_t super : fixed_units)
        if (overlap(start, length, super, 1)) {
          start = super + 1;
          moved = true;
        }
      for (unsigned other = 0; other < r; ++other)
        if (overlap(start, length, g.replica_start[other], length)) {
          start = g.replica_start[other] + length;
          moved = true;
        }
    }
    g.replica_start[r] = static_cast<std::uint32_t>(start);
  }
  return g;
}

bool plausible(const geometry& g, std::uint64_t bytes) {
  if (g.units < min_spare_units || g.units > max_slots || g.units > bytes / unit_bytes)
    return false;
  if (g.table_blocks != (g.units + slots_per_block - 1) / slots_per_block ||
      g.chunk_blocks != (g.table_blocks + chunk_count - 1) / chunk_count)
    return false;
  const std::uint64_t length = std::uint64_t{g.table_blocks} + 1;
  for (unsigned r = 0; r < own_replicas; ++r) {
    if (g.replica_start[r] + length > g.units)
      return false;
    for (const std::uint32_t super : fixed_units)
      if (overlap(g.replica_start[r], length, super, 1))
        return false;
    for (unsigned other = 0; other < r; ++other)
      if (overlap(g.replica_start[r], length, g.replica_start[other], length))
        return false;
  }
  return true;
}

} // namespace dmremap
