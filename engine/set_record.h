// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/spare_metadata.h"

#include <array>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace dmremap {

/// What the superblocks of the spares that are there say together (dmremap-format(5), SESSION RECORD).
struct set_record {
  /// One place of the set's list of spares.
  struct place {
    bool listed = false;
    int given = -1;         ///< which of the loaded ones it is; -1: not there
    std::uint64_t held = 0; ///< the session that it surely holds, where it is there
    bool returned = false;  ///< it was away while the set was in use: what it holds is old
    int map_from = -1;      ///< not there or returned: index of the spare whose sixth replica is its map
  };
  superblock newest; ///< the record that all others follow
  std::array<place, max_spares> places{};
  std::vector<unsigned> ignored; ///< loaded ones that the record does not list any more, unchanged since

  [[nodiscard]] bool whole() const; ///< no spare is missing
};

/// What one spare says of its set, and how a person names it.
struct spare_testimony {
  const superblock* super = nullptr;
  std::string path;
};

/// Finds the record that all spares follow. Reads nothing. Errors: "foreign-spare" (of another set, or one
/// that the record does not list and that was not in use since: it may be left out), "duplicate-spare",
/// "forked-set" (exit 4: the sides changed without each other; names the one that the record does not list,
/// where there is such a one).
[[nodiscard]] result<set_record> choose_record(std::span<const std::unique_ptr<spare_metadata>> loaded);

[[nodiscard]] result<set_record> choose_record(std::span<const spare_testimony> loaded);

/// What all superblocks of a set say alike: taken over from another spare's.
void copy_set_fields(const superblock& from, superblock& to);

} // namespace dmremap
