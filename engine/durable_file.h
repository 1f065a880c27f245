// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <string>
#include <tl/expected.hpp>

namespace dmremap {

/// The system call that failed while a file was written.
struct write_failure {
  std::string path;
  const char* action = ""; ///< "write", "sync", "make the folder"
  int number = 0;          ///< errno; EEXIST: the file is there and may not be replaced
};

enum class existing_file { keep, replace };

/// Writes a small file as a whole: beside it first, synced, then renamed; the folder is made where it is not
/// there and synced, too. Durable on return: the old file or the new one, never a part. Mode 0600. On a
/// failure the old file stays.
[[nodiscard]] tl::expected<void, write_failure> write_durably(const std::string& path,
                                                              const std::string& text, existing_file there);
/// The same, but makes no folder: for a path that somebody typed.
[[nodiscard]] tl::expected<void, write_failure> write_in_folder(const std::string& path,
                                                                const std::string& text, existing_file there);
/// Makes the removal of a file in `folder` durable.
[[nodiscard]] tl::expected<void, write_failure> sync_folder(const std::string& folder);

} // namespace dmremap
