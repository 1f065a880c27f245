// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/control_client.h"
#include "engine/error.h"

#include <nlohmann/json_fwd.hpp>

namespace dmremap::admin {

/// What the daemon's `status` says, or, where it does not answer within half a second, what its statistics
/// segment last said, with "answers" false, "age_seconds", a notice, and "hangs" where the heartbeat has
/// stopped, too. Never waits longer than that. Errors: those of control_request, "no-answer" only where there
/// is no segment either.
[[nodiscard]] result<nlohmann::json> live_status(const running_set& set);

} // namespace dmremap::admin
