// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/stats_fields.h"

#include <nlohmann/json.hpp>

namespace dmremap {

nlohmann::json stats_json(const disk_stats& s) {
  nlohmann::json all;
  for_each_figure(s, [&](const char* name, auto value) { all[name] = value; });
  all["state"] = s.state;
  return all;
}

} // namespace dmremap
