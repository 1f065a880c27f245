// SPDX-License-Identifier: GPL-2.0-or-later
// Spares that come and go: session records, protection by sixth replicas. All private functions here are
// called with the metadata mutex.
#include "engine/remap_set.h"

#include <algorithm>
#include <array>
#include <bit>
#include <set>

namespace dmremap {
namespace {

constexpr std::uint64_t sequences_per_session = 1u << 20;
constexpr unsigned protect_tries_a_session = 64;
constexpr unsigned longest_pause = 255; // batches

} // namespace

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
  if (sequences_.end + sequences_per_session < sequence_limit)
    sequences_ = {sequences_.end, sequences_.end + sequences_per_session};
}

/// A new session on all spares present, durable on return: nothing may be written by a set of other spares
/// before. Twice where there are several, so that in the end each is known to hold this session, and a copy
/// of it from before does not pass for it. After a failure some hold the new session already: it is tried
/// again under the same one, while the same spares are present.
io_result remap_set::record_session() {
  unsigned present = 0;
  for (unsigned i = 0; i < max_spares; ++i)
    present |= spares_[i] && spares_[i]->present ? 1u << i : 0u;
  if (!record_pending_ || present != session_for_)
    session_ = random_u64();
  record_pending_ = true;
  session_for_ = present;
  superblock& s = leader().super;
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
      s.sessions[i] = {spares_[i]->held, s.session};
  }
  CHECK_OK(write_supers());
  // Where a spare went meanwhile, this is the record of that.
  superblock& now = leader().super;
  for (unsigned i = 0; i < max_spares; ++i)
    if (spares_[i] && spares_[i]->present)
      now.sessions[i] = {now.session, now.session};
  record_pending_ = false;
  if (count_present() > 1 && rules_.confirm_record)
    CHECK_OK(write_supers());
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
        spares_[i]->held = spares_[i]->meta->super.session;
        continue;
      }
      if (!is_dead(written.error()) || !vanish(i))
        return written;
      again = true;
      break;
    }
  }
  return settle_protection();
}

/// A spare does not answer any more. Its map is completed in its sixth replica, its going recorded.
bool remap_set::vanish(unsigned spare) {
  if (!writable_ || !spares_[spare] || !spares_[spare]->present || count_present() < 2)
    return false;
  pool_spare& p = *spares_[spare];
  std::set<std::uint32_t> open_blocks;
  for (const slot_change& c : doubt_)
    if (c.spare == spare)
      open_blocks.insert(geometry::block_of(c.unit));
  bool kept = p.meta->has_sixth();
  if (kept && rules_.complete_sixth)
    kept = p.meta->complete_sixth(open_blocks, sequences_).has_value();
  if (!kept) {
    p.meta->detach_sixth();
    unlist(spare);
  }
  p.present = false;
  // What is read from it must be what the next open finds there, too: no change may be half done.
  stay_away(spare, (kept || (p.meta->copies_agree() && !matters_in_doubt(spare))) && p.meta->answers());
  for (unsigned g = 0; g < max_spares; ++g) // guests on it: unprotected, in the same superblock change
    if (spares_[g] && spares_[g]->present && spares_[g]->meta->has_sixth() &&
        spares_[g]->meta->super.sixth_host == spare)
      spares_[g]->meta->detach_sixth();
  (void)keep_maps_of_absent(); // where that fails, it is on this one, which may come back
  note_map(spare, kept ? p.meta->super.sixth_host + 1 : 0);
  fresh_range();
  if (rules_.record_absence)
    (void)record_session(); // else record_pending_ holds up every table change

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
  if (written) {
    spares_[spare]->held = spares_[spare]->meta->super.session;
    stale_lists_ &= ~(1u << spare);
  }
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
  counters_.lost_sectors += static_cast<std::uint64_t>(std::popcount(now.lost())) -
                            static_cast<std::uint64_t>(std::popcount(before.lost()));
  counters_.by_hand_units += std::uint64_t{now.by_hand()} - std::uint64_t{before.by_hand()};
  map_.set(c.main, now);
}

