// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "admin/set_list.h"

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

/// `dmremap doctor`: what a state means, in plain words, and what to do next.
namespace dmremap::admin {

struct finding {
  std::string id;                ///< stable: "main-gone"
  bool problem = true;           ///< false: good to know
  std::string text;              ///< what is so, and what it means
  std::vector<std::string> next; ///< commands, in the order in which to try them; empty: nothing to do
};

/// Of the reply to `status` (or what stands in for it while the daemon hangs), the gravest first. Empty: all
/// is well.
[[nodiscard]] std::vector<finding> findings_of_status(const nlohmann::json& status);
/// Of a set that does not run. Looks whether the members that the configuration names are there.
[[nodiscard]] std::vector<finding> findings_of_stopped(const listed_set& set);

} // namespace dmremap::admin
