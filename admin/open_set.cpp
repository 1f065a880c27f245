// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/open_set.h"

#include "engine/set_daemon.h"

namespace dmremap::admin {

result<opened_set> open_configured(const set_config& config, const open_options& how, bool accept_older,
                                   std::vector<std::string>& notices) {
  opened_set opened;
  opened.members =
      TRY(claim_configured(config, how.read_only ? access_mode::read_only : access_mode::read_write));
  CHECK_OK(check_same_set(config, opened.members));
  opened.set = TRY(open_disk(opened.members, how, accept_older, notices));
  return opened;
}

result<opened_set> open_configured(const context& c, const set_config& config, access_mode mode) {
  open_options how;
  how.read_only = mode == access_mode::read_only;
  std::vector<std::string> notices;
  auto opened = TRY(open_configured(config, how, false, notices));
  for (const auto& notice : notices)
    c.note(notice);
  return opened;
}

} // namespace dmremap::admin
