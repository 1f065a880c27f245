// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/commit_rules.h"

#include <string>
#include <vector>

/// What the mutants of the order of writes are shown by: runs on the crash store under given rules, of which
/// every crash is judged. Each appends what is wrong to `found`, and stops at the first.
namespace dmremap::test {

using findings = std::vector<std::string>;
using scenario = void (*)(const commit_rules&, findings&);

// A set of one spare.
/// Plain crashes.
void plain(const commit_rules& rules, findings& found);
/// A place of the metadata acknowledges writes and never does them.
void deaf_place(const commit_rules& rules, findings& found);
/// One write of metadata is acknowledged, and is gone at once or when power is lost.
void one_write_gone(const commit_rules& rules, findings& found);
/// All superblock copies but one are destroyed before the open.
void one_super_left(const commit_rules& rules, findings& found);
/// All copies of the table blocks but one are destroyed before the open.
void one_replica_left(const commit_rules& rules, findings& found);
/// Main acknowledges the writes of an unmap and does not do them.
void deaf_main(const commit_rules& rules, findings& found);
/// One flush of a member fails, and what it should have made durable may be lost though reads still show it.
void flush_fails(const commit_rules& rules, findings& found);
/// One copy has a change that the others do not have, and is the one that returns.
void copy_returns(const commit_rules& rules, findings& found);
/// The mending of such a set is cut short when two copies have the change. They return after an open that
/// mended the others to what was before: under a number that the first mending has used, too?
void mended_copies_return(const commit_rules& rules, findings& found);
/// A replica of the table cannot be read at one open; changes are made, which it takes or forgets; it can be
/// read at the next one.
void unread_copy_returns(const commit_rules& rules, findings& found);
/// A flush fails while the slot of a unit is released, or two do; then the unit is wanted for another, or
/// written.
void release_in_doubt(const commit_rules& rules, findings& found);
/// A set is erased.
void erased(const commit_rules& rules, findings& found);
/// A device that was a spare is wiped, to become something else.
void wiped(const commit_rules& rules, findings& found);

// Sets that could have several spares.
/// Plain crashes, then a spare is missing.
void pool_plain(const commit_rules& rules, findings& found);
/// The host of a sixth replica cannot write it any more, nor anything near.
void host_fails(const commit_rules& rules, findings& found);
void vanishes_then_removed(const commit_rules& rules, findings& found);
/// The same, and its sixth replica cannot be written any more.
void vanishes_on_bad_host(const commit_rules& rules, findings& found);
void vanishes_and_returns(const commit_rules& rules, findings& found);
/// A spare goes, what it held is written anew; then it alone is used, without the others.
void sides_apart(const commit_rules& rules, findings& found);
/// A copy of a spare from an earlier session takes its place.
void old_copy(const commit_rules& rules, findings& found);
/// A replica that took no changes for a while is the only one left.
void stale_replica_returns(const commit_rules& rules, findings& found);
/// Of two blocks of a chunk each can be written in other replicas than the other one.
void no_copy_whole(const commit_rules& rules, findings& found);
/// A spare that went is forgotten.
void forgotten(const commit_rules& rules, findings& found);
/// A spare that holds the sixth replica of another is removed; then that one is missing.
void host_removed(const commit_rules& rules, findings& found);
/// A spare that serves nothing is removed.
void spare_removed(const commit_rules& rules, findings& found);
/// A unit has an older slot on a spare that is away, which comes back after the remap was to be removed.
void old_slot_away(const commit_rules& rules, findings& found);
/// A spare goes with what no flush has covered; then a flush is asked for.
void vanishes_unflushed(const commit_rules& rules, findings& found);
/// A spare goes in the middle of a change, and power is lost while that is recorded; writes are torn.
void vanishes_in_change(const commit_rules& rules, findings& found);
/// The host of a sixth replica comes back and is given a new one where the old one was; then the guest is
/// missing.
void host_returns(const commit_rules& rules, findings& found);
/// The same, and a flush of the host for somebody else fails meanwhile.
void sixth_placed_in_vain(const commit_rules& rules, findings& found);
/// The host of several sixth replicas goes; then one of the guests is missing, too.
void host_gone(const commit_rules& rules, findings& found);
/// The map of a spare that is away moves, as its host is emptied.
void map_moves(const commit_rules& rules, findings& found);
/// The same, and a flush of the new host for somebody else fails meanwhile.
void map_moved_in_vain(const commit_rules& rules, findings& found);
/// A spare goes in the middle of a record of its own, and returns: what it holds of that no flush has
/// covered.
void returns_unflushed(const commit_rules& rules, findings& found);
/// A spare comes back with a change in its own tables that was never answered, and that the set went on
/// without.
void comes_back_with_more(const commit_rules& rules, findings& found);
/// One copy alone says where a unit went; it is lost after the open.
void winner_in_one_copy(const commit_rules& rules, findings& found);

} // namespace dmremap::test
