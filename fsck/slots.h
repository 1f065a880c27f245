// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/codec.h"
#include "fsck/damage.h"

#include <optional>
#include <string>

namespace dmremap::fsck {

/// What is wrong with a slot in itself.
struct slot_verdict {
  damage_kind kind{};
  slot fixed;       ///< where the kind can be repaired
  std::string text; ///< what is wrong
};

/// Nothing: the slot is as it may be. `is_metadata`: the unit holds metadata or does not exist.
///
/// A slot that may stand for data is never made free: its unit of main would show old data (promise 1). In
/// doubt its sectors become lost, or it is left alone.
[[nodiscard]] std::optional<slot_verdict> check_slot(const slot& s, bool is_metadata,
                                                     std::uint64_t main_units);

/// Fast: whether every slot of a block is as it may be.
[[nodiscard]] bool all_slots_possible(const table_block& t, std::uint32_t number, const geometry& g,
                                      std::uint64_t main_units);

[[nodiscard]] std::uint64_t main_units_of(const superblock& s);

} // namespace dmremap::fsck
