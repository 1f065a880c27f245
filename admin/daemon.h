// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/config.h"
#include "engine/control_client.h"
#include "engine/error.h"

#include <string>
#include <vector>

/// Starting and stopping the fusedisk of a set.
namespace dmremap::admin {

/// The program fusedisk: $DMREMAP_FUSEDISK, else beside this program, else in the build tree, else what PATH
/// finds.
[[nodiscard]] std::string fusedisk_path();

/// Runs a program to its end. `output` is what it wrote to both of its outputs until then; a daemon that it
/// leaves behind is not waited for. Errors: "spawn-failed".
struct run_result {
  int status = 0; ///< exit status; 128 + signal where one ended it
  std::string output;
};
[[nodiscard]] result<run_result> run_program(const std::vector<std::string>& words);

/// Starts fusedisk on the members of the configuration, with `further_options` behind those that stand there;
/// returns when the mount serves. Errors:
/// what fusedisk reported (exit 4 as it did), "fusedisk-failed" where it ended without a report, "wrong-set"
/// (the spare belongs to another set: names of devices changed), those of open_members.
[[nodiscard]] result<running_set> start_daemon(const set_config& config, const std::string& mountpoint,
                                               const std::vector<std::string>& further_options);

/// Asks the daemon to stop and waits until its process is gone. Errors: the daemon's ("image-in-use", ...),
/// "no-answer".
[[nodiscard]] result<void> stop_daemon(const running_set& set);

/// What a daemon that died left behind: its loop devices (refused while they are used), its mount, its
/// folder.
[[nodiscard]] result<void> clear_dead(const running_set& set);

} // namespace dmremap::admin
