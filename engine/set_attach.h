// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/config.h"
#include "engine/control_client.h"
#include "engine/error.h"
#include "engine/loop_control.h"

#include <optional>
#include <string>
#include <vector>

/// A set served and put on a loop device.
namespace dmremap {

struct attached_set {
  running_set set;
  std::string loop;   ///< "/dev/loop3"
  bool direct = true; ///< its I/O
};

/// Whether this process may make loop devices. Errors: "no-permission", "no-loop".
[[nodiscard]] result<void> check_loop_access();

/// The loop device on the image of a set that is served: one that is there and shows all of it as the daemon
/// serves it, or a new one with direct I/O and the members' block size. Only with the set's lock_set(), else
/// two callers make one each. Errors: those of attach_loop.
[[nodiscard]] result<attached_set> put_on_loop(running_set set);

/// The one that put_on_loop() would take and not make. Errors: the daemon does not answer.
[[nodiscard]] result<std::optional<loop_attachment>> loop_of(const running_set& set);

/// Where `dmremap attach` lets the image of the set `name` appear, absolute: `asked`, which must be there, or
/// run_dir()/NAME where that is empty, which need not. Errors: "mountpoint".
[[nodiscard]] result<std::string> attach_place(const std::string& asked, const std::string& name);

/// The advice of an error in the words of `dmremap attach` and dmremap-reassemble: "--accept-older" where
/// fusedisk has "-o accept_older".
[[nodiscard]] error with_long_options(error e);

/// Starts the daemon of a set, on `mountpoint` or, where that is empty, on run_dir()/NAME, and puts its image
/// on a loop device. On an error no daemon is left; `notices` says so where one is. Only with the set's
/// lock_set(). Errors: "mountpoint",
/// those of check_loop_access, start_daemon and put_on_loop.
[[nodiscard]] result<attached_set> start_on_loop(const set_config& config, const std::string& mountpoint,
                                                 const std::vector<std::string>& further_options,
                                                 std::vector<std::string>& notices);

} // namespace dmremap
