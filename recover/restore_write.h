// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/set_dump.h"
#include "engine/store.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

/// Writing the metadata of spares from their dumps.
namespace dmremap::recover {

/// What lies at the place of a copy of a guest's table.
struct found_sixth {
  bool whole = false;   ///< all of it is sound
  bool current = false; ///< and none of it older than the dump
  bool newer = false;   ///< something of it is newer
};
[[nodiscard]] found_sixth look_for_sixth(store& io, const dumped_spare& guest, std::uint64_t start);

/// One spare that is written, and what of the dump lies on it.
struct restore_target {
  const dumped_spare* spare = nullptr;
  std::shared_ptr<store> io;
  std::uint64_t super_sequence = 0; ///< that its superblocks get: none that lie there are above it
  std::uint64_t sequence_end = 0;   ///< above all numbers that were used there; the next start goes on above
  std::vector<std::uint32_t> extra{}; ///< chunks that the dump does not have: blocks of this spare there go
};

struct restore_counts {
  std::uint64_t blocks = 0; ///< written, all copies
  std::uint64_t failed =
      0; ///< superblocks and parts of replicas that could not be written; the set does without them
};

/// Writes the spares of `dump` that `targets` names, and on them the copies of other spares' tables that
/// belong there. Blocks of its table that the dump does not have go, so that nobody finds them later. First,
/// every superblock becomes one that no program opens (restoring_incompat), durably; then the tables are
/// written, flushed and read back; then the superblocks. Cut off anywhere, the spares are as they were, or
/// are refused by every program until this has run again. Durable on return. Errors: "restore-failed" (less
/// than two copies of something could be written).
[[nodiscard]] result<restore_counts>
write_restore(const set_dump& dump, const std::vector<restore_target>& targets,
              const std::function<void(std::uint64_t done, std::uint64_t all)>& progress = {});

} // namespace dmremap::recover
