// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/run.h"

#include "admin/command_line.h"

#include <ostream>

namespace dmremap::admin {
namespace {

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
  return run_program_body(c, [&] { return carry_out(c, argc, argv); });
}

} // namespace dmremap::admin
