// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/units.h"

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

namespace dmremap {

/// Where a remapped unit is served from, in one word so that a reader sees all of it or nothing.
class map_entry {
public:
  constexpr map_entry() = default;
  constexpr explicit map_entry(std::uint64_t word) : word_(word) {}
  [[nodiscard]] static constexpr map_entry make(unsigned spare, spare_unit unit, std::uint8_t lost,
                                                bool by_hand) {
    return map_entry(present_bit | (unit.value & 0xFFFFFFFFull) | std::uint64_t{lost} << 32 |
                     std::uint64_t{spare & 0xF} << 40 | (by_hand ? by_hand_bit : 0));
  }
  /// The same with the mark that its last table change is in doubt: I/O on it is not served.
  [[nodiscard]] constexpr map_entry doubtful() const { return map_entry(word_ | present_bit | doubt_bit); }

  [[nodiscard]] constexpr bool present() const { return word_ != 0; }
  [[nodiscard]] constexpr bool in_doubt() const { return (word_ & doubt_bit) != 0; }
  [[nodiscard]] constexpr spare_unit unit() const { return spare_unit(word_ & 0xFFFFFFFFull); }
  [[nodiscard]] constexpr std::uint8_t lost() const { return static_cast<std::uint8_t>(word_ >> 32); }
  [[nodiscard]] constexpr unsigned spare() const { return static_cast<unsigned>(word_ >> 40 & 0xF); }
  [[nodiscard]] constexpr bool by_hand() const { return (word_ & by_hand_bit) != 0; }
  [[nodiscard]] constexpr std::uint64_t word() const { return word_; }
  friend constexpr bool operator==(map_entry, map_entry) = default;

private:
  static constexpr std::uint64_t present_bit = 1ull << 63;
  static constexpr std::uint64_t doubt_bit = 1ull << 62;
  static constexpr std::uint64_t by_hand_bit = 1ull << 61;
  std::uint64_t word_ = 0;
};

/// main unit → map_entry: open addressing with linear probing, behind a filter of 1 MiB regions that have
/// ever held a remap. lookup() takes no lock and never waits; writers exclude each other outside (one at a
/// time). A key, once placed, keeps its cell: removal stores an empty entry there. A table that grew stays
/// allocated until the map goes, because readers may still walk it; sizes double, so that costs at most as
/// much again.
class remap_map {
public:
  explicit remap_map(std::uint64_t expected = 0);
  ~remap_map();
  remap_map(const remap_map&) = delete;
  remap_map& operator=(const remap_map&) = delete;

  /// Any thread, at any time.
  [[nodiscard]] map_entry lookup(main_unit u) const noexcept {
    if (!region_used(u))
      return {};
    return probe(u);
  }
  /// False: no unit of [first, first + count) is in the map. True: perhaps.
  [[nodiscard]] bool any_in(main_unit first, std::uint64_t count) const noexcept {
    if (used_.load(std::memory_order_acquire) == 0)
      return false;
    for (std::uint64_t region = first.value >> region_shift;
         region <= (first.value + count - 1) >> region_shift; ++region)
      if (region_bit(region))
        return true;
    return false;
  }
  /// Writers only. Visible to readers on return.
  void set(main_unit u, map_entry e);
  void erase(main_unit u);
  /// Present entries; exact for a writer, recent for others.
  [[nodiscard]] std::uint64_t size() const noexcept { return size_.load(std::memory_order_relaxed); }
  /// Units present, ascending. Any thread; entries that come or go meanwhile may or may not be in it.
  [[nodiscard]] std::vector<main_unit> units() const;

private:
  struct cell {
    std::atomic<std::uint64_t> key{0}; // main unit + 1; 0: never used
    std::atomic<std::uint64_t> entry{0};
  };
  struct table {
    explicit table(std::uint64_t cells) : mask(cells - 1), at(std::make_unique<cell[]>(cells)) {}
    std::uint64_t mask;
    std::unique_ptr<cell[]> at;
  };
  static constexpr unsigned region_shift = 8;
  static constexpr std::uint64_t region_bits = 1u << 20;

  [[nodiscard]] static std::uint64_t hash(std::uint64_t v) noexcept {
    v *= 0x9E3779B97F4A7C15ull;
    return v ^ v >> 32;
  }
  [[nodiscard]] bool region_bit(std::uint64_t region) const noexcept {
    const std::uint64_t bit = region & (region_bits - 1);
    return (regions_[bit / 64].load(std::memory_order_acquire) >> (bit % 64) & 1) != 0;
  }
  [[nodiscard]] bool region_used(main_unit u) const noexcept {
    return used_.load(std::memory_order_acquire) != 0 && region_bit(u.value >> region_shift);
  }
  [[nodiscard]] map_entry probe(main_unit u) const noexcept;
  [[nodiscard]] cell& place(table& t, main_unit u);
  void grow();

  std::atomic<table*> current_{nullptr};
  std::vector<std::unique_ptr<table>> tables_; // the last one is current
  std::unique_ptr<std::atomic<std::uint64_t>[]> regions_;
  std::atomic<std::uint64_t> used_{0}; // cells with a key
  std::atomic<std::uint64_t> size_{0};
};

} // namespace dmremap
