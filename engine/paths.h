// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <string>

namespace dmremap {

/// Where things are kept. Each can be moved by an environment variable (tests, non-root use).
/// DMREMAP_RUN_DIR   else /run/dmremap as root, $XDG_RUNTIME_DIR/dmremap, else /tmp/dmremap-UID
/// DMREMAP_CONF_DIR  else /etc/dmremap
/// DMREMAP_STATE_DIR else /var/lib/dmremap as root, else $XDG_STATE_HOME/dmremap or ~/.local/state/dmremap
[[nodiscard]] std::string run_dir();
[[nodiscard]] std::string conf_dir();
[[nodiscard]] std::string state_dir();

/// run_dir()/.sets/NAME: control (socket), stats (segment), pid of a running set. Not run_dir()/NAME: that is the default mount point.
[[nodiscard]] std::string set_run_dir(const std::string& name);
/// run_dir()/.claims: one file a physical device, locked by byte ranges.
[[nodiscard]] std::string claims_dir();
/// conf_dir()/sets.d/NAME.conf
[[nodiscard]] std::string set_conf_path(const std::string& name);

/// 1 to 63 bytes of letters, digits and "-_.+", starting with a letter, digit or '_'.
[[nodiscard]] bool valid_set_name(const std::string& name);
/// Such a name that a set may be given: what has the shape of a UUID means the set that has it.
[[nodiscard]] bool valid_new_set_name(const std::string& name);
constexpr const char* set_name_rule =
    "1 to 63 letters, digits and -_.+, starting with a letter, a digit or _, and no UUID";
/// Whether `asked`, a name or a UUID (case does not matter), means the set that has these. A UUID is never a
/// name.
[[nodiscard]] bool means_set(const std::string& asked, const std::string& name, const std::string& uuid);

} // namespace dmremap
