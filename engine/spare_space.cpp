// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/spare_space.h"

#include <algorithm>

namespace dmremap {

spare_space::spare_space(const geometry& places)
    : places_(places), bits_((places.units + 63) / 64), chunk_usable_(places.chunks(), 1),
      first_maybe_free_(places.first_automatic().value),
      room_(places.units - places.first_automatic().value) {
  for (unsigned copy = 0; copy < super_copies; ++copy)
    mark(places_.super_place(copy).value, true);
  for (unsigned r = 0; r < own_replicas; ++r)
    for (std::uint32_t b = 0; b < places_.table_blocks; ++b)
      mark(places_.block_place(r, b).value, true);
}

void spare_space::mark(std::uint64_t u, bool on) {
  if (taken(u) == on)
    return;
  bits_[u / 64] ^= 1ull << (u % 64);
  if (u >= places_.first_automatic().value &&
      chunk_usable_[places_.chunk_of(geometry::block_of(spare_unit(u)))] != 0)
    room_ = on ? room_ - 1 : room_ + 1;
}

void spare_space::set_chunk_usable(std::uint32_t chunk, bool usable) {
  if ((chunk_usable_[chunk] != 0) == usable)
    return;
  chunk_usable_[chunk] = usable ? 1 : 0;
  const std::uint64_t from = std::uint64_t{places_.chunk_first(chunk)} * slots_per_block,
                      to = std::uint64_t{places_.chunk_end(chunk)} * slots_per_block;
  for (std::uint64_t u = std::max(from, places_.first_automatic().value); u < std::min(to, places_.units);
       ++u)
    if (!taken(u))
      room_ = usable ? room_ + 1 : room_ - 1;
}

void spare_space::note_slot(spare_unit u, bool retired) {
  mark(u.value, true);
  ++used_;
  retired_ += retired ? 1 : 0;
}

std::vector<spare_unit> spare_space::take(std::uint64_t count) {
  std::vector<spare_unit> got;
  bool skipped = false;
  for (std::uint64_t u = first_maybe_free_; u < places_.units && got.size() < count; ++u) {
    if (bits_[u / 64] == ~0ull) {
      u |= 63;
      continue;
    }
    if (taken(u))
      continue;
    if (!open_to(u)) {
      skipped = true;
      continue;
    }
    mark(u, true);
    got.push_back(spare_unit(u));
    if (!skipped)
      first_maybe_free_ = u + 1;
  }
  used_ += got.size();
  return got;
}

std::optional<spare_unit> spare_space::take_run(std::uint64_t count) {
  std::uint64_t run = 0;
  for (std::uint64_t u = first_maybe_free_; u < places_.units; ++u) {
    run = open_to(u) ? run + 1 : 0;
    if (run == count) {
      for (std::uint64_t i = u + 1 - count; i <= u; ++i)
        mark(i, true);
      used_ += count;
      return spare_unit(u + 1 - count);
    }
  }
  return std::nullopt;
}

std::uint64_t spare_space::longest_run() const {
  std::uint64_t longest = 0, run = 0;
  for (std::uint64_t u = first_maybe_free_; u < places_.units; ++u) {
    run = open_to(u) ? run + 1 : 0;
    longest = std::max(longest, run);
  }
  return longest;
}

bool spare_space::take_these(spare_unit first, std::uint64_t count) {
  if (first.value >= places_.units || count > places_.units - first.value)
    return false;
  for (std::uint64_t u = first.value; u < first.value + count; ++u)
    if (!open_to(u))
      return false;
  for (std::uint64_t u = first.value; u < first.value + count; ++u)
    mark(u, true);
  used_ += count;
  return true;
}

std::optional<spare_unit> spare_space::nearest_free(spare_unit wanted, std::uint64_t count) const {
  std::optional<std::uint64_t> best;
  const auto distance = [&](std::uint64_t u) {
    return u > wanted.value ? u - wanted.value : wanted.value - u;
  };
  std::uint64_t run = 0;
  for (std::uint64_t u = 0; u < places_.units; ++u) {
    run = open_to(u) ? run + 1 : 0;
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

void spare_space::give_back(spare_unit u) {
  mark(u.value, false);
  --used_;
  if (u >= places_.first_automatic())
    first_maybe_free_ = std::min(first_maybe_free_, u.value);
}

// --- guests
// --------------------------------------------------------------------------------------------------------

bool spare_space::host(spare_unit first, std::uint64_t count) {
  if (first.value >= places_.units || count > places_.units - first.value)
    return false;
  for (std::uint64_t u = first.value; u < first.value + count; ++u)
    if (taken(u))
      return false;
  for (std::uint64_t u = first.value; u < first.value + count; ++u)
    mark(u, true);
  hosted_ += count;
  return true;
}

/// From the end, so that first fit goes on undisturbed at the front.
std::optional<spare_unit> spare_space::find_host_run(std::uint64_t count) const {
  std::uint64_t run = 0;
  for (std::uint64_t u = places_.units; u-- > places_.first_automatic().value;) {
    run = taken(u) ? 0 : run + 1;
    if (run == count)
      return spare_unit(u);
  }
  return std::nullopt;
}

void spare_space::unhost(spare_unit first, std::uint64_t count) {
  for (std::uint64_t u = first.value; u < first.value + count; ++u)
    mark(u, false);
  hosted_ -= count;
  first_maybe_free_ = std::min(first_maybe_free_, std::max(first.value, places_.first_automatic().value));
}

} // namespace dmremap
