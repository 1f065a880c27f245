// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "admin/finding.h"

#include <nlohmann/json_fwd.hpp>
#include <vector>

/// `dmremap doctor`: what a state means, in plain words, and what to do next.
namespace dmremap::admin {

/// Of the reply to `status` (or what stands in for it while the daemon hangs), the gravest first. Empty: all
/// is well.
[[nodiscard]] std::vector<finding> findings_of_status(const nlohmann::json& status);

} // namespace dmremap::admin
