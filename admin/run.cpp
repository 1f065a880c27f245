// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/run.h"

#include "admin/command_line.h"

#include <algorithm>
#include <exception>
#include <ostream>
#include <poll.h>
#include <string_view>
#include <unistd.h>

namespace dmremap::admin {
namespace {

/// Before the command line is understood: an error about it is an object, too, where --json stands anywhere.
bool asks_for_json(int argc, const char* const* argv) {
  for (int i = 1; i < argc && std::string_view(argv[i]) != "--"; ++i) {
    const std::string_view word = argv[i];
    if (word == "--json" || word == "--format=json" ||
        (word == "--format" && i + 1 < argc && std::string_view(argv[i + 1]) == "json"))
      return true;
  }
  return false;
}

bool reader_went_away() {
  pollfd output{STDOUT_FILENO, 0, 0};
  return ::poll(&output, 1, 0) == 1 && (output.revents & POLLERR) != 0;
}

int carry_out(context& c, int argc, const char* const* argv) {
  auto parsed = parse_command_line(argc, argv);
  if (!parsed)
    return c.report(parsed.error());
  if (!parsed->action) {
    c.out << parsed->answer;
    return static_cast<int>(exit_code::ok);
  }
  const auto done = parsed->action(c);
  return done ? static_cast<int>(*done) : c.report(done.error());
}

} // namespace

int run(int argc, const char* const* argv, std::ostream& out, std::ostream& err) {
  context c{out, err, asks_for_json(argc, argv)};
  int status = 0;
  try { // the libraries below report some failures by exceptions (no memory, a reply of an unknown shape)
    status = carry_out(c, argc, argv);
  } catch (const std::exception& failure) {
    status =
        c.report(error{"internal", "dmremap", std::string("something unforeseen failed: ") + failure.what(),
                       exit_code::failed});
  }
  out.flush();
  if (!out && reader_went_away()) // `dmremap table NAME | head`: it has what it wanted
    return status != 0 ? status : static_cast<int>(exit_code::failed);
  if (!out && status == 0)
    return c.report(
        error{"output-failed", "standard output", "the report could not be written", exit_code::failed});
  return status;
}

} // namespace dmremap::admin
