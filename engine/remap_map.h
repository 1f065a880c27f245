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

  /// The same without it; nothing present where it was the mark of a unit that has no place yet.
  [[nodiscard]] constexpr map_entry certain() const {
    return unit().value == 0 ? map_entry() : map_entry(word_ & ~doubt_bit);
  }

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

/// main unit → map_entry: open addressing with linear probing, behind a filter of 1 MiB regions that may hold
/// a remap. lookup() takes no lock, never waits for a writer and writes nothing; writers exclude each other
/// outside (one at a time). A key, once placed, keeps its cell: removal stores an empty entry there, and the
/// next rebuild leaves it out.
///
/// A table that was replaced is emptied at once, readers or not: its generation turns odd first, and a reader
/// that then finds it changed looks into the current table instead. Its addresses stay mapped until the map
/// goes (so that a late reader touches memory of a table, whatever is in it), its pages go back to the
/// system, and the next table of that size takes its place: at most two exist of any size.
class remap_map {
public:
  /// Throws std::bad_alloc, here and where set() grows: the map is as before then.
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
  void erase(main_unit u) noexcept;
  /// Present entries; exact for a writer, recent for others.
  [[nodiscard]] std::uint64_t size() const noexcept { return size_.load(std::memory_order_relaxed); }
  /// Units present, ascending. Any thread; entries that come or go meanwhile may or may not be in it.
  [[nodiscard]] std::vector<main_unit> units() const;
  /// Memory that the map may hold at most, in bytes: the current table as if all of it was touched, replaced
  /// tables where their pages could not be given back, the filter. Writers only.
  [[nodiscard]] std::uint64_t bytes() const noexcept;

private:
  struct cell {            // by std::atomic_ref only
    std::uint64_t key = 0; // main unit + 1; 0: never used
    std::uint64_t entry = 0;
  };
  /// Zeroed cells in pages of their own.
  struct table {
    explicit table(std::uint64_t cells);
    ~table();
    table(const table&) = delete;
    table& operator=(const table&) = delete;
    /// Makes all cells zero, by giving their pages back where the system can; whoever still reads sees old
    /// cells or zeros.
    void empty() noexcept;
    [[nodiscard]] std::size_t size() const noexcept { return (mask + 1) * sizeof(cell); }

    const std::uint64_t mask;
    cell* at = nullptr;
    std::atomic<std::uint64_t> generation{1}; // odd: not in use, or being filled
    bool has_pages = false;                   // for bytes()
  };
  static constexpr unsigned region_shift = 8;
  static constexpr std::uint64_t region_bits = 1u << 20;
  static constexpr std::uint64_t least_cells = 256; // a page

  [[nodiscard]] static std::uint64_t hash(std::uint64_t v) noexcept {
    v *= 0x9E3779B97F4A7C15ull;
    return v ^ v >> 32;
  }
  [[nodiscard]] static std::uint64_t region_of(std::uint64_t unit) noexcept {
    return unit >> region_shift & (region_bits - 1);
  }
  [[nodiscard]] bool region_bit(std::uint64_t region) const noexcept {
    const std::uint64_t bit = region & (region_bits - 1);
    return (regions_[bit / 64].load(std::memory_order_acquire) >> (bit % 64) & 1) != 0;
  }
  [[nodiscard]] bool region_used(main_unit u) const noexcept {
    return used_.load(std::memory_order_acquire) != 0 && region_bit(u.value >> region_shift);
  }
  [[nodiscard]] map_entry probe(main_unit u) const noexcept;
  [[nodiscard]] static map_entry find(const table& t, main_unit u) noexcept;
  [[nodiscard]] static cell& place(table& t, main_unit u) noexcept;
  [[nodiscard]] table& unused_table(std::uint64_t cells);
  void rebuild();
  void drop_empty_regions(const std::vector<std::uint64_t>& live) noexcept;

  std::atomic<table*> current_{nullptr};
  std::vector<std::unique_ptr<table>> tables_; // all that ever were
  std::unique_ptr<std::atomic<std::uint64_t>[]> regions_;
  std::atomic<std::uint64_t> used_{0}; // cells of the current table with a key
  std::atomic<std::uint64_t> size_{0};
};

} // namespace dmremap
