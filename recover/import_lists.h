// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/device_use.h"
#include "engine/error.h"
#include "engine/store.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// Bad places as other programs list them. Each parser is strict: a list that it does not wholly understand
/// is refused, with the line.
namespace dmremap::recover {

struct bad_list {
  std::vector<byte_range> ranges; ///< of what the list is about; in the order of the list
  // smartctl only; empty: not told
  std::string serial;
  std::optional<std::uint64_t> capacity; ///< bytes
};

/// A mapfile of GNU ddrescue: places that are bad (-); with `unsure` also those that were not tried to the
/// end (* and /). Errors: "bad-list".
[[nodiscard]] result<bad_list> parse_ddrescue(std::string_view text, const std::string& name, bool unsure);
/// `badblocks -o`, or a plain list: a number of a block of that size in each line; with `counts`, the number
/// of blocks may follow. Errors: "bad-list".
[[nodiscard]] result<bad_list> parse_blocks(std::string_view text, const std::string& name,
                                            std::uint64_t block_size, bool counts);
/// `smartctl -j -x`: pending defects, failed self-tests, the error log. `block_size`: where the JSON does not
/// tell it. Errors: "bad-list", "block-size-wanted".
[[nodiscard]] result<bad_list> parse_smartctl(std::string_view text, const std::string& name,
                                              std::optional<std::uint64_t> block_size);

/// One sector that dm-remap 4 had moved.
struct v4_remap {
  std::uint64_t main = 0, spare = 0; ///< sectors
};
struct v4_table {
  std::uint64_t main_sectors = 0, sequence = 0;
  std::vector<v4_remap> remaps;
};
/// The newest copy of its metadata on `spare` whose checksum is right. Errors: "no-v4-metadata".
[[nodiscard]] result<v4_table> read_v4(store& spare);

} // namespace dmremap::recover