bool remap_set::drop_spare(unsigned spare) {
  const std::lock_guard lock(metadata_mutex_);
  const bool gone = vanish(spare);
  if (gone)
    ensure_protected();
  return gone;
}

// --- sixth replicas
// ------------------------------------------------------------------------------------------------

/// In memory; the places stay taken for this session: they may be what failed.
void remap_set::unlist(unsigned guest) {
  for (unsigned h = 0; h < max_spares; ++h)
    if (spares_[h] && spares_[h]->present)
      unlist(guest, h);
}

void remap_set::unlist(unsigned guest, unsigned host) {
  superblock& s = spares_[host]->meta->super;
  if (s.hosted_start[guest] != 0)
    stale_lists_ |= 1u << host;
  s.hosted_start[guest] = s.hosted_blocks[guest] = 0;
  s.hosted_protected &= ~(1u << guest);
}

/// Sixth replicas that were given up: their hosts must not list them any more before anything is answered,
/// nor before the next change, however often that fails.
io_result remap_set::settle_protection() {
  for (bool again = true; again;) {
    again = false;
    for (unsigned g = 0; g < max_spares; ++g)
      if (spares_[g] && spares_[g]->meta->take_sixth_lost() && rules_.unlist_sixth)
        give_up_sixth(g);
    for (unsigned h = 0; h < max_spares; ++h) {
      if ((stale_lists_ >> h & 1) == 0)
        continue;
      if (spares_[h] && spares_[h]->present) {
        auto written = spares_[h]->meta->write_super(sequences_);
        if (!written && (!is_dead(written.error()) || !vanish(h)))
          return written;
        if (written)
          spares_[h]->held = spares_[h]->meta->super.session;
        again = true; // the write may have cost the host a replica of its own
      }
      stale_lists_ &= ~(1u << h);
    }
  }
  const std::lock_guard lock(allocation_mutex_);
  for (const hosted_run& run : to_unhost_) // no superblock lists them any more
    if (spares_[run.host])
      spares_[run.host]->space.unhost(spare_unit(run.start), run.units);
  to_unhost_.clear();
  return {};
}

/// The guest's sixth replica was lost: its host does not list it. Where the host was full, and nothing else,
/// the place is free again as soon as that is on disk.
void remap_set::give_up_sixth(unsigned guest) {
  for (unsigned h = 0; h < max_spares && spares_[guest]->meta->sixth_found_no_space(); ++h)
    if (const auto* s = spares_[h] && spares_[h]->present ? &spares_[h]->meta->super : nullptr;
        s != nullptr && s->hosted_start[guest] != 0)
      to_unhost_.push_back({h, s->hosted_start[guest], s->hosted_blocks[guest] + 1});
  unlist(guest);
}

/// The map of an absent spare is on one that is absent, too.
bool remap_set::map_is_away(unsigned spare) const {
  if (!spares_[spare] || spares_[spare]->present || !spares_[spare]->meta->has_sixth())
    return false;
  const auto& host = spares_[spare]->meta->super.sixth_host;
  return host < max_spares && spares_[host] && (!spares_[host]->present || spares_[host]->draining);
}

/// Maps of absent spares that memory alone has for sure: to spares that are there. The next superblocks say
/// where, but none that is written here: one of them may be absent in no record yet. True: there is something
/// to say.
bool remap_set::keep_maps_of_absent() {
  unsigned moved = 0; // bit a spare
  for (unsigned g = 0; g < max_spares; ++g)
    if (map_is_away(g) && keep_map(g))
      moved |= 1u << g;
  for (unsigned g = 0; g < max_spares; ++g)
    if ((moved >> g & 1) != 0)
      note_map(g, spares_[g]->meta->super.sixth_host + 1);
  return moved != 0;
}

