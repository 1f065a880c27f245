// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/options.h"

#include <CLI/CLI.hpp>
#include <charconv>
#include <string_view>

namespace dmremap {
namespace {

constexpr std::string_view option_help = "ro: write nothing at all; degraded: start with spares absent; "
                                         "accept_main: go on although main does not match; "
                                         "accept_older: take a spare older than what this host last saw; "
                                         "read_retries=N; auto_remap=0|1; breaker_remaps=N; "
                                         "breaker_seconds=N; workers=N; "
                                         "allow_other; log_level=error|warn|info|debug";

tl::unexpected<error> bad_option(std::string_view option, const std::string& why) {
  return fail("bad-option", "-o " + std::string(option), why, exit_code::usage);
}

result<unsigned> number(std::string_view option, std::string_view value, unsigned least, unsigned most) {
  unsigned n = 0;
  const auto [end, status] = std::from_chars(value.data(), value.data() + value.size(), n);
  if (status != std::errc{} || end != value.data() + value.size() || n < least || n > most)
    return bad_option(option,
                      "it takes a number from " + std::to_string(least) + " to " + std::to_string(most));
  return n;
}

/// A flag is given without a value; `value` is what stood behind '=', if there was one.
result<bool> apply_flag(std::string_view option, std::optional<std::string_view> value, mount_options& into) {
  struct flag {
    std::string_view name;
    bool* target;
    bool to;
  };
  const flag flags[] = {
      {"ro", &into.open.read_only, true},         {"rw", &into.open.read_only, false},
      {"degraded", &into.open.degraded, true},    {"accept_main", &into.open.accept_main, true},
      {"accept_older", &into.accept_older, true}, {"allow_other", &into.allow_other, true},
  };
  for (const auto& f : flags) {
    if (option.substr(0, option.find('=')) != f.name)
      continue;
    if (value)
      return bad_option(option, "it takes no value");
    *f.target = f.to;
    return true;
  }
  return false;
}

result<void> apply_value(std::string_view option, std::string_view key, std::string_view value,
                         mount_options& into) {
  if (key == "read_retries") {
    into.open.read_retries = TRY(number(option, value, 0, 100));
  } else if (key == "auto_remap") {
    into.open.auto_remap = TRY(number(option, value, 0, 1)) == 1;
  } else if (key == "breaker_remaps") {
    into.open.breaker_remaps = TRY(number(option, value, 1, 1000000));
  } else if (key == "breaker_seconds") {
    into.open.breaker_seconds = TRY(number(option, value, 1, 3600));
  } else if (key == "workers") {
    into.workers = TRY(number(option, value, 1, 128));
  } else if (key == "log_level") {
    auto level = parse_log_level(std::string(value));
    if (!level)
      return bad_option(option, level.error().why);
    into.level = *level;
  } else {
    return bad_option(option, "there is no such option; see fusedisk --help");
  }
  return {};
}

result<void> apply_option(std::string_view option, mount_options& into) {
  const std::size_t equals = option.find('=');
  std::optional<std::string_view> value;
  if (equals != std::string_view::npos)
    value = option.substr(equals + 1);
  if (TRY(apply_flag(option, value, into)))
    return {};
  return apply_value(option, option.substr(0, equals), value.value_or(std::string_view{}), into);
}

class usage_formatter final : public CLI::Formatter {
public:
  std::string make_usage(const CLI::App*, std::string) const override {
    return "Usage: fusedisk [--foreground | --dry-run] [-o OPTION,...] MAIN SPARE... MOUNTPOINT\n"
           "       fusedisk [--foreground | --dry-run] [-o OPTION,...] --name NAME MOUNTPOINT\n";
  }
};

result<void> place_positionals(const std::vector<std::string>& words, command_line& line) {
  const auto usage = [](const std::string& why) {
    return fail("bad-usage", "", why + "; see fusedisk --help", exit_code::usage);
  };
  if (words.empty() || words.back().empty())
    return usage("no mount point is given");
  if (!line.name.empty()) {
    if (words.size() != 1)
      return usage("--name takes the members from the configuration: give only the mount point behind it");
  } else if (words.size() < 3) {
    return usage("a main, at least one spare and a mount point are needed, or --name NAME and a mount point");
  }
  line.mountpoint = words.back();
  for (std::size_t i = 0; i + 1 < words.size(); ++i) {
    auto spec = TRY(parse_member(words[i]));
    if (i == 0)
      line.main = std::move(spec);
    else
      line.spares.push_back(std::move(spec));
  }
  return {};
}

} // namespace

result<void> apply_options(const std::string& list, mount_options& into) {
  std::size_t from = 0;
  while (from <= list.size()) {
    const std::size_t comma = std::min(list.find(',', from), list.size());
    if (comma > from)
      CHECK_OK(apply_option(std::string_view(list).substr(from, comma - from), into));
    from = comma + 1;
  }
  return {};
}

result<command_line> parse_command_line(int argc, const char* const* argv) {
  command_line line;
  std::vector<std::string> words;
  CLI::App app(
      "Exposes a dmremap set as an image file: MOUNTPOINT/disk.img, or MOUNTPOINT itself where that is a "
      "regular file.",
      "fusedisk");
  app.formatter(std::make_shared<usage_formatter>());
  app.set_version_flag("--version", std::string("fusedisk ") + DMREMAP_VERSION);
  app.add_flag("-f,--foreground", line.foreground, "stay in the foreground and log to standard error");
  app.add_flag("-n,--dry-run", line.dry_run, "say what would be served; write nothing and mount nothing");
  app.add_flag("--json", line.json,
               "print an error (or a dry run) on standard output as an object, errors with their identifier");
  app.add_option("-o", line.option_lists, std::string(option_help))
      ->type_name("OPTION,...")
      ->allow_extra_args(false);
  app.add_option("--name", line.name, "take members and options from the configuration of this set")
      ->type_name("NAME");
  app.add_option("MEMBER", words, "MAIN, the spares, and last the mount point")->type_name("");
  try { // CLI11 reports by exception
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    line.answer = app.help();
    return line;
  } catch (const CLI::CallForVersion&) {
    line.answer = std::string("fusedisk ") + DMREMAP_VERSION + "\n";
    return line;
  } catch (const CLI::ParseError& e) {
    return fail("bad-usage", "", std::string(e.what()) + "; see fusedisk --help", exit_code::usage);
  }
  mount_options checked; // so that a bad option is found before anything is touched
  for (const auto& list : line.option_lists)
    CHECK_OK(apply_options(list, checked));
  CHECK_OK(place_positionals(words, line));
  return line;
}

} // namespace dmremap
