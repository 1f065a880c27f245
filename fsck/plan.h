// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "fsck/inspect.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

/// A repair as a list of blocks to be written. Making one writes nothing.
namespace dmremap::fsck {

/// The order of a repair. All writes of a step are issued, then every member touched is flushed, then all are
/// read back. A copy of a block that is written in a `_first` step stands before the others are touched, so
/// that at every moment a sound copy of every block is on the medium.
enum class repair_step : std::uint8_t {
  copies_first = 1, ///< bad copies of table blocks, from the good ones
  copies_rest,
  slots_first, ///< table blocks with new content
  slots_rest,
  release_first, ///< table blocks that let go what other blocks have
  release_rest,
  supers_first,
  supers_rest,
  record_first, ///< the superblock that the others follow
  record_rest,
};

struct block_write {
  unsigned member = 0;
  std::uint64_t unit = 0; ///< of the member
  repair_step step{};
  unsigned group = 0; ///< copies of one block; where the first one fails the rest is left
  std::string reason;
  bool readable = true; ///< `old` could be read
  block_bytes old{}, now{};
};

struct plan_member {
  std::string uuid; ///< of the spare
  std::string path;
};

struct repair_plan {
  std::string set_name, set_uuid;
  std::vector<plan_member> members; ///< the spares, as they were given
  /// All other copies of metadata, as they were when the plan was made.
  std::uint64_t fingerprint = 0;
  /// The superblocks at the fixed places of every member, less the plan's own: an open writes all of them.
  std::uint64_t supers = 0;
  bool marks_chunks = false;        ///< the superblocks depend on every write before them
  std::vector<block_write> writes;  ///< by step; each place once
  std::vector<std::string> summary; ///< what is repaired, in words, a line each

  [[nodiscard]] bool empty() const { return writes.empty(); }
};

/// Whether damage of this kind on this spare (-1: of the whole set) is to be repaired.
using repair_choice = std::function<bool(damage_kind, int)>;

/// What -p does, and what -y does.
[[nodiscard]] bool is_safe(damage_kind kind, int spare);
[[nodiscard]] bool is_repairable(damage_kind kind, int spare);

/// The writes that repair what is chosen and can be repaired. Reads what it overwrites.
[[nodiscard]] repair_plan make_plan(const set_findings& f, const repair_choice& chosen);

/// What the fingerprint of all metadata, less the plan's own places, is now; `now`: what these hold.
[[nodiscard]] std::uint64_t fingerprint_of(const set_findings& f);
[[nodiscard]] std::uint64_t mark_of_write(const block_write& w);
/// What repair_plan::supers is now, of the plan's members in their order.
[[nodiscard]] std::uint64_t marks_of_supers(const repair_plan& plan,
                                            const std::vector<std::shared_ptr<store>>& members);

} // namespace dmremap::fsck
