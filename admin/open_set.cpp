// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/open_set.h"

#include <strings.h>

namespace dmremap::admin {

result<std::vector<open_member>> claim_configured(const set_config& config, access_mode mode) {
  std::vector<std::pair<member_role, member_spec>> roles;
  roles.emplace_back(member_role::main, TRY(parse_member(config.main)));
  for (const auto& spare : config.spares)
    roles.emplace_back(member_role::spare, TRY(parse_member(spare)));
  return open_members(roles, mode);
}

result<opened_set> open_configured(const set_config& config, access_mode mode) {
  opened_set opened;
  opened.members = TRY(claim_configured(config, mode));
  CHECK_OK(check_same_set(config, opened.members));
  std::vector<std::shared_ptr<store>> spares;
  for (std::size_t i = 1; i < opened.members.size(); ++i)
    spares.push_back(opened.members[i].io);
  open_options how;
  how.read_only = mode == access_mode::read_only;
  opened.set = TRY(disk::open(opened.members.front().io, spares, how));
  return opened;
}

result<void> check_same_set(const set_config& config, const std::vector<open_member>& members) {
  for (std::size_t i = 1; i < members.size(); ++i) {
    for (const auto& one : probe_set_signatures(*members[i].io))
      if (one.type == "dmremap" && strcasecmp(one.set_uuid.c_str(), config.uuid.c_str()) != 0)
        return fail("wrong-set", members[i].spec.text(),
                    "holds the set " + one.detail + " (" + one.set_uuid + "), not " + config.name + " (" +
                        config.uuid +
                        "); have the names of the devices changed? Correct the configuration of " +
                        config.name);
  }
  return {};
}

} // namespace dmremap::admin
