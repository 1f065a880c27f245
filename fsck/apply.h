// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/store.h"
#include "fsck/plan.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

/// Carrying out a plan, or taking it back. A kill at any write or flush leaves what another run completes.
namespace dmremap::fsck {

struct apply_outcome {
  std::uint64_t written = 0;         ///< blocks, durable
  std::vector<std::string> failures; ///< blocks that could not be written, in words
  std::vector<std::string> cleared;  ///< taking back: blocks that hold zeros now, in words
};

/// Called with the bytes that are written, and all that are to be.
using show_written = std::function<void(std::uint64_t done, std::uint64_t all)>;

/// Step by step: write, flush, read back. Copies of a block whose first copy failed are left alone; what
/// depends on a write that failed is not begun. Durable on return. Errors: "device-gone", "flush-failed": the
/// repair is incomplete, and another run completes it.
[[nodiscard]] result<apply_outcome> apply_plan(const repair_plan& plan,
                                               const std::vector<std::shared_ptr<store>>& members,
                                               const show_written& show = {});

/// The steps backwards: what was there before the plan comes back, byte for byte. Blocks that could not be
/// read then count as gone: they get zeros, before all others, and are told. Where one of them keeps what the
/// plan wrote there, which is newer than the rest, that is a failure, and nothing else is written. Errors as
/// above.
[[nodiscard]] result<apply_outcome> undo_plan(const repair_plan& plan,
                                              const std::vector<std::shared_ptr<store>>& members,
                                              const show_written& show = {});

/// Whether taking the plan back leaves every block a copy as new as the one that the plan copied from. `now`:
/// what inspect() finds on the plan's members. Errors: "metadata-changed".
[[nodiscard]] result<void> check_copies_left(const repair_plan& plan,
                                             const std::vector<std::shared_ptr<store>>& members,
                                             const set_findings& now);

/// Whether every block of the plan holds what it held before the plan or what the plan writes, or a mixture
/// of both (a write that was cut off). Errors: "metadata-changed".
[[nodiscard]] result<void> check_blocks(const repair_plan& plan,
                                        const std::vector<std::shared_ptr<store>>& members);

} // namespace dmremap::fsck
