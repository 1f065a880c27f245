// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/run.h"

#include "fusedisk/background.h"
#include "fusedisk/daemon.h"
#include "fusedisk/options.h"

#include <ostream>

namespace dmremap {
namespace {

result<void> run(const command_line& line) {
  const auto settings = TRY(settings_of(line));
  if (line.foreground)
    return serve(settings, stderr_sink(), [] {});
  return run_in_background(
      [&](const serving_hook& serving) { return serve(settings, syslog_sink(), serving); });
}

} // namespace

int run_fusedisk(int argc, const char* const* argv, std::ostream& out, std::ostream& err) {
  const auto line = parse_command_line(argc, argv);
  if (line && line->answer) {
    out << *line->answer << std::flush;
    return static_cast<int>(exit_code::ok);
  }
  const auto done = line ? run(*line) : tl::make_unexpected(line.error());
  if (done)
    return static_cast<int>(exit_code::ok);
  err << "fusedisk: " << done.error().text() << std::endl;
  return static_cast<int>(done.error().code);
}

} // namespace dmremap
