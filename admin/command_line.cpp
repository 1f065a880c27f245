// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/command_line.h"

#include "admin/commands.h"
#include "engine/option_values.h"
#include "engine/parse_number.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <memory>

namespace dmremap::admin {
namespace {

/// What the command that was given wants done; set by the callback of the one subcommand.
using chosen_action = std::function<result<exit_code>(context&)>;

/// A flag that nothing is bound to: count() tells whether it was given.
CLI::Option* add_switch(CLI::App* sub, const char* name, const char* help) {
  return sub->add_flag_function(
      name, [](std::int64_t) {}, help);
}

class builder {
public:
  builder(CLI::App& app, chosen_action& chosen) : app_(app), chosen_(chosen) {}

  /// A subcommand whose options are in an `Options` of its own; `act` carries it out.
  template <class Options, class Act>
  std::pair<CLI::App*, Options*> command(const char* name, const char* help, Act act, bool reports = true) {
    auto options = std::make_shared<Options>();
    CLI::App* sub = app_.add_subcommand(name, help);
    sub->callback(
        [this, options, act] { chosen_ = [options, act](context& c) { return act(c, *options); }; });
    if (reports)
      add_switch(sub, "--json",
                 "report as JSON"); // read before the line is parsed: an error is an object, too
    return {sub, options.get()};
  }

private:
  CLI::App& app_;
  chosen_action& chosen_;
};

/// Arguments of the small commands, by the order in which they stand.
struct words {
  std::string name, first, second;
  std::vector<std::string> rest;
};

CLI::Option* add_name(CLI::App* sub, std::string& name) {
  return sub->add_option("NAME", name, "name or UUID of a set")->required()->type_name("");
}

void add_create(builder& b) {
  auto [sub, o] = b.command<create_options>("create", "make a set: format a spare for a main", create);
  sub->add_option("NAME", o->name, "name of the new set: letters, digits and -_.+")
      ->required()
      ->type_name("");
  sub->add_option("--main", o->main,
                  "device or file whose data the disk shows; PATH@START+LENGTH is a range in sectors")
      ->type_name("MEMBER");
  sub->add_option("--spare", o->spares, "device or file that takes the metadata and the moved units")
      ->type_name("MEMBER")
      ->allow_extra_args(false);
  sub->add_option(
         "--table", o->table,
         "a table line instead: \"0 LEN remap MAIN SPARE START LEN\", \"0 LEN remap MAIN MSTART SPARE SSTART "
         "SLEN\", \"0 LEN remap-v4 MAIN SPARE\"; a pair that is a set already is opened as it is")
      ->type_name("LINE");
  sub->add_option("--wipe", o->wipe,
                  "a signature of this type (ext4, crypto_LUKS, dm-remap-v4, ...) on the spare may go")
      ->type_name("TYPE")
      ->allow_extra_args(false);
  sub->add_option("--destroy-set", o->destroy_set, "the set of this UUID on the spare may go")
      ->type_name("UUID");
  sub->add_flag("--sparse", o->sparse, "set aside no space for spares that are files");
  sub->add_flag("--no-persist", o->no_persist, "write no configuration file and no udev rule");
  sub->add_flag("--no-udev", o->no_udev, "write no udev rule: leave main to whoever looks for file systems");
  sub->add_flag("-n,--dry-run", o->dry_run, "print what would be done; open nothing for writing");
}

void add_list(builder& b) {
  auto [sub, o] = b.command<list_options>("list", "list the sets that run", list);
  sub->add_flag("--all", o->all,
                "also sets that are configured, or found on block devices, with the next command");
}

/// status, stats, table and lost.
template <class Act>
std::pair<CLI::App*, report_options*> add_report(builder& b, const char* name, const char* help, Act act,
                                                 const std::vector<std::string>& formats) {
  auto [sub, o] = b.command<report_options>(name, help, act);
  add_name(sub, o->name);
  std::string list;
  for (const auto& format : formats)
    list += (list.empty() ? "" : ", ") + format;
  sub->add_option("--format", o->format, "form of the report: " + list)
      ->type_name("FORMAT")
      ->check(CLI::IsMember(formats).description(""));
  if (formats.back() == "badblocks")
    sub->add_option("--block-size", o->block_size, "bytes in a block of --format badblocks (4096)")
        ->type_name("BYTES")
        ->check(CLI::IsMember(std::vector<std::string>{"512", "1024", "2048", "4096"}).description(""));
  return {sub, o};
}

void add_lost(builder& b) {
  auto [sub, o] = add_report(b, "lost", "show the lost sectors of a set", lost,
                             {"text", "json", "rsync", "ddrescue", "badblocks"});
  auto* files =
      sub->add_flag("--files", o->files, "the files that they belong to (ext2 to ext4, xfs, btrfs)");
  sub->add_option("--progress", o->progress, "with --files: descriptor that gets lines \"DONE ALL\"")
      ->type_name("FD")
      ->check(why_no_number<unsigned>, "")
      ->needs(files);
}

template <class Options>
void add_dry_run(CLI::App* sub, Options* options) {
  sub->add_flag("-n,--dry-run", options->dry_run, "print what would be done; change nothing");
}

void add_attach(builder& b) {
  auto [up, a] = b.command<attach_options>(
      "attach", "serve a configured set on a loop device with direct I/O; prints it",
      [](context& c, const attach_options& o) { return attach(c, o); });
  auto* name = up->add_option("NAME", a->name, "name or UUID of a set")->type_name("");
  up->add_option("MOUNTPOINT", a->mountpoint,
                 "folder (or file) where the image appears; else NAME in the run folder")
      ->type_name("")
      ->needs(name);
  auto* all = add_switch(up, "--all", "every set that is configured");
  name->excludes(all);
  up->add_flag("--degraded", a->degraded, "also with spares absent; what lies on them answers EIO");
  up->add_flag("--accept-older", a->accept_older,
               "also with spares older than what this host saw last of the set");
  up->add_flag("--accept-main", a->accept_main,
               "also with a main that does not match what the spares remember");
  auto [down, d] =
      b.command<attach_options>("detach", "take the loop device away and stop serving, unless it is used",
                                [](context& c, const attach_options& o) { return detach(c, o); });
  auto* which = down->add_option("NAME", d->name, "name or UUID of a set")->type_name("");
  which->excludes(add_switch(down, "--all", "every set that runs"));
  add_dry_run(up, a);
  add_dry_run(down, d);
  for (auto* sub : {up, down})
    sub->parse_complete_callback([sub] { // final_callback would replace the command itself
      if (sub->count("NAME") == 0 && sub->count("--all") == 0)
        throw CLI::RequiredError("NAME or --all");
    });
}

void add_sector_commands(builder& b) {
  const auto add = [&](const char* name, const char* help, auto act) {
    auto [sub, o] = b.command<sector_options>(name, help, act);
    add_name(sub, o->name);
    sub->add_option("SECTOR", o->sector, "sector of the disk, of 512 bytes")->required()->type_name("");
    add_dry_run(sub, o);
  };
  add("remap", "move the unit that holds a sector to a spare, with its data", remap);
  add("unmap", "write the unit that holds a sector back to main and forget its remap", unmap);
  auto [sub, o] = b.command<salvage_options>(
      "salvage", "read lost sectors from main again; what comes back is kept", salvage);
  add_name(sub, o->name);
  sub->add_option("SECTOR", o->sector, "a sector of the unit, or 'all'")->required()->type_name("");
  sub->add_option("--progress", o->progress, "write lines \"DONE ALL\" of units to this descriptor")
      ->type_name("FD")
      ->check(why_no_number<unsigned>, "");
  add_dry_run(sub, o);
}

void add_settings(builder& b) {
  auto [flush, f] = b.command<sync_options>("sync", "write all metadata and flush every member", sync);
  add_name(flush, f->name);
  add_dry_run(flush, f);
  auto [put, p] = b.command<set_options>("set", "change a setting of a running set", set);
  add_name(put, p->name);
  put->add_option("KEY=VALUE", p->setting, "auto_remap=0|1, read_retries=N, log_level=LEVEL")
      ->required()
      ->type_name("");
  add_dry_run(put, p);
  auto [ask, g] = b.command<words>("get", "show the settings of a running set, or one",
                                   [](context& c, const words& o) { return get(c, o.name, o.first); });
  add_name(ask, g->name);
  ask->add_option("KEY", g->first, "one setting")->type_name("");
}

void add_spare(builder& b) {
  auto [sub, o] = b.command<spare_options>("spare", "list the spares of a set, or change them", spare);
  sub->add_option(
         "OPERATION", o->operation,
         "list; add MEMBER; evacuate, to move all that a spare holds to the others; remove, where it holds "
         "nothing; forget, where it is gone for good")
      ->required()
      ->type_name("")
      ->check(CLI::IsMember(std::vector<std::string>{"list", "add", "remove", "evacuate", "forget"})
                  .description(""));
  add_name(sub, o->name);
  sub->add_option("MEMBER", o->member,
                  "the spare: a device, a file, or the UUID or the number that list shows")
      ->type_name("");
  sub->add_option("--wipe", o->wipe, "add: a signature of this type (ext4, crypto_LUKS, ...) on it may go")
      ->type_name("TYPE")
      ->allow_extra_args(false);
  sub->add_option("--destroy-set", o->destroy_set, "add: the set of this UUID on it may go")
      ->type_name("UUID");
  sub->add_flag("--sparse", o->sparse, "add: set aside no space for a file");
  sub->add_flag("--partial", o->partial, "evacuate: move as many units as the other spares have room for");
  sub->add_flag("--cancel", o->cancel, "evacuate: stop it; the spare takes new data again");
  sub->add_option("--progress", o->progress, "evacuate: write lines \"DONE ALL\" of units to this descriptor")
      ->type_name("FD")
      ->check(why_no_number<unsigned>, "");
  sub->add_flag("-y,--yes", o->yes, "forget: do not ask");
  sub->add_flag("-n,--dry-run", o->dry_run, "say what would be done; change nothing");
}

void add_life(builder& b) {
  auto [change, r] = b.command<rename_options>("rename", "give a set another name", rename);
  add_dry_run(change, r);
  add_name(change, r->name);
  change->add_option("NEW", r->new_name, "the new name")->required()->type_name("");
  auto [sub, o] = b.command<destroy_options>(
      "destroy", "end a set: erase its superblocks and its configuration", destroy);
  add_name(sub, o->name);
  auto* back = sub->add_flag("--write-back", o->write_back, "first put every remapped unit back on main");
  sub->add_option("--abandon", o->abandon, "give up what lies on the spare; takes the UUID of the set")
      ->type_name("UUID");
  sub->add_option("--progress", o->progress, "of --write-back: descriptor that gets lines \"DONE ALL\"")
      ->type_name("FD")
      ->check(why_no_number<unsigned>, "")
      ->needs(back);
  sub->add_flag("-n,--dry-run", o->dry_run, "print what would be done; open nothing for writing");
}

void add_message(builder& b) {
  auto [sub, w] =
      b.command<words>("message", "send a message as dmsetup(8) does, and print its reply",
                       [](context& c, const words& o) { return message(c, o.name, o.first, o.rest); });
  add_name(sub, w->name);
  sub->add_option("SECTOR", w->first, "0")->required()->type_name("");
  sub->add_option("WORDS", w->rest, "the message, as one argument or several; 'help' lists all")
      ->required()
      ->type_name("");
  auto [drill, d] =
      b.command<words>("dust", "make sectors of a dust: member fail, to drill a failure",
                       [](context& c, const words& o) { return dust(c, o.name, o.first, o.rest); });
  add_name(drill, d->name);
  drill->add_option("STORE", d->first, "main, spare0, or the member's path")->required()->type_name("");
  drill
      ->add_option(
          "OPERATION", d->rest,
          "addbadblock SECTOR [read|write|both] [COUNT], removebadblock SECTOR [COUNT], queryblock SECTOR, "
          "countbadblocks, listbadblocks, clearbadblocks, enable, disable")
      ->required()
      ->type_name("");
}

void add_commands(builder& b) {
  add_create(b);
  add_list(b);
  add_report(b, "status", "show how a set is; answers even where its daemon hangs", status,
             {"human", "json", "dm", "prometheus"});
  add_report(b, "stats", "show the counters of a set", stats, {"human", "json", "prometheus"});
  add_report(b, "table", "show the remaps of a set", table,
             {"text", "json", "dmsetup", "ddrescue", "badblocks"});
  add_lost(b);
  auto [sub, w] =
      b.command<words>("doctor", "say in plain words what is wrong with sets, and what to do next",
                       [](context& c, const words& o) { return doctor(c, o.name); });
  sub->add_option("NAME", w->name, "name or UUID of a set; all, where none is given")->type_name("");
  add_attach(b);
  add_sector_commands(b);
  add_settings(b);
  add_spare(b);
  add_life(b);
  add_message(b);
}

/// CLI11 says that one is required, also where a word stands there that is none.
tl::unexpected<error> no_command(int argc, const char* const* argv, const std::string& otherwise) {
  std::string why = argc < 2 ? "no command is given" : otherwise;
  for (int n = 1; n < argc; ++n)
    if (argv[n][0] != '-') {
      why = fmt::format("unknown command '{}'", argv[n]);
      break;
    }
  return fail("bad-usage", "", why + "; see `dmremap --help`", exit_code::usage);
}

} // namespace

result<parsed_line> parse_command_line(int argc, const char* const* argv) {
  parsed_line line;
  CLI::App app("Administers dmremap sets: virtual disks that serve bad units of a drive from a spare.",
               "dmremap");
  app.set_version_flag("--version", std::string("dmremap ") + DMREMAP_VERSION);
  app.require_subcommand(1);
  builder b(app, line.action);
  add_commands(b);
  try { // CLI11 reports by exceptions
    refuse_options_as_values(app);
    app.parse(argc, argv);
    return line;
  } catch (const CLI::CallForHelp&) {
    line.answer = app.help();
  } catch (const CLI::CallForVersion&) {
    line.answer = std::string("dmremap ") + DMREMAP_VERSION + "\n";
  } catch (const CLI::ParseError& failure) {
    const auto subs = app.get_subcommands();
    if (subs.empty())
      return no_command(argc, argv, failure.what());
    const auto command = "dmremap " + subs.front()->get_name();
    return fail("bad-usage", subs.front()->get_name(),
                std::string(failure.what()) + "; see `" + command + " --help`", exit_code::usage);
  }
  line.action = nullptr;
  return line;
}

} // namespace dmremap::admin
