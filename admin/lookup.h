// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/control_client.h"
#include "engine/error.h"
#include "engine/set_daemon.h"

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

namespace dmremap::admin {

/// The set of this name or UUID where it is running, or died doing so; also under another name than its
/// configuration has, which a rename that was cut off leaves.
[[nodiscard]] std::optional<running_set> find_served(const std::string& name_or_uuid);

/// The running set of this name or UUID. Errors name the next command: "not-running" (configured only),
/// "daemon-died", "no-such-set", "bad-config", "no-permission".
[[nodiscard]] result<running_set> need_running(const std::string& name_or_uuid);

/// Nothing where no daemon serves the set, nor died doing so; else error "set-running" or "daemon-died" (what
/// to do: detach first).
[[nodiscard]] result<void> need_stopped(const std::string& name_or_uuid);

using dmremap::ask;
/// The same for the running set of this name or UUID. Errors: those of need_running, too.
[[nodiscard]] result<nlohmann::json> ask(const std::string& name_or_uuid, const std::string& command,
                                         const nlohmann::json& args);

/// A number of sectors or a sector as given on the command line: decimal, or 0x... Error "bad-number"
/// (usage).
[[nodiscard]] result<std::uint64_t> parse_number(const std::string& text, const std::string& what);

} // namespace dmremap::admin
