// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/scan.h"

#include "engine/parse_number.h"
#include "engine/program_context.h"
#include "engine/progress.h"
#include "engine/stop_signals.h"
#include "recover/cli.h"
#include "recover/scan_report.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <optional>

namespace dmremap::recover {
namespace {

struct line {
  survey_options options;
  int progress_fd = -1;
  std::string answer; ///< --help, --version
};

result<line> parse(int argc, const char* const* argv) {
  line l;
  CLI::App app(
      "Finds dmremap sets, their members and every copy of their metadata. Opens nothing for writing.",
      "dmremap-scan");
  add_common(app, "dmremap-scan [--json] [--deep [--resume FILE]] [--progress FD] [PATH...]");
  auto* deep =
      app.add_flag("--deep", l.options.deep, "search all of each device for metadata, wherever it lies");
  app.add_option("--resume", l.options.resume,
                 "keep in this file how far the search is, and go on from there the next time")
      ->type_name("FILE")
      ->needs(deep);
  app.add_option("--progress", l.progress_fd,
                 "write lines \"DONE ALL\" to this descriptor, of devices or, with --deep, of bytes")
      ->type_name("FD")
      ->check(why_no_number<unsigned>, "");
  app.add_option(
         "PATH", l.options.paths,
         "devices, files, ranges PATH@START+LENGTH, and folders of files; else all block devices and what "
         "this host knows")
      ->type_name("");
  l.answer = TRY(parse_line(app, argc, argv));
  return l;
}

void explain(const program_context& c, const survey& s, const survey_options& options) {
  for (const auto& one : s.failed)
    c.note(one.text());
  if (s.unread != 0)
    c.note(fmt::format("not looked at, for want of permission: {}; run it as root", s.unread));
  if (s.stopped)
    c.note(options.resume.empty() ? "the search was stopped; with --resume FILE it could go on"
                                  : "the search was stopped; the same command goes on with it");
}

result<exit_code> scan(const program_context& c, line& l) {
  std::optional<progress> bar;
  const auto show = [&](std::uint64_t done, std::uint64_t all) { bar->show(done, all); };
  std::optional<stop_signals> signals; // a search ends in order
  if (l.options.deep) {
    bar.emplace(c.err, "searching", l.progress_fd, "bytes");
    signals.emplace(stop_signals::again::ends_the_process);
    l.options.on_progress = show;
    l.options.stop = stop_signals::asked;
  } else {
    bar.emplace(c.err, "looking", l.progress_fd, "devices");
    l.options.on_look = show;
  }
  const auto s = TRY(look_around(l.options));
  bar.reset();
  if (c.json)
    c.print(survey_json(s, l.options));
  else
    print_survey(c.out, s, l.options);
  explain(c, s, l.options);
  return survey_exit(s);
}

} // namespace

int run_scan(int argc, const char* const* argv, std::ostream& out, std::ostream& err) {
  return run_tool("dmremap-scan", argc, argv, out, err, parse, scan);
}

} // namespace dmremap::recover
