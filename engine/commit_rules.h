// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstdint>

namespace dmremap {

/// The order of writes, rule by rule (dmremap-format(5), ORDER OF WRITES). Every switch is true in every
/// program; the crash tests turn one off at a time and demand that a replayed crash shows the damage.
struct commit_rules {
  std::uint8_t range_bits = 20; ///< no switch: 2^20 sequence numbers are reserved at a time; tests take fewer
  [[nodiscard]] std::uint64_t sequences_a_range() const { return std::uint64_t{1} << range_bits; }

  // table change
  bool flush_data = true;           ///< data on the spare is flushed before the table names it
  bool failed_flush_refuses = true; ///< nor does it where a flush failed since that was written
  bool change_new_sequence = true;  ///< changed blocks carry a new sequence
  bool flush_first = true; ///< the first replica is flushed before it is read back and before the others
  bool read_back = true;   ///< the first replica is read back and compared
  bool others_after_first = true; ///< the other replicas are written only when the first one stands
  bool write_others = true;       ///< the other replicas are written at all
  bool flush_others = true;       ///< and flushed before the answer
  bool bits_before_answer = true; ///< a replica that missed a change is known as bad before the answer
  bool last_copy_stays = true;    ///< but the last good one of a chunk never
  bool free_after_release = true; ///< a unit is used again only once its old slot is released durably
  bool spares_only_copy = true; ///< the first replica written is never the only one that surely is the newest
  bool never_abandon = true;    ///< a change whose first write was issued is completed, whatever fails
  bool doubt_is_error = true;   ///< until then its units answer with an error
  // superblock change
  bool super_flush_first = true;
  bool super_read_back = true;
  bool super_others_after_first = true;
  bool super_write_others = true;
  bool super_flush_others = true;
  bool super_spares_only_valid = true; ///< the first copy written is never the only valid one
  // chunks
  bool prepare_flush = true;    ///< a chunk's blocks are flushed before its good bits
  bool bits_before_slot = true; ///< the good bits are durable before the first slot in the chunk
  // sixth replica
  bool write_sixth = true;        ///< a table change reaches the sixth replica, too
  bool flush_sixth = true;        ///< and is flushed there before the answer
  bool unlist_sixth = true;       ///< a sixth that missed a change is not listed any more before the answer
  bool flush_sixth_head = true;   ///< its superblock is flushed, too
  bool flush_placed_sixth = true; ///< a new one is flushed
  bool list_full_sixth = true;    ///< and listed by its host only then
  // spares that come and go
  bool record_absence = true;         ///< who is gone is recorded before anything is written without it
  bool complete_sixth = true;         ///< the sixth of a spare that goes is brought to what memory holds
  bool flush_completed_sixth = true;  ///< and flushed
  bool complete_before_record = true; ///< before a record says that it alone counts
  bool unlist_incomplete = true;      ///< where that fails none says so
  bool unprotect_guests = true;       ///< nor is what lies on that spare anybody's sixth any more
  bool flush_moved_map = true;        ///< the map of an absent spare is flushed where it moves
  bool list_moved_map = true;         ///< and listed there before a record names the place
  bool unlist_map_last = true;        ///< and is listed where it was until then
  bool vanishing_fails_flush = true;  ///< a flush fails once after a spare went with writes that none covered
  bool return_from_sixth = true;      ///< a spare that is back is rewritten from the sixth
  bool return_before_record = true;   ///< before a record says that it is back
  bool flush_returned = true;         ///< and flushed
  bool new_session = true;            ///< whenever a spare comes or goes, and at each open
  bool new_range = true;              ///< then, too, sequences go on in a range of their own
  bool held_once_durable = true;    ///< a record says that a spare holds a session once that is durable there
  bool confirm_record = true;       ///< once all hold a session, it alone is what they hold
  bool new_spare_first = true;      ///< a new spare holds its superblocks before the others list it
  bool winner_before_loser = true;  ///< a slot is released only once the one that replaces it is durable
  bool rehost_before_remove = true; ///< the sixth replicas on a spare are elsewhere before it leaves
  bool forget_marks_lost = true; ///< what a forgotten spare served is marked lost elsewhere before it leaves
  bool unlist_leaving_last = true; ///< the map of a spare that leaves is listed until a record is without it
  bool record_before_erase = true; ///< nor are its superblocks erased before
  bool flush_erased_supers = true; ///< then they are flushed
  bool flush_leaving = true;       ///< what a flush of it would say now is said by the next one
  // open
  bool flush_found = true;     ///< what was read is durable before anything is written
  bool session_first = true;   ///< the session record is durable before mending
  bool dirty_first = true;     ///< and says that samples of main prove nothing any more
  bool fresh_sequences = true; ///< this session's sequences lie above every end seen
  bool mend = true;            ///< blocks whose copies differ are rewritten before I/O is served
  bool mend_new_sequence = true;
  bool mend_before_release = true; ///< losing slots are released once the winners' copies are mended
  // close
  bool close_flushes = true;      ///< what was written is flushed before the clean mark
  bool flush_before_clean = true; ///< and the tables
  // remove_remap
  bool unmap_flush_main = true; ///< main holds the data durably before the slot is released
  bool unmap_read_back = true;
  bool unmap_only_slot = true; ///< none where an older slot, of an absent spare, would answer then
  // lost sectors
  bool lost_overwrite_is_table_change = true;
  // flush
  bool flush_reaches_main = true;
  bool flush_reaches_spares = true;
  bool flush_tells_failures = true; ///< it fails where another flush failed since the last one
  // the end of a set
  bool flush_erased_set = true;
  // before a set is made
  bool flush_wiped = true; ///< signatures of what was there before
};

} // namespace dmremap
