// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/dry_run.h"

#include "engine/control_client.h"
#include "engine/counted.h"
#include "engine/set_members.h"
#include "fusedisk/mount.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <ostream>
#include <strings.h>
#include <utility>

namespace dmremap {
namespace {

/// As the daemon judges it before it writes.
result<void> check_identity(const daemon_settings& settings, const std::string& uuid,
                            const std::string& name) {
  if (!settings.uuid.empty() && strcasecmp(settings.uuid.c_str(), uuid.c_str()) != 0)
    return fail("wrong-set", settings.main.text(),
                fmt::format("these members are set {} ({}), not the one that the configuration names ({})",
                            name, uuid, settings.uuid));
  if (const auto running = find_running_set(name); running && running->alive)
    return fail("in-use", name, fmt::format("a set of this name is served by process {}", running->pid));
  return {};
}

} // namespace

result<void> show_what_would_be_served(const daemon_settings& settings, bool json, std::ostream& out,
                                       std::ostream& err) {
  const auto place = TRY(look_at_mount_place(settings.mountpoint));
  CHECK_OK(check_no_member(place, settings.main, settings.spares));
  auto members = TRY(open_set_members(settings.main, settings.spares, access_mode::read_only));
  CHECK_OK(check_fuse_device());
  open_options how = settings.options.open;
  how.read_only = true;
  how.check_set = [&](const std::string& uuid, const std::string& name) {
    return check_identity(settings, uuid, name);
  };
  std::vector<std::string> notices;
  const auto set = TRY(open_disk(members, how, settings.options.accept_older, notices));
  const auto info = TRY(set->info());
  for (const auto* list : {&info.notices, &std::as_const(notices)})
    for (const auto& notice : *list)
      err << "fusedisk: " << notice << '\n';
  std::uint64_t present = 0;
  for (const auto& spare : info.spares)
    present += spare.present ? 1 : 0;
  const auto stats = set->stats();
  const bool read_only = settings.options.open.read_only;
  if (json) {
    const nlohmann::json plan{{"schema", 1},
                              {"dry_run", true},
                              {"name", info.set_name},
                              {"uuid", info.set_uuid},
                              {"image", place.image},
                              {"read_only", read_only},
                              {"spares", info.spares.size()},
                              {"spares_present", present},
                              {"remapped_units", stats.remapped_units},
                              {"lost_sectors", stats.lost_sectors}};
    out << plan.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << std::endl;
    return {};
  }
  out << fmt::format(
             "set {} ({}) would be served as {}{}: main and {} of {}, {} remapped, {} lost (nothing is "
             "written now)",
             info.set_name, info.set_uuid, place.image, read_only ? ", read-only" : "", present,
             counted(info.spares.size(), "spare"), counted(stats.remapped_units, "unit"),
             counted(stats.lost_sectors, "sector"))
      << std::endl;
  return {};
}

} // namespace dmremap
