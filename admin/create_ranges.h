// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"
#include "engine/member.h"

#include <string>
#include <vector>

/// What a probe of the range alone does not see before something is formatted there.
namespace dmremap::admin {

/// "members-overlap" where a member shares sectors with one of a set that is configured but does not run: its
/// data, or the units that moved to its spare, would be overwritten. `going` is the UUID of a set that may
/// go, or empty. A configured member that is not there now is passed over.
[[nodiscard]] result<void> check_configured(const std::vector<member_spec>& members,
                                            const std::string& going);

/// "range-inside-signature" where the spare is a range of a device or file that as a whole carries a file
/// system or the like: the range may be in the middle of it. `wipe` names types that are known to leave the
/// range free. A main that is the start of the same device accounts for what is found there.
[[nodiscard]] result<void> check_surroundings(const member_spec& main, const member_spec& spare,
                                              const std::vector<std::string>& wipe);

} // namespace dmremap::admin
