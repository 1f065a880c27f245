// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "tests/support/crash_run.h"

#include <span>
#include <string>
#include <vector>

namespace dmremap::test {

/// The two neighbouring main units that the sequences are about.
inline constexpr std::uint64_t unit_a = 5, unit_b = 6, replay_units = 16;
/// A unit of the spare whose chunk nothing else has prepared.
inline constexpr std::uint64_t far_spare_unit = 3000;

struct operation {
  const char* name;
  void (*run)(crash_run&);
};

/// Everything that can be done to unit A, or to both.
[[nodiscard]] std::span<const operation> operations_on_a();
/// What, done to unit B, may disturb A.
[[nodiscard]] std::span<const operation> operations_on_b();
/// By name, of either list. Aborts the program where there is none: a misspelt test.
[[nodiscard]] const operation& find_operation(const std::string& name);

/// Where a sequence starts: "fresh"; "mapped": A and B are on the spare; "lost": so, a sector of A is lost,
/// main still cannot read it, and the set was not closed; "broken": main can write neither A nor B, nothing
/// is on the spare.
[[nodiscard]] set_state starting_state(const std::string& name, std::uint32_t main_block = 512,
                                       std::uint32_t spare_block = 512);

} // namespace dmremap::test
