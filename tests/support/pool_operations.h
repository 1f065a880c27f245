// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "tests/support/crash_operations.h"

namespace dmremap::test {

/// Everything that can be done to a set of several spares and its units A and B.
[[nodiscard]] std::span<const operation> pool_operations();
/// And what only long sequences do: with a third spare, with a third unit, and spares that come back one by
/// one.
[[nodiscard]] std::span<const operation> more_pool_operations();
/// By name, of either list. Aborts the program where there is none: a misspelt test.
[[nodiscard]] const operation& find_pool_operation(const std::string& name);

/// Where a sequence starts, with two spares and a blank device that can be added: "fresh"; "spread": A is on
/// spare 0, B on spare 1, closed; "killed": so, a sector of A is lost, not closed; "gone": spread, and spare 1
/// has gone while the set was in use; "one": a set of one spare with A on it, and a blank device; "three":
/// A, B and the unit behind on spares of their own.
[[nodiscard]] set_state pool_start(const std::string& name);

} // namespace dmremap::test
