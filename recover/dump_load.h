// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/member.h"
#include "engine/set_dump.h"

#include <string>
#include <vector>

/// The dump of a set that is not in use, from its spares. Nothing is opened for writing, no lock is taken.
namespace dmremap::recover {

struct dump_options {
  bool claimed = false;     ///< by this very process: nobody else uses the spares
  bool best_effort = false; ///< what cannot be read is told in `damage`, and the rest is taken
};

/// Reads the newest valid copy of everything on these spares, all of one set. Spares that are not given are
/// taken from the copies of their tables on others. Without best_effort everything must be there. Errors:
/// "in-use" (with the set that uses it), those of open_to_read, view_spare and choose_record;
/// "spare-missing", "block-destroyed", "impossible-slot" (exit 4), "changed-meanwhile".
[[nodiscard]] result<set_dump> load_dump(const std::vector<member_spec>& spares, const dump_options& how);

/// One place that holds a replica of a table.
struct table_source {
  store* io = nullptr;
  std::uint64_t first = 0; ///< unit of block 0
  unsigned replica = 0;    ///< its number, for its good bits
};
/// Adds the table of `into.super` from these replicas: of each initialised block the newest valid copy. What
/// cannot be had is told in into.damage.
void read_table(dumped_spare& into, const std::vector<table_source>& sources);

} // namespace dmremap::recover
