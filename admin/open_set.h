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

/// Members only: claimed, not opened as a set; spares that are away are left out. Errors: those of
/// open_set_members and parse_member.
[[nodiscard]] result<set_members> claim_configured(const set_config& config, access_mode mode);
/// `c` gets the notices. Errors: those of claim_configured and open_disk; "wrong-set" where the members are
/// another set.
[[nodiscard]] result<opened_set> open_configured(const context& c, const set_config& config,
                                                 access_mode mode);

/// "wrong-set" where a spare says that it belongs to another set: device names may have moved since the
/// configuration was written. A spare that says nothing is left for the open to judge.
[[nodiscard]] result<void> check_same_set(const set_config& config, const set_members& opened);

} // namespace dmremap::admin
