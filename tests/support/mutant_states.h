// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "tests/support/crash_replay.h"
#include "tests/support/crash_run.h"

#include <cstdint>
#include <functional>
#include <optional>

/// States in the middle of a change, for scenarios that begin there.
namespace dmremap::test {

/// Of the block of metadata; 0: none is there.
[[nodiscard]] std::uint64_t sequence_of(const page* block);

/// The state, if it is one, in which one replica alone has a change of the table block whole: which one.
[[nodiscard]] std::optional<unsigned> ahead_of_all(const page_image& spare, std::uint32_t number);

inline constexpr std::uint32_t changed_block = 4; ///< with the first units that are allocated

/// The first state that a crash in the run leaves, from event `from` on, and that `is_it` accepts.
[[nodiscard]] std::optional<set_state> state_where(const crash_run& run, std::size_t from,
                                                   const std::function<bool(const crash_state&)>& is_it);

} // namespace dmremap::test
