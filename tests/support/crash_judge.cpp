// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/crash_judge.h"

#include "engine/units.h"

#include <algorithm>
#include <optional>

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
  add(faults.bad.size());
  return hash;
}

std::vector<version> read_all(disk& from, std::uint64_t sectors) {
  const auto context = from.make_context();
  std::vector<version> seen(sectors);
  std::vector<std::byte> bytes(unit_bytes);
  for (std::uint64_t unit = 0; unit < sectors; unit += unit_sectors) {
    const std::uint64_t count = std::min(unit_sectors, sectors - unit);
    const auto all = std::span(bytes).first(count * sector_bytes);
    // A read that touches a lost sector fails as a whole; smaller ones get the rest.
    const bool whole = from.read(*context, all, unit * sector_bytes).has_value();
    for (std::uint64_t i = 0; i < count; ++i) {
      const auto one = all.subspan(i * sector_bytes, sector_bytes);
      const bool got = whole || from.read(*context, one, (unit + i) * sector_bytes).has_value();
      seen[unit + i] = got ? read_tag(one, unit + i) : lost_version;
    }
  }
  return seen;
}

constexpr version written_meanwhile = 0x70000000;
bool some_in_flight(const set_state& state) {
  return std::any_of(state.spares.begin(), state.spares.end(), [](const spare_part& p) {
    return p.role == spare_role::adding || p.role == spare_role::removing;
  });
}

/// Whom to leave out: with spares away already those, as the others must not be used without each other.
absent_spares who_is_absent(const set_state& state, std::uint64_t number) {
  std::vector<unsigned> members, away;
  for (unsigned n = 0; n < state.spares.size(); ++n)
    if (state.spares[n].role == spare_role::away)
      away.push_back(n);
    else if (state.spares[n].role == spare_role::member)
      members.push_back(n);
  if (!away.empty())
    return members.empty() ? absent_spares{} : away;
  return members.size() < 2 ? absent_spares{} : absent_spares{members[number % members.size()]};
}

bool is_in(const absent_spares& absent, unsigned n) {
  return std::find(absent.begin(), absent.end(), n) != absent.end();
}

} // namespace

void crash_judge::note(std::string what) {
  violations_.push_back(std::move(what));
}

set_state crash_judge::state_after(const crash_run& run, const crash_state& crash) const {
  set_state state = run.at_epoch(crash.epoch);
  const auto faults_of = [&](unsigned device) -> fault_table& {
    return device == 0 ? state.main_faults : state.spares[device - 1].faults;
  };
  state.main = crash.devices[0]->content;
  state.main_faults.flush_failures = 0; // that was the old drive's mood
  for (std::size_t n = 0; n < state.spares.size(); ++n) {
    state.spares[n].content = crash.devices[1 + n]->content;
    state.spares[n].faults.flush_failures = 0;
    state.spares[n].faults.all.reset(); // it answers again, or is not given at all
  }
  // Writes since the last marker have healed what they covered.
  for (std::size_t i = crash.point; i-- > 0 && run.log().events()[i].what != log_event::kind::marker;)
    if (const log_event& event = run.log().events()[i]; event.what == log_event::kind::write)
      heal_written(faults_of(event.device), event.offset / sector_bytes, event.length / sector_bytes);
  return state;
}

/// The devices of a state, for one or more opens in turn.
struct crash_judge::devices {
  std::shared_ptr<memory_store> main;
  std::vector<std::shared_ptr<memory_store>> spares;

