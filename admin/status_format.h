// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"

#include <nlohmann/json_fwd.hpp>
#include <string>

/// The forms of `dmremap status` and `dmremap stats`. `status` is the result of the daemon's `status` (or the
/// stand-in that live_status makes of the statistics segment).
namespace dmremap::admin {

[[nodiscard]] std::string status_text(const nlohmann::json& status);
/// One line; empty where the daemon gave none.
[[nodiscard]] std::string status_dm(const nlohmann::json& status);
/// The text exposition format: HELP and TYPE once a metric, label set="NAME".
[[nodiscard]] std::string status_prometheus(const nlohmann::json& status);
/// One "name value" line a counter, aligned; then state and allocation of each spare.
[[nodiscard]] std::string stats_text(const nlohmann::json& stats, const nlohmann::json& spares);
/// exit_code::damaged where main or a spare is gone, the breaker is open, or metadata is down to its last
/// copy. Lost sectors are data, reported as such, and not damage to the set.
[[nodiscard]] exit_code status_exit(const nlohmann::json& status);

} // namespace dmremap::admin
