// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"

#include <iosfwd>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace dmremap::admin {

/// Version of everything that --json prints; grows when a field changes its meaning or goes.
inline constexpr int json_schema = 1;

/// Where one run of the program reports to.
struct context {
  std::ostream& out;
  std::ostream& err;
  bool json = false;

  /// "schema" put in front, indented, one line break at the end.
  void print(nlohmann::json value) const;
  /// One line on `err` with the program's name; an object on `out` where --json was given. Returns the exit
  /// status.
  int report(const error& failure) const;
  /// A line on `err` that is no error: "dmremap: TEXT".
  void note(const std::string& text) const;
};

} // namespace dmremap::admin
