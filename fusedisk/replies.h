// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/disk.h"

#include <cstdint>
#include <string>

namespace dmremap {

// The texts that people and scripts read. None of them ends in a newline.

/// The line of `status --format dm`; scripts parse it: fields may only be added at its end.
[[nodiscard]] std::string dm_line(const disk_stats& stats, const disk_info& info);
/// The message spare_stats; its shape is a contract.
[[nodiscard]] std::string spare_stats_text(const disk_stats& stats, const disk_info& info);
/// One line a spare.
[[nodiscard]] std::string metadata_status_text(const disk_info& info);
/// "name value" lines, all counters.
[[nodiscard]] std::string stats_text(const disk_stats& stats);
/// First line "health=1 state=ok"; then what speaks against it, a line each.
[[nodiscard]] std::string health_text(const disk_stats& stats, const disk_info& info);
/// One line a remap: "main SECTOR spare SECTOR sectors N lost 0xMASK kind".
[[nodiscard]] std::string remap_line(const remap_entry& entry, std::uint64_t main_sectors);

/// The spare with this place in the set's list; null where there is none.
[[nodiscard]] const spare_status* spare_at(const disk_info& info, unsigned index);
/// "present", "absent", "unwritable" (only read), "failed" (no metadata can be read), "draining", or "full".
[[nodiscard]] std::string spare_state(const spare_status& spare);
/// The set's state in a few words: the engine's own, or "a spare cannot be read", of which it takes no note
/// where the spare is the only one.
[[nodiscard]] std::string state_words(const disk_stats& stats, const disk_info& info);

/// True where nothing needs attention.
[[nodiscard]] bool is_healthy(const disk_stats& stats, const disk_info& info);
/// Sectors of the unit that main has: 8, fewer only in a partial last unit.
[[nodiscard]] std::uint64_t sectors_of(main_unit unit, std::uint64_t main_sectors);

} // namespace dmremap
