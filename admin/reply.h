// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "admin/context.h"

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace dmremap::admin {

/// Prints a daemon's reply: what it tells a person (else `otherwise`), or its result as JSON.
exit_code show_reply(const context& c, const nlohmann::json& reply, const std::string& otherwise);

} // namespace dmremap::admin
