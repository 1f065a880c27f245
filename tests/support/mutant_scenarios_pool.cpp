// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/mutant_scenarios.h"

#include "engine/geometry.h"
#include "tests/support/crash_judge.h"
#include "tests/support/mutant_states.h"
#include "tests/support/pool_operations.h"

#include <functional>
#include <map>
#include <memory>
#include <optional>

namespace dmremap::test {
namespace {

const set_state& pool_started(const std::string& name) {
  static std::map<std::string, set_state> made;
  const auto found = made.find(name);
  return found != made.end() ? found->second : made.emplace(name, pool_start(name)).first->second;
}

constexpr std::uint64_t b = unit_b * page_sectors;
constexpr std::uint64_t late_unit = 9; ///< on no spare when a scenario begins

struct pool_judging {
  bool full_copies = true;
  bool at_end = false; ///< only crashes after the run
  std::optional<unsigned> absent = std::nullopt;
  bool tears = false;
};

/// Runs `before` and `what` on a set of several spares, then judges every crash in `what`.
bool find_pool_damage(const set_state& start, const commit_rules& rules, const std::string& name,
                      const std::function<void(crash_run&)>& what, findings& found, pool_judging how = {},
                      const std::function<void(crash_run&)>& before = {}) {
  open_options options;
  options.rules = &rules;
  crash_run run(start, options);
  std::size_t from = 0;
  if (run.open()) {
    if (before)
      before(run);
    from = run.position();
    what(run);
  }
  if (how.at_end)
    from = run.position();
  run.finish();
  judge_options judging;
  judging.open.rules = &rules;
  judging.mending_every = 0;
  judging.reopen_every = 8;
  judging.absent_every = 1;
  judging.only_absent = how.absent;
  judging.expect_full_copies = how.full_copies;
  judging.most_violations = 1;
  judging.limits.combinations = 24;
  judging.limits.exhaustive = 4;
  judging.limits.samples = 4;
  judging.limits.tears = how.tears;
  crash_judge judge(judging);
  judge.judge(run, name, from);
  found.insert(found.end(), judge.violations().begin(), judge.violations().end());
  return !found.empty();
}

} // namespace

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
  (void)find_pool_damage(pool_started("fresh"), rules, "spare 0 absent",
                         [](crash_run& run) {
                           run.remap(unit_a);
                           run.write(unit_a * page_sectors, page_sectors);
                           run.flush();
                         },
                         found, {.at_end = true, .absent = 0});
}

/// The host of a sixth replica cannot write it any more, nor anything near.
void host_fails(const commit_rules& rules, findings& found) {
  (void)find_pool_damage(pool_started("spread"), rules, "the host fails",
                         [](crash_run& run) {
                           run.break_spare({2000 * page_sectors, 2096 * page_sectors, direction::write}, 1);
                           run.remap(9);
                           run.write(9 * page_sectors, page_sectors);
                           run.flush();
                         },
                         found, {.full_copies = false});
}

namespace {

constexpr std::uint64_t sixth_place = 4080; ///< from here on a sixth replica holds its blocks

/// A spare goes while the slot that an evacuation leaves behind on it is released; what was there is removed
/// and written elsewhere.
void vanishes_in_release(const commit_rules& rules, findings& found, bool returns_first,
                         bool host_is_bad = false) {
  for (std::uint64_t writes = 0; writes <= 12; ++writes)
    if (find_pool_damage(
            pool_started("spread"), rules, "vanishes after " + std::to_string(writes) + " writes",
            [&](crash_run& run) {
              if (host_is_bad)
                run.break_spare({sixth_place * page_sectors, 16 * page_sectors, direction::write});
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
            found, {.full_copies = !host_is_bad, .at_end = true}))
      return;
}

} // namespace

void vanishes_then_removed(const commit_rules& rules, findings& found) {
  vanishes_in_release(rules, found, false);
}

void vanishes_on_bad_host(const commit_rules& rules, findings& found) {
  vanishes_in_release(rules, found, false, true);
}

void vanishes_and_returns(const commit_rules& rules, findings& found) {
  vanishes_in_release(rules, found, true);
}

namespace {

/// Opens what is given; the set must be refused, or show the newest version of the sector.
void expect_refused_or(std::uint64_t sector, const set_state& state, const commit_rules& rules,
                       findings& found) {
  const version newest = state.truth.current(sector);
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
  const version seen =
      (*opened)->read(*context, bytes, sector * 512) ? read_tag(bytes, sector) : lost_version;
  if (seen != newest && seen != lost_version)
    found.push_back("sector " + std::to_string(sector) + " shows " + name_of_version(seen) + ", not " +
                    name_of_version(newest));
}

} // namespace

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
  expect_refused_or(b, apart, rules, found);
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
  expect_refused_or(b, now, rules, found);
}

