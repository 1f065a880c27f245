// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/commands.h"
#include "admin/figures.h"
#include "admin/lookup.h"
#include "admin/open_set.h"
#include "engine/config.h"
#include "engine/disk.h"
#include "engine/erase_set.h"
#include "engine/host_state.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <ostream>
#include <strings.h>

namespace dmremap::admin {
namespace {

/// What would be lost with the set.
struct inventory {
  std::vector<sector_number> units; ///< first sector of each remapped unit
  std::uint64_t lost_units = 0;     ///< of these, units with lost sectors
};

inventory take_inventory(const disk& set) {
  inventory found;
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

result<std::uint64_t> write_back(const context& c, const set_config& config) {
  auto opened = TRY(open_configured(c, config, access_mode::read_write));
  const auto found = take_inventory(*opened.set); // again: now nobody else can change it
  CHECK_OK(check_inventory(config, found, true));
  for (const auto sector : found.units)
    CHECK_OK(opened.set->unmap(sector));
  CHECK_OK(opened.set->close());
  return found.units.size();
}

/// Spares only: the main of an abandoned set may be gone.
result<void> erase_spares(const set_config& config, bool writing) {
  std::vector<std::pair<member_role, member_spec>> roles;
  for (const auto& spare : config.spares)
    roles.emplace_back(member_role::spare, TRY(parse_member(spare)));
  const auto mode = writing ? access_mode::read_write : access_mode::read_only;
  const auto spares = TRY(open_members(roles, mode));
  for (const auto& spare : spares) {
    const auto signatures = TRY(probe_signatures(*spare.io));
    for (const auto& one : signatures)
      if (one.type == "dmremap" && strcasecmp(one.set_uuid.c_str(), config.uuid.c_str()) != 0)
        return fail("wrong-set", spare.spec.text(),
                    "holds the set " + one.detail + " (" + one.set_uuid + "), not " + config.name +
                        "; it is left as it is");
    if (writing)
      static_cast<void>(TRY(erase_set(*spare.io)));
  }
  return {};
}

void report(const context& c, const set_config& config, std::uint64_t written_back, bool dry_run) {
  if (c.json) {
    c.print({{"name", config.name},
             {"uuid", config.uuid},
             {"outcome", dry_run ? "planned" : "destroyed"},
             {"written_back_units", written_back}});
    return;
  }
  const char* would = dry_run ? "would have " : "";
  c.out << config.name << ": " << would << counted(written_back, "unit")
        << " written back to main, superblocks of " << fmt::format("{}", fmt::join(config.spares, ", "))
        << " erased, configuration removed" << (dry_run ? " (nothing is written now)" : "") << '\n';
}

} // namespace

result<exit_code> destroy(context& c, const destroy_options& options) {
  CHECK_OK(need_stopped(options.name));
  const auto config = TRY(find_set_config(options.name));
  std::uint64_t written_back = 0;
  if (!options.abandon.empty()) {
    if (options.write_back)
      return fail("bad-usage", "destroy", "takes --write-back or --abandon, not both", exit_code::usage);
    if (strcasecmp(options.abandon.c_str(), config.uuid.c_str()) != 0)
      return fail("wrong-uuid", options.abandon,
                  "is not the UUID of " + config.name + ", which is " + config.uuid);
  } else {
    const auto found = TRY(look_at(c, config));
    CHECK_OK(check_inventory(config, found, options.write_back));
    written_back = found.units.size();
    if (options.write_back && !options.dry_run && written_back != 0)
      written_back = TRY(write_back(c, config));
  }
  CHECK_OK(erase_spares(config, !options.dry_run));
  if (!options.dry_run) {
    CHECK_OK(remove_set_config(config.name));
    remove_host_state(config.uuid);
  }
  report(c, config, written_back, options.dry_run);
  return exit_code::ok;
}

} // namespace dmremap::admin
