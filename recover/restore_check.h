// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/set_dump.h"
#include "engine/store.h"
#include "recover/restore_write.h"

#include <functional>
#include <optional>
#include <string>
#include <vector>

/// Whether a spare may be written from its dump. Reads, and writes nothing.
namespace dmremap::recover {

struct restore_consent {
  bool data_in_place = false;    ///< the moved units lie where the dump says, though nothing else shows it
  bool data_lost = false;        ///< they are not, and are to be lost
  bool accept_older = false;     ///< what the dump does not know of goes
  std::vector<std::string> wipe; ///< types of signatures that may be overwritten
  std::string destroy_set;       ///< UUID of another set that may be
};

/// What lies at the places that the dump names.
struct found_metadata {
  unsigned supers = 0;               ///< sound superblocks of this spare
  std::uint64_t tables = 0;          ///< sound copies of its table blocks
  bool whole = false;                ///< every block that was in use has a copy
  std::uint64_t highest = 0;         ///< sequence of anything of this spare
  std::uint64_t super_sequence = 0;  ///< of its superblocks, also those of a restore that was cut off
  std::uint64_t sequence_end = 0;    ///< above all numbers that were used or reserved there
  std::vector<std::uint32_t> extra;  ///< chunks with blocks of this spare that the dump does not have
  std::optional<superblock> cut_off; ///< what a restore that was cut off was about to write
  bool newer_guest = false;          ///< the table of an absent spare that lies there is newer than the dump
  bool image = false;                ///< it is a metadata image
  bool data = false;                 ///< its table has a unit of which not every sector is lost
  std::string other_spare;           ///< UUID of another spare of the set that lies there
  [[nodiscard]] bool any() const { return supers != 0 || tables != 0 || cut_off.has_value(); }
};

using looking = std::function<void(std::uint64_t done, std::uint64_t all)>; ///< copies of blocks

/// `dump`: what `d` is of. Reads each copy of each block that the dump or the newest superblock has in use;
/// of other chunks, where no first block of a copy is one of this spare's, those alone.
[[nodiscard]] found_metadata look_for(store& io, const dumped_spare& d, const set_dump& dump,
                                      const looking& on_progress = {});
/// Whether anything shows that it is this spare: a superblock, or a block of some that are looked at.
[[nodiscard]] bool shows(store& io, const dumped_spare& d);
/// `last_seen`: what this host saw last of the set. Errors: "spare-too-small", "metadata-image",
/// "other-spare", "spare-in-set", "spare-has-signature", "spare-upstream-v4", "spare-unknown",
/// "data-is-there", "dump-older", "dump-maybe-older". Returns whether it goes on only because an older dump
/// is accepted.
[[nodiscard]] result<bool> check_target(store& io, const set_dump& dump, const dumped_spare& d,
                                        const found_metadata& there, std::optional<std::uint64_t> last_seen,
                                        const restore_consent& told);
/// Whether the present spares of the dump, of which `restored` are written, would be a set that opens: with
/// `older`, all of them must be. Errors: "restore-all", those of choose_record().
[[nodiscard]] result<void> check_together(const set_dump& dump,
                                          const std::vector<const dumped_spare*>& restored, bool older);
/// Whether anything can be restored from it: errors "dump-incomplete".
[[nodiscard]] result<void> check_whole(const set_dump& dump, const std::string& name);

/// A spare that is to be written, and what lies on it.
struct examined_spare {
  const dumped_spare* spare = nullptr;
  std::shared_ptr<store> io;
  found_metadata there;
};
/// What is written to them. Where each is as new as the dump they carry the same bytes as then; else all go
/// up by as much, so that the one whose record the others followed is still the newest.
[[nodiscard]] std::vector<restore_target> make_targets(const std::vector<examined_spare>& spares);

} // namespace dmremap::recover
