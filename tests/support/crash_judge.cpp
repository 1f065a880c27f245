// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/crash_judge.h"

#include "engine/units.h"

#include <algorithm>

namespace dmremap::test {

namespace {

std::uint64_t hash_faults(const fault_table& faults, std::uint64_t hash) {
  const auto add = [&](std::uint64_t value) {
    hash = (hash ^ value) * 0x9e3779b97f4a7c15ull;
    hash ^= hash >> 31;
  };
  for (const bad_range& bad : faults.bad) {
    add(bad.first);
    add(bad.count);
    add(static_cast<std::uint64_t>(bad.when) << 8 | static_cast<std::uint64_t>(bad.error));
    add(bad.times);
  }
  return hash;
}

std::vector<version> read_all(disk& from, std::uint64_t sectors) {
  const auto context = from.make_context();
  std::vector<version> seen(sectors);
  std::vector<std::byte> bytes(sector_bytes);
  for (std::uint64_t s = 0; s < sectors; ++s)
    seen[s] = from.read(*context, bytes, s * sector_bytes) ? read_tag(bytes, s) : lost_version;
  return seen;
}

} // namespace

void crash_judge::note(std::string what) {
  violations_.push_back(std::move(what));
}

set_state crash_judge::state_after(const crash_run& run, const crash_state& crash) const {
  set_state state = run.at_epoch(crash.epoch);
  state.main = crash.devices[0]->content;
  state.spare = crash.devices[1]->content;
  state.main_faults.flush_failures = state.spare_faults.flush_failures = 0; // that was the old drive's mood
  // Writes since the last marker have healed what they covered.
  for (std::size_t i = crash.point; i-- > 0 && run.log().events()[i].what != log_event::kind::marker;)
    if (const log_event& event = run.log().events()[i];
        event.what == log_event::kind::write && event.device == 0)
      heal_written(state.main_faults, event.offset / sector_bytes, event.length / sector_bytes);
  return state;
}

std::string crash_judge::check_metadata(const page_image& spare) {
  const spare_report report = checker_.check(spare);
  std::string text;
  for (const std::string& damage : report.damage)
    text += (text.empty() ? "" : "; ") + damage;
  if (text.empty() && options_.expect_full_copies && report.super_good != 0x3FF)
    text = "superblock copies are marked bad: good mask " + std::to_string(report.super_good);
  if (text.empty() && options_.expect_full_copies && report.weakest_chunk != 5)
    text = "a chunk has only " + std::to_string(report.weakest_chunk) + " good replicas";
  return text;
}

crash_judge::observation crash_judge::look(const set_state& state) {
  const auto main = std::make_shared<memory_store>(state.main, state.main_block, state.main_faults);
  const auto spare = std::make_shared<memory_store>(state.spare, state.spare_block, state.spare_faults);
  observation seen;
  const std::uint64_t sectors = state.truth.sectors();
  {
    const auto opened = disk::open(main, {spare}, options_.open);
    if (!opened) {
      seen.failure = "does not open: " + opened.error().text();
      return seen;
    }
    if (const std::string damage = check_metadata(spare->image()); !damage.empty())
      seen.failure = "after the open: " + damage;
    seen.sectors = read_all(**opened, sectors);
  }
  if (options_.reopen_every == 0 || images_ % options_.reopen_every != 0)
    return seen;
  const auto again = disk::open(main, {spare}, options_.open);
  if (!again)
    seen.failure = "does not open a second time: " + again.error().text();
  else if (read_all(**again, sectors) != seen.sectors)
    seen.failure = "shows other data when it is opened a second time";
  else if (const std::string damage = check_metadata(spare->image()); !damage.empty())
    seen.failure = "after the second open: " + damage;
  return seen;
}

const crash_judge::observation& crash_judge::observe(const set_state& state, std::uint64_t key) {
  const auto found = memory_.find(key);
  if (found != memory_.end())
    return found->second;
  ++images_;
  return memory_.emplace(key, look(state)).first->second;
}

bool crash_judge::compare(const observation& seen, const oracle& truth, const std::string& name) {
  if (!seen.failure.empty()) {
    note(name + ": " + seen.failure);
    return false;
  }
  for (std::uint64_t s = 0; s < seen.sectors.size(); ++s)
    if (const auto wrong = truth.check_after_crash(s, seen.sectors[s])) {
      note(name + ": " + *wrong);
      return false;
    }
  return true;
}

/// Crashes while the open mends what a crash left behind, and in what is done next.
void crash_judge::replay_mending(const set_state& state, const std::string& name) {
  crash_run second(state, options_.open);
  if (!second.open())
    return; // look() has said so
  second.adopt();
  if (options_.after_open)
    options_.after_open(second, images_);
  second.finish();
  for (const std::string& what : second.violations())
    note(name + "; opened, then: " + what);
  replay(second, name + "; opened", 0, false);
}

void crash_judge::replay(const crash_run& run, const std::string& name, std::size_t from, bool first) {
  replay_limits limits = options_.limits;
  limits.first_event = from;
  limits.last_event = run.last_position();
  if (!first) { // thousands of these: fewer states each
    limits.combinations = std::min<std::size_t>(limits.combinations, 64);
    limits.samples = std::min(limits.samples, 8u);
    limits.exhaustive = std::min(limits.exhaustive, 4u);
  }
  crash_replay states(run.log(), limits);
  states.run([&](const crash_state& crash) {
    const set_state after = state_after(run, crash);
    const std::string where = name + "; " + crash.describe();
    const std::uint64_t before = images_;
    const observation& seen =
        observe(after, hash_faults(after.spare_faults, hash_faults(after.main_faults, crash.hash)));
    if (!compare(seen, after.truth, where))
      return violations_.size() < options_.most_violations;
    if (first && images_ != before && options_.mending_every != 0 && images_ % options_.mending_every == 0)
      replay_mending(after, where);
    return violations_.size() < options_.most_violations;
  });
  const replay_counts& counts = states.counts();
  if (!first) {
    counts_.mending_images += counts.distinct_images;
    return;
  }
  counts_.distinct_images += counts.distinct_images;
  counts_.checks += counts.checks;
  counts_.points += counts.points;
  counts_.sampled_points += counts.sampled_points;
}

bool crash_judge::judge(const crash_run& run, const std::string& name, std::size_t from) {
  for (const std::string& what : run.violations())
    note(name + ": " + what);
  replay(run, name, from, true);
  memory_.clear(); // sessions are random: the next run's images are others
  return violations_.empty();
}

} // namespace dmremap::test
