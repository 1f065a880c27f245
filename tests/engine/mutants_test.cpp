// SPDX-License-Identifier: GPL-2.0-or-later
// Each rule of the order of writes is broken in turn: a scenario must show the damage, or the table must say
// why nothing can. With every rule kept no scenario finds anything.
#include "tests/support/mutant_scenarios.h"
#include "tests/support/sanitized.h"

#include <catch2/catch.hpp>

#include <iostream>

using namespace dmremap;
using namespace dmremap::test;

namespace {

const scenario scenarios[] = {plain,
                              one_super_left,
                              one_replica_left,
                              deaf_main,
                              one_write_gone,
                              deaf_place,
                              copy_returns,
                              mended_copies_return,
                              unread_copy_returns,
                              flush_fails,
                              pool_plain,
                              host_fails,
                              vanishes_then_removed,
                              vanishes_and_returns,
                              sides_apart,
                              old_copy,
                              release_in_doubt,
                              erased,
                              wiped,
                              stale_replica_returns,
                              no_copy_whole,
                              forgotten,
                              host_removed,
                              spare_removed,
                              old_slot_away,
                              vanishes_on_bad_host,
                              vanishes_unflushed,
                              vanishes_in_change,
                              host_returns,
                              sixth_placed_in_vain,
                              host_gone,
                              map_moves,
                              map_moved_in_vain,
                              returns_unflushed,
                              comes_back_with_more,
                              winner_in_one_copy};

struct mutant {
  const char* name;
  bool commit_rules::*rule;
  scenario shown_by;                ///< null: by none
  const char* equivalent = nullptr; ///< then: why
};

#define RULE(name) #name, &commit_rules::name
const mutant mutants[] = {
    {RULE(flush_data), plain},
    {RULE(failed_flush_refuses), flush_fails},
    {RULE(change_new_sequence), one_write_gone},
    {RULE(flush_first), plain},
    {RULE(read_back), deaf_place},
    {RULE(others_after_first), plain},
    {RULE(write_others), plain},
    {RULE(flush_others), one_write_gone},
    {RULE(bits_before_answer), stale_replica_returns},
    {RULE(last_copy_stays), no_copy_whole},
    {RULE(free_after_release), release_in_doubt},
    {RULE(spares_only_copy), release_in_doubt},
    {RULE(never_abandon), release_in_doubt},
    {RULE(doubt_is_error), release_in_doubt},
    {RULE(super_flush_first), plain},
    {RULE(super_read_back), deaf_place},
    {RULE(super_others_after_first), plain},
    {RULE(super_write_others), plain},
    {RULE(super_flush_others), deaf_place},
    {RULE(super_spares_only_valid), flush_fails},
    {RULE(prepare_flush), plain},
    {RULE(bits_before_slot), plain},
    {RULE(write_sixth), pool_plain},
    {RULE(flush_sixth), pool_plain},
    {RULE(unlist_sixth), host_fails},
    {RULE(flush_sixth_head), host_returns},
    {RULE(flush_placed_sixth), sixth_placed_in_vain},
    {RULE(list_full_sixth), host_returns},
    {RULE(record_absence), sides_apart},
    {RULE(complete_sixth), vanishes_then_removed},
    {RULE(flush_completed_sixth), vanishes_in_change},
    {RULE(unlist_incomplete), vanishes_on_bad_host},
    {RULE(complete_before_record), vanishes_in_change},
    {RULE(unprotect_guests), host_gone},
    {RULE(flush_moved_map), map_moved_in_vain},
    {RULE(list_moved_map), map_moves},
    {RULE(unlist_map_last), map_moves},
    {RULE(vanishing_fails_flush), vanishes_unflushed},
    {RULE(return_from_sixth), vanishes_and_returns},
    {RULE(return_before_record), comes_back_with_more},
    {RULE(flush_returned), comes_back_with_more},
    {RULE(new_session), old_copy},
    {RULE(new_range), nullptr,
     "numbers go on above all that a spare that went can hold, and an open begins above every end that it "
     "reads; two sides that used the same numbers are told apart by their sessions"},
    {RULE(held_once_durable), comes_back_with_more},
    {RULE(confirm_record), old_copy},
    {RULE(new_spare_first), pool_plain},
    {RULE(winner_before_loser), pool_plain},
    {RULE(rehost_before_remove), host_removed},
    {RULE(forget_marks_lost), forgotten},
    {RULE(unlist_leaving_last), forgotten},
    {RULE(record_before_erase), spare_removed},
    {RULE(flush_erased_supers), nullptr,
     "a record without the spare is durable: superblocks that are back are of a spare that no set lists"},
    {RULE(flush_leaving), nullptr,
     "it serves nothing: what was written to it has moved, by a table change, or is lost and says so"},
    {RULE(flush_found), returns_unflushed},
    {RULE(session_first), mended_copies_return},
    {RULE(dirty_first), flush_fails},
    {RULE(fresh_sequences), copy_returns},
    {RULE(mend), plain},
    {RULE(mend_new_sequence), copy_returns},
    {RULE(mend_before_release), winner_in_one_copy},
    {RULE(close_flushes), plain},
    {RULE(flush_before_clean), nullptr,
     "data was flushed just before, and each change of a table or superblock ends with a flush of its own"},
    {RULE(unmap_flush_main), plain},
    {RULE(unmap_read_back), deaf_main},
    {RULE(unmap_only_slot), old_slot_away},
    {RULE(lost_overwrite_is_table_change), plain},
    {RULE(flush_reaches_main), plain},
    {RULE(flush_reaches_spares), plain},
    {RULE(flush_tells_failures), release_in_doubt},
    {RULE(flush_erased_set), erased},
    {RULE(flush_wiped), wiped},
};
#undef RULE

// Under a sanitizer: those that are over soon. One thread: the thread sanitizer has nothing to see.
bool too_long(scenario run) {
  if (sanitized_threads)
    return true;
  return sanitized && run != one_super_left && run != one_replica_left && run != deaf_main &&
         run != sides_apart && run != old_copy;
}

} // namespace

TEST_CASE("with every rule kept no scenario finds damage") {
  const commit_rules rules;
  for (const scenario run : scenarios) {
    if (too_long(run))
      continue;
    findings found;
    run(rules, found);
    for (const std::string& what : found)
      UNSCOPED_INFO(what);
    CHECK(found.empty());
  }
}

TEST_CASE("each rule of the order of writes is needed") {
  // A rule that is added must be listed.
  CHECK(sizeof(commit_rules) == sizeof(commit_rules::range_bits) + std::size(mutants));
  for (const mutant& each : mutants) {
    if (each.shown_by == nullptr || too_long(each.shown_by))
      continue;
    commit_rules rules;
    rules.*each.rule = false;
    findings found;
    each.shown_by(rules, found);
    INFO(each.name);
    CHECK_FALSE(found.empty());
    for (const std::string& what : found)
      std::cout << each.name << ": " << what << '\n';
  }
}

// All of them at once: one by one they would take as long again each.
TEST_CASE("the rules that are listed as equivalent show no damage") {
  if (sanitized)
    return;
  commit_rules rules;
  std::string listed;
  for (const mutant& each : mutants) {
    if (each.shown_by != nullptr)
      continue;
    REQUIRE(each.equivalent != nullptr);
    listed += std::string(each.name) + ": " + each.equivalent + '\n';
    rules.*each.rule = false;
  }
  findings found;
  for (const scenario run : scenarios)
    run(rules, found);
  INFO(listed);
  for (const std::string& what : found)
    UNSCOPED_INFO(what);
  CHECK(found.empty()); // else one of them is not, and the table is wrong
}
