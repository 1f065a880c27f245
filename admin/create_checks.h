// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "admin/commands.h"
#include "admin/table_line.h"
#include "engine/control_client.h"
#include "engine/member.h"

#include <string>
#include <vector>

/// What `create` makes sure of before it writes anything (promise 7).
namespace dmremap::admin {

/// Size and sector sizes of a member as it is given. Opens it for reading only and claims nothing.
/// Errors: "not-found", "no-permission", "not-a-device", "open-failed", "range-beyond-end".
[[nodiscard]] result<member_measure> measure_member(const member_spec& spec);

/// "bad-name" (usage), "name-taken" (running, or where `persist` a file of configuration is there).
[[nodiscard]] result<void> check_name(const std::string& name, bool persist);

/// "same-device" where main and a spare, or two spares, are one device or file without ranges that part them.
[[nodiscard]] result<void> check_different(const std::vector<member_spec>& members);

/// Whether the running set is made of these members, main first, each by its device or file and its range.
[[nodiscard]] bool is_made_of(const running_set& set, const std::vector<member_spec>& members);

/// "main-is-spare": main carries the metadata of a spare, ours or upstream's: the two are swapped.
[[nodiscard]] result<void> check_main(store& main);

} // namespace dmremap::admin
