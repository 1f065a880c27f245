// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/commands.h"
#include "admin/figures.h"
#include "admin/lookup.h"
#include "admin/open_set.h"
#include "admin/udev_rule.h"
#include "engine/config.h"
#include "engine/disk.h"
#include "engine/erase_set.h"
#include "engine/host_state.h"
#include "engine/progress.h"
#include "engine/set_members.h"

#include <algorithm>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>
#include <strings.h>

namespace dmremap::admin {
namespace {

/// What would be lost with the set.
struct inventory {
  std::vector<sector_number> units; ///< first sector of each remapped unit
  std::uint64_t lost_units = 0;     ///< of these, units with lost sectors
  std::uint64_t sequence_end = 0;   ///< tells whether the set was used since
};

inventory take_inventory(disk& set) {
  inventory found;
  found.sequence_end = set.info()->sequence_end;
  set.for_each_remap([&](const remap_entry& entry) {
    found.units.push_back(first_sector(entry.main));
    found.lost_units += entry.lost != 0 ? 1 : 0;
  });
  return found;
}

/// Reads the set without writing; nothing is claimed afterwards.
result<inventory> look_at(const context& c, const set_config& config) {
  auto opened = open_configured(c, config, access_mode::read_only);
  if (!opened) {
    opened.error().why += "; to give the set up all the same: --abandon " + config.uuid;
    return tl::unexpected<error>(std::move(opened).error());
  }
  return take_inventory(*opened->set);
}

result<void> check_inventory(const set_config& config, const inventory& found, bool write_back) {
  if (found.units.empty())
    return {};
  if (!write_back)
    return fail(
        "set-has-remaps", config.name,
        fmt::format(
            "{} of its data {} on the spare; `--write-back` puts them back on main first, `--abandon {}` "
            "gives them up",
            counted(found.units.size(), "unit"), found.units.size() == 1 ? "lies" : "lie", config.uuid));
  if (found.lost_units != 0)
    return fail(
        "set-has-lost-sectors", config.name,
        fmt::format(
            "{} cannot be written back, because sectors in them are lost; `dmremap lost {}` lists them: "
            "salvage or overwrite them first, or `--abandon {}`",
            counted(found.lost_units, "unit"), config.name, config.uuid));
  return {};
}

/// What is left then.
result<inventory> write_back(const context& c, const set_config& config, int progress_fd) {
  auto opened = TRY(open_configured(c, config, access_mode::read_write));
  const auto found = take_inventory(*opened.set); // again: now nobody else can change it
  CHECK_OK(check_inventory(config, found, true));
  progress bar(c.err, "writing back", progress_fd);
  std::uint64_t done = 0;
  for (const auto sector : found.units) {
    CHECK_OK(opened.set->unmap(sector));
    bar.show(++done, found.units.size());
  }
  CHECK_OK(opened.set->close());
  return take_inventory(*opened.set);
}

/// The spares of a set that ends. Main is none of them: that of an abandoned set may be gone.
struct ending_spares {
  std::vector<open_member> found;
  std::vector<left_out_spare> left_out; ///< what is on them stays
};

/// A set that is given up ends without those that are away.
result<ending_spares> claim_spares(const set_config& config, access_mode mode, bool abandon) {
  std::vector<member_spec> wanted;
  for (const auto& spare : config.spares)
    wanted.push_back(TRY(parse_member(spare)));
  ending_spares out;
  while (!wanted.empty()) {
    std::vector<std::pair<member_role, member_spec>> roles;
    for (const auto& spare : wanted)
      roles.emplace_back(member_role::spare, spare);
    auto opened = open_members(roles, mode);
    if (opened) {
      out.found = std::move(*opened);
      break;
    }
    const error& e = opened.error();
    const auto blamed = std::find_if(wanted.begin(), wanted.end(), [&](const member_spec& s) {
      return e.what == s.path || e.what == s.text();
    });
    if (!abandon || !is_away(e) || blamed == wanted.end())
      return tl::make_unexpected(e);
    out.left_out.push_back({*blamed, e, std::nullopt});
    wanted.erase(blamed);
  }
  return out;
}

/// Nothing but this set may be on them. One that does not answer at all is as good as away; one that bears
/// nothing of the set is not the set's, whatever the configuration says.
result<void> check_spares(const set_config& config, ending_spares& spares, bool abandon) {
  for (std::size_t n = spares.found.size(); n-- > 0;) {
    const auto& spare = spares.found[n];
    bool ours = false;
    for (const auto& one : probe_set_signatures(*spare.io))
      if (one.type == "dmremap") {
        if (strcasecmp(one.set_uuid.c_str(), config.uuid.c_str()) != 0)
          return fail("wrong-set", spare.spec.text(),
                      "holds the set " + one.detail + " (" + one.set_uuid + "), not " + config.name +
                          "; nothing was erased");
        ours = true;
      }
    if (ours)
      continue;
    const bool answers = any_super_reads(*spare.io);
    error none{answers ? "no-superblock" : "spare-unreadable", spare.spec.text(),
               answers ? "bears nothing of the set" : "no superblock can be read"};
    if (!answers && !abandon)
      return tl::make_unexpected(std::move(none));
    spares.left_out.push_back({spare.spec, std::move(none), std::nullopt});
    spares.found.erase(spares.found.begin() + static_cast<std::ptrdiff_t>(n));
  }
  return {};
}

/// Goes on after a failure, so that no spare is left for the sake of another.
result<void> erase_spares(ending_spares& spares, bool abandon) {
  result<void> outcome;
  for (std::size_t n = spares.found.size(); n-- > 0;) {
    const auto erased = erase_set(*spares.found[n].io);
    if (erased)
      continue;
    if (outcome)
      outcome = tl::make_unexpected(erased.error());
    spares.left_out.push_back({spares.found[n].spec, erased.error(), std::nullopt});
    spares.found.erase(spares.found.begin() + static_cast<std::ptrdiff_t>(n));
  }
  return abandon ? result<void>{} : outcome;
}

void report(const context& c, const set_config& config, const ending_spares& spares,
            std::uint64_t written_back, const std::string& rule, bool dry_run) {
  std::vector<std::string> erased;
  for (const auto& spare : spares.found)
    erased.push_back(spare.spec.text());
  if (c.json) {
    auto left_out = nlohmann::json::array();
    for (const auto& one : spares.left_out)
      left_out.push_back({{"member", one.spec.text()}, {"why", one.why.why}});
    c.print({{"name", config.name},
             {"uuid", config.uuid},
             {"outcome", dry_run ? "planned" : "destroyed"},
             {"written_back_units", written_back},
             {"udev_rule", rule.empty() ? nlohmann::json(nullptr) : nlohmann::json(rule)},
             {"left_out", std::move(left_out)}});
    return;
  }
  const char* would = dry_run ? "would have " : "";
  c.out << config.name << ": " << would << counted(written_back, "unit")
        << " written back to main, superblocks of "
        << (erased.empty() ? "no spare" : fmt::format("{}", fmt::join(erased, ", ")))
        << " erased, configuration" << (rule.empty() ? "" : " and udev rule " + rule) << " removed"
        << (dry_run ? " (nothing is written now)" : "") << '\n';
  for (const auto& one : spares.left_out)
    c.out << config.name << ": " << one.spec.text() << " is left as it is (" << one.why.why << ")"
          << (one.why.id == "no-superblock" ? "" : "; what it holds of the set is of no use any more")
          << '\n';
}

} // namespace

result<exit_code> destroy(context& c, const destroy_options& options) {
  CHECK_OK(need_stopped(options.name));
  const auto config = TRY(find_set_config(options.name));
  std::uint64_t written_back = 0;
  std::optional<std::uint64_t> seen;
  if (!options.abandon.empty()) {
    if (options.write_back)
      return fail("bad-usage", "destroy", "takes --write-back or --abandon, not both", exit_code::usage);
    if (strcasecmp(options.abandon.c_str(), config.uuid.c_str()) != 0)
      return fail("wrong-uuid", options.abandon,
                  "is not the UUID of " + config.name + ", which is " + config.uuid);
  } else {
    auto found = TRY(look_at(c, config));
    CHECK_OK(check_inventory(config, found, options.write_back));
    written_back = found.units.size();
    if (options.write_back && !options.dry_run && written_back != 0) {
      found = TRY(write_back(c, config, options.progress));
      CHECK_OK(check_inventory(config, found, false));
    }
    seen = found.sequence_end;
  }
  const bool abandon = !options.abandon.empty();
  auto spares =
      TRY(claim_spares(config, options.dry_run ? access_mode::read_only : access_mode::read_write, abandon));
  CHECK_OK(check_spares(config, spares, abandon));
  for (const auto& spare : spares.found)
    if (seen) // the claims were let go in between
      CHECK_OK(check_unused_since(*spare.io, *seen));
  if (!options.dry_run) {
    CHECK_OK(erase_spares(spares, abandon));
    CHECK_OK(remove_other_configs(config.uuid, ""));
    remove_host_state(config.uuid);
  }
  const auto rule = remove_udev_rule(config.name, config.main, options.dry_run);
  if (!rule)
    c.note(rule.error());
  report(c, config, spares, written_back, rule.value_or(""), options.dry_run);
  return exit_code::ok;
}

} // namespace dmremap::admin