void stale_replica_returns(const commit_rules& rules, findings& found) {
  constexpr unsigned stale = 4;
  constexpr std::uint32_t blocks = 17;
  open_options options;
  options.rules = &rules;
  crash_run run(pool_started("one"), options);
  if (!run.open())
    return;
  const page_image before = run.state().spare();
  run.break_spare({unit_of_block(before, stale, 0) * page_sectors, blocks * page_sectors, direction::write});
  run.unmap(unit_a);
  run.write(unit_a * page_sectors, page_sectors);
  run.flush();
  set_state left = run.state();
  left.spares[0].faults = {};
  for (unsigned replica = 0; replica < stale; ++replica)
    for (std::uint32_t number = 0; number < blocks; ++number)
      left.spare().zero(unit_of_block(before, replica, number) * page_bytes, page_bytes);
  expect_refused_or(unit_a * page_sectors, left, rules, found);
}

void no_copy_whole(const commit_rules& rules, findings& found) {
  constexpr std::uint64_t large = std::uint64_t{1200} << 20; // chunks of two blocks
  constexpr std::uint32_t even = 100;                        // the first of a chunk
  constexpr std::uint64_t behind = (even + 1) * slots_per_block;
  open_options options;
  options.rules = &rules;
  crash_run run(format_set(replay_units, 512, 512, large), options);
  if (!run.open())
    return;
  run.add_remap(late_unit, behind - 10);
  run.write(late_unit * page_sectors, page_sectors);
  run.flush();
  for (unsigned replica = 0; replica < 5; ++replica)
    run.break_spare(
        {unit_of_block(run.state().spare(), replica, replica == 0 ? even + 1 : even) * page_sectors,
         page_sectors, direction::write});
  set_state left = run.state();
  const auto main = std::make_shared<memory_store>(left.main, left.main_block);
  const auto spare = make_spare(left.spares[0], 0);
  if (const auto opened = disk::open(main, {spare}, options);
      opened && (*opened)->add_remap(sector_number(unit_a * page_sectors),
                                     sector_number((behind - 1) * page_sectors), 2 * page_sectors))
    found.push_back("a change succeeds that no replica holds whole");
  left.main = main->image();
  left.spare() = spare->image();
  left.spares[0].faults = {};
  expect_refused_or(late_unit * page_sectors, left, rules, found);
}

void forgotten(const commit_rules& rules, findings& found) {
  (void)find_pool_damage(
      pool_started("gone"), rules, "gone | forget", [](crash_run& run) { run.forget(); }, found);
}

void host_removed(const commit_rules& rules, findings& found) {
  open_options options;
  options.rules = &rules;
  options.degraded = true;
  for (unsigned removed = 0; removed < 3; ++removed)
    for (unsigned missing = 0; missing < 3; ++missing) {
      crash_run run(pool_started("three"), options);
      if (removed == missing || !run.open())
        continue;
      run.evacuate(removed);
      run.remove_spare(removed);
      const set_state left = run.state();
      std::vector<std::shared_ptr<store>> spares;
      for (unsigned n = 0; n < 3; ++n)
        if (n != removed && n != missing)
          spares.push_back(make_spare(left.spares[n], n));
      const auto main = std::make_shared<memory_store>(left.main, left.main_block);
      if (const auto opened = disk::open(main, spares, options); !opened)
        found.push_back("spare " + std::to_string(removed) + " removed, " + std::to_string(missing) +
                        " missing: " + opened.error().text());
      found.insert(found.end(), run.violations().begin(), run.violations().end());
      if (!found.empty())
        return;
    }
}

