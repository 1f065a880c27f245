// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"
#include "engine/units.h"

#include <array>
#include <cstdint>

namespace dmremap {

inline constexpr std::uint32_t slots_per_block = 254;
inline constexpr std::uint32_t chunk_count = 1024;
inline constexpr unsigned own_replicas = 5;
inline constexpr unsigned fixed_supers = 5;
inline constexpr unsigned super_copies = 10;
inline constexpr std::uint64_t min_spare_units = 4096;

/// Where the metadata of one spare lies. All numbers are units of the spare unless named otherwise.
struct geometry {
  std::uint64_t units = 0;                                 ///< slots (N): min(whole units, 2^32-1)
  std::uint32_t table_blocks = 0;                          ///< B = ceil(N / 254)
  std::uint32_t chunk_blocks = 0;                          ///< blocks in a chunk: ceil(B / 1024)
  std::array<std::uint32_t, own_replicas> replica_start{}; ///< head; block b lies at start + 1 + b

  [[nodiscard]] std::uint32_t chunks() const { return (table_blocks + chunk_blocks - 1) / chunk_blocks; }
  [[nodiscard]] std::uint32_t chunk_of(std::uint32_t block) const { return block / chunk_blocks; }
  [[nodiscard]] std::uint32_t chunk_first(std::uint32_t chunk) const { return chunk * chunk_blocks; }
  [[nodiscard]] std::uint32_t chunk_end(std::uint32_t chunk) const;
  [[nodiscard]] spare_unit super_place(unsigned copy) const;
  [[nodiscard]] spare_unit block_place(unsigned replica, std::uint32_t block) const {
    return spare_unit(std::uint64_t{replica_start[replica]} + 1 + block);
  }
  [[nodiscard]] static std::uint32_t block_of(spare_unit u) {
    return static_cast<std::uint32_t>(u.value / slots_per_block);
  }
  [[nodiscard]] static std::uint32_t slot_of(spare_unit u) {
    return static_cast<std::uint32_t>(u.value % slots_per_block);
  }
  /// True for superblocks, table replicas and everything beyond the last slot.
  [[nodiscard]] bool is_metadata(spare_unit u) const;
  /// First unit that automatic allocation uses: behind the first min(8 MiB, LENGTH/4).
  [[nodiscard]] spare_unit first_automatic() const;
  /// Units that are not metadata.
  [[nodiscard]] std::uint64_t data_units() const;
};

/// The layout for a spare of `bytes` bytes. Errors: "spare-too-small" (under 16 MiB).
[[nodiscard]] result<geometry> make_geometry(std::uint64_t bytes);
/// Whether a geometry read from a superblock is one that fits a spare of `bytes` bytes and collides nowhere.
[[nodiscard]] bool plausible(const geometry& g, std::uint64_t bytes);

/// Unit of main that content sample `index` of 16 is taken from. Does not overflow: units < 2^48.
[[nodiscard]] constexpr main_unit sample_unit(std::uint64_t units, unsigned index) {
  return main_unit(units * index / 16);
}

} // namespace dmremap
