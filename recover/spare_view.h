// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/spare_metadata.h"
#include "recover/targets.h"

#include <array>
#include <memory>
#include <string>
#include <vector>

/// What lies on one spare: every copy of every block, looked at and not touched.
namespace dmremap::recover {

enum class copy_state : std::uint8_t {
  valid,      ///< the newest content
  stale,      ///< sound, of this spare, but older than the newest
  torn,       ///< the letters are there, the checksum is wrong
  foreign,    ///< sound, of another spare
  misplaced,  ///< sound, but belongs elsewhere
  unreadable, ///< the medium failed
  unknown,    ///< of a version that this program does not know, or sound with impossible content
  gone,       ///< something else, or nothing
};
inline constexpr std::size_t copy_states = 8;
[[nodiscard]] const char* name_of(copy_state s) noexcept;

/// One superblock copy.
struct super_view {
  unsigned copy = 0;
  spare_unit place;
  copy_state state = copy_state::gone;
  bool expected = true; ///< false: its good bit is off, the set does without it
  std::uint64_t sequence = 0;
};

/// One replica of the table: how many blocks of the initialised chunks are in which state.
struct replica_view {
  unsigned replica = 0; ///< 0 to 4; 5: the sixth
  std::string on;       ///< member that holds it
  std::array<std::uint64_t, copy_states> blocks{};

  [[nodiscard]] std::uint64_t all() const;
  [[nodiscard]] std::uint64_t of(copy_state s) const { return blocks[static_cast<std::size_t>(s)]; }
};

struct spare_view {
  member_spec spec;
  storage place;
  std::shared_ptr<store> io;
  std::unique_ptr<spare_metadata> meta; ///< superblock chosen; tables not loaded
  std::vector<super_view> supers;
  std::vector<replica_view> tables;   ///< empty until view_tables()
  std::uint64_t destroyed_blocks = 0; ///< table blocks without a single valid copy
  bool deep = false;                  ///< found by a search only

  [[nodiscard]] const superblock& super() const { return meta->super; }
  /// Of dmremap-dump --metadata-image: nothing is served from it.
  [[nodiscard]] bool image() const { return (super().feature_incompat & image_incompat) != 0; }
  [[nodiscard]] unsigned valid_supers() const;
  /// A copy that should be good is neither valid nor merely older.
  [[nodiscard]] bool damaged() const;
  /// A copy that should be good is older: what a crash leaves, and the next open mends.
  [[nodiscard]] bool behind() const;
};

/// Opens a member for reading only, without a claim and whoever uses it. Errors: as file_store::open and
/// range_store::make.
[[nodiscard]] result<std::shared_ptr<store>> open_to_read(const member_spec& spec);

/// The spare on a member, its superblock copies judged. Where the metadata says that the spare ends before
/// the member does, `spec` becomes the range that it is. Errors: as spare_metadata::load_supers;
/// "no-superblock" where there is none.
[[nodiscard]] result<spare_view> view_spare(const member_spec& spec, std::shared_ptr<store> io);

/// Reads all copies of all initialised table blocks of `spare`, the sixth replica, too, where `host` (the
/// spare that should hold it) is given.
void view_tables(spare_view& spare, const spare_view* host);

} // namespace dmremap::recover