  explicit devices(const set_state& state)
      : main(std::make_shared<memory_store>(state.main, state.main_block, state.main_faults)) {
    for (std::size_t n = 0; n < state.spares.size(); ++n)
      spares.push_back(make_spare(state.spares[n], n));
  }
  /// With every spare of the set but `absent`; of those that were just being added or removed: with them,
  /// and where that is refused because one is none, without.
  [[nodiscard]] result<std::unique_ptr<disk>> open(const set_state& state, open_options options,
                                                   const absent_spares& absent = {}) const {
    const auto attempt = [&](bool in_flight) {
      std::vector<std::shared_ptr<store>> given;
      for (unsigned n = 0; n < spares.size(); ++n) {
        const spare_role role = state.spares[n].role;
        if (role == spare_role::none || is_in(absent, n))
          continue;
        if (in_flight || role == spare_role::member || role == spare_role::away)
          given.push_back(spares[n]);
      }
      options.degraded = options.degraded || !absent.empty();
      return disk::open(main, given, options);
    };
    auto opened = attempt(true);
    if (!opened && some_in_flight(state) &&
        (opened.error().id == "no-superblock" || opened.error().id == "foreign-spare" ||
         opened.error().id == "mixed-superblocks"))
      return attempt(false);
    return opened;
  }
};

/// Of the spares that the set lists.
std::string crash_judge::check_metadata(const set_state& state, const devices& on, disk& opened) {
  std::vector<page_image> images;
  std::string text;
  for (std::size_t n = 0; n < state.spares.size(); ++n) {
    if (state.pool() && !opened.find_spare(spare_name(n)))
      continue;
    const page_image image = on.spares[n]->image();
    const spare_report report = checker_.check(image);
    for (const std::string& damage : report.damage)
      text += (text.empty() ? "" : "; ") + damage;
    if (text.empty() && options_.expect_full_copies && report.super_good != 0x3FF)
      text = "superblock copies are marked bad: good mask " + std::to_string(report.super_good);
    if (text.empty() && options_.expect_full_copies && report.weakest_chunk != 5)
      text = "a chunk has only " + std::to_string(report.weakest_chunk) + " good replicas";
    images.push_back(image);
  }
  if (images.size() < 2 || !text.empty())
    return text;
  std::vector<const page_image*> all;
  for (const page_image& each : images)
    all.push_back(&each);
  for (const std::string& damage : checker_.check_sixths(all, options_.expect_full_copies))
    text += (text.empty() ? "" : "; ") + damage;
  return text;
}

std::vector<const page_image*> crash_judge::all_but(const set_state& state, const absent_spares& absent) {
  std::vector<const page_image*> there;
  for (unsigned n = 0; n < state.spares.size(); ++n)
    if (!is_in(absent, n) && state.spares[n].role != spare_role::none)
      there.push_back(&state.spares[n].content);
  return there;
}

crash_judge::observation crash_judge::look(const set_state& state) {
  const devices on(state);
  std::uint64_t next = numbers_apart(state);
  const counted_numbers numbers(next);
  observation seen;
  const std::uint64_t sectors = state.truth.sectors();
  {
    const auto opened = on.open(state, options_.open);
    if (!opened) {
      seen.failure = "does not open: " + opened.error().id + ": " + opened.error().text();
      return seen;
    }
    if (const std::string damage = check_metadata(state, on, **opened); !damage.empty())
      seen.failure = "after the open: " + damage;
    seen.sectors = read_all(**opened, sectors);
  }
  if (options_.reopen_every != 0 && images_ % options_.reopen_every == 0) {
    const auto again = on.open(state, options_.open);
    if (!again)
      seen.failure = "does not open a second time: " + again.error().text();
    else if (read_all(**again, sectors) != seen.sectors)
      seen.failure = "shows other data when it is opened a second time";
    else if (const std::string damage = check_metadata(state, on, **again); !damage.empty())
      seen.failure = "after the second open: " + damage;
  }
  if (state.pool() && options_.absent_every != 0 && images_ % options_.absent_every == 0 &&
      seen.failure.empty())
    if (const auto absent = options_.only_absent ? absent_spares{*options_.only_absent}
                                                 : who_is_absent(state, images_ / options_.absent_every);
        !absent.empty() && !checker_.some_stale(all_but(state, {}), all_but(state, absent)))
      look_without(state, absent, seen);
  return seen;
}

/// Do those that are there know the maps of those that are not?
bool crash_judge::maps_known_without(const set_state& state, const absent_spares& absent) {
  std::vector<unsigned> places;
  for (const unsigned n : absent)
    places.push_back(state.spares[n].place);
  return checker_.maps_are_known(all_but(state, absent), places);
}

