// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"

#include <string>
#include <vector>

namespace dmremap {

/// Runs a program to its end. `output` is what it wrote to both of its outputs until then; a daemon that it
/// leaves behind is not waited for. Errors: "spawn-failed".
struct run_result {
  int status = 0; ///< exit status; 128 + signal where one ended it
  std::string output;
};
[[nodiscard]] result<run_result> run_program(const std::vector<std::string>& words);

} // namespace dmremap
