// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/disk.h"
#include "fusedisk/log.h"

#include <string>
#include <vector>

namespace dmremap {

/// The log line of a unit that went to a spare after an error: device, sector, and what was done.
[[nodiscard]] std::string text_of(const remap_event& event, const disk_info& info);

struct noticed_event {
  log_level level;
  std::string text;
};
/// Log lines for what the counters say happened between two looks, one an event.
[[nodiscard]] std::vector<noticed_event> compare_stats(const disk_stats& before, const disk_stats& after,
                                                       const std::string& main_path);

} // namespace dmremap
