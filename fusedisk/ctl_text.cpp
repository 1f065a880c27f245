// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/ctl_text.h"

#include "fusedisk/replies.h"

namespace dmremap {

std::string ctl_text(control_target& target, std::string_view name) {
  constexpr std::chrono::milliseconds patience{500};
  if (name == "stats")
    return stats_text(target.stats()) + "\n";
  const disk_info info = target.info(patience).info;
  if (name == "status")
    return dm_line(target.stats(), info) + "\n";
  if (name == "metadata_status")
    return metadata_status_text(info) + "\n";
  if (name == "health")
    return health_text(target.stats(), info) + "\n";
  std::string table;
  if (name == "remap_table")
    target.for_each_remap([&](const remap_entry& e) { table += remap_line(e, info.main_sectors) + "\n"; });
  return table;
}

} // namespace dmremap
