// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "recover/dump_load.h"

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace dmremap::recover {

/// The spares that this host's configuration of a set names, those that are there. Errors: those of
/// find_set_config; "not-found".
[[nodiscard]] result<std::vector<member_spec>> named_spares(const std::string& name);

/// What the daemon of `name` answered to "dump". Errors: "bad-reply", those of parse_dump_text.
[[nodiscard]] result<set_dump> dump_in_reply(const nlohmann::json& reply, const std::string& name);

/// All metadata of a set by its name or UUID: from its daemon, or from the spares that this host's
/// configuration names, those that are there. Errors: those of control_request, find_set_config and
/// load_dump.
[[nodiscard]] result<set_dump> dump_named(const std::string& name, const dump_options& how);

} // namespace dmremap::recover
