// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/commit_rules.h"
#include "engine/store.h"

namespace dmremap {

/// Makes every signature that probe_signatures() finds unrecognisable: zeroes superblocks and magics, nothing
/// else. Durable on return; after it probe_signatures() finds nothing. Errors: "probe-failed", "wipe-failed".
/// `rules`: tests only.
[[nodiscard]] result<void> wipe_signatures(store& member, const commit_rules& rules = {});

} // namespace dmremap
