// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/commands.h"
#include "admin/create_checks.h"
#include "admin/create_report.h"
#include "engine/candidate.h"
#include "engine/config.h"
#include "engine/control_client.h"
#include "engine/disk.h"
#include "engine/metadata_backup.h"
#include "engine/paths.h"
#include "engine/preallocate.h"
#include "engine/uuid.h"
#include "engine/wipe.h"

#include <fmt/format.h>
#include <strings.h>

namespace dmremap::admin {
namespace {

struct wanted_members {
  member_spec main;
  std::vector<member_spec> spares;
  std::vector<std::string> adjustments;
};

tl::unexpected<error> usage(const std::string& what, const std::string& why) {
  return fail("bad-usage", what, why, exit_code::usage);
}

result<wanted_members> members_of_table(const std::string& text) {
  const auto line = TRY(parse_table_line(text));
  const auto main_spec = TRY(parse_member(line.main)), spare_spec = TRY(parse_member(line.spare));
  const auto main = TRY(measure_member(main_spec)), spare = TRY(measure_member(spare_spec));
  auto made = TRY(apply_table_line(line, main, spare));
  if (main.physical_bytes != spare.physical_bytes)
    made.adjustments.push_back(
        fmt::format("physical sectors differ (main {} bytes, spare {}): the spare's place is kept "
                    "to its own",
                    main.physical_bytes, spare.physical_bytes));
  return wanted_members{made.main, {made.spare}, made.adjustments};
}

result<wanted_members> wanted(const create_options& options) {
  if (!options.table.empty()) {
    if (!options.main.empty() || !options.spares.empty())
      return usage("--table", "names main and spare itself; leave out --main and --spare");
    return members_of_table(options.table);
  }
  if (options.main.empty() || options.spares.empty())
    return usage("create", "needs --main MEMBER and --spare MEMBER, or --table LINE");
  wanted_members members{TRY(parse_member(options.main)), {}, {}};
  for (const auto& spare : options.spares)
    members.spares.push_back(TRY(parse_member(spare)));
  return members;
}

std::vector<std::pair<member_role, member_spec>> with_roles(const wanted_members& members) {
  std::vector<std::pair<member_role, member_spec>> roles{{member_role::main, members.main}};
  for (const auto& spare : members.spares)
    roles.emplace_back(member_role::spare, spare);
  return roles;
}

result<planned_member> measured(const open_member& member) {
  planned_member planned;
  planned.spec = member.spec;
  planned.measure = TRY(measure_member(member.spec));
  planned.sectors = member.io->size() / sector_bytes;
  return planned;
}

set_config config_of(const create_plan& plan) {
  set_config config{plan.name, plan.uuid, plan.main.spec.text(), {}, {}};
  for (const auto& spare : plan.spares)
    config.spares.push_back(spare.spec.text());
  return config;
}

/// Members that are a set already, main with all of its spares: that is checked by opening it, read-only, and
/// left as it is.
result<void> open_existing(const std::vector<open_member>& members, create_plan& plan) {
  open_options how;
  how.read_only = true;
  std::vector<std::shared_ptr<store>> spares;
  for (std::size_t i = 1; i < members.size(); ++i)
    spares.push_back(members[i].io);
  const auto opened = TRY(disk::open(members[0].io, std::move(spares), how));
  const auto info = TRY(opened->info());
  if (info.set_name != plan.name)
    return fail("name-mismatch", plan.name,
                "main and spare are the set " + info.set_name +
                    " already; use that name, or rename it with `dmremap " + "rename " + info.set_name + " " +
                    plan.name + "`");
  plan.uuid = info.set_uuid;
  plan.done = create_plan::outcome::opened;
  return {};
}

bool is_a_set(const std::vector<signature>& found) {
  return found.size() == 1 && found.front().type == "dmremap";
}

std::string spare_words(const create_plan& plan) {
  std::string words;
  for (const auto& spare : plan.spares)
    words += (words.empty() ? "" : " ") + spare.spec.text();
  return words;
}

result<void> keep_config(const create_plan& plan) {
  if (plan.config_file.empty())
    return {};
  if (const auto there = load_set_config(plan.name);
      there && strcasecmp(there->uuid.c_str(), plan.uuid.c_str()) == 0)
    return {}; // the same set, opened again
  auto saved = save_set_config(config_of(plan), config_write::create);
  if (!saved)
    saved.error().why += "; the set itself is made (UUID " + plan.uuid +
                         "), only its configuration is missing: `fusedisk " + plan.main.spec.text() + " " +
                         spare_words(plan) + " MOUNTPOINT` serves it";
  return saved;
}

/// What udev and fstab make of main beside the set. Without a rule there is no /dev/dmremap/NAME to put into
/// fstab either.
void look_around(create_plan& plan) {
  plan.udev = plan_udev_rule(plan.name, plan.main.spec);
  if (!plan.udev.path.empty())
    plan.fstab = find_fstab_conflicts(fstab_path(), plan.main.spec, plan.name);
}

/// The set is as good without it.
void keep_rule(create_plan& plan) {
  if (plan.udev.path.empty())
    return;
  if (const auto written = write_udev_rule(plan.udev, plan.main.spec); !written) {
    plan.udev.path.clear();
    plan.udev.hides_main = false;
    plan.udev.warnings.push_back(written.error());
  }
}

/// Room for all spares comes first: where one has none, those before it give theirs back.
result<void> set_space_aside(const std::vector<open_member>& members) {
  std::vector<preallocation> rooms;
  for (std::size_t i = 1; i < members.size(); ++i)
    rooms.push_back(TRY(preallocation::take(members[i].spec)));
  for (auto& room : rooms)
    room.keep();
  return {};
}

result<void> format_set(std::vector<open_member>& members, create_plan& plan) {
  std::vector<store*> spares;
  for (std::size_t i = 1; i < members.size(); ++i) {
    if (!plan.spares[i - 1].signatures.empty())
      CHECK_OK(wipe_signatures(*members[i].io));
    spares.push_back(members[i].io.get());
  }
  format_options how;
  how.name = plan.name;
  plan.uuid = TRY(disk::format(*members[0].io, spares, how));
  plan.done = create_plan::outcome::created;
  return {};
}

/// The first backup of the metadata. Best effort: without one the set is as good.
void back_up(const context& c, const std::vector<open_member>& members) {
  std::vector<std::shared_ptr<store>> spares;
  for (std::size_t i = 1; i < members.size(); ++i)
    spares.push_back(members[i].io);
  open_options how;
  how.read_only = true;
  const auto set = disk::open(members[0].io, spares, how);
  if (!set)
    return c.note("no backup of the metadata was made: " + set.error().text());
  if (const auto why = backup_or_why(**set); !why.empty())
    c.note(why);
}

/// One spare that is to be formatted: whether it may, and what goes.
result<planned_member> plan_spare(const create_options& options, const std::vector<open_member>& members,
                                  std::size_t n, const std::vector<signature>& found) {
  const auto& member = members[n];
  auto spare = TRY(measured(member));
  if (TRY(check_spare(*member.io, found, options.wipe, options.destroy_set)))
    spare.signatures = found;
  CHECK_OK(check_configured({members[0].spec, member.spec}, {options.destroy_set}));
  CHECK_OK(check_surroundings(members[0].spec, member.spec, options.wipe));
  spare.places = TRY(make_geometry(member.io->size()));
  return spare;
}

/// Looks at all members; what is left to do is written nowhere yet. Where they are a set already, and may
/// stay one, plan.done is "opened".
result<void> make_plan(const create_options& options, const std::vector<open_member>& members,
                       create_plan& plan) {
  CHECK_OK(check_main(*members[0].io));
  CHECK_OK(check_gives_up_no_running(options.destroy_set));
  plan.main = TRY(measured(members[0]));
  std::vector<std::vector<signature>> found;
  bool all_are = true;
  for (std::size_t n = 1; n < members.size(); ++n) {
    found.push_back(TRY(probe_signatures(*members[n].io)));
    all_are = all_are && is_a_set(found.back());
  }
  if (all_are && options.destroy_set.empty()) {
    auto opened = open_existing(members, plan);
    if (!opened &&
        !options.table.empty()) // the line names this pair as it was used before: it is about that set
      return opened;
  }
  for (std::size_t n = 1; n < members.size(); ++n) {
    if (plan.done != create_plan::outcome::opened) {
      plan.spares.push_back(TRY(plan_spare(options, members, n, found[n - 1])));
      continue;
    }
    plan.spares.push_back(TRY(measured(members[n])));
    plan.spares.back().places = TRY(make_geometry(members[n].io->size()));
  }
  return {};
}

result<planned_member> measured_alone(const member_spec& spec) {
  planned_member planned;
  planned.spec = spec;
  planned.measure = TRY(measure_member(spec));
  planned.sectors = planned.measure.sectors;
  return planned;
}

/// Members that a daemon serves as the set of this name: they are not opened, and nothing changes.
result<bool> is_running_already(const create_options& options, const std::vector<member_spec>& members,
                                create_plan& plan) {
  const auto running = find_running_set(options.name);
  if (!running || !running->alive || running->name != options.name || !options.destroy_set.empty() ||
      !is_made_of(*running, members))
    return false;
  plan.uuid = running->uuid;
  plan.done = create_plan::outcome::opened;
  plan.main = TRY(measured_alone(members.front()));
  for (std::size_t n = 1; n < members.size(); ++n) {
    plan.spares.push_back(TRY(measured_alone(members[n])));
    plan.spares.back().places = TRY(make_geometry(plan.spares.back().sectors * sector_bytes));
  }
  return true;
}

/// What a later step could not write is found before anything is written.
result<void> check_config(const create_plan& plan, bool persist) {
  if (plan.done == create_plan::outcome::opened) {
    const auto there = load_set_config(plan.name);
    if (there && strcasecmp(there->uuid.c_str(), plan.uuid.c_str()) == 0)
      return {};
  }
  CHECK_OK(check_name(plan.name, persist));
  if (!persist)
    return {};
  auto config = config_of(plan);
  if (config.uuid.empty())
    config.uuid = to_text(uuid_bytes{}); // any will do
  static_cast<void>(TRY(format_set_config(config)));
  return {};
}

} // namespace

result<exit_code> create(context& c, const create_options& options) {
  create_plan plan;
  plan.name = options.name;
  const bool persist = config_is_kept() && !options.no_persist;
  if (!valid_new_set_name(options.name))
    return check_name(options.name, false).map([] { return exit_code::ok; });
  if (persist)
    plan.config_file = set_conf_path(options.name);
  const auto want = TRY(wanted(options));
  plan.adjustments = want.adjustments;
  std::vector<member_spec> all = want.spares;
  all.insert(all.begin(), want.main);
  CHECK_OK(check_different(all));
  if (TRY(is_running_already(options, all, plan))) {
    if (!options.dry_run)
      CHECK_OK(keep_config(plan));
    report_plan(c, plan);
    return exit_code::ok;
  }
  // Whether its file may be there already is judged when the set is known.
  CHECK_OK(check_name(options.name, false));
  const auto access = options.dry_run ? access_mode::read_only : access_mode::read_write;
  auto members = TRY(open_members(with_roles(want), access));
  CHECK_OK(make_plan(options, members, plan));
  CHECK_OK(check_config(plan, persist));
  if (persist && !options.no_udev)
    look_around(plan);
  if (!options.dry_run) {
    if (plan.done != create_plan::outcome::opened) {
      if (!options.sparse)
        CHECK_OK(set_space_aside(members));
      CHECK_OK(format_set(members, plan));
      back_up(c, members);
    }
    CHECK_OK(keep_config(plan));
    keep_rule(plan);
  }
  report_plan(c, plan);
  return exit_code::ok;
}

} // namespace dmremap::admin
