// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/commit_rules.h"
#include "engine/error.h"
#include "engine/store.h"

#include <cstdint>

namespace dmremap {

/// Overwrites every superblock copy on a spare with zeros, so that no tool takes it for one any more. The
/// table and the data stay, unreachable. Durable on return. The caller has made sure that the set may go.
/// Returns how many copies went. Errors: "erase-failed" (it may be done in part; doing it again is safe);
/// "metadata-image" (somebody keeps it to help; nothing was written). `rules`: tests only.
[[nodiscard]] result<unsigned> erase_set(store& spare, const commit_rules& rules = {});

/// Whether no session has begun on the spare since the set was looked at: `seen` is disk_info::sequence_end
/// of then. A spare that has no superblock left passes. Errors: "set-changed".
[[nodiscard]] result<void> check_unused_since(store& spare, std::uint64_t seen);

/// Whether the spare answers at all where a superblock copy would lie.
[[nodiscard]] bool any_super_reads(store& spare);

} // namespace dmremap
