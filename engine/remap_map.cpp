// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/remap_map.h"

#include <algorithm>
#include <bit>
#include <new>
#include <sys/mman.h>

#ifndef MADV_DONTNEED_LOCKED // Linux 5.18; in glibc's headers since 2.36
#define MADV_DONTNEED_LOCKED 24
#endif

namespace dmremap {

namespace {

/// Every load and store of a cell orders what comes after or before it: that a reader which saw a cell change
/// also sees the generation change rests on this.
std::uint64_t load(std::uint64_t& word) noexcept {
  return std::atomic_ref(word).load(std::memory_order_acquire);
}
void store(std::uint64_t& word, std::uint64_t value) noexcept {
  std::atomic_ref(word).store(value, std::memory_order_release);
}

} // namespace

// --- tables
// ------------------------------------------------------------------------------------------------------

remap_map::table::table(std::uint64_t cells) : mask(cells - 1) {
  void* const pages = ::mmap(nullptr, size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED)
    throw std::bad_alloc();
  at = static_cast<cell*>(pages);
}

remap_map::table::~table() {
  ::munmap(at, size());
}

void remap_map::table::empty() noexcept {
  // The second is for a process that locks its memory. A kernel that knows neither for such pages: by hand.
  has_pages = ::madvise(at, size(), MADV_DONTNEED) != 0 && ::madvise(at, size(), MADV_DONTNEED_LOCKED) != 0;
  if (!has_pages)
    return;
  for (std::uint64_t i = 0; i <= mask; ++i) {
    store(at[i].key, 0);
    store(at[i].entry, 0);
  }
}

remap_map::table& remap_map::unused_table(std::uint64_t cells) {
  for (const auto& t : tables_)
    if (t->mask + 1 == cells && t.get() != current_.load(std::memory_order_relaxed))
      return *t;
  tables_.push_back(std::make_unique<table>(cells));
  return *tables_.back();
}

// --- looking
// -----------------------------------------------------------------------------------------------------

remap_map::remap_map(std::uint64_t expected)
    : regions_(std::make_unique<std::atomic<std::uint64_t>[]>(region_bits / 64)) {
  table& t = unused_table(std::bit_ceil(std::max(least_cells, expected + expected / 2)));
  t.has_pages = true;
  t.generation.store(2, std::memory_order_release);
  current_.store(&t, std::memory_order_release);
}

remap_map::~remap_map() = default;

map_entry remap_map::find(const table& t, main_unit u) noexcept {
  std::uint64_t i = hash(u.value);
  for (std::uint64_t seen = 0; seen <= t.mask; ++i, ++seen) { // bounded: under a late reader anything happens
    cell& c = t.at[i & t.mask];
    const std::uint64_t key = load(c.key);
    if (key == u.value + 1)
      return map_entry(load(c.entry));
    if (key == 0)
      break;
  }
  return {};
}

map_entry remap_map::probe(main_unit u) const noexcept {
  for (;;) {
    const table& t = *current_.load(std::memory_order_acquire);
    const std::uint64_t generation = t.generation.load(std::memory_order_acquire);
    if (generation % 2 != 0) // replaced, and what replaces it is current by now
      continue;
    const map_entry found = find(t, u);
    if (t.generation.load(std::memory_order_relaxed) == generation) [[likely]]
      return found;
  }
}

std::vector<main_unit> remap_map::units() const {
  std::vector<main_unit> found;
  for (;;) {
    const table& t = *current_.load(std::memory_order_acquire);
    const std::uint64_t generation = t.generation.load(std::memory_order_acquire);
    found.clear();
    found.reserve(size());
    for (std::uint64_t i = 0; i <= t.mask && generation % 2 == 0; ++i) {
      const std::uint64_t key = load(t.at[i].key);
      if (key != 0 && load(t.at[i].entry) != 0)
        found.push_back(main_unit(key - 1));
    }
    if (generation % 2 == 0 && t.generation.load(std::memory_order_relaxed) == generation)
      break;
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::uint64_t remap_map::bytes() const noexcept {
  std::uint64_t sum = region_bits / 8;
  for (const auto& t : tables_)
    sum += t->has_pages ? t->size() : 0;
  return sum;
}

// --- changing
// ----------------------------------------------------------------------------------------------------

remap_map::cell& remap_map::place(table& t, main_unit u) noexcept {
  for (std::uint64_t i = hash(u.value);; ++i) {
    cell& c = t.at[i & t.mask];
    const std::uint64_t key = load(c.key);
    if (key == u.value + 1 || key == 0)
      return c;
  }
}

/// Moves what is present into a table that it fills by a quarter to a half. Readers go on in the old one
/// until the new one is complete.
void remap_map::rebuild() {
  table& old = *current_.load(std::memory_order_relaxed);
  table& fresh =
      unused_table(std::bit_ceil(std::max(least_cells, size_.load(std::memory_order_relaxed) * 2 + 2)));
  std::vector<std::uint64_t> live(region_bits / 64);
  fresh.has_pages = true;
  std::uint64_t kept = 0;
  for (std::uint64_t i = 0; i <= old.mask; ++i) {
    const std::uint64_t key = load(old.at[i].key);
    const std::uint64_t entry = load(old.at[i].entry);
    if (key == 0 || entry == 0)
      continue;
    cell& c = place(fresh, main_unit(key - 1));
    store(c.entry, entry);
    store(c.key, key);
    const std::uint64_t bit = region_of(key - 1);
    live[bit / 64] |= 1ull << (bit % 64);
    ++kept;
  }
  fresh.generation.fetch_add(1, std::memory_order_release);
  current_.store(&fresh, std::memory_order_release);
  used_.store(kept, std::memory_order_release);
  drop_empty_regions(live);
  old.generation.fetch_add(1, std::memory_order_release); // before the first of its cells changes
  old.empty();
}

/// `live`: the bits of regions that hold an entry. A bit that stays is never down in between.
void remap_map::drop_empty_regions(const std::vector<std::uint64_t>& live) noexcept {
  for (std::size_t i = 0; i < live.size(); ++i)
    if ((regions_[i].load(std::memory_order_relaxed) & ~live[i]) != 0)
      regions_[i].fetch_and(live[i], std::memory_order_release);
}

void remap_map::set(main_unit u, map_entry e) {
  if (const std::uint64_t cells = current_.load(std::memory_order_relaxed)->mask + 1;
      (used_.load(std::memory_order_relaxed) + 1) * 4 > cells * 3)
    rebuild();
  cell& c = place(*current_.load(std::memory_order_relaxed), u);
  const bool new_key = load(c.key) == 0;
  const bool was_present = load(c.entry) != 0;
  store(c.entry, e.word());
  if (new_key) {
    store(c.key, u.value + 1);
    used_.fetch_add(1, std::memory_order_release);
  }
  if (e.present() && !was_present)
    size_.fetch_add(1, std::memory_order_relaxed);
  if (!e.present() && was_present)
    size_.fetch_sub(1, std::memory_order_relaxed);
  const std::uint64_t bit = region_of(u.value);
  regions_[bit / 64].fetch_or(1ull << (bit % 64), std::memory_order_release);
}

void remap_map::erase(main_unit u) noexcept {
  if (!probe(u).present())
    return;
  table& t = *current_.load(std::memory_order_relaxed);
  store(place(t, u).entry, 0);
  const std::uint64_t left = size_.fetch_sub(1, std::memory_order_relaxed) - 1;
  if (t.mask + 1 <= least_cells || left * 16 > t.mask + 1)
    return;
  try {
    rebuild();                      // it was large once
  } catch (const std::bad_alloc&) { // then it stays large
  }
}

} // namespace dmremap