bool crash_judge::may_do_without(const set_state& state, const absent_spares& absent) {
  return maps_known_without(state, absent) &&
         !checker_.some_stale(all_but(state, {}), all_but(state, absent));
}

/// The set without some spares; then, with changes made meanwhile, with them again.
void crash_judge::look_without(const set_state& state, const absent_spares& absent, observation& seen) {
  const devices on(state);
  const std::uint64_t sectors = state.truth.sectors(), number = images_;
  std::uint64_t next = numbers_apart(state);
  const counted_numbers numbers(next);
  seen.which = "without";
  for (const unsigned n : absent) {
    seen.which += " " + spare_name(n);
    seen.may_fail.merge(checker_.named_units(state.spares[n].content, all_but(state, absent)));
  }
  {
    const auto opened = on.open(state, options_.open, absent);
    if (!opened) {
      ++counts_.refused_opens;
      if ((opened.error().id != "spare-unprotected" && opened.error().id != "spare-missing") ||
          maps_known_without(state, absent))
        seen.failure = seen.which + " does not open: " + opened.error().id + ": " + opened.error().text();
      return;
    }
    ++counts_.degraded_opens;
    disk& d = **opened;
    // A place that takes writes and cannot be read may be the first that is free.
    const bool weak = std::any_of(state.spares.begin(), state.spares.end(), [](const spare_part& p) {
      return std::any_of(p.faults.bad.begin(), p.faults.bad.end(),
                         [](const bad_range& bad) { return bad.when != direction::write; });
    });
    seen.without = read_all(d, sectors);
    const auto context = d.make_context();
    std::vector<std::byte> bytes(unit_bytes);
    for (const std::uint64_t unit : seen.may_fail) { // a whole unit finds another place
      if (weak || number / 2 % 2 == 0 || unit * unit_sectors >= sectors)
        continue;
      fill_tags(bytes, unit * unit_sectors, written_meanwhile);
      if (d.write(*context, bytes, unit * unit_bytes))
        seen.written = unit;
      break;
    }
    if (!weak && number / 2 % 3 == 0)
      (void)d.remap(sector_number(0));
    if (number / 2 % 5 == 0)
      (void)d.close();
  }
  const auto back = on.open(state, options_.open);
  if (!back) {
    seen.failure = seen.which + ", then with it does not open: " + back.error().text();
    return;
  }
  seen.back = read_all(**back, sectors);
  if (const std::string damage = check_metadata(state, on, **back); !damage.empty())
    seen.failure = seen.which + ", then with it: " + damage;
}

const crash_judge::observation& crash_judge::observe(const set_state& state, std::uint64_t key) {
  const auto found = memory_.find(key);
  if (found != memory_.end())
    return found->second;
  ++images_;
  observation seen = look(state);
  if (options_.repair_every != 0 && images_ % options_.repair_every == 0)
    seen.repaired = std::make_shared<const observation>(repair_and_look(state));
  return memory_.emplace(key, std::move(seen)).first->second;
}

/// As look(), after a repair of all spares or, now and then, of all but some, which are there again at the
/// open.
crash_judge::observation crash_judge::repair_and_look(set_state state) {
  ++counts_.repairs;
  absent_spares absent;
  if (state.pool() && counts_.repairs % 3 == 0)
    absent = who_is_absent(state, counts_.repairs / 3);
  if (!absent.empty() && !may_do_without(state, absent))
    absent.clear();
  observation seen;
  seen.failure = options_.repair(state, absent);
  return seen.failure.empty() ? look(state) : seen;
}

