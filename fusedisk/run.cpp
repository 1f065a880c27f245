// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/run.h"

#include "fusedisk/background.h"
#include "fusedisk/daemon.h"
#include "fusedisk/dry_run.h"
#include "fusedisk/options.h"

#include <cstring>
#include <nlohmann/json.hpp>
#include <ostream>

namespace dmremap {
namespace {

result<void> run(const command_line& line, std::ostream& out, std::ostream& err) {
  const auto settings = TRY(settings_of(line));
  if (line.dry_run)
    return show_what_would_be_served(settings, line.json, out, err);
  if (line.foreground)
    return serve(settings, stderr_sink(), [] {});
  return run_in_background(
      [&](const serving_hook& serving) { return serve(settings, syslog_sink(), serving); });
}

/// Looked for before the line is parsed: what is wrong with the line is an object, too.
bool wants_json(int argc, const char* const* argv) {
  for (int i = 1; i < argc && std::strcmp(argv[i], "--") != 0; ++i)
    if (std::strcmp(argv[i], "--json") == 0)
      return true;
  return false;
}

/// One line, in the form that `dmremap --json` has for errors.
std::string as_json(const error& e) {
  const nlohmann::json object = {{"schema", 1}, {"error", {{"id", e.id}, {"what", e.what}, {"why", e.why}}}};
  return object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace); // paths need not be UTF-8
}

} // namespace

int run_fusedisk(int argc, const char* const* argv, std::ostream& out, std::ostream& err) {
  const auto line = parse_command_line(argc, argv);
  if (line && line->answer) {
    out << *line->answer << std::flush;
    return static_cast<int>(exit_code::ok);
  }
  const auto done = line ? run(*line, out, err) : tl::make_unexpected(line.error());
  if (done)
    return static_cast<int>(exit_code::ok);
  if (wants_json(argc, argv))
    out << as_json(done.error()) << std::endl;
  err << "fusedisk: " << done.error().text() << std::endl;
  return static_cast<int>(done.error().code);
}

} // namespace dmremap
