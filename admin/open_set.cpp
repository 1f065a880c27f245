// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/open_set.h"

#include "engine/set_attach.h"
#include "engine/set_daemon.h"

#include <algorithm>

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

result<opened_set> open_to_look(const set_config& config, accepted more, std::vector<std::string>& notices) {
  const auto has = [&](const char* option) {
    return std::count(config.options.begin(), config.options.end(), option) != 0;
  };
  open_options how;
  how.read_only = true;
  how.degraded = more.degraded || has("degraded");
  how.accept_main = more.accept_main || has("accept_main");
  return open_configured(config, how, more.accept_older || has("accept_older"), notices)
      .map_error(with_long_options);
}

} // namespace dmremap::admin
