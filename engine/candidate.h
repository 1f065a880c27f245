// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"
#include "engine/member.h"

#include <string>
#include <vector>

/// What is made sure of before a spare is formatted (promise 7), beyond what open_members() sees.
namespace dmremap {

/// "members-overlap" where a member shares sectors with one of a set that is configured but does not run: its
/// data, or the units that moved to its spare, would be overwritten. `passed_over` are UUIDs of sets that do
/// not count: one that may go, one that runs and whose claims speak for it. A configured member that is not
/// there now is passed over. Where a configuration cannot be read, its error: nobody knows what it names.
[[nodiscard]] result<void> check_configured(const std::vector<member_spec>& members,
                                            const std::vector<std::string>& passed_over);

/// The first of `others` that shares sectors with `member` and is not written as that is; empty: none. One
/// that is not there now is passed over.
[[nodiscard]] std::string find_overlap(const member_spec& member, const std::vector<std::string>& others);

/// "range-inside-signature" where the spare is a range of a device or file that as a whole carries a file
/// system or the like: the range may be in the middle of it. `wipe` names types that are known to leave the
/// range free. A main that is the start of the same device accounts for what is found there.
[[nodiscard]] result<void> check_surroundings(const member_spec& main, const member_spec& spare,
                                              const std::vector<std::string>& wipe);

/// "set-running" where a set of this UUID is served: what bears it may be a spare in use by a path that no
/// claim tells, such as a second one to the same drive.
[[nodiscard]] result<void> check_gives_up_no_running(const std::string& uuid);

/// Whether a spare is large enough and what it carries (`found`: its signatures) may go: `wipe` names types,
/// `destroy_set` one set by its UUID. Errors: "spare-too-small", "spare-in-set", "spare-upstream-v4",
/// "spare-has-signature". Returns whether anything has to be wiped.
[[nodiscard]] result<bool> check_spare(store& spare, const std::vector<signature>& found,
                                       const std::vector<std::string>& wipe, const std::string& destroy_set);

} // namespace dmremap
