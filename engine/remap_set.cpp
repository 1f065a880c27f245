// SPDX-License-Identifier: GPL-2.0-or-later
// The set's tables in motion: batches, what is in doubt, allocation. The open is in set_open.cpp, spares that
// come and go in set_spares.cpp.
#include "engine/remap_set.h"

#include <algorithm>
#include <array>
#include <bit>
#include <map>
#include <set>

namespace dmremap {
namespace {

constexpr std::uint64_t sequences_per_session = 1u << 20;
constexpr std::uint64_t sequences_kept_back =
    256; // for superblock writes that must not fail for want of a number

std::uint64_t lost_in(std::uint8_t mask) {
  return static_cast<std::uint64_t>(std::popcount(mask));
}

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

slot remap_set::slot_of(map_entry e) const {
  const std::lock_guard lock(metadata_mutex_);
  const auto& p = spares_[e.spare()];
  return p ? p->meta->get(e.unit()) : slot{};
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
  io_result flushed;
  for (const auto& p : spares_)
    if (p && p->present && flushed)
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
  if (sequences_.left() >= needed + sequences_kept_back)
    return {};
  const std::uint64_t old_end = sequences_.end;
  if (old_end + sequences_per_session + needed >= sequence_limit)
    return io_fail(io_error::invalid);
  sequences_.end = old_end + sequences_per_session + needed;
  auto written = write_supers();
  if (!written)
    sequences_.end = old_end;
  return written;
}

// --- commits
// -------------------------------------------------------------------------------------------------------

commit_reply remap_set::commit(std::span<const slot_change> changes,
                               const std::optional<flush_marks>& data_since) {
  request mine{changes, &data_since, false, {}};
  {
    const std::lock_guard lock(queue_mutex_);
    queue_.push_back(&mine);
  }
  // Whoever gets the mutex next takes all that waits along; the others find their request finished.
  const std::lock_guard lock(metadata_mutex_);
  if (!mine.finished) {
    std::vector<request*> batch;
    {
      const std::lock_guard queue_lock(queue_mutex_);
      batch.swap(queue_);
    }
    run_batch(batch);
    prepare_ahead();
  }
  return mine.reply;
}

/// Every chunk that the request touches: initialised, and with two good replicas at least.
io_result remap_set::make_ready(const request& r) {
  for (const slot_change& c : r.changes) {
    if (!spares_[c.spare] || !spares_[c.spare]->present)
      return io_fail(io_error::gone);
    spare_metadata& m = *spares_[c.spare]->meta;
    const std::uint32_t chunk = m.places().chunk_of(geometry::block_of(c.unit));
    io_result ready;
    if (m.super.good_replicas(chunk) == 0)
      ready = m.prepare_chunk(chunk, sequences_);
    if (ready && std::popcount(m.super.good_replicas(chunk)) < 2)
      ready = io_fail(io_error::medium);
    if (!ready && ready.error() == io_error::medium)
      note_chunks(c.spare, std::array{geometry::block_of(c.unit)});
    CHECK_OK(std::move(ready));
  }
  return {};
}

/// The data that the batch's changes on one spare name, durable before a table names it.
io_result remap_set::flush_data(std::span<request* const> batch, unsigned spare) {
  std::optional<std::uint64_t> since;
  for (const request* r : batch) {
    if (r->finished || !*r->data_since)
      continue;
    for (const slot_change& c : r->changes)
      if (c.spare == spare && c.entry().present())
        since = std::min(since.value_or(UINT64_MAX), (**r->data_since)[spare]);
  }
  if (!since || !rules_.flush_data)
    return {};
  return flush_since(spares_[spare]->meta->io(), *since);
}

/// The changes on one spare into its table. A request whose part fails here is in doubt from now on.
io_result remap_set::write_slots(std::span<request* const> batch, unsigned spare) {
  spare_metadata& m = *spares_[spare]->meta;
  std::set<std::uint32_t> touched;
  for (const request* r : batch) {
    if (r->finished)
      continue;
    for (const slot_change& c : r->changes) {
      if (c.spare != spare)
        continue;
      m.set(c.unit, c.kind == slot_kind::free
                        ? slot::make(slot_kind::free, main_unit(0), 0, 0, sequences_.take())
                        : slot::make(c.kind, c.main, c.lost, c.main_may_answer, sequences_.take()));
      touched.insert(geometry::block_of(c.unit));
    }
  }
  if (touched.empty())
    return {};
  const std::vector<std::uint32_t> blocks(touched.begin(), touched.end());
  auto written = m.write_blocks(blocks, sequences_);
  if (!written)
    for (request* r : batch)
      if (!r->finished && std::any_of(r->changes.begin(), r->changes.end(),
                                      [&](const slot_change& c) { return c.spare == spare; }))
        r->reply = {commit_outcome::in_doubt, written.error()};
  note_chunks(spare, blocks);
  return written;
}

void remap_set::run_batch(std::span<request* const> batch) {
  ++counters_.saves_tried;
  std::uint64_t slots = doubt_.size();
  for (const request* r : batch)
    slots += r->changes.size();
  unsigned dead = 0; // bit a spare
  const auto refuse = [](request& r, io_error why) {
    r.reply = {commit_outcome::refused, why};
    r.finished = true;
  };
  const auto suspect = [&](unsigned spare, io_error why) {
    if (why == io_error::gone || (why == io_error::medium && count_present() > 1 &&
                                  (!spares_[spare]->meta->answers() || !can_be_written(spare))))
      dead |= 1u << spare;
  };
  auto ready = record_pending_ ? record_session() : io_result{};
  if (ready)
    ready = settle_protection();
  if (ready)
    ready = reserve_sequences(2 * slots + chunk_count);
  if (!ready) {
    for (request* r : batch)
      refuse(*r, ready.error());
    return;
  }
  supersede_doubt();
  for (request* r : batch)
    if (auto made = make_ready(*r); !made)
      refuse(*r, made.error());
  for (unsigned s = 0; s < max_spares; ++s)
    if (auto flushed = flush_data(batch, s); !flushed) {
      for (request* r : batch)
        if (!r->finished && std::any_of(r->changes.begin(), r->changes.end(),
                                        [&](const slot_change& c) { return c.spare == s; }))
          refuse(*r, flushed.error());
      suspect(s, flushed.error());
    }
  bool all_done = true;
  for (unsigned s = 0; s < max_spares; ++s)
    if (spares_[s] && spares_[s]->present)
      if (auto written = write_slots(batch, s); !written)
        suspect(s, written.error());
  for (request* r : batch) {
    if (!r->finished && r->reply.outcome == commit_outcome::in_doubt)
      remember_doubt(*r);
    all_done &= r->reply.outcome == commit_outcome::done;
  }
  for (unsigned s = 0; s < max_spares; ++s)
    if ((dead >> s & 1) != 0)
      (void)vanish(s);
  // Nothing is answered while a sixth replica that missed a change could be taken for a full one.
  if (auto settled = settle_protection(); !settled)
    for (request* r : batch)
      if (!r->finished && r->reply.outcome == commit_outcome::done) {
        r->reply = {commit_outcome::in_doubt, settled.error()};
        remember_doubt(*r);
        all_done = false;
      }
  counters_.saves_done += all_done ? 1 : 0;
  for (request* r : batch)
    r->finished = true;
  ensure_protected(true);
}

/// Allocation keeps away from chunks that must not change any more, and from those where a change is in
/// doubt.
void remap_set::note_chunks(unsigned spare, std::span<const std::uint32_t> blocks) {
  const std::lock_guard lock(allocation_mutex_);
  pool_spare& p = *spares_[spare];
  const geometry& g = p.meta->places();
  std::set<std::uint32_t> doubtful;
  for (const slot_change& c : doubt_)
    if (c.spare == spare)
      doubtful.insert(g.chunk_of(geometry::block_of(c.unit)));
  for (const std::uint32_t b : blocks) {
    const std::uint32_t chunk = g.chunk_of(b);
    p.space.set_chunk_usable(chunk, std::popcount(p.meta->super.good_replicas(chunk)) >= 2 &&
                                        !doubtful.contains(chunk));
  }
}

/// From the first table write on a batch can only be completed. Until then its units are not served.
void remap_set::remember_doubt(const request& r) {
  {
    const std::lock_guard map_lock(map_mutex_);
    for (const slot_change& c : r.changes) {
      doubt_.push_back(c);
      if (c.kind != slot_kind::retired && !c.loser)
        map_.set(c.main, map_.lookup(c.main).doubtful());
    }
    doubt_count_.store(doubt_.size());
  }
  for (const slot_change& c : r.changes)
    note_chunks(c.spare, std::array{geometry::block_of(c.unit)});
}

/// Block by block, so that a block that cannot be written holds up its own units only.
void remap_set::supersede_doubt() {
  if (doubt_.empty())
    return;
  std::map<std::pair<unsigned, std::uint32_t>, bool> written;
  std::vector<slot_change> settled, left;
  for (const slot_change& c : doubt_) {
    const std::uint32_t block = geometry::block_of(c.unit);
    const auto [at, first] = written.try_emplace({c.spare, block}, false);
    if (first)
      at->second = spares_[c.spare]->meta->write_blocks({&block, 1}, sequences_).has_value();
    (at->second ? settled : left).push_back(c);
  }
  doubt_ = std::move(left);
  for (const auto& [place, done] : written)
    note_chunks(place.first, {&place.second, 1});
  publish(settled);
  doubt_count_.store(doubt_.size());
}

bool remap_set::complete_doubt() {
  if (in_doubt())
    (void)commit({}, std::nullopt); // its data was flushed before its tables
  return !in_doubt();
}

void remap_set::publish(std::span<const slot_change> changes) {
  const std::lock_guard lock(map_mutex_);
  const std::lock_guard allocation(allocation_mutex_);
  for (const slot_change& c : changes) {
    if (!spares_[c.spare]) // removed since: it served nothing any more
      continue;
    spare_space& space = spares_[c.spare]->space;
    if (c.kind == slot_kind::retired) {
      space.retire();
      old_.remove(c.spare, c.unit);
      continue;
    }
    if (c.loser) {
      space.give_back(c.unit);
      old_.remove(c.spare, c.unit);
      continue;
    }
    const map_entry before = map_.lookup(c.main);
    const map_entry after = c.entry();
    counters_.lost_sectors += lost_in(after.lost()) - lost_in(before.lost()); // modulo 2^64
    counters_.by_hand_units += std::uint64_t{after.by_hand()} - std::uint64_t{before.by_hand()};
    if (!after.present()) {
      map_.erase(c.main);
      space.give_back(c.unit);
      continue;
    }
    map_.set(c.main, after);
    note_old_place(c.main, before, after);
  }
}

/// The unit is served from somewhere else now: until its slot there is released, it has two. With map_mutex_.
void remap_set::note_old_place(main_unit u, map_entry before, map_entry after) {
  const bool had_place = before.present() && before.unit().value != 0; // unit 0 holds a superblock: none yet
  if (had_place && (before.spare() != after.spare() || before.unit() != after.unit()))
    old_.add(u, before.spare(), before.unit());
}

/// The chunk being filled and the one behind it are made ready before a request needs them.
void remap_set::prepare_ahead() {
  if (record_pending_)
    return;
  for (const auto& p : spares_) {
    if (!p || !p->present || p->draining)
      continue;
    std::uint64_t next = 0;
    {
      const std::lock_guard lock(allocation_mutex_);
      next = p->space.first_maybe_free().value;
    }
    spare_metadata& m = *p->meta;
    if (next >= m.places().units)
      continue; // full: the next one is being filled
    for (const std::uint64_t unit : {next, next + slots_per_block / 2}) {
      if (unit >= m.places().units)
        break;
      const std::uint32_t chunk = m.places().chunk_of(geometry::block_of(spare_unit(unit)));
      if (m.super.good_replicas(chunk) == 0 && reserve_sequences(1))
        (void)m.prepare_chunk(chunk, sequences_); // best effort: the commit that needs it reports
    }
    break;
  }
  (void)settle_protection();
}

// --- allocation
// --------------------------------------------------------------------------------------------------

std::optional<taken_unit> remap_set::allocate(unsigned not_on) {
  const std::lock_guard lock(allocation_mutex_);
  for (unsigned s = 0; s < max_spares; ++s) {
    if (!spares_[s] || !spares_[s]->present || spares_[s]->draining || (not_on >> s & 1) != 0)
      continue;
    if (const auto got = spares_[s]->space.take(1); !got.empty())
      return taken_unit{s, got.front()};
  }
  return std::nullopt;
}

std::optional<spare_unit> remap_set::allocate_run(unsigned spare, std::uint64_t count) {
  const std::lock_guard lock(allocation_mutex_);
  if (!spares_[spare] || !spares_[spare]->present)
    return std::nullopt;
  return spares_[spare]->space.take_run(count);
}

std::optional<spare_unit> remap_set::nearest_free(unsigned spare, spare_unit wanted,
                                                  std::uint64_t count) const {
  const std::lock_guard lock(allocation_mutex_);
  if (!spares_[spare])
    return std::nullopt;
  return spares_[spare]->space.nearest_free(wanted, count);
}

bool remap_set::claim_units(unsigned spare, spare_unit first, std::uint64_t count) {
  const std::lock_guard lock(allocation_mutex_);
  return spares_[spare] && spares_[spare]->present && spares_[spare]->space.take_these(first, count);
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
    if (spares_[s] && spares_[s]->present && !spares_[s]->draining && (not_on >> s & 1) == 0)
      sum += spares_[s]->space.usable() - spares_[s]->space.allocated();
  return sum;
}

} // namespace dmremap
