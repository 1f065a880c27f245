// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/device_use.h"
#include "engine/set_dump.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace dmremap::recover {

struct sector_run {
  std::uint64_t first = 0, count = 0; ///< sectors of main
};

/// What a list comes to for a set.
struct import_plan {
  std::vector<sector_run> ranges; ///< ascending and apart
  std::uint64_t main_sectors = 0;
  std::uint64_t sectors = 0; ///< in `ranges`
  std::uint64_t outside = 0; ///< sectors that are listed, but not in main
  std::uint64_t new_units = 0, already_units = 0;
};

/// `listed`: bytes of what the list is about, of which byte 0 is sector `offset` of main, which is less than
/// 2^62 to either side. A sector that a range touches counts as whole, and once. Errors: "list-outside" (all
/// of it lies outside main), "no-spare-capacity" (with the shortfall). `free_now`: units that a running set
/// can give to remaps, as it says itself: tables do not tell which spares take no new data.
[[nodiscard]] result<import_plan> make_import_plan(const std::vector<byte_range>& listed, std::int64_t offset,
                                                   const set_dump& set, const std::string& name,
                                                   std::optional<std::uint64_t> free_now = std::nullopt);

} // namespace dmremap::recover
