// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/mutant_scenarios.h"

#include "engine/erase_set.h"
#include "engine/wipe.h"
#include "tests/support/crash_judge.h"
#include "tests/support/crash_operations.h"
#include "tests/support/mutant_states.h"

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>

namespace dmremap::test {
namespace {

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

} // namespace

/// Plain crashes.
void plain(const commit_rules& rules, findings& found) {
  const setting all[] = {
      {"fresh", {"write error", "B: write error"}, 10, true, true},
      {"fresh", {"remap", "sync", "B: write error"}},
      {"fresh", {"add_remap", "sync", "B: write error"}, 20},
      {"fresh", {"write part", "flush"}},
      {"mapped", {"write part", "unmap", "B: unmap"}},
      {"lost", {"overwrite lost", "B: write part", "flush"}},
      {"fresh", {"read error", "overwrite lost", "close"}},
      {"fresh", {"write error", "kill", "B: write error", "flush"}},
      {"fresh", {"write part", "close"}},
  };
  for (const setting& how : all)
    if (find_damage(how, rules, found))
      return;
}

namespace {

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

} // namespace

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

namespace {

/// A set with a change of which one replica alone has heard.
std::optional<set_state> half_changed() {
  crash_run run(started("fresh"), {});
  if (!run.open())
    return std::nullopt;
  find_operation("B: remap").run(run);
  const std::size_t from_change = run.position();
  find_operation("write error").run(run);
  run.finish();
  return state_where(run, from_change, [](const crash_state& crash) {
    return ahead_of_all(crash.devices[1]->content, changed_block).has_value();
  });
}

/// Both units leave their places, are written, and A gets a place again.
void change_much(crash_run& run) {
  for (const char* each : {"B: unmap", "unmap", "B: write part", "write whole", "flush", "remap"})
    find_operation(each).run(run);
}

/// The copies at `units` cannot be read for a while, so that the others win at the open, and forget what
/// mends them: later they are back, with or without changes made meanwhile.
void copies_return(const set_state& from_state, const std::set<std::uint64_t>& units,
                   const commit_rules& rules, findings& found) {
  open_options options;
  options.rules = &rules;
  for (std::uint64_t n = 0; n < 8 && found.empty(); ++n) {
    const std::uint64_t times = 1 + n % 4;
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
    if (n >= 4) {
      second.tolerate_failures(); // main cannot write A
      change_much(second);
    }
    second.finish();
    judge_options judging;
    judging.open.rules = &rules;
    judging.mending_every = 0;
    judging.expect_full_copies = false;
    crash_judge judge(judging);
    const std::string meanwhile = n < 4 ? " failed reads" : " failed reads and changes";
    judge.judge(second, "copies return after " + std::to_string(times) + meanwhile, from);
    found.insert(found.end(), judge.violations().begin(), judge.violations().end());
  }
}

} // namespace

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
  const auto cut_short = state_where(mending, 0, [&](const crash_state& crash) {
    const page_image& spare = crash.devices[1]->content;
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

/// A replica of the table cannot be read at one open; changes are made, which it takes or forgets; it can be
/// read at the next one.
void unread_copy_returns(const commit_rules& rules, findings& found) {
  for (const unsigned replica : {0u, 4u})
    for (const write_fate fate : {write_fate::kept, write_fate::forgotten}) {
      set_state start = started("mapped");
      const std::uint64_t first = unit_of_block(start.spare(), replica, 0), units = 17;
      start.spares.front().faults.bad.push_back(
          {first * page_sectors, units * page_sectors, direction::read, io_error::medium, always, false});
      setting how{"mapped", {"B: write error", "flush"}};
      how.expect_full_copies = false;
      how.before = [&](crash_run& run) {
        run.set_spare_fate([=](std::uint64_t, std::uint64_t offset, std::uint64_t) {
          const std::uint64_t unit = offset / page_bytes;
          return unit >= first && unit < first + units ? fate : write_fate::kept;
        });
      };
      how.after = [](crash_run& run) {
        change_much(run);
        run.heal_spare();
      };
      if (find_damage(how, start, rules, "replica " + std::to_string(replica) + " returns", found))
        return;
    }
}

void release_in_doubt(const commit_rules& rules, findings& found) {
  struct failing {
    setting how;
    std::uint64_t times = 1;
    bool far_apart = false; ///< A and B are mapped first, by slots that a tear can part
  };
  const failing all[] = {
      {{"fresh", {"remap", "flush", "unmap", "B: remap", "B: write part", "flush"}}},
      {{"mapped", {"B: write part", "unmap", "flush", "write part", "flush"}}},
      {{"mapped", {"write part", "B: unmap", "flush"}}},
      {{"fresh", {"unmap", "B: unmap"}}, 2, true},
  };
  for (const failing& each : all) {
    setting how = each.how;
    how.tolerant = true;
    how.expect_full_copies = false;
    bool reached = true;
    for (std::uint64_t good = 0; reached; ++good) {
      how.after = [&](crash_run& run) {
        if (each.far_apart) {
          run.add_remap(unit_a, far_spare_unit);
          run.add_remap(unit_b, far_spare_unit - 64);
        }
        run.fail_flushes(1, good, each.times);
      };
      how.done = [&](const crash_run& run) { reached = run.flush_has_failed(1); };
      if (find_damage(how, rules, found)) {
        found.back() += "; " + std::to_string(each.times) + " failed after " + std::to_string(good);
        return;
      }
    }
  }
}

namespace {

/// What was a spare is none any more, whenever power is lost afterwards.
void ends_spare(const std::function<result<void>(store&)>& end, findings& found) {
  const auto log = std::make_shared<crash_log>();
  {
    crash_store spare(log, make_spare(started("fresh").spares.front(), 0));
    if (const auto done = end(spare); !done)
      found.push_back(done.error().text());
  }
  replay_limits limits;
  (void)log->add_marker("done");
  limits.first_event = log->size();
  crash_replay replay(*log, limits);
  (void)replay.run([&](const crash_state& crash) {
    if (spare_checker().check(crash.devices[0]->content).sequence != 0)
      found.push_back("a superblock is back; " + crash.describe());
    return found.empty();
  });
}

} // namespace

void erased(const commit_rules& rules, findings& found) {
  ends_spare(
      [&](store& spare) -> result<void> {
        CHECK_OK(erase_set(spare, rules));
        return {};
      },
      found);
}

void wiped(const commit_rules& rules, findings& found) {
  ends_spare([&](store& spare) { return wipe_signatures(spare, rules); }, found);
}

} // namespace dmremap::test
