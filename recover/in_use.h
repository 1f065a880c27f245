// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/claim.h"
#include "engine/member.h"
#include "recover/targets.h"

#include <optional>

namespace dmremap::recover {

/// The set that has claimed the beginning of a member for writing; that one's daemon can be asked. `bottom`:
/// storage_of() the member, where all claims meet. Takes no lock.
[[nodiscard]] std::optional<claim_owner> served_by(const storage& bottom);

/// Errors: "in-use" (names the set), those of find_storage.
[[nodiscard]] result<void> check_not_served(const member_spec& spec);

} // namespace dmremap::recover
