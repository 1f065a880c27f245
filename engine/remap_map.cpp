// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/remap_map.h"

#include <algorithm>
#include <bit>

namespace dmremap {

remap_map::remap_map(std::uint64_t expected)
    : regions_(std::make_unique<std::atomic<std::uint64_t>[]>(region_bits / 64)) {
  const std::uint64_t cells = std::bit_ceil(std::max<std::uint64_t>(64, expected + expected / 2));
  tables_.push_back(std::make_unique<table>(cells));
  current_.store(tables_.back().get(), std::memory_order_release);
}

remap_map::~remap_map() = default;

map_entry remap_map::probe(main_unit u) const noexcept {
  const table& t = *current_.load(std::memory_order_acquire);
  for (std::uint64_t i = hash(u.value);; ++i) {
    const cell& c = t.at[i & t.mask];
    const std::uint64_t key = c.key.load(std::memory_order_acquire);
    if (key == u.value + 1)
      return map_entry(c.entry.load(std::memory_order_acquire));
    if (key == 0)
      return {};
  }
}

remap_map::cell& remap_map::place(table& t, main_unit u) {
  for (std::uint64_t i = hash(u.value);; ++i) {
    cell& c = t.at[i & t.mask];
    const std::uint64_t key = c.key.load(std::memory_order_relaxed);
    if (key == u.value + 1 || key == 0)
      return c;
  }
}

void remap_map::grow() {
  const table& old = *tables_.back();
  const std::uint64_t live = size_.load(std::memory_order_relaxed);
  auto bigger = std::make_unique<table>(std::bit_ceil(std::max<std::uint64_t>(64, live * 3)));
  std::uint64_t kept = 0;
  for (std::uint64_t i = 0; i <= old.mask; ++i) {
    const std::uint64_t key = old.at[i].key.load(std::memory_order_relaxed);
    const std::uint64_t entry = old.at[i].entry.load(std::memory_order_relaxed);
    if (key == 0 || entry == 0)
      continue;
    cell& c = place(*bigger, main_unit(key - 1));
    c.entry.store(entry, std::memory_order_relaxed);
    c.key.store(key, std::memory_order_relaxed);
    ++kept;
  }
  tables_.push_back(std::move(bigger));
  current_.store(tables_.back().get(), std::memory_order_release);
  used_.store(std::max<std::uint64_t>(kept, 1), std::memory_order_release);
}

void remap_map::set(main_unit u, map_entry e) {
  table* t = tables_.back().get();
  if ((used_.load(std::memory_order_relaxed) + 1) * 4 > (t->mask + 1) * 3) {
    grow();
    t = tables_.back().get();
  }
  cell& c = place(*t, u);
  const bool new_key = c.key.load(std::memory_order_relaxed) == 0;
  const bool was_present = c.entry.exchange(e.word(), std::memory_order_acq_rel) != 0;
  if (new_key) {
    c.key.store(u.value + 1, std::memory_order_release);
    used_.fetch_add(1, std::memory_order_release);
  }
  if (!was_present)
    size_.fetch_add(1, std::memory_order_relaxed);
  const std::uint64_t bit = u.value >> region_shift & (region_bits - 1);
  regions_[bit / 64].fetch_or(1ull << (bit % 64), std::memory_order_release);
}

void remap_map::erase(main_unit u) {
  if (!probe(u).present())
    return;
  place(*tables_.back(), u).entry.store(0, std::memory_order_release);
  size_.fetch_sub(1, std::memory_order_relaxed);
}

std::vector<main_unit> remap_map::units() const {
  const table& t = *current_.load(std::memory_order_acquire);
  std::vector<main_unit> found;
  found.reserve(size());
  for (std::uint64_t i = 0; i <= t.mask; ++i) {
    const std::uint64_t key = t.at[i].key.load(std::memory_order_acquire);
    if (key != 0 && t.at[i].entry.load(std::memory_order_acquire) != 0)
      found.push_back(main_unit(key - 1));
  }
  std::sort(found.begin(), found.end());
  return found;
}

} // namespace dmremap