void spare_removed(const commit_rules& rules, findings& found) {
  (void)find_pool_damage(
      pool_started("spread"), rules, "spread | evacuate 1 | remove 1",
      [](crash_run& run) { run.remove_spare(1); }, found, {}, [](crash_run& run) { run.evacuate(1); });
}

void old_slot_away(const commit_rules& rules, findings& found) {
  (void)find_pool_damage(pool_started("gone"), rules,
                         "gone | write B whole | unmap B | write B whole | all back",
                         [](crash_run& run) {
                           run.write(b, page_sectors);
                           run.unmap(unit_b);
                           run.write(b, page_sectors);
                           run.flush();
                           run.reopen_with_all();
                         },
                         found, {.at_end = true});
}

void vanishes_unflushed(const commit_rules& rules, findings& found) {
  (void)find_pool_damage(pool_started("spread"), rules, "spread | write B part | vanish 1 | read B | flush",
                         [](crash_run& run) {
                           run.write(b + 3, 1);
                           run.vanish(1);
                           run.read(b, page_sectors);
                           run.flush();
                         },
                         found, {.at_end = true});
}

void vanishes_in_change(const commit_rules& rules, findings& found) {
  (void)find_pool_damage(pool_started("spread"), rules, "vanishes after one write",
                         [](crash_run& run) {
                           run.vanish(1, 1);
                           run.evacuate(1);
                         },
                         found, {.tears = true});
}

void host_returns(const commit_rules& rules, findings& found) {
  (void)find_pool_damage(
      pool_started("spread"), rules, "spread | vanish 1 | add_remap | all back",
      [](crash_run& run) { run.reopen_with_all(); }, found, {.absent = 0},
      [](crash_run& run) {
        run.vanish(1);
        run.read(b, page_sectors);
        run.add_remap(late_unit, far_spare_unit);
        run.flush();
      });
}

namespace {

/// A flush of spare `host` for somebody else fails somewhere in `what`, which may do without the host.
void other_flush_fails(const std::string& name, unsigned host, const commit_rules& rules,
                       const std::function<void(crash_run&)>& before,
                       const std::function<void(crash_run&)>& what, pool_judging how, findings& found) {
  open_options options;
  options.rules = &rules;
  bool reached = true;
  for (std::uint64_t asked = 1; reached && found.empty(); ++asked) {
    const auto failing = [&](crash_run& run) {
      run.fail_flush_between(host, asked);
      what(run);
      reached = run.has_failed_between(host);
    };
    {
      crash_run run(pool_started(name), options);
      if (!run.open())
        return;
      before(run);
      failing(run);
      if (!run.violations().empty()) // something failed, and said so
        continue;
    }
    (void)find_pool_damage(pool_started(name), rules,
                           name + "; a flush fails at question " + std::to_string(asked), failing, found, how,
                           before);
  }
}

} // namespace

void sixth_placed_in_vain(const commit_rules& rules, findings& found) {
  other_flush_fails(
      "spread", 1, rules,
      [](crash_run& run) {
        run.vanish(1);
        run.read(b, page_sectors);
        run.remap(late_unit); // in a block that the old copy has, too
        run.write(late_unit * page_sectors, page_sectors);
        run.flush();
      },
      [](crash_run& run) { run.reopen_with_all(); }, {.full_copies = false, .at_end = true, .absent = 0},
      found);
}

void map_moved_in_vain(const commit_rules& rules, findings& found) {
  other_flush_fails(
      "three", 1, rules,
      [](crash_run& run) {
        run.vanish(2);
        run.read((unit_b + 1) * page_sectors, page_sectors);
        run.remap(late_unit);
        run.flush();
      },
      [](crash_run& run) { run.evacuate(0); }, {.full_copies = false, .at_end = true}, found);
}

