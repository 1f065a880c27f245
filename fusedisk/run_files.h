// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"
#include "engine/unique_fd.h"

#include <functional>
#include <memory>
#include <mutex>
#include <string>

namespace dmremap {

/// The folder set_run_dir(NAME) of a running set, held by a lock for as long as the object lives: one daemon
/// a name. Thread-safe.
class run_files {
public:
  /// Makes the folder (mode 0700), or takes over the one that a dead daemon left. Errors: "in-use" (names the
  /// other daemon), "bad-run-dir" (not ours: somebody else made it), "run-dir" (the system call that failed).
  [[nodiscard]] static result<std::unique_ptr<run_files>> claim(const std::string& set_name);
  /// Removes the folder with what this object or the daemon put there.
  ~run_files();
  run_files(const run_files&) = delete;
  run_files& operator=(const run_files&) = delete;

  [[nodiscard]] std::string path() const;
  [[nodiscard]] std::string socket_path() const { return path() + "/control"; }
  [[nodiscard]] std::string stats_path() const { return path() + "/stats"; }
  /// info.json, replaced as a whole. `make` is asked for the text while nobody else writes: what is written
  /// last is the newest.
  [[nodiscard]] result<void> write_info(const std::function<std::string()>& make) const;
  /// The set's new name. Errors: "name-taken" (a running set has it), "run-dir". On an error nothing has
  /// changed.
  [[nodiscard]] result<void> rename(const std::string& new_name);

private:
  run_files(std::string path, unique_fd lock) : path_(std::move(path)), lock_(std::move(lock)) {}
  mutable std::mutex mutex_;
  std::string path_;
  unique_fd lock_; ///< let go last of all
};

} // namespace dmremap
