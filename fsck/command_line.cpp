// SPDX-License-Identifier: GPL-2.0-or-later
#include "fsck/command_line.h"

#include "engine/option_values.h"
#include "engine/parse_number.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

namespace dmremap::fsck {
namespace {

class usage_formatter final : public CLI::Formatter {
public:
  std::string make_usage(const CLI::App*, std::string) const override {
    return "Usage: dmremap-fsck [-n | -p | -a | -y] [OPTIONS] NAME | SPARE...\n"
           "       dmremap-fsck --apply FILE [OPTIONS] [NAME | SPARE...]\n"
           "       dmremap-fsck --undo-apply FILE [OPTIONS] [NAME | SPARE...]\n";
  }
};

error usage(const std::string& why) {
  return {"bad-usage", "", why + "; see dmremap-fsck --help", exit_code::usage};
}

result<void> check(command_line& l, bool look, bool preen, bool all) {
  if (int{look} + int{preen} + int{all} > 1)
    return tl::make_unexpected(usage("-n, -p (or -a) and -y exclude each other"));
  l.mode = look ? fsck_mode::look : preen ? fsck_mode::preen : all ? fsck_mode::all : fsck_mode::unset;
  const int files = int{!l.plan.empty()} + int{!l.apply.empty()} + int{!l.undo_apply.empty()};
  if (files > 1)
    return tl::make_unexpected(usage("--plan, --apply and --undo-apply exclude each other"));
  if (look && files != 0)
    return tl::make_unexpected(usage("-n does not go with --plan, --apply or --undo-apply"));
  if ((preen || all) && (!l.apply.empty() || !l.undo_apply.empty()))
    return tl::make_unexpected(usage("a file says what is done: no -p, -a or -y with it"));
  if (!l.undo.empty() && (l.no_undo || look || !l.plan.empty() || !l.undo_apply.empty()))
    return tl::make_unexpected(usage("--undo goes with a repair, and not with --no-undo"));
  if (l.names.empty() && l.apply.empty() && l.undo_apply.empty())
    return tl::make_unexpected(usage("the name of a set or its spares are missing"));
  return {};
}

} // namespace

result<command_line> parse_command_line(int argc, const char* const* argv) {
  command_line l;
  bool look = false, preen = false, automatic = false, all = false, force = false;
  const auto version = fmt::format("dmremap-fsck {}", DMREMAP_VERSION);
  CLI::App app("Checks the metadata of a set on its spares, all copies of it, and repairs it.",
               "dmremap-fsck");
  app.formatter(std::make_shared<usage_formatter>());
  app.set_version_flag("-V,--version", version);
  app.add_flag("-n,--dry-run", look, "look only: open nothing for writing");
  app.add_flag("-p,--preen", preen, "repair what is safe, without a question");
  app.add_flag("-a", automatic, "the same as -p");
  app.add_flag("-y,--yes", all, "repair all that can be repaired, without a question");
  app.add_flag("-f,--force", force,
               "accepted for fsck(8): everything is always checked. A set in use stays refused");
  app.add_option("--main", l.main, "the main of the set: whether it is the one that the spares remember")
      ->type_name("MEMBER");
  app.add_option("--plan", l.plan, "write the repair to this file and change nothing")->type_name("FILE");
  app.add_option("--apply", l.apply, "do exactly what a plan says, if nothing has changed since")
      ->type_name("FILE");
  app.add_option("--undo-apply", l.undo_apply, "take a repair back: restore what its undo log holds")
      ->type_name("FILE");
  app.add_option("--undo", l.undo, "write the undo log to this file")->type_name("FILE");
  app.add_flag("--no-undo", l.no_undo, "write no undo log");
  app.add_flag("--json", l.json, "report as JSON");
  app.add_flag("-v,--verbose", l.verbose, "say more of what was looked at and what is written");
  app.add_option("-C,--progress", l.progress_fd, "write lines \"DONE ALL\" of bytes to this descriptor")
      ->type_name("FD")
      ->check(why_no_number<unsigned>, "");
  app.add_option("NAME", l.names,
                 "a set by name or UUID, or all its spares: devices, files or ranges PATH@START+LENGTH")
      ->type_name("");
  try { // CLI11 reports by exception
    refuse_options_as_values(app);
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    l.answer = app.help();
    return l;
  } catch (const CLI::CallForVersion&) {
    l.answer = version + "\n";
    return l;
  } catch (const CLI::ParseError& e) {
    return tl::make_unexpected(usage(e.what()));
  }
  CHECK_OK(check(l, look, preen || automatic, all));
  return l;
}

} // namespace dmremap::fsck
