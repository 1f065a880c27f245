// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"

#include <chrono>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace dmremap {

/// A set that a daemon serves, or served until it died: what run_dir()/.sets/NAME says of it.
struct running_set {
  std::string dir; ///< set_run_dir() of the name that it was started under
  std::string name, uuid;
  int pid = 0;
  std::string mountpoint, image;
  std::string main;
  std::vector<std::string> spares;
  bool alive = false;   ///< its daemon listens (it need not answer), or has not closed the set yet
  bool closing = false; ///< alive, and takes no requests any more
};

/// All under run_dir()/.sets, the dead ones too; those whose info.json cannot be read are left out. Waits for
/// nobody.
[[nodiscard]] std::vector<running_set> list_running_sets();
/// By name or UUID, the dead ones too; nothing where there is none.
[[nodiscard]] std::optional<running_set> find_running_set(const std::string& name_or_uuid);

/// The reply in `line` where it says "ok", else the daemon's own error; "bad-reply" where it is none. `dir`
/// is for messages.
[[nodiscard]] result<nlohmann::json> parse_control_reply(const std::string& line, const std::string& dir);

/// One request to the daemon of the set in `dir` (engine/CONTROL.md); `args` is the request's "args".
/// Returns the whole reply where it says "ok", else the daemon's own error.
/// Further errors: "not-running", "stopping" (the daemon takes no requests any more, and has not closed the
/// set yet), "no-answer" (nothing within `limit`), "no-permission", "bad-reply". Without a limit it waits for
/// ever. Thread-safe.
[[nodiscard]] result<nlohmann::json> control_request(const std::string& dir, const std::string& command,
                                                     const nlohmann::json& args,
                                                     std::optional<std::chrono::milliseconds> limit);

} // namespace dmremap
