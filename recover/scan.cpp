// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/scan.h"

#include "engine/program_context.h"
#include "engine/progress.h"
#include "engine/option_values.h"
#include "recover/scan_report.h"

#include <CLI/CLI.hpp>
#include <csignal>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <optional>

namespace dmremap::recover {
namespace {

volatile std::sig_atomic_t stop_asked = 0;

void ask_to_stop(int) {
  stop_asked = 1;
}

struct line {
  survey_options options;
  int progress_fd = -1;
  std::string answer; ///< --help, --version
};

class usage_formatter final : public CLI::Formatter {
public:
  std::string make_usage(const CLI::App*, std::string) const override {
    return "Usage: dmremap-scan [--json] [--deep [--resume FILE] [--progress FD]] [PATH...]\n";
  }
};

result<line> parse(int argc, const char* const* argv) {
  line l;
  const auto version = fmt::format("dmremap-scan {}", DMREMAP_VERSION);
  CLI::App app(
      "Finds dmremap sets, their members and every copy of their metadata. Opens nothing for writing.",
      "dmremap-scan");
  app.formatter(std::make_shared<usage_formatter>());
  app.set_version_flag("--version", version);
  app.add_flag_function(
      "--json", [](std::int64_t) {}, "report as JSON"); // read before the line is parsed
  auto* deep =
      app.add_flag("--deep", l.options.deep, "search all of each device for metadata, wherever it lies");
  app.add_option("--resume", l.options.resume,
                 "keep in this file how far the search is, and go on from there the next time")
      ->type_name("FILE")
      ->needs(deep);
  app.add_option("--progress", l.progress_fd, "write lines \"DONE ALL\" of bytes to this descriptor")
      ->type_name("FD")
      ->needs(deep);
  app.add_option(
         "PATH", l.options.paths,
         "devices, files, ranges PATH@START+LENGTH, and folders of files; else all block devices and what "
         "this host knows")
      ->type_name("");
  try { // CLI11 reports by exception
    refuse_options_as_values(app);
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    l.answer = app.help();
  } catch (const CLI::CallForVersion&) {
    l.answer = version + "\n";
  } catch (const CLI::ParseError& e) {
    return fail("bad-usage", "", std::string(e.what()) + "; see dmremap-scan --help", exit_code::usage);
  }
  return l;
}

/// The first SIGINT or SIGTERM ends a search in order; without a search they do what they always do.
class stop_signals {
public:
  stop_signals() {
    struct sigaction action {};
    action.sa_handler = ask_to_stop;
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    ::sigaction(SIGINT, &action, &before_[0]);
    ::sigaction(SIGTERM, &action, &before_[1]);
  }
  ~stop_signals() {
    ::sigaction(SIGINT, &before_[0], nullptr);
    ::sigaction(SIGTERM, &before_[1], nullptr);
  }
  stop_signals(const stop_signals&) = delete;
  stop_signals& operator=(const stop_signals&) = delete;

private:
  struct sigaction before_[2]{};
};

void explain(const program_context& c, const survey& s, const survey_options& options) {
  for (const auto& one : s.failed)
    c.note(one.text());
  if (s.unread != 0)
    c.note(fmt::format("{} devices or files may not be read; run it as root", s.unread));
  if (s.stopped)
    c.note(options.resume.empty() ? "the search was stopped; with --resume FILE it could go on"
                                  : "the search was stopped; the same command goes on with it");
}

result<exit_code> scan(const program_context& c, line& l) {
  std::optional<progress> bar;
  std::optional<stop_signals> signals;
  if (l.options.deep) {
    bar.emplace(c.err, "searching", l.progress_fd, "bytes");
    signals.emplace();
    l.options.on_progress = [&](std::uint64_t done, std::uint64_t all) { bar->show(done, all); };
    l.options.stop = [] { return stop_asked != 0; };
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
  const program_context c{out, err, asks_for_json(argc, argv), "dmremap-scan"};
  return run_program_body(c, [&]() -> int {
    auto l = parse(argc, argv);
    if (!l)
      return c.report(l.error());
    if (!l->answer.empty()) {
      out << l->answer;
      return static_cast<int>(exit_code::ok);
    }
    const auto done = scan(c, *l);
    return done ? static_cast<int>(*done) : c.report(done.error());
  });
}

} // namespace dmremap::recover
