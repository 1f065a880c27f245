// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

/// The forms of `dmremap table` and `dmremap lost`.
namespace dmremap::admin {

/// One unit (or the shorter rest at the end of main), as the daemon's `table` tells it.
struct table_row {
  std::uint64_t main_sector = 0, spare_sector = 0, sectors = 0, sequence = 0;
  unsigned spare = 0; ///< index
  std::uint8_t lost = 0, may_answer = 0;
  bool explicit_remap = false;
};

struct table_view {
  std::string main; ///< as the set was given it
  std::uint64_t main_sectors = 0;
  std::vector<std::string> spares;
  std::vector<bool> absent;    ///< of each spare: its units answer EIO
  std::vector<table_row> rows; ///< ascending by main_sector
};

/// A range of sectors of main.
struct sector_range {
  std::uint64_t first = 0, count = 0;
};

/// From the results of the daemon's `table` and `status`. Error "bad-reply": a row names no spare of the set.
[[nodiscard]] result<table_view> read_table(const nlohmann::json& table, const nlohmann::json& status);
/// The result of the daemon's `lost`.
[[nodiscard]] std::vector<sector_range> read_lost(const nlohmann::json& lost);
/// The remapped places of main, neighbours joined.
[[nodiscard]] std::vector<sector_range> remapped_ranges(const table_view& table);

[[nodiscard]] std::string table_text(const table_view& table);
/// Lines for `dmsetup create`: the same disk made of the kernel's own targets. Lost sectors, and
/// those on absent spares, are `error`.
/// Error "bad-member" where a member cannot be written in such a line (a path with a blank).
[[nodiscard]] result<std::string> table_dmsetup(const table_view& table);

[[nodiscard]] std::string lost_text(const std::vector<sector_range>& ranges);
/// A mapfile of GNU ddrescue: `ranges` are bad ('-'), the rest of the `sectors` good ('+'). Positions from 0
/// of main.
[[nodiscard]] std::string ddrescue_map(const std::vector<sector_range>& ranges, std::uint64_t sectors);
/// The list of `badblocks -b BLOCK_SIZE -o`: each block that a range touches, once.
[[nodiscard]] std::string badblocks_list(const std::vector<sector_range>& ranges, std::uint64_t block_size);

} // namespace dmremap::admin
