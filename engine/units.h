// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <bit>
#include <compare>
#include <cstdint>
#include <optional>

namespace dmremap {

inline constexpr std::uint64_t sector_bytes = 512;
inline constexpr std::uint64_t unit_bytes = 4096;
inline constexpr std::uint64_t unit_sectors = unit_bytes / sector_bytes;

/// A 64-bit number that does not mix with numbers of another kind. Opts into order and equality only.
template <class Tag>
struct strong_number {
  std::uint64_t value = 0;
  constexpr strong_number() = default;
  constexpr explicit strong_number(std::uint64_t v) : value(v) {}
  friend constexpr auto operator<=>(strong_number, strong_number) = default;
  /// The number `n` places on. Aborts nothing: callers stay below 2^63 because devices do (see checked sizes).
  [[nodiscard]] constexpr strong_number plus(std::uint64_t n) const { return strong_number(value + n); }
};

using sector_number = strong_number<struct sector_tag>;  ///< 512-byte sector of the disk shown (= of main)
using main_unit = strong_number<struct main_unit_tag>;   ///< 4096-byte unit of main
using spare_unit = strong_number<struct spare_unit_tag>; ///< 4096-byte unit of one spare

[[nodiscard]] constexpr main_unit unit_of(sector_number s) { return main_unit(s.value / unit_sectors); }
[[nodiscard]] constexpr main_unit unit_at(std::uint64_t byte) { return main_unit(byte / unit_bytes); }
[[nodiscard]] constexpr sector_number first_sector(main_unit u) { return sector_number(u.value * unit_sectors); }
[[nodiscard]] constexpr std::uint64_t byte_of(main_unit u) { return u.value * unit_bytes; }
[[nodiscard]] constexpr std::uint64_t byte_of(spare_unit u) { return u.value * unit_bytes; }
[[nodiscard]] constexpr std::uint64_t byte_of(sector_number s) { return s.value * sector_bytes; }

/// How many sectors of a unit a mask names, one bit a sector.
[[nodiscard]] constexpr std::uint64_t sectors_in(std::uint8_t mask) {
  return static_cast<unsigned>(std::popcount(mask));
}

[[nodiscard]] constexpr std::uint64_t align_down(std::uint64_t v, std::uint64_t a) { return v - v % a; }
[[nodiscard]] constexpr std::uint64_t align_up(std::uint64_t v, std::uint64_t a) { return align_down(v + a - 1, a); }

/// a + b, or nothing where it overflows.
[[nodiscard]] constexpr std::optional<std::uint64_t> checked_add(std::uint64_t a, std::uint64_t b) {
  if (a + b < a)
    return std::nullopt;
  return a + b;
}
/// a * b, or nothing where it overflows.
[[nodiscard]] constexpr std::optional<std::uint64_t> checked_mul(std::uint64_t a, std::uint64_t b) {
  if (a != 0 && b > UINT64_MAX / a)
    return std::nullopt;
  return a * b;
}

} // namespace dmremap
