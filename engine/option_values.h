// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <string>

namespace dmremap {

/// Makes every option of `app` (a CLI::App) and of its subcommands refuse a value that looks like an option:
/// "--wipe --dry-run" has forgotten the value, and must not be taken for a wiping run. "-" and numbers below
/// zero are values. Call it when all options are there, before the line is parsed.
template <class App>
void refuse_options_as_values(App& app) {
  const auto looks_like_option = [](const std::string& value) {
    const bool option = value.size() > 1 && value[0] == '-' && (value[1] < '0' || value[1] > '9') && value[1] != '.';
    return option ? "needs a value; '" + value + "' is an option" : std::string();
  };
  for (auto* option : app.get_options())
    if (option->get_expected_max() > 0 && option->nonpositional())
      option->check(looks_like_option, "");
  for (auto* sub : app.get_subcommands([](const App*) { return true; }))
    refuse_options_as_values(*sub);
}

} // namespace dmremap
