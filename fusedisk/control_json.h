// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "fusedisk/control_target.h"

#include <chrono>
#include <nlohmann/json.hpp>

/// What the control socket answers, as JSON (engine/CONTROL.md).
namespace dmremap {

/// How long a request waits for what only the set itself can tell; then the last answer is given again.
inline constexpr std::chrono::milliseconds info_patience{500};

[[nodiscard]] nlohmann::json json_of(const spare_status& s, const disk_info& info);
[[nodiscard]] nlohmann::json json_of(const remap_reply& r);
[[nodiscard]] nlohmann::json json_of(const spare_forget_reply& r);
[[nodiscard]] nlohmann::json json_of(const evacuation_state& s);
/// Everything: `status`.
[[nodiscard]] nlohmann::json json_of_status(control_target& t);

} // namespace dmremap
