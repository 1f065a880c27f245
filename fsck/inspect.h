// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/set_record.h"
#include "fsck/spare.h"
#include "fsck/tables.h"

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

/// Looks at everything and changes nothing. Damage is never an error here.
namespace dmremap::fsck {

struct spare_input {
  std::string path; ///< as a person names it
  std::shared_ptr<store> io;
};

/// A slot that is not as it must be.
struct slot_problem {
  unsigned spare = 0; ///< of those given
  spare_unit unit;
  slot now;
  damage_kind kind{};
  slot fixed; ///< of the kinds that can be repaired; a sequence of 0 is to be replaced by a new one
};

/// One correction of a superblock.
struct super_fix {
  damage_kind kind{};
  int spare = -1; ///< -1: what all superblocks of the set say alike
  std::function<void(superblock&)> apply;
};

struct set_findings {
  std::vector<spare_state> spares; ///< in the order in which they were given
  std::optional<set_record> record;
  bool complete = false; ///< all spares that the record lists are there, and sound enough to be read
  std::vector<slot_problem> slots;
  std::vector<super_fix> fixes;
  std::vector<damage> found; ///< in order of severity
  std::uint64_t highest = 0; ///< sequence: the largest of all that was seen, reserved ends included
  std::uint64_t remaps = 0;  ///< units of main that are served from a spare
  std::uint64_t copies = 0;  ///< blocks that were looked at
  bool stopped = false;

  [[nodiscard]] std::string set_name() const;
  [[nodiscard]] std::string set_uuid() const;
  [[nodiscard]] bool clean() const; ///< nothing but notices
};

struct inspect_options {
  std::function<std::optional<std::uint64_t>(const std::string& set_uuid)> last_seen; ///< by this host
  std::shared_ptr<store> main; ///< to be held against what the set remembers; null: not given
  std::function<bool()> stop;
  std::function<void(std::uint64_t done, std::uint64_t all)> on_progress; ///< bytes of tables
};

/// Reads all copies of all metadata of the spares of one set. Errors are of the environment only:
/// "unsupported-feature", "upstream-v4", "not-a-spare", "metadata-image" (among spares).
[[nodiscard]] result<set_findings> inspect(const std::vector<spare_input>& spares,
                                           const inspect_options& options);

/// Where the copies of a spare's table are read and, with `to_write`, where they are kept.
[[nodiscard]] std::vector<table_source> sources_of(const set_findings& f, unsigned spare, bool to_write);

// The steps of inspect(), each in a file of its own.

/// Spares without any superblock copy: rebuilt from a sixth replica's head, or from the record and the table.
void rebuild_supers(set_findings& f);
/// Reads all tables: copies, slots, units that are named twice.
void check_tables(set_findings& f, const inspect_options& options);
/// What superblocks say, of themselves and of each other.
void check_supers(set_findings& f);
/// Whether both sides agree on where each spare's sixth replica is; before the tables are read.
void attach_sixths(set_findings& f);
void check_sixths(set_findings& f);

} // namespace dmremap::fsck
