// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/open_set.h"

#include "engine/set_daemon.h"

namespace dmremap::admin {

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

} // namespace dmremap::admin
