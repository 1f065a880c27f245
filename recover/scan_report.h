// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "recover/survey.h"

#include <iosfwd>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace dmremap::recover {

/// "running", "died", "ambiguous", "forked", "incomplete", "old", "damaged" or "complete".
[[nodiscard]] std::string state_of(const set_view& set);
/// The command that goes on from here; `paths` are those that were given, for commands that look around
/// again. Empty where none helps.
[[nodiscard]] std::string next_command(const set_view& set, const std::vector<std::string>& paths);
/// What is wrong with a set, a line each, with what to do where no command helps.
[[nodiscard]] std::vector<std::string> troubles(const set_view& set);

/// The tables of dmremap-scan.
void print_survey(std::ostream& out, const survey& s, const survey_options& options);
/// The same for programs; see dmremap-scan(8), JSON.
[[nodiscard]] nlohmann::json survey_json(const survey& s, const survey_options& options);
/// 4 where a set is damaged or incomplete, 1 where something named could not be looked at, else 0.
[[nodiscard]] exit_code survey_exit(const survey& s);

} // namespace dmremap::recover
