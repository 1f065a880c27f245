// SPDX-License-Identifier: GPL-2.0-or-later
// What only sets of several spares can do, and what the oracle has to know of them.
#include "tests/support/crash_run.h"

#include "engine/units.h"

#include "tests/support/spare_check.h"

#include <algorithm>
#include <utility>

namespace dmremap::test {

/// An open without those that are away.
bool crash_run::refused_rightly(const error& why) const {
  if (!some_away() || (why.id != "spare-unprotected" && why.id != "spare-missing"))
    return false;
  std::vector<page_image> images;
  for (const unsigned n : given())
    images.push_back(spare_memory_[n]->image());
  std::vector<const page_image*> present;
  for (const page_image& each : images)
    present.push_back(&each);
  std::vector<unsigned> absent;
  for (const spare_part& p : now_.spares)
    if (p.role == spare_role::away)
      absent.push_back(p.place);
  return !spare_checker().maps_are_known(present, absent);
}

/// The daemon that knew of writes in the cache of a spare that is away is gone, too: nobody can flush or fail
/// them.
void crash_run::leave_caches_behind() {
  for (const auto& [unit, at] : where_)
    if (is_away(at.spare))
      now_.truth.leave_behind(unit * unit_sectors, unit_sectors);
}

/// A slot for the unit is, or may be, on a spare that is away, though another one serves it.
bool crash_run::named_by_one_away(std::uint64_t unit) const {
  std::vector<page_image> others;
  for (const unsigned n : given())
    others.push_back(spare_memory_[n]->image());
  std::vector<const page_image*> all;
  for (const page_image& each : others)
    all.push_back(&each);
  spare_checker checker;
  for (unsigned n = 0; n < now_.spares.size(); ++n)
    if (is_away(n) && checker.named_units(spare_memory_[n]->image(), all).contains(unit))
      return true;
  return false;
}

/// What serves the unit counts as away, but still takes some writes.
bool crash_run::on_a_dying_spare(std::uint64_t unit) const {
  const auto at = where_.find(unit);
  return at != where_.end() && spare_memory_[at->second.spare]->faults().all_after_writes != 0;
}

bool crash_run::others_take_data(unsigned n) const {
  const auto all = given();
  return std::any_of(all.begin(), all.end(), [&](unsigned m) { return m != n && !draining_.contains(m); });
}

/// A request that needs all that was in use may fail once where a spare has gone since the last one of its
/// kind failed. Asked only where it has failed.
bool crash_run::meets_a_vanishing(const std::string& what) {
  return std::exchange(met_at_[what], vanishings_) < vanishings_;
}

/// Is a failure no surprise, because a spare that is away serves one of the units, or no spare takes new
/// data?
bool crash_run::may_fail(std::uint64_t first, std::uint64_t count) const {
  const auto all = given();
  if (!draining_.empty() &&
      std::all_of(all.begin(), all.end(), [&](unsigned n) { return draining_.contains(n); }))
    return true;
  for (std::uint64_t unit = first / unit_sectors; unit * unit_sectors < first + count; ++unit)
    if (now_.away_units.contains(unit))
      return true;
  return false;
}

std::vector<unsigned> crash_run::given() const {
  std::vector<unsigned> all;
  for (unsigned n = 0; n < now_.spares.size(); ++n)
    if (now_.spares[n].role != spare_role::away && now_.spares[n].role != spare_role::none)
      all.push_back(n);
  return all;
}

result<void> crash_run::try_open(bool with_in_flight) {
  std::vector<std::shared_ptr<store>> stores;
  for (const unsigned n : given())
    if (with_in_flight || now_.spares[n].role == spare_role::member)
      stores.push_back(spares_[n]);
  open_options options = options_;
  options.degraded = options.degraded || some_away();
  auto opened = disk::open(main_, stores, options);
  if (!opened)
    return tl::make_unexpected(opened.error());
  disk_ = std::move(*opened);
  draining_.clear();
  return {};
}

/// After an open: a spare that was being added or removed is of the set, or not.
void crash_run::settle_roles() {
  for (std::size_t n = 0; now_.pool() && n < now_.spares.size(); ++n) {
    spare_part& p = now_.spares[n];
    if (p.role == spare_role::away || p.role == spare_role::none)
      continue;
    const auto found = disk_->find_spare(spare_name(n));
    p.role = found ? spare_role::member : spare_role::none;
    p.place = found.value_or(0);
  }
}

/// Which spare serves which unit. That a unit moves says nothing of its bytes: those the oracle judges.
void crash_run::look_where() {
  where_.clear();
  now_.mapped.clear();
  now_.away_units.clear();
  disk_->for_each_remap([&](const remap_entry& entry) {
    now_.mapped.insert(entry.main.value);
    for (unsigned n = 0; n < now_.spares.size(); ++n) {
      const spare_part& p = now_.spares[n];
      if (p.role == spare_role::none || p.place != entry.spare_index)
        continue;
      where_[entry.main.value] = {n, entry.spare.value, entry.lost};
      if (p.role == spare_role::away)
        now_.away_units.insert(entry.main.value);
    }
  });
}

/// A request was answered: units that have another place than before were moved by a table change, so what
/// they show is durable.
void crash_run::settle_moved(const place_map& before) {
  if (!now_.pool())
    return;
  look_where();
  for (const auto& [unit, at] : where_) {
    const auto old = before.find(unit);
    if (old == before.end() || old->second.spare != at.spare || old->second.unit != at.unit)
      now_.truth.make_durable(unit * unit_sectors, unit_sectors);
  }
}

void crash_run::put_on(unsigned n, std::uint64_t unit) {
  const std::uint64_t first = unit * unit_sectors;
  now_.truth.begin(first, unit_sectors, zeros_version);
  mark("unit goes to " + spare_name(n));
  const auto made =
      disk_->add_remap(sector_number(first), std::nullopt, unit_sectors, now_.spares.at(n).place);
  if (!made)
    return note("put_on: " + made.error().text());
  now_.truth.acknowledge(first, unit_sectors);
  now_.truth.make_durable(first, unit_sectors);
  mark("unit is on " + spare_name(n));
  write(first, unit_sectors);
}

void crash_run::add_spare() {
  const auto at = std::find_if(now_.spares.begin(), now_.spares.end(),
                               [](const spare_part& p) { return p.role == spare_role::none; });
  if (at == now_.spares.end())
    return;
  const auto n = static_cast<std::size_t>(at - now_.spares.begin());
  const bool answers = !spare_memory_[n]->faults().all; // one that was forgotten may be dead
  at->role = spare_role::adding;
  mark("add begins");
  const auto added = disk_->add_spare(spares_[n]);
  at->role = added ? spare_role::member : spare_role::none;
  if (added)
    at->place = *added;
  else if (answers)
    note_failure("spare add failed: " + added.error().text());
  if (added && !answers)
    note("a device that does not answer is a spare now");
  mark("add answered");
}

void crash_run::remove_spare(unsigned n) {
  if (!is_member(n))
    return;
  spare_part& p = now_.spares[n];
  const bool serves =
      std::any_of(where_.begin(), where_.end(), [&](const auto& each) { return each.second.spare == n; });
  const bool possible = !serves && given().size() > 1;
  const bool expected =
      possible && (!some_away() || others_take_data(n)); // the map of one that is away moves
  p.role = spare_role::removing;
  mark("remove begins");
  const auto removed = disk_->remove_spare(p.place);
  p.role = removed ? spare_role::none : spare_role::member;
  if (removed && !possible)
    note("a spare that serves units is removed");
  if (!removed && expected && !meets_a_vanishing("remove"))
    note_failure("spare remove failed: " + removed.error().text());
  mark("remove answered");
}

void crash_run::evacuate(unsigned n) {
  if (n >= now_.spares.size() || now_.spares[n].role == spare_role::none)
    return;
  const spare_part& p = now_.spares[n];
  draining_.insert(n);
  const bool expected = p.role == spare_role::member && others_take_data(n);
  const place_map before = where_;
  const auto moved = disk_->evacuate_spare(p.place);
  if (!moved && expected && !meets_a_vanishing("evacuate"))
    note_failure("evacuate failed: " + moved.error().text());
  if (moved)
    settle_moved(before);
  mark("evacuate answered");
  if (moved &&
      std::any_of(where_.begin(), where_.end(), [&](const auto& each) { return each.second.spare == n; }))
    note("an evacuated spare serves units");
}

void crash_run::vanish(unsigned n, std::uint64_t good_writes) {
  if (!is_member(n) || given().size() < 2)
    return;
  spare_part& p = now_.spares[n];
  ++vanishings_;
  auto faults = spare_memory_[n]->faults();
  faults.all = io_error::gone;
  faults.all_after_writes = good_writes;
  spare_memory_[n]->set_faults(faults);
  p.role = spare_role::away;
  mark(spare_name(n) + " vanishes");
}

void crash_run::come_back(unsigned n) {
  auto faults = spare_memory_[n]->faults();
  faults.all.reset();
  spare_memory_[n]->set_faults(faults);
  now_.spares[n].role = spare_role::member;
}

void crash_run::reopen_with_all() {
  for (unsigned n = 0; n < now_.spares.size(); ++n)
    if (is_away(n))
      come_back(n);
  kill_and_reopen();
}

void crash_run::reopen_with(unsigned n) {
  if (n >= now_.spares.size() || !is_away(n))
    return;
  come_back(n);
  kill_and_reopen();
}

void crash_run::reopen_without(unsigned n) {
  if (!is_member(n) || given().size() < 2)
    return;
  now_.spares[n].role = spare_role::away;
  mark(spare_name(n) + " is left out");
  kill_and_reopen();
}

void crash_run::forget() {
  const auto at = std::find_if(now_.spares.begin(), now_.spares.end(),
                               [](const spare_part& p) { return p.role == spare_role::away; });
  if (at == now_.spares.end())
    return;
  const auto n = static_cast<unsigned>(at - now_.spares.begin());
  std::set<std::uint64_t> losing;
  for (const auto& [unit, at_place] : where_)
    if (at_place.spare == n)
      losing.insert(unit);
  const bool expected = disk_->plan_forget(at->place).has_value();
  if (expected) {
    at->role = spare_role::removing;
    for (const std::uint64_t unit : losing)
      now_.truth.begin(unit * unit_sectors, unit_sectors, lost_version);
  }
  mark("forget begins");
  const auto done = disk_->forget_spare(at->place);
  for (const std::uint64_t unit : losing) {
    if (!done)
      continue;
    now_.truth.acknowledge(unit * unit_sectors, unit_sectors);
    now_.truth.make_durable(unit * unit_sectors, unit_sectors);
  }
  at->role = done ? spare_role::none : spare_role::away;
  if (!done && expected && !meets_a_vanishing("forget"))
    note_failure("forget failed: " + done.error().text());
  mark("forget answered");
}

void crash_run::write_on_bad_place(std::uint64_t unit, std::uint64_t first, std::uint64_t count) {
  if (const auto at = where_.find(unit); at != where_.end())
    break_spare(
        {at->second.unit * unit_sectors, unit_sectors, direction::write, io_error::medium, always, false},
        at->second.spare);
  write(first, count);
}

void crash_run::read_from_bad_place(std::uint64_t unit) {
  const auto at = where_.find(unit);
  if (at == where_.end() || now_.spares[at->second.spare].role != spare_role::member)
    return;
  const place held = at->second;
  if (held.lost != 0) // such a read fails before the place is asked
    return;
  const place_map before = where_;
  // A drive with larger blocks cannot read less than one.
  const std::uint64_t step = now_.spares[held.spare].block / sector_bytes;
  const std::uint64_t within = align_down(5, step), first = unit * unit_sectors;
  for (std::uint64_t s = within; s < within + step; ++s)
    now_.truth.begin(first + s, 1, lost_version);
  break_spare({held.unit * unit_sectors + within, step, direction::read, io_error::medium, always, false},
              held.spare);
  std::vector<std::byte> bytes(unit_bytes);
  const io_result done = disk_->read(*context_, bytes, first * sector_bytes);
  if (done)
    note("a read of bad sectors of a spare succeeds");
  look_where();
  if (const auto now = where_.find(unit); now == where_.end() || !(now->second == held)) {
    now_.truth.acknowledge(first + within, step);
    settle_moved(before);
  }
  mark("read of a bad place answered");
}

} // namespace dmremap::test
