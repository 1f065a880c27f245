// SPDX-License-Identifier: GPL-2.0-or-later
// Which spares are there, session records, and what happens when a spare goes. Sixth replicas are in
// set_sixths.cpp. All private functions here are called with the metadata mutex.
#include "engine/remap_set.h"

#include <algorithm>
#include <set>

namespace dmremap {

// --- who is there
// -------------------------------------------------------------------------------------------------

spare_metadata& remap_set::leader() const {
  for (const auto& p : spares_)
    if (p && p->present)
      return *p->meta;
  for (const auto& p : spares_)
    if (p)
      return *p->meta;
  std::abort(); // a set has a spare
}

unsigned remap_set::count_present() const {
  return static_cast<unsigned>(
      std::count_if(spares_.begin(), spares_.end(), [](const auto& p) { return p && p->present; }));
}

bool remap_set::listed(unsigned spare) const {
  const std::lock_guard lock(allocation_mutex_);
  return spare < max_spares && spares_[spare];
}

bool remap_set::present(unsigned spare) const {
  const std::lock_guard lock(allocation_mutex_);
  return spare < max_spares && spares_[spare] && spares_[spare]->present;
}

unsigned remap_set::present_count() const {
  const std::lock_guard lock(allocation_mutex_);
  return count_present();
}

std::shared_ptr<store> remap_set::io_of(unsigned spare) const {
  const std::lock_guard lock(metadata_mutex_);
  return spare < max_spares && spares_[spare] ? spares_[spare]->meta->share_io() : nullptr;
}

flush_marks remap_set::marks() const {
  flush_marks m{};
  const std::lock_guard lock(allocation_mutex_);
  for (unsigned i = 0; i < max_spares; ++i)
    if (spares_[i] && spares_[i]->present)
      m[i] = spares_[i]->io->failed_flushes();
  return m;
}

std::optional<spare_overview> remap_set::overview(unsigned spare) const {
  const std::lock_guard lock(metadata_mutex_);
  const std::lock_guard allocation(allocation_mutex_);
  if (spare >= max_spares || !spares_[spare])
    return std::nullopt;
  const pool_spare& p = *spares_[spare];
  const superblock& s = p.meta->super;
  spare_overview o;
  o.present = p.present;
  o.readable = !p.present && p.meta->share_io() != nullptr;
  o.draining = p.draining;
  o.uuid = to_text(s.spare_uuid);
  o.path = p.meta->path();
  o.units = p.meta->places().units;
  o.usable = p.space.usable();
  o.allocated = p.space.allocated();
  o.room = p.gives_places() && !p.draining ? p.space.room() : 0;
  o.sequence = s.sequence;
  o.clean = s.clean;
  o.weakest_chunk = p.meta->weakest_chunk();
  o.sixth_host = p.meta->has_sixth() ? static_cast<int>(s.sixth_host) : -1;
  return o;
}

void remap_set::set_draining(unsigned spare, bool on) {
  const std::lock_guard lock(allocation_mutex_);
  if (spare < max_spares && spares_[spare])
    spares_[spare]->draining = on;
}

/// Where the map of an absent spare is (1 + a spare's place; 0: on itself), for the next superblocks.
void remap_set::note_map(unsigned spare, unsigned where) {
  for (auto& p : spares_) // whoever leads when they are written
    if (p)
      p->meta->super.absent_map[spare] = static_cast<std::uint8_t>(where);
}

// --- session records
// ----------------------------------------------------------------------------------------------

void remap_set::fresh_range() {
  if (rules_.new_range && sequences_.end + rules_.sequences_a_range() < sequence_limit)
    sequences_ = {sequences_.end, sequences_.end + rules_.sequences_a_range()};
}

/// A new session on all spares present, durable on return: nothing may be written by a set of other spares
/// before. Twice where there are several, so that in the end each is known to hold this session, and a copy
/// of it from before does not pass for it. After a failure some hold the new session already: it is tried
/// again under the same one, while those spares are present; none of them counts as holding it for sure
/// before all do, so that whoever has it says on disk that it was still being given out.
io_result remap_set::record_session() {
  unsigned present = 0, holding = 0;
  for (unsigned i = 0; i < max_spares; ++i)
    if (spares_[i] && spares_[i]->present) {
      present |= 1u << i;
      holding |= spares_[i]->held == session_ ? 1u << i : 0u;
    }
  // One that comes meanwhile is given it, too, unless the others hold it: that would not tell it from them.
  const bool again = present == session_for_ || ((session_for_ & ~present) == 0 && holding == 0);
  if (!record_pending_ || !again)
    session_ = rules_.new_session ? random_u64() : leader().super.session;
  record_pending_ = true;
  session_for_ = present;
  if (present == 0) // the one that was to stay went as well: nobody can say who is there
    return io_fail(io_error::gone);
  superblock& s = leader().super;
  if (rules_.dirty_first)
    s.clean = s.samples_valid = false;
  s.session = session_;
  s.spare_count = 0;
  for (unsigned i = 0; i < max_spares; ++i) {
    // One that goes while it is being added was never a spare of the set.
    const bool listed = spares_[i] && (spares_[i]->present || !spares_[i]->joining);
    s.spare_uuids[i] = listed ? spares_[i]->meta->super.spare_uuid : uuid_bytes{};
    if (!listed)
      continue;
    s.spare_count = i + 1;
    if (spares_[i]->present)
      s.sessions[i] = {rules_.held_once_durable ? spares_[i]->held : s.session, s.session};
  }
  CHECK_OK(write_supers());
  // Where a spare went meanwhile, this is the record of that.
  superblock& now = leader().super;
  for (unsigned i = 0; i < max_spares; ++i)
    if (spares_[i] && spares_[i]->present) {
      spares_[i]->held = now.session;
      now.sessions[i] = {now.session, now.session};
    }
  const std::uint64_t confirmed = session_;
  if (count_present() > 1 && rules_.confirm_record)
    CHECK_OK(write_supers()); // no change of a table before: opens rely on it
  // Where a spare went just now, the record of that was made, or is to be made, on its own.
  if (session_ != confirmed)
    return record_pending_ ? io_fail(io_error::transient) : io_result{};
  record_pending_ = false;
  if (on_record)
    on_record(sequences_.end);
  return {};
}

/// What the first spare present says of the set, to all present. A spare that cannot be written is gone.
io_result remap_set::write_supers() {
  const auto write = [&](unsigned i) -> io_result {
    spare_metadata& m = *spares_[i]->meta;
    auto written = m.write_super(sequences_);
    if (!written && count_present() > 1)
      written = m.write_super(sequences_); // a flush may fail once
    return written;
  };
  for (bool again = true; again;) {
    again = false;
    const superblock& from = leader().super;
    for (auto& p : spares_)
      if (p && p->present && &p->meta->super != &from)
        copy_set_fields(from, p->meta->super);
    std::vector<unsigned> order;
    for (unsigned i = 0; i < max_spares; ++i)
      if (spares_[i] && spares_[i]->present)
        order.push_back(i);
    // A new spare first, but not when it confirms: that the set's first spare does before all others tells an
    // open whether any did.
    if (rules_.new_spare_first)
      std::stable_partition(order.begin(), order.end(),
                            [&](unsigned i) { return spares_[i]->joining && spares_[i]->held == 0; });
    for (const unsigned i : order) {
      const auto written = write(i);
      if (written) {
        stale_lists_ &= ~(1u << i);
        continue;
      }
      if (!is_dead(written.error()) || !vanish(i))
        return written;
      again = true;
      break;
    }
    if (again)
      continue;
    const unsigned before = count_present();
    CHECK_OK(settle_protection());
    again =
        count_present() != before; // the record of its going may have failed: all that are left get it here
  }
  return {};
}

/// The set has another spare. One that is being added counts where it is to replace this one, and holds what
/// was written to it: else an add that fails could cost the set its only spare.
bool remap_set::may_go(unsigned spare) {
  for (unsigned i = 0; i < max_spares; ++i)
    if (const auto& p = spares_[i]; i != spare && p && p->present) {
      spare_metadata& m = *p->meta;
      if (!p->joining ||
          (p->replaces_lone && m.super.super_good != 0 && m.verify_supers() == m.super.super_good))
        return true;
    }
  return false;
}

/// A spare does not answer any more. Its map is completed in its sixth replica, its going recorded.
bool remap_set::vanish(unsigned spare) {
  if (!writable_ || !spares_[spare] || !spares_[spare]->present || !may_go(spare))
    return false;
  pool_spare& p = *spares_[spare];
  std::set<std::uint32_t> open_blocks;
  for (const slot_change& c : doubt_)
    if (c.spare == spare)
      open_blocks.insert(geometry::block_of(c.unit));
  bool kept = p.meta->has_sixth();
  if (kept && rules_.complete_sixth && rules_.complete_before_record)
    kept = p.meta->complete_sixth(open_blocks, sequences_) || !rules_.unlist_incomplete;
  if (!kept) {
    p.meta->detach_sixth();
    unlist(spare);
  }
  p.present = false;
  // What is read from it must be what the next open finds there, too: no change may be half done.
  stay_away(spare, (kept || (p.meta->copies_agree() && !matters_in_doubt(spare))) && p.meta->answers());
  // Guests on it: unprotected, in the same superblock change.
  for (unsigned g = 0; g < max_spares && rules_.unprotect_guests; ++g)
    if (spares_[g] && spares_[g]->present && spares_[g]->meta->has_sixth() &&
        spares_[g]->meta->super.sixth_host == spare)
      spares_[g]->meta->detach_sixth();
  (void)keep_maps_of_absent(); // where that fails, it is on this one, which may come back
  note_map(spare, kept ? p.meta->super.sixth_host + 1 : 0);
  fresh_range();
  if (rules_.record_absence)
    (void)record_session(); // else record_pending_ holds up every table change
  if (kept && !rules_.complete_before_record)
    (void)p.meta->complete_sixth(open_blocks, sequences_);

  // What was in doubt there: the sixth has it now, or only a later open with this spare can tell. So also
  // where no record says yet that the sixth alone counts.
  std::vector<slot_change> settled, unknown;
  for (const slot_change& c : doubt_)
    if (c.spare == spare)
      (kept && !record_pending_ ? settled : unknown).push_back(c);
  if (!unknown.empty() && matters_in_doubt(spare))
    stay_away(spare, false);
  std::erase_if(doubt_, [&](const slot_change& c) { return c.spare == spare; });
  doubt_count_.store(doubt_.size());
  publish(settled);
  const std::lock_guard lock(map_mutex_);
  for (const slot_change& c : unknown)
    doubt_is_absent(c);
  p.meta->for_each_used([&](spare_unit u, const slot& s) {
    const map_entry e = map_.lookup(s.main());
    if (s.serves() && e.present() && (e.spare() != spare || e.unit() != u))
      old_.add(s.main(), spare, u);
  });
  return true;
}

/// A change in doubt that decides what a unit of main shows.
bool remap_set::matters_in_doubt(unsigned spare) const {
  return std::any_of(doubt_.begin(), doubt_.end(), [&](const slot_change& c) {
    return c.spare == spare && !c.loser && c.kind != slot_kind::retired;
  });
}

/// It is not present any more. `readable`: what it holds is.
void remap_set::stay_away(unsigned spare, bool readable) {
  spares_[spare]->meta->lose(readable);
  if (on_absent)
    on_absent(spare, readable);
}

bool remap_set::takes_writes(unsigned spare) {
  const std::lock_guard lock(metadata_mutex_);
  if (!spares_[spare] || !spares_[spare]->present)
    return false;
  if (!writable_ || count_present() < 2)
    return true;
  if (!can_be_written(spare) && vanish(spare)) {
    ensure_protected();
    return false;
  }
  return true;
}

/// Asks the spare itself, by writing its superblock anew.
bool remap_set::can_be_written(unsigned spare) {
  auto written = reserve_sequences(16);
  if (written)
    written = spares_[spare]->meta->write_super(sequences_);
  if (written)
    stale_lists_ &= ~(1u << spare);
  return written || !is_dead(written.error());
}

void remap_set::lose_readable(unsigned spare) {
  const std::lock_guard lock(metadata_mutex_);
  if (spares_[spare] && !spares_[spare]->present)
    stay_away(spare, false);
}

/// A change that was in doubt on a spare that is absent now, and nobody knows whether the spare has it: the
/// unit counts as one of that spare's, so that it can be written whole, and be forgotten. With map_mutex_.
void remap_set::doubt_is_absent(const slot_change& c) {
  if (c.loser || c.kind == slot_kind::retired)
    return;
  const map_entry before = map_.lookup(c.main);
  const auto now = map_entry::make(c.spare, c.unit, c.lost, c.kind == slot_kind::explicit_remap);
  note_old_place(c.main, before, now);
  const map_entry was = before.certain();
  if (!was.present() || was.spare() != now.spare()) // else all of it is on the one that went
    if (const auto [at, first] = doubted_.try_emplace(c.main.value, was); !first)
      at->second.reset();
  counters_.lost_sectors += sectors_in(now.lost()) - sectors_in(before.lost()); // modulo 2^64
  counters_.by_hand_units += std::uint64_t{now.by_hand()} - std::uint64_t{before.by_hand()};
  map_.set(c.main, now);
}

/// The spare is in the set no more: what was to move to it, and perhaps did, counts as it was before. With
/// map_mutex_.
void remap_set::return_doubted(unsigned spare) {
  std::erase_if(doubted_, [&](const auto& doubted) {
    const main_unit u(doubted.first);
    const map_entry now = map_.lookup(u);
    if (!doubted.second || !now.present() || now.spare() != spare)
      return false;
    const map_entry before = *doubted.second;
    counters_.lost_sectors += sectors_in(before.lost()) - sectors_in(now.lost()); // modulo 2^64
    counters_.by_hand_units += std::uint64_t{before.by_hand()} - std::uint64_t{now.by_hand()};
    if (now.in_doubt())
      map_.set(u, before.doubtful());
    else if (before.present())
      map_.set(u, before);
    else
      map_.erase(u);
    if (before.present())
      old_.remove(before.spare(), before.unit());
    return true;
  });
}

/// Changes that were made on a spare and cannot be answered, where the spare itself went since: they are its.
void remap_set::leave_doubt_to_absent() {
  const std::lock_guard lock(map_mutex_);
  std::erase_if(doubt_, [&](const slot_change& c) {
    const bool away = !spares_[c.spare]->present;
    if (away)
      doubt_is_absent(c);
    return away;
  });
  doubt_count_.store(doubt_.size());
}

bool remap_set::drop_spare(unsigned spare) {
  const std::lock_guard lock(metadata_mutex_);
  const bool gone = vanish(spare);
  if (gone)
    ensure_protected();
  return gone;
}

} // namespace dmremap