/// The host lists it before any record names the host: a record that is followed must be right.
bool remap_set::keep_map(unsigned absent) {
  spare_metadata& g = *spares_[absent]->meta;
  for (unsigned h = 0; h < max_spares; ++h) {
    if (!spares_[h] || !spares_[h]->present || spares_[h]->draining || spares_[h]->joining ||
        protect_tries_ >= protect_tries_a_session)
      continue;
    spare_metadata& host = *spares_[h]->meta;
    const auto start = host_run(h, g.sixth_units());
    if (!start)
      continue;
    const auto io_before = g.sixth_io();
    const std::uint32_t host_before = g.super.sixth_host, start_before = g.super.sixth_start;
    auto placed = g.move_sixth(host.share_io(), h, *start);
    if (placed) {
      list_guest(h, absent);
      placed = host.write_super(sequences_);
      if (placed) {
        spares_[h]->held = host.super.session;
        return true;
      }
      unlist(absent, h); // some of its copies may list it already
      g.attach_sixth(io_before, host_before, start_before);
    } else if (placed.error() != io_error::medium) {
      const std::lock_guard lock(allocation_mutex_);
      spares_[h]->space.unhost(spare_unit(*start), g.sixth_units());
    }
    ++protect_tries_;
  }
  return false;
}

/// Where maps of absent spares were before they moved, once all superblocks say where they are now.
void remap_set::unlist_moved_maps() {
  for (unsigned g = 0; g < max_spares; ++g)
    for (unsigned h = 0; h < max_spares; ++h)
      if (spares_[g] && !spares_[g]->present && spares_[g]->meta->has_sixth() && spares_[h] &&
          spares_[h]->present && h != spares_[g]->meta->super.sixth_host &&
          spares_[h]->meta->super.hosted_start[g] != 0)
        unlist(g, h);
}

result<void> remap_set::free_maps_on(unsigned spare) {
  const std::lock_guard lock(metadata_mutex_);
  if (spare >= max_spares || !spares_[spare])
    return fail("no-such-spare", leader().super.set_name, "has no spare " + std::to_string(spare));
  return move_maps_off(spare);
}

result<void> remap_set::move_maps_off(unsigned spare) {
  pool_spare& p = *spares_[spare];
  const auto guest = [&]() -> const pool_spare* {
    for (const auto& away : spares_)
      if (away && away.get() != &p && !away->present && away->meta->has_sixth() &&
          away->meta->super.sixth_host == spare)
        return away.get();
    return nullptr;
  };
  if (guest() == nullptr)
    return {};
  const bool was_draining = p.draining.exchange(true);
  ensure_protected();
  p.draining = was_draining;
  if (const pool_spare* still = guest())
    return fail(
        "spare-in-use", p.meta->path(),
        "holds the only map of spare " + to_text(still->meta->super.spare_uuid) +
            ", which is absent: bring that one back, or forget it first, or add a spare that takes the "
            "map");
  return {};
}

/// A sixth replica for every spare that has none, as long as there is room and hosts do not fail. `wait`: not
/// before some batches have gone by since a host was full.
void remap_set::ensure_protected(bool wait) {
  if (!writable_ || record_pending_)
    return;
  if (!settle_protection())
    return;
  if (reserve_sequences(16) && keep_maps_of_absent()) {
    if (!write_supers())
      return;
    unlist_moved_maps();
    if (!settle_protection())
      return;
  }
  if (wait && protect_wait_ != 0) {
    --protect_wait_;
    return;
  }
  for (unsigned g = 0; g < max_spares; ++g)
    for (unsigned h = 0; h < max_spares; ++h) {
      if (count_present() < 2)
        return;
      if (!spares_[g] || !spares_[g]->present || spares_[g]->meta->has_sixth())
        break;
      if (h == g || !spares_[h] || !spares_[h]->present || spares_[h]->draining)
        continue;
      if (protect_tries_ >= protect_tries_a_session || !reserve_sequences(16))
        return;
      if (protect(g, h))
        break;
    }
  (void)settle_protection();
}

