// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/config.h"
#include "engine/control_client.h"
#include "engine/error.h"
#include "engine/set_members.h"

#include <string>
#include <vector>

/// Starting and stopping the fusedisk of a set.
namespace dmremap {

/// The program fusedisk: $DMREMAP_FUSEDISK, else beside this program, else in the build tree, else what PATH
/// finds.
[[nodiscard]] std::string fusedisk_path();

/// Members only: claimed, not opened as a set; spares that are away are left out. Errors: those of
/// open_set_members and parse_member.
[[nodiscard]] result<set_members> claim_configured(const set_config& config, access_mode mode);

/// "wrong-set" where a spare says that it belongs to another set: device names may have moved since the
/// configuration was written. A spare that says nothing is left for the open to judge.
[[nodiscard]] result<void> check_same_set(const set_config& config, const set_members& opened);

/// Starts fusedisk on the members of the configuration, with `further_options` behind those that stand there;
/// returns when the mount serves. Errors:
/// what fusedisk reported (exit 4 as it did), "fusedisk-failed" where it ended without a report, "wrong-set"
/// (the spare belongs to another set: names of devices changed), those of open_members.
[[nodiscard]] result<running_set> start_daemon(const set_config& config, const std::string& mountpoint,
                                               const std::vector<std::string>& further_options);

/// One command to the daemon of a running set; the whole reply. A ping goes first: a daemon that does not
/// answer is told from a command that takes its time, which is then waited for without a limit.
[[nodiscard]] result<nlohmann::json> ask(const running_set& set, const std::string& command,
                                         const nlohmann::json& args);

/// Asks the daemon to stop and waits until its process is gone. Errors: the daemon's ("image-in-use", ...),
/// "no-answer".
[[nodiscard]] result<void> stop_daemon(const running_set& set);

/// Waits until the process of a set that is closing is gone. Errors: "no-answer".
[[nodiscard]] result<void> wait_until_closed(const running_set& set);

/// What a daemon that died left behind: its loop devices (refused while they are used), its mount, its
/// folder. Errors: "in-use" (a daemon lives there), those of detach_loop, "unmount-failed".
[[nodiscard]] result<void> clear_dead(const running_set& set);

} // namespace dmremap
