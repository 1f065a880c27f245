// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"

#include <functional>
#include <iosfwd>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace dmremap {

/// Version of everything that --json prints; grows when a field changes its meaning or goes.
inline constexpr int json_schema = 1;

/// Where one run of a program reports to.
struct program_context {
  std::ostream& out;
  std::ostream& err;
  bool json = false;
  std::string program = "dmremap"; ///< what its messages begin with

  /// "schema" put in front, indented, one line break at the end.
  void print(nlohmann::json value) const;
  /// One line on `err` with the program's name; an object on `out` where --json was given. Returns the exit
  /// status.
  int report(const error& failure) const;
  /// A line on `err` that is no error: "dmremap: TEXT".
  void note(const std::string& text) const;
};

/// True where --json stands anywhere on the command line: an error about the line is an object then, too.
[[nodiscard]] bool asks_for_json(int argc, const char* const* argv);

/// Runs the body of a program, which returns its exit status, and reports what it throws ("internal") and an
/// output that could not be written ("output-failed"). Returns the exit status.
[[nodiscard]] int run_program_body(const program_context& c, const std::function<int()>& body);

} // namespace dmremap
