// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "fsck/spare.h"

#include <functional>

/// Reading all copies of a table, in large pieces, and choosing among them.
namespace dmremap::fsck {

struct table_source {
  store* io = nullptr;
  std::uint64_t first = 0; ///< unit of block 0 there
  unsigned replica = 0;
};

struct table_job {
  const superblock* super = nullptr;
  std::vector<table_source> sources; ///< by replica, ascending
  /// Whether the content of a sound block can be: of copies that are equally new such a one is preferred.
  std::function<bool(std::uint32_t, const table_block&)> possible;
  /// Gets every block that counts, once. Of blocks of chunks that have no good bit none.
  std::function<void(std::uint32_t, const table_block&)> visit;
  std::vector<std::uint32_t> only;            ///< chunks; empty: all
  std::function<bool()> stop;                 ///< true: end early
  std::function<void(std::uint64_t)> on_read; ///< bytes read since the last call
};

/// Visits every block of every chunk that has a good bit. `marks` gets what the copies add to the
/// fingerprint.
void read_tables(const table_job& job, table_findings& found, std::uint64_t& marks);

/// One block as its copy in `source` has it; nothing where that is no valid copy.
[[nodiscard]] std::optional<table_block> read_block(const table_source& source, std::uint64_t owner_low,
                                                    std::uint32_t number);

} // namespace dmremap::fsck