/// What was seen without one of the spares, and when it was back.
std::string crash_judge::compare_without(const observation& seen, const oracle& truth) {
  for (std::uint64_t s = 0; s < seen.without.size(); ++s) {
    const bool hidden = seen.without[s] == lost_version && seen.may_fail.contains(s / unit_sectors);
    if (hidden)
      continue;
    if (const auto wrong = truth.check_after_crash(s, seen.without[s]))
      return seen.which + ": " + *wrong;
  }
  for (std::uint64_t s = 0; s < seen.back.size(); ++s) {
    const std::string text = seen.which + ", then with it: ";
    const std::string shows =
        text + "sector " + std::to_string(s) + " shows " + name_of_version(seen.back[s]) + ", not ";
    if (seen.written == s / unit_sectors) {
      if (seen.back[s] != written_meanwhile)
        return shows + "what was written meanwhile";
    } else if (seen.without[s] != lost_version) {
      if (seen.back[s] != seen.without[s])
        return shows + name_of_version(seen.without[s]) + " as before";
    } else if (const auto wrong = truth.check_after_crash(s, seen.back[s])) {
      return text + *wrong;
    }
  }
  return {};
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
  if (const std::string wrong = compare_without(seen, truth); !wrong.empty()) {
    note(name + ": " + wrong);
    return false;
  }
  return !seen.repaired || compare(*seen.repaired, truth, name + "; checked and repaired");
}

/// Who is there at the open after a crash: those that are away come back, or stay away where a set of the
/// others alone must open; of those that are there one goes now and then.
void crash_judge::choose_who_comes(set_state& state) {
  const absent_spares absent = state.pool() ? who_is_absent(state, images_) : absent_spares{};
  const bool goes = state.degraded() ? images_ / 3 % 2 != 0 : images_ / 3 % 3 == 0;
  const bool leave_out = goes && !absent.empty() && may_do_without(state, absent);
  for (spare_part& p : state.spares)
    p.role = p.role == spare_role::away ? spare_role::member : p.role;
  for (const unsigned n : absent)
    state.spares[n].role = leave_out ? spare_role::away : state.spares[n].role;
}

/// Crashes while the open mends what a crash left behind, and in what is done next.
void crash_judge::replay_mending(set_state state, const std::string& name) {
  choose_who_comes(state);
  state.drawn = numbers_apart(state);
  crash_run second(state, options_.open);
  const bool opened = second.open();
  if (opened) {
    second.adopt();
    if (options_.after_open)
      options_.after_open(second, images_);
  }
  second.finish();
  for (const std::string& what : second.violations()) // with all spares look() has seen it open
    note(name + "; opened" + (second.at_epoch(0).degraded() ? " without a spare" : "") + ", then: " + what);
  if (opened)
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
    if (run.at_epoch(0).pool()) {
      limits.tears = false;
      limits.combinations = std::min<std::size_t>(limits.combinations, 8);
      limits.exhaustive = std::min(limits.exhaustive, 2u);
    }
  }
  first_level_ = first;
  crash_replay states(run.log(), limits);
  states.run([&](const crash_state& crash) {
    const set_state after = state_after(run, crash);
    const std::string where = name + "; " + crash.describe();
    const std::uint64_t before = images_;
    std::uint64_t key = hash_faults(after.main_faults, crash.hash);
    for (const spare_part& each : after.spares)
      key = hash_faults(each.faults, key) * 31 + static_cast<std::uint64_t>(each.role);
    if (first && options_.images != nullptr)
      options_.images->insert(crash.hash);
    const observation& seen = observe(after, key);
    if (!compare(seen, after.truth, where))
      return violations_.size() < options_.most_violations;
    if (first && images_ != before && options_.mending_every != 0 && images_ % options_.mending_every == 0)
      replay_mending(after, where);
    first_level_ = first;
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

judge_counts& judge_counts::operator+=(const judge_counts& more) {
  distinct_images += more.distinct_images;
  checks += more.checks;
  mending_images += more.mending_images;
  sampled_points += more.sampled_points;
  points += more.points;
  degraded_opens += more.degraded_opens;
  refused_opens += more.refused_opens;
  repairs += more.repairs;
  return *this;
}

bool crash_judge::judge(const crash_run& run, const std::string& name, std::size_t from) {
  for (const std::string& what : run.violations())
    note(name + ": " + what);
  replay(run, name, from, true);
  memory_.clear(); // most images of the next run are others
  return violations_.empty();
}

} // namespace dmremap::test
