// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "admin/context.h"
#include "engine/config.h"
#include "engine/disk.h"
#include "engine/set_members.h"

#include <memory>
#include <vector>

namespace dmremap::admin {

/// A set that this program opened itself, because no daemon serves it.
struct opened_set {
  set_members members; ///< the claims last as long as they do
  std::unique_ptr<disk> set;
};

/// `notices` get what the caller should show. Errors: those of claim_configured and open_disk; "wrong-set"
/// where the members are another set.
[[nodiscard]] result<opened_set> open_configured(const set_config& config, const open_options& how,
                                                 bool accept_older, std::vector<std::string>& notices);
/// The same without further options; `c` gets the notices.
[[nodiscard]] result<opened_set> open_configured(const context& c, const set_config& config,
                                                 access_mode mode);

/// What `attach` is told to accept, beyond what the configuration does.
struct accepted {
  bool degraded = false, accept_older = false, accept_main = false;
};
/// For reading only, as `attach` would open it: with the options of the configuration. Errors speak in the
/// words of `attach`.
[[nodiscard]] result<opened_set> open_to_look(const set_config& config, accepted more,
                                              std::vector<std::string>& notices);

} // namespace dmremap::admin
