// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstdint>
#include <string>
#include <vector>

/// What is wrong with a set, as values. Nothing here reads or writes.
namespace dmremap::fsck {

/// How bad it is; the order of the report.
enum class severity : std::uint8_t {
  fatal,  ///< cannot be put right here: data or a decision is missing
  logic,  ///< checksums are right, what they cover is not
  copy,   ///< a copy is bad or old, another is good
  notice, ///< nothing wrong, but worth knowing
};

/// What may be done about it.
enum class remedy : std::uint8_t {
  none,       ///< nothing to do (notices)
  safe,       ///< follows from what is there: -p does it
  decide,     ///< the best reading of what is there, but not the only one: -y does it, else it is asked
  impossible, ///< left alone and said
};

enum class damage_kind : std::uint8_t {
  // fatal
  no_superblock,
  mixed_superblocks,
  superblock_conflict,
  wrong_size,
  record,
  spare_missing,
  map_missing,
  table_destroyed,
  table_conflict,
  slot_impossible,
  slot_conflict,
  sequence_overflow,
  main_differs,
  older_than_seen,
  spare_gone,
  // logic
  superblock_gone,
  geometry,
  spare_list,
  sixth_listing,
  absent_map,
  counters,
  sequence_range,
  chunk_unmarked,
  chunk_old,
  table_known,
  slot,
  slot_superseded,
  superblock_mask,
  // copies
  superblock_copy,
  superblock_old,
  table_copy,
  table_old,
  // notices
  spare_returned,
  returned_slots,
  spare_removed,
  copy_unused,
  last_copy,
  slot_stays,
  unprotected,
  metadata_image,
};
inline constexpr std::size_t damage_kinds = static_cast<std::size_t>(damage_kind::metadata_image) + 1;

/// What is the same for all damage of a kind.
struct kind_facts {
  const char* id; ///< stable: scripts depend on it
  severity level;
  remedy fix;
  const char* repair; ///< what is done about it, or what the reader can do, in plain words
};
[[nodiscard]] const kind_facts& facts_of(damage_kind kind);
[[nodiscard]] const char* name_of(severity level);
[[nodiscard]] const char* name_of(remedy fix);

/// One range of damage. Units count on the member that holds them.
struct damage {
  damage_kind kind{};
  std::string member;                      ///< the device or file; empty: the whole set
  int spare = -1;                          ///< which of the spares given, in their order; -1: the whole set
  std::uint64_t first_unit = 0, units = 0; ///< of the member; units 0: no particular place
  std::string text;                        ///< what is wrong, without member and place
};

/// In order of severity, then kind, member and place; neighbours with the same text become one range.
[[nodiscard]] std::vector<damage> in_order(std::vector<damage> all);

} // namespace dmremap::fsck
