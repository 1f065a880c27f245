// SPDX-License-Identifier: GPL-2.0-or-later
// Changes of the set's tables: batches, what is in doubt, chunks that are prepared ahead.
#include "engine/remap_set.h"

#include <algorithm>
#include <array>
#include <bit>
#include <map>
#include <set>

namespace dmremap {
namespace {

std::set<unsigned> spares_of(std::span<const slot_change> changes) {
  std::set<unsigned> all;
  for (const slot_change& c : changes)
    all.insert(c.spare);
  return all;
}

/// Whether the slot says what the change makes of it.
bool stands_in(const spare_metadata& m, const slot_change& c) {
  const slot now = m.get(c.unit);
  return c.kind == slot_kind::free
             ? now.kind() == slot_kind::free
             : now == slot::make(c.kind, c.main, c.lost, c.main_may_answer, now.sequence());
}

} // namespace

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
    const std::uint32_t block = geometry::block_of(c.unit);
    const std::uint32_t chunk = m.places().chunk_of(block);
    const std::uint64_t failed_before = m.io().failed_flushes();
    io_result ready;
    if (m.super.good_replicas(chunk) == 0)
      ready = m.prepare_chunk(chunk, sequences_);
    if (ready && !m.may_change(block))
      ready = io_fail(io_error::medium);
    if (!ready && ready.error() == io_error::medium &&
        m.io().failed_flushes() == failed_before) // one that failed says nothing of the places
      note_chunks(c.spare, std::array{block});
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
  store& io = spares_[spare]->meta->io();
  return rules_.failed_flush_refuses ? flush_since(io, *since) : io.flush();
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
  auto written = m.write_blocks(blocks, sequences_, rules_.change_new_sequence);
  if (!written)
    for (request* r : batch)
      if (!r->finished && std::any_of(r->changes.begin(), r->changes.end(),
                                      [&](const slot_change& c) { return c.spare == spare; }))
        r->reply = {rules_.never_abandon ? commit_outcome::in_doubt : commit_outcome::refused,
                    written.error()};
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
    if ((dead >> spare & 1) != 0 || !spares_[spare] || !spares_[spare]->present)
      return; // it has gone since
    const bool in_question = why == io_error::medium || why == io_error::read_only;
    if (why == io_error::gone ||
        (in_question && count_present() > 1 && (!spares_[spare]->meta->answers() || !can_be_written(spare))))
      dead |= 1u << spare;
  };
  auto ready = settle();
  if (ready)
    ready = reserve_sequences(2 * slots + chunk_count);
  if (!ready) {
    for (request* r : batch)
      refuse(*r, ready.error());
    return;
  }
  supersede_doubt();
  for (request* r : batch)
    if (auto made = make_ready(*r); !made) {
      refuse(*r, made.error());
      if (made.error() == io_error::read_only)
        for (const unsigned spare : spares_of(r->changes))
          suspect(spare, made.error());
    }
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
  if (auto settled = settle(); !settled)
    for (request* r : batch)
      if (!r->finished && r->reply.outcome == commit_outcome::done) {
        r->reply = {commit_outcome::in_doubt, settled.error()};
        remember_doubt(*r);
        all_done = false;
      }
  leave_doubt_to_absent();
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
    p.space.set_chunk_usable(chunk, p.meta->may_change(b) &&
                                        (!doubtful.contains(chunk) || !rules_.free_after_release));
  }
}

/// From the first table write on a batch can only be completed. Until then its units are not served.
void remap_set::remember_doubt(const request& r) {
  {
    const std::lock_guard map_lock(map_mutex_);
    for (const slot_change& c : r.changes) {
      doubt_.push_back(c);
      if (c.kind != slot_kind::retired && !c.loser && rules_.doubt_is_error)
        map_.set(c.main, map_.lookup(c.main).doubtful());
    }
    doubt_count_.store(doubt_.size());
  }
  if (!rules_.free_after_release)
    for (const slot_change& c : r.changes)
      if (c.kind == slot_kind::free)
        release_unit({c.spare, c.unit});
  for (const slot_change& c : r.changes)
    note_chunks(c.spare, std::array{geometry::block_of(c.unit)});
}

/// Nothing is answered, nor shown, while a sixth replica that missed a change could be taken for a full one:
/// its host does not list it any more, or has gone, and a record says so.
io_result remap_set::settle() {
  if (record_pending_)
    CHECK_OK(record_session());
  CHECK_OK(settle_protection());
  return record_pending_ ? record_session() : io_result{}; // of a host that went just now
}

/// Block by block, so that a block that cannot be written holds up its own units only.
void remap_set::supersede_doubt() {
  if (doubt_.empty())
    return;
  std::map<std::pair<unsigned, std::uint32_t>, block_end> blocks;
  for (const slot_change& c : doubt_) {
    const std::uint32_t block = geometry::block_of(c.unit);
    const auto [at, first] = blocks.try_emplace({c.spare, block}, block_end::open);
    if (first)
      at->second = finish_block(c.spare, block);
  }
  const bool counts = settle().has_value(); // where a spare goes in it, what was in doubt there is settled
  std::vector<slot_change> settled, back, left;
  for (const slot_change& c : doubt_) {
    const block_end end = blocks.at({c.spare, geometry::block_of(c.unit)});
    if (!counts || end == block_end::open)
      left.push_back(c);
    else // the copy that was left may hold it already
      (end == block_end::written || stands_in(*spares_[c.spare]->meta, c) ? settled : back).push_back(c);
  }
  doubt_ = std::move(left);
  for (const auto& [place, end] : blocks)
    note_chunks(place.first, {&place.second, 1});
  publish(settled);
  for (const slot_change& c : back)
    take_back(c);
  doubt_count_.store(doubt_.size());
}

/// A block whose change is on its way: completed, or, where that can never be, as it was before.
remap_set::block_end remap_set::finish_block(unsigned spare, std::uint32_t block) {
  spare_metadata& m = *spares_[spare]->meta;
  const std::uint64_t failed_before = m.io().failed_flushes();
  const auto written = m.write_blocks({&block, 1}, sequences_);
  if (written)
    return block_end::written;
  // A flush that failed says nothing of the places: the copies may take the change the next time.
  const bool places_failed = written.error() == io_error::medium && m.io().failed_flushes() == failed_before;
  return places_failed && m.withdraw(block, sequences_) ? block_end::withdrawn : block_end::open;
}

/// A change that was in doubt is not made: the unit is served as before, its new place is free again.
void remap_set::take_back(const slot_change& c) {
  if (c.kind == slot_kind::retired || c.loser)
    return; // the place stays taken
  map_entry before;
  {
    const std::lock_guard map_lock(map_mutex_);
    before = map_.lookup(c.main).certain();
    if (before.present())
      map_.set(c.main, before);
    else
      map_.erase(c.main);
  }
  const map_entry after = c.entry();
  if (after.present() && (after.spare() != before.spare() || after.unit() != before.unit()))
    release_unit({c.spare, c.unit});
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
    doubted_.erase(c.main.value);
    counters_.lost_sectors += sectors_in(after.lost()) - sectors_in(before.lost()); // modulo 2^64
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

} // namespace dmremap
