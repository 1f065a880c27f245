// SPDX-License-Identifier: GPL-2.0-or-later
// Which units of a spare are free: first fit over a bitmap.
#include "engine/remap_set.h"

#include <algorithm>

namespace dmremap {

void remap_set::mark_used(spare_unit u, bool on) {
  const std::uint64_t bit = 1ull << (u.value % 64);
  used_[u.value / 64] = on ? used_[u.value / 64] | bit : used_[u.value / 64] & ~bit;
}

bool remap_set::usable_chunk(spare_unit u) const {
  return chunk_usable_[spare().places().chunk_of(geometry::block_of(u))] != 0;
}

std::vector<spare_unit> remap_set::allocate(unsigned, std::uint64_t count) {
  const std::lock_guard lock(allocation_mutex_);
  const std::uint64_t units = spare().places().units;
  std::vector<spare_unit> got;
  bool skipped = false;
  for (std::uint64_t u = first_maybe_free_; u < units && got.size() < count; ++u) {
    if (used_[u / 64] == ~0ull) {
      u |= 63;
      continue;
    }
    if ((used_[u / 64] >> (u % 64) & 1) != 0)
      continue;
    if (!usable_chunk(spare_unit(u))) {
      skipped = true;
      continue;
    }
    mark_used(spare_unit(u), true);
    got.push_back(spare_unit(u));
    if (!skipped)
      first_maybe_free_ = u + 1;
  }
  used_data_units_ += got.size();
  return got;
}

std::optional<spare_unit> remap_set::allocate_run(unsigned, std::uint64_t count) {
  const std::lock_guard lock(allocation_mutex_);
  const std::uint64_t units = spare().places().units;
  std::uint64_t run = 0;
  for (std::uint64_t u = first_maybe_free_; u < units; ++u) {
    const bool taken = (used_[u / 64] >> (u % 64) & 1) != 0 || !usable_chunk(spare_unit(u));
    run = taken ? 0 : run + 1;
    if (run == count) {
      for (std::uint64_t i = u + 1 - count; i <= u; ++i)
        mark_used(spare_unit(i), true);
      used_data_units_ += count;
      return spare_unit(u + 1 - count);
    }
  }
  return std::nullopt;
}

std::optional<spare_unit> remap_set::nearest_free(unsigned, spare_unit wanted, std::uint64_t count) const {
  const std::lock_guard lock(allocation_mutex_);
  std::optional<std::uint64_t> best;
  const auto distance = [&](std::uint64_t u) {
    return u > wanted.value ? u - wanted.value : wanted.value - u;
  };
  std::uint64_t run = 0;
  for (std::uint64_t u = 0; u < spare().places().units; ++u) {
    const bool taken = (used_[u / 64] >> (u % 64) & 1) != 0 || !usable_chunk(spare_unit(u));
    run = taken ? 0 : run + 1;
    if (run < count)
      continue;
    const std::uint64_t start = u + 1 - count;
    if (best && distance(start) >= distance(*best) && start > wanted.value)
      break; // from here on it only gets farther
    if (!best || distance(start) < distance(*best))
      best = start;
  }
  if (!best)
    return std::nullopt;
  return spare_unit(*best);
}

bool remap_set::claim_units(unsigned, spare_unit first, std::uint64_t count) {
  const std::lock_guard lock(allocation_mutex_);
  const geometry& g = spare().places();
  if (first.value >= g.units || count > g.units - first.value)
    return false;
  for (std::uint64_t u = first.value; u < first.value + count; ++u)
    if ((used_[u / 64] >> (u % 64) & 1) != 0 || !usable_chunk(spare_unit(u)))
      return false;
  for (std::uint64_t u = first.value; u < first.value + count; ++u)
    mark_used(spare_unit(u), true);
  used_data_units_ += count;
  return true;
}

void remap_set::release_units(unsigned, std::span<const spare_unit> units) {
  const std::lock_guard lock(allocation_mutex_);
  const std::uint64_t floor = spare().places().first_automatic().value;
  for (const spare_unit u : units) {
    mark_used(u, false);
    if (u.value >= floor)
      first_maybe_free_ = std::min(first_maybe_free_, u.value);
  }
  used_data_units_ -= units.size();
}

bool remap_set::is_free(unsigned, spare_unit u) const {
  const std::lock_guard lock(allocation_mutex_);
  return u.value < spare().places().units && (used_[u.value / 64] >> (u.value % 64) & 1) == 0;
}

std::uint64_t remap_set::allocated(unsigned) const {
  const std::lock_guard lock(allocation_mutex_);
  return used_data_units_ - retired_units_;
}

std::uint64_t remap_set::usable(unsigned) const {
  const std::lock_guard lock(allocation_mutex_);
  return spare().places().data_units() - retired_units_;
}

} // namespace dmremap
