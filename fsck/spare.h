// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/block_io.h"
#include "engine/codec.h"
#include "engine/store.h"
#include "fsck/damage.h"

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

/// What the inspection finds on one spare: every copy of every block, judged one by one.
namespace dmremap::fsck {

enum class copy_state : std::uint8_t {
  valid,      ///< the newest content
  old,        ///< sound, but older than another copy
  torn,       ///< checksum wrong
  unreadable, ///< the medium fails
  nothing,    ///< not metadata at all
  version,    ///< metadata of a version that this program does not know
  foreign,    ///< of another spare
  misplaced,  ///< sound, but belongs elsewhere
  impossible, ///< checksum right, content is not possible
  differs,    ///< as new as the newest, with other content
};
[[nodiscard]] const char* text_of(copy_state s);
[[nodiscard]] copy_state state_of(block_fault f);

struct super_copy {
  unsigned copy = 0;
  spare_unit place;
  copy_state state = copy_state::nothing;
  std::uint64_t sequence = 0; ///< of a sound one
};

/// A block of the table whose good copies are not all valid and equal.
struct bad_block {
  std::uint32_t number = 0;
  unsigned good = 0; ///< bit r: the superblock counts on replica r
  std::array<copy_state, own_replicas + 1> copies{};
  int source = -1; ///< replica that has the newest content; -1: none has
  bool conflict = false;
};

struct table_findings {
  std::vector<bad_block> bad;
  std::vector<std::uint32_t> unmarked; ///< chunks without a good bit in which blocks lie that hold entries
  std::uint64_t highest = 0;           ///< largest sequence of a block or a slot
  std::uint64_t copies = 0;            ///< of blocks that were looked at
};

struct spare_state {
  std::string path;
  std::shared_ptr<store> io;

  std::vector<super_copy> supers;  ///< the ten on the spare
  std::optional<super_copy> head;  ///< of the sixth replica, on the host
  std::optional<superblock> found; ///< the newest one as it lies there; nothing: none is left on the spare
  std::optional<superblock> super; ///< what it should be, where that is known
  bool conflict = false;           ///< two newest ones that differ

  // by the record of the set
  bool in_use = false, returned = false, removed = false;
  int map_from = -1;           ///< of one that was away: given spare whose sixth replica is its map
  int sixth_host = -1;         ///< given spare that holds this one's sixth replica, where both sides agree
  bool sixth_doubtful = false; ///< the host's slots use the same place: nothing is written there
  bool sixth_short = false;    ///< it lacks a chunk that is to be marked as good
  std::uint32_t sixth_start = 0;

  std::uint64_t highest_sequence = 0, highest_end = 0; ///< of all sound superblock copies
  table_findings tables;
  std::uint64_t fingerprint = 0; ///< sum over all copies that were looked at; see mark_of()

  [[nodiscard]] const geometry& places() const { return super->places; }
  /// Of dmremap-dump --metadata-image: no data is there.
  [[nodiscard]] bool image() const { return super && (super->feature_incompat & image_incompat) != 0; }
  /// Its own replicas are its map.
  [[nodiscard]] bool own_tables() const { return super && (in_use || (returned && map_from < 0)); }
};

/// What one copy adds to a spare's fingerprint: changes with place, state and content.
/// Null: unreadable. `sound`: the checksum is known to be right.
[[nodiscard]] std::uint64_t mark_of(spare_unit place, const block_bytes* bytes, bool sound = false);

/// Finds the superblock that counts, whatever is damaged. What makes it impossible to find one is added to
/// `found`. Errors: "unsupported-feature", "upstream-v4", "not-a-spare" (nothing there speaks of a set).
[[nodiscard]] result<void> read_supers(spare_state& s, int number, std::vector<damage>& found);

/// Judges all copies against the newest one, at the places that are right; the head of the sixth replica,
/// too, where `host` has one.
void judge_supers(spare_state& s, const spare_state* host);

[[nodiscard]] bool same_places(const geometry& a, const geometry& b);

/// Owner (first half of the UUID) of most valid table blocks at the places of `g`, of a few that are looked
/// at; nothing where there are none.
[[nodiscard]] std::optional<std::uint64_t> owner_of_tables(store& io, const geometry& g);

} // namespace dmremap::fsck