void host_gone(const commit_rules& rules, findings& found) {
  open_options options;
  options.rules = &rules;
  crash_run run(format_pool(replay_units, 4, 0), options);
  if (!run.open())
    return;
  run.break_spare({0, (16 << 20) / sector_bytes, direction::write, io_error::gone, 1});
  run.remap(late_unit);
  run.flush();
  const set_state left = run.state();
  options.degraded = true;
  const auto main = std::make_shared<memory_store>(left.main, left.main_block);
  if (const auto opened =
          disk::open(main, {make_spare(left.spares[1], 1), make_spare(left.spares[3], 3)}, options);
      !opened)
    found.push_back("spare 0 gone, 2 missing: " + opened.error().text());
  found.insert(found.end(), run.violations().begin(), run.violations().end());
}

void map_moves(const commit_rules& rules, findings& found) {
  (void)find_pool_damage(
      pool_started("three"), rules, "three | vanish 2 | remap | evacuate 0",
      [](crash_run& run) { run.evacuate(0); }, found, {},
      [](crash_run& run) {
        run.vanish(2);
        run.read((unit_b + 1) * page_sectors, page_sectors);
        run.remap(late_unit);
        run.flush();
      });
}

void returns_unflushed(const commit_rules& rules, findings& found) {
  (void)find_pool_damage(
      pool_started("fresh"), rules, "returns with a record that no flush has covered",
      [](crash_run& run) { run.reopen_with_all(); }, found, {.tears = true},
      [](crash_run& run) {
        run.vanish(1, 3);
        run.remove_spare(0);
      });
}

void comes_back_with_more(const commit_rules& rules, findings& found) {
  crash_run half(pool_started("spread"), {});
  if (!half.open())
    return;
  const std::size_t from = half.position();
  half.put_on(1, late_unit);
  half.finish();
  auto ahead = state_where(half, from, [](const crash_state& crash) {
    return ahead_of_all(crash.devices[2]->content, changed_block).has_value();
  });
  if (!ahead) {
    found.push_back("the replay has no state in which one copy is ahead");
    return;
  }
  ahead->spares[1].role = spare_role::away;
  (void)find_pool_damage(
      *ahead, rules, "comes back with a change that the sixth has not",
      [](crash_run& run) { run.reopen_with_all(); }, found, {},
      [](crash_run& run) {
        run.adopt();
        run.write(late_unit * page_sectors, page_sectors);
        run.flush();
      });
}

void winner_in_one_copy(const commit_rules& rules, findings& found) {
  crash_run half(pool_started("spread"), {});
  if (!half.open())
    return;
  const std::size_t from = half.position();
  half.evacuate(1);
  half.finish();
  const auto ahead = state_where(half, from, [](const crash_state& crash) {
    return ahead_of_all(crash.devices[1]->content, changed_block).has_value();
  });
  if (!ahead) {
    found.push_back("the replay has no state in which one copy is ahead");
    return;
  }
  const page_image& before = ahead->spares[0].content;
  const std::uint64_t only = unit_of_block(before, *ahead_of_all(before, changed_block), changed_block);
  open_options options;
  options.rules = &rules;
  crash_run mending(*ahead, options);
  (void)mending.open();
  mending.finish();
  replay_limits limits;
  limits.tears = false;
  limits.exhaustive = 2;
  limits.samples = 0;
  limits.combinations = 8;
  crash_replay replay(mending.log(), limits);
  (void)replay.run([&](const crash_state& crash) {
    set_state left = mending.at_epoch(crash.epoch);
    left.main = crash.devices[0]->content;
    for (std::size_t n = 0; n < left.spares.size(); ++n)
      left.spares[n].content = crash.devices[1 + n]->content;
    left.spares[0].content.zero(only * page_bytes, page_bytes); // the place has gone bad
    expect_refused_or(b, left, rules, found);
    return found.empty();
  });
}

} // namespace dmremap::test
