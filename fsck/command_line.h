// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"

#include <optional>
#include <string>
#include <vector>

namespace dmremap::fsck {

enum class fsck_mode { unset, look, preen, all, ask };

struct command_line {
  fsck_mode mode = fsck_mode::unset;
  bool verbose = false, json = false, no_undo = false;
  std::string main, plan, apply, undo_apply, undo;
  int progress_fd = -1;
  std::vector<std::string> names; ///< one NAME, or SPAREs
  std::string answer;             ///< --help, --version: to be printed, nothing else

  [[nodiscard]] bool writes() const { return mode != fsck_mode::look && plan.empty(); }
};

/// Errors: "bad-usage".
[[nodiscard]] result<command_line> parse_command_line(int argc, const char* const* argv);

} // namespace dmremap::fsck
