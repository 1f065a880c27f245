// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "admin/context.h"
#include "engine/error.h"

#include <functional>
#include <string>

namespace dmremap::admin {

/// What a command line asks for: an action, or a text (--help, --version).
struct parsed_line {
  std::function<result<exit_code>(context&)> action; ///< empty: print `answer`
  std::string answer;
};

/// Touches nothing. Errors: "bad-usage" (usage).
[[nodiscard]] result<parsed_line> parse_command_line(int argc, const char* const* argv);

} // namespace dmremap::admin
