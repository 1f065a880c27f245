// SPDX-License-Identifier: GPL-2.0-or-later
// Each rule of the order of writes is broken in turn: a scenario must show the damage, or the table must say
// why nothing can. With every rule kept no scenario finds anything.
#include "engine/commit_rules.h"
#include "tests/support/crash_judge.h"
#include "tests/support/pool_operations.h"
#include "tests/support/sanitized.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstring>
#include <functional>
#include <iostream>
#include <map>
#include <optional>

using namespace dmremap;
using namespace dmremap::test;

namespace {

/// Appends what is wrong to `found`; stops at the first.
using findings = std::vector<std::string>;

struct setting {
  std::string start = "fresh";
  std::vector<std::string> operations = {};
  unsigned mending_every = 0; ///< see judge_options
  bool expect_full_copies = true;
  bool from_open = false; ///< crashes during the open count, too
  bool tolerant = false;
  std::function<void(crash_run&)> before = {}; ///< before the open
  std::function<void(crash_run&)> after = {};  ///< after the open
  std::function<void(const crash_run&)> done = {};
};

/// One set of each kind is enough for all scenarios: formatting is not what is tested.
const set_state& started(const std::string& name) {
  static std::map<std::string, set_state> made;
  const auto found = made.find(name);
  return found != made.end() ? found->second : made.emplace(name, starting_state(name)).first->second;
}

bool find_damage(const setting& how, const set_state& start, const commit_rules& rules,
                 const std::string& name, findings& found) {
  open_options options;
  options.rules = &rules;
  crash_run run(start, options);
  if (how.tolerant)
    run.tolerate_failures();
  if (how.before)
    how.before(run);
  std::string text = name;
  std::size_t from = 0;
  if (run.open()) {
    from = how.from_open ? 0 : run.position();
    if (how.after)
      how.after(run);
    for (const std::string& each : how.operations) {
      text += " | " + each;
      find_operation(each).run(run);
    }
  }
  run.finish();
  if (how.done)
    how.done(run);
  judge_options judging;
  judging.open.rules = &rules;
  judging.mending_every = how.mending_every;
  judging.reopen_every = 8;
  judging.expect_full_copies = how.expect_full_copies;
  judging.most_violations = 1;
  judging.limits.combinations = 96;
  judging.after_open = [](crash_run& second, std::uint64_t number) {
    find_operation(number % 2 == 0 ? "B: write error" : "add_remap").run(second);
  };
  crash_judge judge(judging);
  judge.judge(run, text, from);
  found.insert(found.end(), judge.violations().begin(), judge.violations().end());
  return !found.empty();
}

bool find_damage(const setting& how, const commit_rules& rules, findings& found) {
  return find_damage(how, started(how.start), rules, how.start, found);
}

using scenario = void (*)(const commit_rules&, findings&);

/// Plain crashes.
void plain(const commit_rules& rules, findings& found) {
  const setting all[] = {
      {"fresh", {"write error", "B: write error"}, 10, true, true},
      {"fresh", {"remap", "sync", "B: write error"}},
      {"fresh", {"add_remap", "sync", "B: write error"}, 20},
      {"mapped", {"write part", "unmap", "B: unmap"}},
      {"lost", {"overwrite lost", "B: write part", "flush"}},
      {"fresh", {"read error", "overwrite lost", "close"}},
      {"fresh", {"write error", "kill", "B: write error", "flush"}},
  };
  for (const setting& how : all)
    if (find_damage(how, rules, found))
      return;
}

/// What is written to metadata in the operations: offsets on the spare, in order.
std::vector<std::uint64_t> metadata_writes(const setting& how, const commit_rules& rules) {
  open_options options;
  options.rules = &rules;
  crash_run run(started(how.start), options);
  if (run.open())
    for (const std::string& each : how.operations)
      find_operation(each).run(run);
  std::vector<std::uint64_t> offsets;
  for (const log_event& event : run.log().events())
    if (event.what == log_event::kind::write && event.device == 1 &&
        is_metadata_unit(started(how.start).spare(), event.offset / page_bytes))
      offsets.push_back(event.offset);
  return offsets;
}

/// A place of the metadata acknowledges writes and never does them.
void deaf_place(const commit_rules& rules, findings& found) {
  setting how{"fresh", {"add_remap", "B: remap", "sync", "B: unmap"}};
  how.expect_full_copies = false;
  std::vector<std::uint64_t> places = metadata_writes(how, rules);
  std::sort(places.begin(), places.end());
  places.erase(std::unique(places.begin(), places.end()), places.end());
  for (const std::uint64_t place : places) {
    how.before = [place](crash_run& run) {
      run.set_spare_fate([place](std::uint64_t, std::uint64_t offset, std::uint64_t) {
        return offset == place ? write_fate::dropped : write_fate::kept;
      });
    };
    if (find_damage(how, rules, found)) {
      found.back() += "; writes of unit " + std::to_string(place / page_bytes) + " are dropped";
      return;
    }
  }
}

/// One write of metadata is acknowledged, and is gone at once or when power is lost.
void one_write_gone(const commit_rules& rules, findings& found) {
  setting how{"fresh", {"write error", "kill", "B: write error", "flush"}};
  how.expect_full_copies = false;
  const std::size_t writes = metadata_writes(how, rules).size();
  for (std::size_t gone = 0; gone < 2 * writes; ++gone) {
    const write_fate fate = gone % 2 == 0 ? write_fate::forgotten : write_fate::dropped;
    how.before = [gone, fate](crash_run& run) {
      auto seen = std::make_shared<std::size_t>(0);
      run.set_spare_fate([gone, fate, seen](std::uint64_t, std::uint64_t offset, std::uint64_t) {
        if (!is_metadata_unit(started("fresh").spare(), offset / page_bytes))
          return write_fate::kept;
        return (*seen)++ == gone / 2 ? fate : write_fate::kept;
      });
    };
    if (find_damage(how, rules, found)) {
      found.back() += "; metadata write " + std::to_string(gone / 2) +
                      (fate == write_fate::dropped ? " is dropped" : " is forgotten");
      return;
    }
  }
}

/// All superblock copies but one are destroyed before the open.
void one_super_left(const commit_rules& rules, findings& found) {
  for (const unsigned left : {0u, 3u, 7u}) {
    set_state start = started("mapped");
    const page_image whole = start.spare();
    for (unsigned copy = 0; copy < 10; ++copy)
      if (copy != left)
        start.spare().zero(unit_of_super(whole, copy) * page_bytes, page_bytes);
    setting how{"mapped", {}};
    how.from_open = true;
    if (find_damage(how, start, rules, "superblock copy " + std::to_string(left) + " alone", found))
      return;
  }
}

/// All copies of the table blocks but one are destroyed before the open.
void one_replica_left(const commit_rules& rules, findings& found) {
  for (const unsigned left : {0u, 4u}) {
    set_state start = started("mapped");
    const page_image whole = start.spare();
    for (unsigned replica = 0; replica < 5; ++replica)
      for (std::uint32_t number = 0; replica != left && number < 17; ++number)
        start.spare().zero(unit_of_block(whole, replica, number) * page_bytes, page_bytes);
    setting how{"mapped", {"write part", "unmap"}};
    how.from_open = true;
    if (find_damage(how, start, rules, "replica " + std::to_string(left) + " alone", found))
      return;
  }
}

/// Main acknowledges the writes of an unmap and does not do them.
void deaf_main(const commit_rules& rules, findings& found) {
  setting how{"mapped", {"write part", "flush", "unmap"}};
  how.tolerant = true;
  how.before = [](crash_run& run) {
    run.set_main_fate([](std::uint64_t, std::uint64_t, std::uint64_t) { return write_fate::dropped; });
  };
  (void)find_damage(how, rules, found);
}

/// One flush of a member fails, and what it should have made durable may be lost though reads still show it.
void flush_fails(const commit_rules& rules, findings& found) {
  for (const auto& operations : {std::vector<std::string>{"write part", "write error", "B: write part",
                                                          "sync", "B: write error", "sync"},
                                 std::vector<std::string>{"read error", "overwrite lost", "salvage",
                                                          "add_remap", "B: remap", "flush", "unmap"}}) {
    setting how{"fresh", operations};
    how.tolerant = true;
    how.expect_full_copies = false;
    for (const unsigned device : {0u, 1u}) {
      bool reached = true;
      for (std::uint64_t good = 0; reached; ++good) {
        how.after = [&](crash_run& run) { run.fail_flushes(device, good, 1); };
        how.done = [&](const crash_run& run) { reached = run.flush_has_failed(device); };
        if (find_damage(how, rules, found)) {
          found.back() +=
              "; flush " + std::to_string(good) + " of device " + std::to_string(device) + " failed";
          return;
        }
      }
    }
  }
}

std::uint64_t sequence_of(const page* block) {
  std::uint64_t sequence = 0;
  if (block != nullptr)
    std::memcpy(&sequence, block->data.data() + 8, sizeof sequence);
  return sequence;
}

/// The state, if it is one, in which one replica alone has a change of the block whole: which one.
std::optional<unsigned> ahead_of_all(const page_image& spare, std::uint32_t number) {
  std::map<std::uint64_t, std::vector<unsigned>> holders;
  for (unsigned r = 0; r < 5; ++r)
    holders[sequence_of(spare.at(unit_of_block(spare, r, number)))].push_back(r);
  if (holders.size() != 2 || holders.rbegin()->second.size() != 1)
    return std::nullopt;
  return holders.rbegin()->second.front();
}

constexpr std::uint32_t changed_block = 4; // with the first units that are allocated

/// The first state that a crash in the run leaves, from event `from` on, and that `is_it` accepts.
std::optional<set_state> state_where(const crash_run& run, std::size_t from,
                                     const std::function<bool(const page_image& spare)>& is_it) {
  std::optional<set_state> found;
  replay_limits limits;
  limits.tears = false;
  limits.first_event = from;
  crash_replay replay(run.log(), limits);
  replay.run([&](const crash_state& crash) {
    const page_image& spare = crash.devices[1]->content;
    if (!is_it(spare))
      return true;
    found = run.at_epoch(crash.epoch);
    found->main = crash.devices[0]->content;
    found->spare() = spare;
    return false;
  });
  return found;
}

/// A set with a change of which one replica alone has heard.
std::optional<set_state> half_changed() {
  crash_run run(started("fresh"), {});
  if (!run.open())
    return std::nullopt;
  find_operation("B: remap").run(run);
  const std::size_t from_change = run.position();
  find_operation("write error").run(run);
  run.finish();
  return state_where(run, from_change,
                     [](const page_image& spare) { return ahead_of_all(spare, changed_block).has_value(); });
}

/// The copies at `units` cannot be read for a while, so that the others win at the open, and forget what
/// mends them: later they are back.
void copies_return(const set_state& from_state, const std::set<std::uint64_t>& units,
                   const commit_rules& rules, findings& found) {
  open_options options;
  options.rules = &rules;
  for (std::uint64_t times = 1; times <= 4 && found.empty(); ++times) {
    set_state start = from_state;
    for (const std::uint64_t unit : units)
      start.spares.front().faults.bad.push_back(
          {unit * 8, 8, direction::read, io_error::medium, times, false});
    crash_run second(start, options);
    second.set_spare_fate([&units](std::uint64_t, std::uint64_t offset, std::uint64_t) {
      return units.contains(offset / page_bytes) ? write_fate::forgotten : write_fate::kept;
    });
    if (!second.open())
      continue;
    second.adopt();
    const std::size_t from = second.position();
    second.finish();
    judge_options judging;
    judging.open.rules = &rules;
    judging.mending_every = 0;
    judging.expect_full_copies = false;
    crash_judge judge(judging);
    judge.judge(second, "copies return after " + std::to_string(times) + " failed reads", from);
    found.insert(found.end(), judge.violations().begin(), judge.violations().end());
  }
}

/// One copy has a change that the others do not have, and is the one that returns.
void copy_returns(const commit_rules& rules, findings& found) {
  const auto half = half_changed();
  if (!half) {
    found.push_back("the replay has no state in which one copy is ahead");
    return;
  }
  const page_image& spare = half->spares.front().content;
  copies_return(*half, {unit_of_block(spare, *ahead_of_all(spare, changed_block), changed_block)}, rules,
                found);
}

/// The mending of such a set is cut short when two copies have the change. They return after an open that
/// mended the others to what was before: under a number that the first mending has used, too?
void mended_copies_return(const commit_rules& rules, findings& found) {
  const auto half = half_changed();
  if (!half)
    return;
  open_options options;
  options.rules = &rules;
  crash_run mending(*half, options);
  const bool opened = mending.open();
  mending.finish();
  const page_image before = half->spares.front().content;
  const std::uint64_t old = sequence_of(
      before.at(unit_of_block(before, (*ahead_of_all(before, changed_block) + 1) % 5, changed_block)));
  std::set<std::uint64_t> units;
  const auto cut_short = state_where(mending, 0, [&](const page_image& spare) {
    units.clear();
    bool mended = false;
    for (unsigned r = 0; r < 5; ++r) {
      const std::uint64_t unit = unit_of_block(spare, r, changed_block);
      if (sequence_of(spare.at(unit)) == old)
        continue;
      units.insert(unit);
      mended |= spare.at(unit)->data != before.at(unit)->data;
    }
    return mended && units.size() == 2;
  });
  if (!opened || !cut_short) {
    found.push_back("the replay has no state in which mending is cut short");
    return;
  }
  copies_return(*cut_short, units, rules, found);
}

// --- sets of several spares

const set_state& pool_started(const std::string& name) {
  static std::map<std::string, set_state> made;
  const auto found = made.find(name);
  return found != made.end() ? found->second : made.emplace(name, pool_start(name)).first->second;
}

constexpr std::uint64_t b = unit_b * page_sectors;

/// Runs `what` on a set of several spares, then judges every crash in it; with `at_end`, only those after it.
bool find_pool_damage(const set_state& start, const commit_rules& rules, const std::string& name,
                      const std::function<void(crash_run&)>& what, findings& found, bool full_copies = true,
                      bool at_end = false, std::optional<unsigned> absent = std::nullopt) {
  open_options options;
  options.rules = &rules;
  crash_run run(start, options);
  std::size_t from = 0;
  if (run.open()) {
    from = run.position();
    what(run);
  }
  if (at_end)
    from = run.position();
  run.finish();
  judge_options judging;
  judging.open.rules = &rules;
  judging.mending_every = 0;
  judging.reopen_every = 8;
  judging.absent_every = 1;
  judging.only_absent = absent;
  judging.expect_full_copies = full_copies;
  judging.most_violations = 1;
  judging.limits.combinations = 24;
  judging.limits.exhaustive = 4;
  judging.limits.samples = 4;
  judging.limits.tears = false;
  crash_judge judge(judging);
  judge.judge(run, name, from);
  found.insert(found.end(), judge.violations().begin(), judge.violations().end());
  return !found.empty();
}

/// Plain crashes, then a spare is missing.
void pool_plain(const commit_rules& rules, findings& found) {
  const std::pair<const char*, std::vector<std::string>> all[] = {
      {"fresh", {"remap A", "write A whole", "flush"}},
      {"spread", {"write A whole", "flush", "evacuate 0"}},
      {"one", {"add"}},
      {"gone", {"write B whole", "all back"}},
  };
  for (const auto& one : all)
    if (find_pool_damage(
            pool_started(one.first), rules, one.first,
            [&](crash_run& run) {
              for (const std::string& each : one.second)
                find_pool_operation(each).run(run);
            },
            found))
      return;
  // What a flush of the host would have kept.
  (void)find_pool_damage(
      pool_started("fresh"), rules, "spare 0 absent",
      [](crash_run& run) {
        run.remap(unit_a);
        run.write(unit_a * page_sectors, page_sectors);
        run.flush();
      },
      found, true, true, 0);
}

/// The host of a sixth replica cannot write it any more, nor anything near.
void host_fails(const commit_rules& rules, findings& found) {
  (void)find_pool_damage(
      pool_started("spread"), rules, "the host fails",
      [](crash_run& run) {
        run.break_spare({2000 * page_sectors, 2096 * page_sectors, direction::write}, 1);
        run.remap(9);
        run.write(9 * page_sectors, page_sectors);
        run.flush();
      },
      found, false);
}

/// A spare goes while the slot that an evacuation leaves behind on it is released; what was there is removed
/// and written elsewhere.
void vanishes_in_release(const commit_rules& rules, findings& found, bool returns_first) {
  for (std::uint64_t writes = 0; writes <= 12; ++writes)
    if (find_pool_damage(
            pool_started("spread"), rules, "vanishes after " + std::to_string(writes) + " writes",
            [&](crash_run& run) {
              run.vanish(1, writes);
              run.evacuate(1);
              if (returns_first)
                run.reopen_with_all();
              run.unmap(unit_b);
              run.write(b, page_sectors);
              run.flush();
              if (!returns_first)
                run.reopen_with_all();
            },
            found, true, true))
      return;
}
void vanishes_then_removed(const commit_rules& rules, findings& found) {
  vanishes_in_release(rules, found, false);
}
void vanishes_and_returns(const commit_rules& rules, findings& found) {
  vanishes_in_release(rules, found, true);
}

/// Opens what is given; the set must be refused, or show the newest version in unit B.
void expect_refused_or(version newest, const set_state& state, const commit_rules& rules, findings& found) {
  open_options options;
  options.rules = &rules;
  std::vector<std::shared_ptr<store>> spares;
  for (std::size_t n = 0; n < state.spares.size(); ++n)
    if (state.spares[n].role != spare_role::none)
      spares.push_back(make_spare(state.spares[n], n));
  const auto main = std::make_shared<memory_store>(state.main, state.main_block);
  const auto opened = disk::open(main, spares, options);
  if (!opened)
    return;
  std::vector<std::byte> bytes(512);
  const auto context = (*opened)->make_context();
  const version seen = (*opened)->read(*context, bytes, b * 512) ? read_tag(bytes, b) : lost_version;
  if (seen != newest && seen != lost_version)
    found.push_back("unit B shows " + name_of_version(seen) + ", not " + name_of_version(newest));
}

/// A spare goes, what it held is written anew; then it alone is used, without the others.
void sides_apart(const commit_rules& rules, findings& found) {
  open_options options;
  options.rules = &rules;
  crash_run one_side(pool_started("spread"), options);
  if (!one_side.open())
    return;
  one_side.vanish(1);
  one_side.write(b, page_sectors);
  one_side.flush();
  set_state apart = one_side.state();
  const version newest = apart.truth.current(b);
  apart.spares[0].role = spare_role::away;
  apart.spares[1].role = spare_role::member;
  apart.spares[1].faults = {};
  {
    crash_run other_side(apart, options);
    other_side.tolerate_failures();
    if (!other_side.open())
      return;
    other_side.remap(9);
    apart = other_side.state();
  }
  apart.spares[0].role = spare_role::member;
  expect_refused_or(newest, apart, rules, found);
}

/// A copy of a spare from an earlier session takes its place.
void old_copy(const commit_rules& rules, findings& found) {
  open_options options;
  options.rules = &rules;
  const auto session = [&](const set_state& from) {
    crash_run run(from, options);
    if (run.open()) {
      run.write(b, page_sectors);
      run.flush();
    }
    return run.state();
  };
  const set_state before = session(pool_started("spread"));
  set_state now = session(before);
  now.spares[1].content = before.spares[1].content;
  expect_refused_or(now.truth.current(b), now, rules, found);
}

const scenario scenarios[] = {
    plain,      one_super_left,        one_replica_left,     deaf_main,   one_write_gone,
    deaf_place, copy_returns,          mended_copies_return, flush_fails, pool_plain,
    host_fails, vanishes_then_removed, vanishes_and_returns, sides_apart, old_copy};

struct mutant {
  const char* name;
  bool commit_rules::*rule;
  scenario shown_by;                ///< null: by none
  const char* equivalent = nullptr; ///< then: why
};

#define RULE(name) #name, &commit_rules::name
const mutant mutants[] = {
    {RULE(flush_data), plain},
    {RULE(flush_first), plain},
    {RULE(read_back), deaf_place},
    {RULE(others_after_first), plain},
    {RULE(write_others), plain},
    {RULE(flush_others), one_write_gone},
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
    {RULE(record_absence), sides_apart},
    {RULE(complete_sixth), vanishes_then_removed},
    {RULE(return_from_sixth), vanishes_and_returns},
    {RULE(confirm_record), old_copy},
    {RULE(new_spare_first), pool_plain},
    {RULE(winner_before_loser), pool_plain},
    {RULE(session_first), mended_copies_return},
    {RULE(fresh_sequences), copy_returns},
    {RULE(mend), plain},
    {RULE(mend_new_sequence), copy_returns},
    {RULE(unmap_flush_main), plain},
    {RULE(unmap_read_back), deaf_main},
    {RULE(lost_overwrite_is_table_change), plain},
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
  CHECK(sizeof(commit_rules) == std::size(mutants));
  for (const mutant& each : mutants) {
    if (sanitized && (each.shown_by == nullptr || too_long(each.shown_by)))
      continue;
    commit_rules rules;
    rules.*each.rule = false;
    findings found;
    if (each.shown_by != nullptr) {
      each.shown_by(rules, found);
      INFO(each.name);
      CHECK_FALSE(found.empty());
      for (const std::string& what : found)
        std::cout << each.name << ": " << what << '\n';
      continue;
    }
    for (const scenario run : scenarios)
      run(rules, found);
    INFO(each.name << " is listed as equivalent: " << each.equivalent);
    for (const std::string& what : found)
      UNSCOPED_INFO(what);
    CHECK(found.empty()); // else it is not, and the table is wrong
  }
}