std::optional<std::uint32_t> remap_set::host_run(unsigned host, std::uint64_t units) {
  const std::lock_guard lock(allocation_mutex_);
  const auto run = spares_[host]->space.find_host_run(units);
  if (!run || !spares_[host]->space.host(*run, units))
    return std::nullopt;
  return static_cast<std::uint32_t>(run->value);
}

void remap_set::list_guest(unsigned host, unsigned guest) {
  const spare_metadata& g = *spares_[guest]->meta;
  superblock& s = spares_[host]->meta->super;
  s.hosted_start[guest] = g.super.sixth_start;
  s.hosted_blocks[guest] = g.places().table_blocks;
  s.hosted_protected |= 1u << guest;
}

/// All of the guest's table to free units of the host, then the guest's superblock, then the host's: only
/// both together make it count.
bool remap_set::protect(unsigned guest, unsigned host) {
  spare_metadata& g = *spares_[guest]->meta;
  spare_metadata& h = *spares_[host]->meta;
  const auto start = host_run(host, g.sixth_units());
  if (!start)
    return false;
  const auto count_try = [this](io_error why) {
    if (why == io_error::no_space)
      protect_wait_ = protect_pause_ = std::min(2 * protect_pause_ + 1, longest_pause);
    else
      ++protect_tries_;
  };
  if (g.take_sixth_lost())
    give_up_sixth(guest); // the old one; the new one must not go with it
  if (auto placed = g.place_sixth(h.share_io(), host, *start, sequences_); !placed) {
    count_try(placed.error());
    if (placed.error() == io_error::medium)
      return false; // the units stay taken: they may be what failed
    const std::lock_guard lock(allocation_mutex_);
    spares_[host]->space.unhost(spare_unit(*start), g.sixth_units());
    return false;
  }
  list_guest(host, guest);
  const auto listed = h.write_super(sequences_);
  if (listed) {
    protect_pause_ = 0;
    return true;
  }
  count_try(listed.error());
  if (listed.error() == io_error::no_space)
    to_unhost_.push_back({host, *start, static_cast<std::uint32_t>(g.sixth_units())});
  unlist(guest, host); // some of its copies may list it already
  g.detach_sixth();
  return false;
}

// --- added and removed
// ---------------------------------------------------------------------------------------------

result<unsigned> remap_set::add_spare(std::shared_ptr<store> io) {
  const std::lock_guard lock(metadata_mutex_);
  const std::string path = io->identity().path;
  if (!writable_)
    return fail("read-only", path, "the set is open read-only");
  unsigned place = 0;
  while (place < max_spares && spares_[place])
    ++place;
  if (place == max_spares)
    return fail("too-many-spares", path, "a set has at most 16 spares");
  superblock s;
  s.spare_uuid = random_uuid();
  s.spare_index = place;
  copy_set_fields(leader().super, s);
  auto meta = TRY(spare_metadata::blank(std::move(io), s, rules_));
  if (!reserve_sequences(64))
    return fail("format-failed", path, "the set's superblocks cannot be written; nothing changed");
  auto fresh = std::make_unique<pool_spare>(std::move(meta));
  fresh->held = 0;
  fresh->joining = true;
  pool_spare& p = *fresh;
  const auto put = [&](std::unique_ptr<pool_spare> what) {
    if (what && on_present)
      on_present(place, what->io);
    const std::lock_guard allocation(allocation_mutex_);
    std::swap(spares_[place], what);
    unsigned count = 0;
    for (unsigned i = 0; i < max_spares; ++i)
      if (spares_[i])
        count = i + 1;
    place_count_ = std::max(place_count_.load(), count);
    return what;
  };
  (void)put(std::move(fresh));
  note_map(place, 0);
  fresh_range();
  auto recorded = record_session();
  if (recorded && (!p.present || p.meta->verify_supers() != p.meta->super.super_good))
    recorded = io_fail(io_error::medium);
  if (!recorded) {
    p.present = false;
    const auto out = put(nullptr);
    if (on_absent)
      on_absent(place, false);
    (void)record_session(); // the others do not list it
    if (out->meta->present())
      (void)out->meta->erase_supers();
    return fail("format-failed", path,
                "the metadata could not be written: " + std::string(name_of(recorded.error())) +
                    "; the set is as before");
  }
  p.joining = false;
  ensure_protected();
  return place;
}

