// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/open_set.h"

#include <strings.h>

namespace dmremap::admin {

result<set_members> claim_configured(const set_config& config, access_mode mode) {
  const auto main = TRY(parse_member(config.main));
  std::vector<member_spec> spares;
  for (const auto& spare : config.spares)
    spares.push_back(TRY(parse_member(spare)));
  return open_set_members(main, spares, mode);
}

result<opened_set> open_configured(const context& c, const set_config& config, access_mode mode) {
  opened_set opened;
  opened.members = TRY(claim_configured(config, mode));
  CHECK_OK(check_same_set(config, opened.members));
  open_options how;
  how.read_only = mode == access_mode::read_only;
  std::vector<std::string> notices;
  opened.set = TRY(open_disk(opened.members, how, false, notices));
  for (const auto& notice : notices)
    c.note(notice);
  return opened;
}

result<void> check_same_set(const set_config& config, const set_members& opened) {
  const auto& members = opened.members;
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
