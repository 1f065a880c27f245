// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "admin/context.h"

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace dmremap::admin {

/// Prints a daemon's reply: what it tells a person (else `otherwise`), or its result as JSON.
exit_code show_reply(const context& c, const nlohmann::json& reply, const std::string& otherwise);

/// Prints what a dry run found: `text`, or `plan` as JSON, marked as one.
exit_code show_plan(const context& c, nlohmann::json plan, const std::string& text);

} // namespace dmremap::admin