result<void> remap_set::remove_spare(unsigned spare) {
  const std::lock_guard lock(metadata_mutex_);
  if (!writable_)
    return fail("read-only", leader().super.set_name, "the set is open read-only");
  if (spare >= max_spares || !spares_[spare])
    return fail("no-such-spare", leader().super.set_name, "has no spare " + std::to_string(spare));
  pool_spare& p = *spares_[spare];
  const std::string path = p.meta->path();
  const bool was_present = p.present;
  if (count_present() < (was_present ? 2u : 1u))
    return fail("last-spare", path, "is the only spare of the set");
  std::uint64_t active = 0;
  {
    const std::lock_guard map_lock(map_mutex_);
    const std::lock_guard allocation(allocation_mutex_);
    active = p.space.allocated();
    active -= std::min(active, old_.on(spare)); // served from elsewhere by now
  }
  if (was_present && active != 0)
    return fail("spare-in-use", path,
                "Cannot remove spare " + path + ": " + std::to_string(active) + " active allocations");
  CHECK_OK(move_maps_off(spare));
  if (std::any_of(doubt_.begin(), doubt_.end(), [&](const slot_change& c) { return c.spare == spare; }))
    return fail("commit-in-doubt", path, "a change of its table is not complete yet; try again");
  const auto cannot = [&](io_error why) {
    return fail("remove-failed", path,
                "the set's superblocks cannot be written: " + std::string(name_of(why)) + "; it stays");
  };
  if (auto room = reserve_sequences(256); !room)
    return cannot(room.error());
  p.draining = true;
  for (unsigned g = 0; g < max_spares; ++g) // its guests move first
    if (spares_[g] && spares_[g]->present && spares_[g]->meta->has_sixth() &&
        spares_[g]->meta->super.sixth_host == spare) {
      spares_[g]->meta->detach_sixth();
      if (was_present)
        unlist(g, spare);
    }
  ensure_protected();
  if (count_present() < (was_present && p.present ? 2u : 1u) || was_present != p.present)
    return cannot(io_error::gone); // another one, or this one, went meanwhile
  unlist(spare);
  const std::uint32_t host = p.meta->super.sixth_host, start = p.meta->super.sixth_start;
  const std::uint64_t units = p.meta->sixth_units();
  const bool hosted = p.meta->has_sixth();
  std::unique_ptr<pool_spare> out;
  {
    const std::lock_guard allocation(allocation_mutex_);
    out = std::move(spares_[spare]);
    out->present = false;
  }
  std::erase_if(to_unhost_, [&](const hosted_run& run) { return run.host == spare; });
  note_map(spare, 0);
  fresh_range();
  if (auto recorded = record_session(); !recorded) {
    if (hosted) // it is not listed there any more
      out->meta->detach_sixth();
    const std::lock_guard allocation(allocation_mutex_);
    out->present = was_present;
    spares_[spare] = std::move(out);
    return cannot(recorded.error());
  }
  if (on_absent)
    on_absent(spare, false);
  if (out->meta->present())
    (void)out->meta->erase_supers(); // where this fails it is a spare that no set lists
  out->meta->lose(false);
  const std::lock_guard map_lock(map_mutex_);
  old_.remove_all(spare);
  const std::lock_guard allocation(allocation_mutex_);
  if (hosted && host < max_spares && spares_[host])
    spares_[host]->space.unhost(spare_unit(start), units);
  return {};
}

} // namespace dmremap
