// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "fsck/inspect.h"
#include "fsck/plan.h"

#include <iosfwd>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace dmremap::fsck {

/// What a run came to.
struct outcome {
  std::string mode;                   ///< "look", "preen", "all", "ask", "plan", "apply"
  std::uint64_t written = 0;          ///< blocks
  std::vector<damage> repaired, left; ///< of the damage found; notices are in neither
  std::vector<std::string> failures;
  std::string undo_log, plan_file;
  int exit_status = 0;
};

/// One damage in a line: "MEMBER: units A to B (sectors ..): TEXT".
[[nodiscard]] std::string line_of(const damage& d);

/// The damage in order of severity, and what will be done about each.
void print_found(std::ostream& out, const set_findings& f, const repair_choice& chosen, bool verbose);
/// What was written, what is left, and the summary line.
void print_outcome(std::ostream& out, const set_findings& f, const outcome& o, bool verbose);
[[nodiscard]] nlohmann::json outcome_json(const set_findings& f, const outcome& o);

} // namespace dmremap::fsck
