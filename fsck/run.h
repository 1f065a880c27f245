// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <iosfwd>

namespace dmremap::fsck {

/// Exit status, as fsck(8) has it; bits.
enum fsck_exit : int {
  exit_clean = 0,
  exit_corrected = 1,
  exit_left = 4, ///< damage that was not repaired
  exit_operational = 8,
  exit_usage = 16,
  exit_cancelled = 32,
};

struct streams {
  std::istream& in;
  std::ostream &out, &err;
  bool terminal = false; ///< somebody can be asked
};

/// The whole program; returns its exit status.
int run(int argc, const char* const* argv, const streams& io);

} // namespace dmremap::fsck
