// SPDX-License-Identifier: GPL-2.0-or-later
// What the set shows of itself, its superblocks, allocation. The open is in set_open.cpp, table changes in
// set_commit.cpp, spares that come and go in set_spares.cpp.
#include "engine/remap_set.h"

#include <algorithm>

namespace dmremap {
namespace {

constexpr std::uint64_t sequences_kept_back =
    256; // for superblock writes that must not fail for want of a number

} // namespace

map_entry slot_change::entry() const {
  if (kind != slot_kind::remap && kind != slot_kind::explicit_remap)
    return {};
  return map_entry::make(spare, unit, lost, kind == slot_kind::explicit_remap);
}

// --- looking
// -----------------------------------------------------------------------------------------------------

std::vector<main_unit> remap_set::remapped_units() const {
  const std::lock_guard lock(map_mutex_); // as of one moment
  return map_.units();
}

std::vector<main_unit> remap_set::units_on(unsigned spare) const {
  std::vector<main_unit> units = remapped_units();
  std::erase_if(units, [&](main_unit u) {
    const map_entry e = lookup(u);
    return !e.present() || e.spare() != spare;
  });
  return units;
}

std::vector<main_unit> remap_set::units_lost_with(unsigned spare) const {
  auto units = units_on(spare);
  const std::lock_guard lock(map_mutex_);
  for (const main_unit u : old_.on(spare))
    if (doubted_.contains(u.value))
      units.push_back(u);
  std::sort(units.begin(), units.end());
  units.erase(std::unique(units.begin(), units.end()), units.end());
  std::erase_if(units, [&](main_unit u) { return !goes_with(u, spare); });
  return units;
}

bool remap_set::lost_with(main_unit u, unsigned spare) const {
  const std::lock_guard lock(map_mutex_);
  return goes_with(u, spare);
}

/// With map_mutex_.
bool remap_set::goes_with(main_unit u, unsigned spare) const {
  const map_entry e = map_.lookup(u);
  const auto doubted = doubted_.find(u.value);
  if (doubted == doubted_.end())
    return e.present() && e.spare() == spare;
  if (e.present() && e.spare() == spare)
    return !doubted->second.has_value();
  const auto old = old_.on(spare);
  return std::find(old.begin(), old.end(), u) != old.end();
}

slot remap_set::slot_of(map_entry e) const {
  const std::lock_guard lock(metadata_mutex_);
  const auto& p = spares_[e.spare()];
  return p && e.unit().value < p->meta->places().units ? p->meta->get(e.unit()) : slot{};
}

bool remap_set::shadowed(main_unit u) const {
  const std::lock_guard lock(map_mutex_);
  return old_.any_of(u);
}

void remap_set::with_metadata(unsigned spare, const std::function<void(spare_metadata&)>& look) {
  const std::lock_guard lock(metadata_mutex_);
  if (spare < max_spares && spares_[spare])
    look(*spares_[spare]->meta);
}

bool remap_set::can_change(unsigned spare, spare_unit unit) {
  bool may = false;
  with_metadata(spare, [&](spare_metadata& m) { may = m.may_change(geometry::block_of(unit)); });
  return may;
}

superblock remap_set::super_copy() const {
  const std::lock_guard lock(metadata_mutex_);
  return leader().super;
}

set_dump remap_set::dump() const {
  const std::lock_guard lock(metadata_mutex_);
  set_dump d;
  for (const auto& p : spares_) {
    if (!p)
      continue;
    const spare_metadata& m = *p->meta;
    dumped_spare one;
    one.member = m.path();
    one.away = !p->present;
    one.map_on = one.away && m.has_sixth() ? static_cast<int>(m.super.sixth_host) : -1;
    one.super = m.super;
    m.for_each_block([&](std::uint32_t number, std::uint64_t sequence, const table_block* b) {
      add_block(one, number, sequence, b);
    });
    d.spares.push_back(std::move(one));
  }
  return d;
}

void remap_set::store_counters(superblock& s) {
  s.lifetime_allocations = counters_.lifetime_allocations;
  s.auto_remaps = counters_.auto_remaps;
  s.manual_remaps = counters_.manual_remaps;
  s.saves_tried = counters_.saves_tried;
  s.saves_done = counters_.saves_done;
}

// --- close, superblock changes
// ------------------------------------------------------------------------------------

result<void> remap_set::close(const std::function<void(superblock&)>& describe) {
  if (!complete_doubt())
    return fail("in-doubt", super_copy().set_name,
                "a change of the table could not be completed; not marked clean, the next open decides it");
  const std::lock_guard lock(metadata_mutex_);
  const std::string name = leader().super.set_name;
  if (auto room = reserve_sequences(0); !room)
    return fail("close-failed", name, std::string(name_of(room.error())));
  io_result flushed = settle(); // no clean mark under a session that some may not have yet
  for (const auto& p : spares_)
    if (p && p->present && flushed && rules_.flush_before_clean)
      flushed = p->meta->io().flush();
  if (flushed) {
    superblock& s = leader().super;
    store_counters(s);
    describe(s);
    s.clean = true;
    // Above all that this session ever said: a copy that was taken while it ran is known as older.
    if (const std::uint64_t before = sequences_.end; before + 1 < sequence_limit) {
      ++sequences_.end;
      flushed = write_supers();
      if (!flushed && sequences_.end == before + 1)
        sequences_.end = before;
    } else {
      flushed = write_supers();
    }
    if (flushed && record_pending_) // a spare went just now
      flushed = io_fail(io_error::gone);
  }
  if (!flushed) {
    for (const auto& p : spares_) // this session may go on
      if (p)
        p->meta->super.clean = p->meta->super.samples_valid = false;
    return fail("close-failed", name,
                "the clean mark could not be written: " + std::string(name_of(flushed.error())) +
                    "; nothing is lost, the next open mends");
  }
  if (on_record)
    on_record(sequences_.end);
  return {};
}

io_result remap_set::update_super(const std::function<void(superblock&)>& change) {
  const std::lock_guard lock(metadata_mutex_);
  CHECK_OK(reserve_sequences(0));
  ++counters_.saves_tried;
  ++counters_.saves_done; // counted before it is written, so that the copy on disk includes itself
  store_counters(leader().super);
  change(leader().super);
  auto written = write_supers();
  if (!written)
    --counters_.saves_done;
  else
    ensure_protected();
  return written;
}

/// Called with the metadata mutex. Extends the reserved range, durably, before it runs out.
io_result remap_set::reserve_sequences(std::uint64_t needed) {
  while (sequences_.left() < needed + sequences_kept_back) {
    const std::uint64_t old_end = sequences_.end;
    const std::uint64_t wanted = old_end + rules_.sequences_a_range() + needed;
    if (wanted >= sequence_limit)
      return io_fail(io_error::invalid);
    sequences_.end = wanted;
    auto written = write_supers();
    if (!written && sequences_.end == wanted) // else a spare went meanwhile, with a range of its own, durably
      sequences_.end = std::max(old_end, sequences_.next);
    CHECK_OK(std::move(written));
  }
  return {};
}

// --- allocation
// --------------------------------------------------------------------------------------------------

std::optional<taken_unit> remap_set::allocate(unsigned not_on) {
  const std::lock_guard lock(allocation_mutex_);
  for (unsigned s = 0; s < max_spares; ++s) {
    if (!spares_[s] || !spares_[s]->gives_places() || spares_[s]->draining || (not_on >> s & 1) != 0)
      continue;
    if (const auto got = spares_[s]->space.take(1); !got.empty())
      return taken_unit{s, got.front()};
  }
  return std::nullopt;
}

std::optional<spare_unit> remap_set::allocate_run(unsigned spare, std::uint64_t count) {
  const std::lock_guard lock(allocation_mutex_);
  if (!spares_[spare] || !spares_[spare]->gives_places())
    return std::nullopt;
  return spares_[spare]->space.take_run(count);
}

std::uint64_t remap_set::longest_run(unsigned spare) const {
  const std::lock_guard lock(allocation_mutex_);
  return spares_[spare] && spares_[spare]->gives_places() ? spares_[spare]->space.longest_run() : 0;
}

std::optional<spare_unit> remap_set::nearest_free(unsigned spare, spare_unit wanted,
                                                  std::uint64_t count) const {
  const std::lock_guard lock(allocation_mutex_);
  if (!spares_[spare] || !spares_[spare]->gives_places())
    return std::nullopt;
  return spares_[spare]->space.nearest_free(wanted, count);
}

bool remap_set::claim_units(unsigned spare, spare_unit first, std::uint64_t count) {
  const std::lock_guard lock(allocation_mutex_);
  return spares_[spare] && spares_[spare]->gives_places() && spares_[spare]->space.take_these(first, count);
}

void remap_set::release_unit(taken_unit u) {
  const std::lock_guard lock(allocation_mutex_);
  if (spares_[u.spare])
    spares_[u.spare]->space.give_back(u.unit);
}

std::uint64_t remap_set::usable(unsigned spare) const {
  const std::lock_guard lock(allocation_mutex_);
  return spares_[spare] ? spares_[spare]->space.usable() : 0;
}

std::uint64_t remap_set::free_units(unsigned not_on) const {
  const std::lock_guard lock(allocation_mutex_);
  std::uint64_t sum = 0;
  for (unsigned s = 0; s < max_spares; ++s)
    if (spares_[s] && spares_[s]->gives_places() && !spares_[s]->draining && (not_on >> s & 1) == 0)
      sum += spares_[s]->space.room();
  return sum;
}

} // namespace dmremap
