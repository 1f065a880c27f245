// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <string>
#include <tl/expected.hpp>

namespace dmremap {

/// Why a file could not be read as a whole.
struct read_failure {
  bool no_file = false; ///< a folder, a device, a named pipe: nothing that has an end to read to
  std::string why;      ///< of the path, for a message: "is a folder"
};

/// All of a file that a command line names; "-": of standard input. Never waits for one who writes to a named
/// pipe; a pipe without a name, which a shell gives as /dev/fd/N, is read to its end.
[[nodiscard]] tl::expected<std::string, read_failure> read_input_file(const std::string& path);

} // namespace dmremap
