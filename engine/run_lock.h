// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"
#include "engine/unique_fd.h"

#include <chrono>
#include <functional>
#include <string>
#include <sys/types.h>

/// The folders and locks under run_dir(). A lock goes with its descriptor, which no program that is started
/// inherits.
namespace dmremap {

/// What the last system call said of `path`. Errors: "no-permission", "run-dir".
[[nodiscard]] tl::unexpected<error> run_dir_failure(const std::string& path);

/// A folder of ours: nobody else may have made it, since we trust what lies in it. Errors: "bad-run-dir",
/// those above.
[[nodiscard]] result<void> make_run_folder(const std::string& path, mode_t mode);

/// The lock of a set's run folder `dir`, on its file pid, which is made. The daemon holds it until all that
/// it had is closed. Errors: "in-use" (a daemon holds it), those of run_dir_failure.
[[nodiscard]] result<unique_fd> lock_pid_file(const std::string& dir, const std::string& set_name);

/// Whether somebody holds that lock.
[[nodiscard]] bool pid_file_locked(const std::string& dir);

inline constexpr std::chrono::minutes turn_limit{2};

/// One command at a time attaches, detaches or renames the set of this UUID. Waits for the one that does, and
/// tells `note` so after a second. Errors: "in-use" (another command still has it after `limit`), those of
/// make_run_folder.
[[nodiscard]] result<unique_fd> lock_set(const std::string& name, const std::string& uuid,
                                         const std::function<void(const std::string&)>& note,
                                         std::chrono::milliseconds limit = turn_limit);

} // namespace dmremap
