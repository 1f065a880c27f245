// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "tests/fuzz/fuzz.h"
#include "tests/support/memory_store.h"

#include <memory>
#include <vector>

/// A set that is damaged by a script. The input of the target `set`: four bytes (base, options of the open,
/// kind of device, reserved), then records of 16 bytes, see set_script.cpp.
namespace dmremap::fuzz {

/// Main has some whole units and a piece of one at its end.
inline constexpr std::uint64_t set_main_units = 32, set_main_sectors = set_main_units * 8 + 3;
inline constexpr std::uint64_t set_spare_units = 4096;
inline constexpr std::uint32_t set_table_blocks = 17;

/// The members of a set as they lie on their media. Two spares where the engine makes such sets.
struct set_images {
  test::page_image main;
  std::vector<test::page_image> spares;
};

/// 0: just formatted. 1: with remaps of every kind, closed. 2: of 1, with more, not closed. All have the same
/// UUIDs. 3: of two spares (where the engine makes no such sets: as 2).
inline constexpr unsigned set_bases = 4;
[[nodiscard]] const set_images& base_set(unsigned number);

struct set_case {
  set_images images;
  test::fault_table main_faults;
  std::vector<test::fault_table> spare_faults;
  std::uint32_t block_size = 512;
  bool faults = false;     ///< some request may fail
  bool near_limit = false; ///< a sequence is so high that the set may run out of them
  bool degraded = false, accept_main = false, accept_older = false, auto_remap = true;
  bool absent_spare = false; ///< the last of several spares is left out
};

[[nodiscard]] std::unique_ptr<set_case> read_set_case(input_bytes bytes);

/// Every place of metadata on a spare as the bases have it: the ten superblocks, then each replica's blocks.
[[nodiscard]] const std::vector<std::uint32_t>& metadata_places();

} // namespace dmremap::fuzz
