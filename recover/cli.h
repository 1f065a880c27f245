// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/option_values.h"
#include "engine/program_context.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <memory>
#include <string>
#include <utility>

/// What the command lines of the programs here have in common.
namespace dmremap::recover {

class usage_text final : public CLI::Formatter {
public:
  explicit usage_text(std::string usage) : usage_(std::move(usage)) {}
  std::string make_usage(const CLI::App*, std::string) const override { return "Usage: " + usage_ + "\n"; }

private:
  std::string usage_;
};

/// --json, --version and the usage line.
inline void add_common(CLI::App& app, const std::string& usage) {
  app.formatter(std::make_shared<usage_text>(usage));
  app.set_version_flag("--version", fmt::format("{} {}", app.get_name(), DMREMAP_VERSION));
  app.add_flag_function(
      "--json", [](std::int64_t) {}, "report as JSON"); // read before the line is parsed
}

/// Parses the line. The text that --help or --version asks for; empty: go on. Errors: "bad-usage".
inline result<std::string> parse_line(CLI::App& app, int argc, const char* const* argv) {
  try { // CLI11 reports by exception
    refuse_options_as_values(app);
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    return app.help();
  } catch (const CLI::CallForVersion&) {
    return fmt::format("{} {}\n", app.get_name(), DMREMAP_VERSION);
  } catch (const CLI::ParseError& e) {
    return fail("bad-usage", "", fmt::format("{}; see {} --help", e.what(), app.get_name()),
                exit_code::usage);
  }
  return std::string();
}

/// One run of a program: `parse(argc, argv)` yields the line or why there is none, `carry_out(context, line)`
/// the exit status of what it asks for; where `line.answer` holds the text of --help or --version, that is
/// all.
template <class Parse, class CarryOut>
int run_tool(const char* name, int argc, const char* const* argv, std::ostream& out, std::ostream& err,
             const Parse& parse, const CarryOut& carry_out) {
  const program_context c{out, err, asks_for_json(argc, argv), name};
  return run_program_body(c, [&]() -> int {
    auto l = parse(argc, argv);
    if (!l)
      return c.report(l.error());
    if (!l->answer.empty()) {
      out << l->answer;
      return static_cast<int>(exit_code::ok);
    }
    const auto done = carry_out(c, *l);
    return done ? static_cast<int>(*done) : c.report(done.error());
  });
}

} // namespace dmremap::recover
