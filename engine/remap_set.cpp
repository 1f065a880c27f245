// SPDX-License-Identifier: GPL-2.0-or-later
// The set's tables in motion: sessions, batches, what is in doubt. Allocation is in allocation.cpp.
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
    64; // for superblock writes that must not fail for want of a number

std::uint64_t lost_in(std::uint8_t mask) {
  return static_cast<std::uint64_t>(std::popcount(mask));
}

} // namespace

map_entry slot_change::entry() const {
  if (kind != slot_kind::remap && kind != slot_kind::explicit_remap)
    return {};
  return map_entry::make(spare, unit, lost, kind == slot_kind::explicit_remap);
}

result<std::unique_ptr<remap_set>> remap_set::assemble(std::vector<std::unique_ptr<spare_metadata>> spares,
                                                       const commit_rules& rules) {
  if (spares.size() != 1 || spares.front()->super.spare_count != 1)
    return fail("one-spare-only", "", "this version opens sets of one spare only");
  std::unique_ptr<remap_set> set(new remap_set(rules));
  set->spares_ = std::move(spares);
  const superblock& s = set->spare().super;
  set->counters_.lifetime_allocations = s.lifetime_allocations;
  set->counters_.auto_remaps = s.auto_remaps;
  set->counters_.manual_remaps = s.manual_remaps;
  set->counters_.saves_tried = s.saves_tried;
  set->counters_.saves_done = s.saves_done;
  CHECK_OK(set->build_map());
  return set;
}

result<void> remap_set::build_map() {
  const geometry& g = spare().places();
  used_.assign((g.units + 63) / 64, 0);
  chunk_usable_.assign(g.chunks(), 1);
  for (std::uint32_t c = 0; c < g.chunks(); ++c)
    if (const unsigned good = spare().super.good_replicas(c); good != 0 && std::popcount(good) < 2)
      chunk_usable_[c] = 0;
  for (unsigned copy = 0; copy < super_copies; ++copy)
    mark_used(g.super_place(copy), true);
  for (unsigned r = 0; r < own_replicas; ++r)
    for (std::uint32_t b = 0; b < g.table_blocks; ++b)
      mark_used(g.block_place(r, b), true);
  first_maybe_free_ = g.first_automatic().value;
  used_data_units_ = 0;

  std::vector<spare_unit> losers;
  spare().for_each_used([&](spare_unit u, const slot& s) {
    mark_used(u, true);
    ++used_data_units_;
    if (s.kind() == slot_kind::retired) {
      ++retired_units_;
      return;
    }
    const map_entry there = map_.lookup(s.main());
    if (there.present()) { // two slots for one unit: the higher sequence wins
      const spare_unit other = there.unit();
      if (spare().get(other).sequence() >= s.sequence()) {
        losers.push_back(u);
        return;
      }
      losers.push_back(other);
      counters_.lost_sectors -= lost_in(there.lost());
      counters_.by_hand_units -= there.by_hand() ? 1 : 0;
    }
    map_.set(s.main(), map_entry::make(0, u, s.lost(), s.kind() == slot_kind::explicit_remap));
    counters_.lost_sectors += lost_in(s.lost());
    counters_.by_hand_units += s.kind() == slot_kind::explicit_remap ? 1 : 0;
  });
  for (const spare_unit u : losers)
    doubt_.push_back({0, u, slot_kind::free, spare().get(u).main(), 0, 0}); // released by start_session
  return {};
}

std::vector<main_unit> remap_set::remapped_units() const {
  const std::lock_guard lock(map_mutex_); // growth swaps the table under the iteration's feet otherwise
  return map_.units();
}

slot remap_set::slot_of(map_entry e) const {
  const std::lock_guard lock(metadata_mutex_);
  return spares_[e.spare()]->get(e.unit());
}

// --- open and close
// ------------------------------------------------------------------------------------------------

result<void> remap_set::start_session() {
  const std::lock_guard lock(metadata_mutex_);
  spare_metadata& m = spare();
  const auto cannot = [&](std::string_view step, io_error why) {
    return fail("cannot-mend", m.io().identity().path,
                std::string(step) + " cannot be made durable in two copies (" + std::string(name_of(why)) +
                    "); open it with -o ro to read what is there");
  };
  std::uint64_t start = std::max(m.highest_sequence() + 1, m.super.sequence_end);
  if (!rules_.fresh_sequences)
    start = m.super.sequence_next;
  if (start + sequences_per_session >= sequence_limit)
    return fail("sequence-overflow", m.io().identity().path,
                "the set has used up its sequence numbers; "
                "make a new set and copy the data");
  sequences_ = {start, start + sequences_per_session};

  const std::vector<slot_change> losers = std::exchange(doubt_, {});
  std::vector<std::uint32_t> blocks;
  for (const damaged_block& d : m.damaged())
    blocks.push_back(d.number);
  const auto record = [&]() -> io_result {
    m.super.clean = false;
    m.super.samples_valid = false;
    m.super.session = random_u64();
    auto& mine = m.super.sessions[m.super.spare_index];
    mine.held = mine.given;
    mine.given = m.super.session;
    return m.write_super(sequences_);
  };
  const auto mend = [&]() -> io_result {
    if (blocks.empty() || !rules_.mend)
      return {};
    return m.write_blocks(blocks, sequences_, rules_.mend_new_sequence);
  };
  if (!rules_.session_first)
    if (auto mended = mend(); !mended)
      return cannot("mending the table", mended.error());
  if (auto recorded = record(); !recorded)
    return cannot("the session record", recorded.error());
  if (rules_.session_first)
    if (auto mended = mend(); !mended)
      return cannot("mending the table", mended.error());
  if (!losers.empty()) { // their winners are durable in all good replicas now
    std::vector<std::uint32_t> touched;
    for (const slot_change& c : losers) {
      m.set(c.unit, slot::make(slot_kind::free, main_unit(0), 0, 0, sequences_.take()));
      touched.push_back(geometry::block_of(c.unit));
    }
    std::sort(touched.begin(), touched.end());
    touched.erase(std::unique(touched.begin(), touched.end()), touched.end());
    if (auto released = m.write_blocks(touched, sequences_); !released)
      return cannot("releasing superseded slots", released.error());
    const std::lock_guard allocation(allocation_mutex_);
    for (const slot_change& c : losers) {
      mark_used(c.unit, false);
      --used_data_units_;
    }
  }
  prepare_ahead();
  return {};
}

void remap_set::store_counters(superblock& s) {
  s.lifetime_allocations = counters_.lifetime_allocations;
  s.auto_remaps = counters_.auto_remaps;
  s.manual_remaps = counters_.manual_remaps;
  s.saves_tried = counters_.saves_tried;
  s.saves_done = counters_.saves_done;
}

result<void> remap_set::close(const std::function<void(superblock&)>& describe) {
  if (!complete_doubt())
    return fail("in-doubt", spare().io().identity().path,
                "a change of the table could not be completed; not marked clean, the next open decides it");
  const std::lock_guard lock(metadata_mutex_);
  spare_metadata& m = spare();
  if (auto room = reserve_sequences(0); !room)
    return fail("close-failed", m.io().identity().path, std::string(name_of(room.error())));
  auto flushed = m.io().flush();
  if (flushed) {
    store_counters(m.super);
    describe(m.super);
    m.super.clean = true;
    flushed = m.write_super(sequences_);
  }
  if (!flushed) {
    m.super.clean = m.super.samples_valid = false; // this session may go on: nothing may say "clean" for it
    return fail("close-failed", m.io().identity().path,
                "the clean mark could not be written: " + std::string(name_of(flushed.error())) +
                    "; nothing is lost, the next open mends");
  }
  return {};
}

io_result remap_set::update_super(const std::function<void(superblock&)>& change) {
  const std::lock_guard lock(metadata_mutex_);
  CHECK_OK(reserve_sequences(0));
  ++counters_.saves_tried;
  ++counters_.saves_done; // counted before it is written, so that the copy on disk includes itself
  store_counters(spare().super);
  change(spare().super);
  auto written = spare().write_super(sequences_);
  if (!written)
    --counters_.saves_done;
  super_doubt_ = !written;
  return written;
}

void remap_set::with_metadata(const std::function<void(spare_metadata&)>& look) {
  const std::lock_guard lock(metadata_mutex_);
  look(spare());
}

superblock remap_set::super_copy() const {
  const std::lock_guard lock(metadata_mutex_);
  return spare().super;
}

// --- commits
// -------------------------------------------------------------------------------------------------------

/// Called with the metadata mutex. Extends the reserved range, durably, before it runs out.
io_result remap_set::reserve_sequences(std::uint64_t needed) {
  if (sequences_.left() >= needed + sequences_kept_back)
    return {};
  const std::uint64_t old_end = sequences_.end;
  if (old_end + sequences_per_session + needed >= sequence_limit)
    return io_fail(io_error::invalid);
  sequences_.end = old_end + sequences_per_session + needed;
  auto written = spare().write_super(sequences_);
  if (!written)
    sequences_.end = old_end;
  return written;
}

commit_reply remap_set::commit(std::span<const slot_change> changes,
                               std::optional<std::uint64_t> data_since) {
  request mine{changes, data_since, false, {}};
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

/// Every chunk that the batch touches: initialised, and with two good replicas at least.
io_result remap_set::ready_chunks(std::span<request* const> batch) {
  spare_metadata& m = spare();
  for (const request* r : batch)
    for (const slot_change& c : r->changes) {
      const std::uint32_t chunk = m.places().chunk_of(geometry::block_of(c.unit));
      io_result ready;
      if (m.super.good_replicas(chunk) == 0)
        ready = m.prepare_chunk(chunk, sequences_);
      if (ready && std::popcount(m.super.good_replicas(chunk)) < 2)
        ready = io_fail(io_error::medium);
      if (!ready && ready.error() == io_error::medium)
        note_chunks(std::array{geometry::block_of(c.unit)});
      CHECK_OK(std::move(ready));
    }
  return {};
}

void remap_set::run_batch(std::span<request* const> batch) {
  spare_metadata& m = spare();
  ++counters_.saves_tried;
  const auto finish = [&](commit_outcome outcome, io_error why) {
    for (request* r : batch) {
      r->reply = {outcome, why};
      r->finished = true;
    }
  };
  std::uint64_t slots = doubt_.size();
  std::optional<std::uint64_t> data_since;
  for (const request* r : batch) {
    slots += r->changes.size();
    if (r->data_since)
      data_since = std::min(data_since.value_or(*r->data_since), *r->data_since);
  }
  if (auto ready = reserve_sequences(2 * slots + chunk_count); !ready)
    return finish(commit_outcome::refused, ready.error());
  supersede_doubt();
  if (auto ready = ready_chunks(batch); !ready)
    return finish(commit_outcome::refused, ready.error());
  if (data_since && rules_.flush_data)
    if (auto flushed = flush_since(m.io(), *data_since); !flushed)
      return finish(commit_outcome::refused, flushed.error());

  std::set<std::uint32_t> touched;
  for (const request* r : batch)
    for (const slot_change& c : r->changes) {
      m.set(c.unit, c.kind == slot_kind::free
                        ? slot::make(slot_kind::free, main_unit(0), 0, 0, sequences_.take())
                        : slot::make(c.kind, c.main, c.lost, c.main_may_answer, sequences_.take()));
      touched.insert(geometry::block_of(c.unit));
    }
  const std::vector<std::uint32_t> blocks(touched.begin(), touched.end());
  if (!blocks.empty())
    if (auto written = m.write_blocks(blocks, sequences_); !written) {
      remember_doubt(batch);
      note_chunks(blocks);
      return finish(commit_outcome::in_doubt, written.error());
    }
  ++counters_.saves_done;
  note_chunks(blocks);
  finish(commit_outcome::done, io_error::medium);
}

/// Allocation keeps away from chunks that must not change any more, and from those where a change is in
/// doubt.
void remap_set::note_chunks(std::span<const std::uint32_t> blocks) {
  const std::lock_guard lock(allocation_mutex_);
  const geometry& g = spare().places();
  std::set<std::uint32_t> doubtful;
  for (const slot_change& c : doubt_)
    doubtful.insert(g.chunk_of(geometry::block_of(c.unit)));
  for (const std::uint32_t b : blocks) {
    const std::uint32_t chunk = g.chunk_of(b);
    chunk_usable_[chunk] =
        std::popcount(spare().super.good_replicas(chunk)) >= 2 && !doubtful.contains(chunk);
  }
}

/// From the first table write on a batch can only be completed. Until then its units are not served.
void remap_set::remember_doubt(std::span<request* const> batch) {
  const std::lock_guard map_lock(map_mutex_);
  for (const request* r : batch)
    for (const slot_change& c : r->changes) {
      doubt_.push_back(c);
      if (c.kind != slot_kind::retired)
        map_.set(c.main, map_.lookup(c.main).doubtful());
    }
  doubt_count_.store(doubt_.size());
}

/// Block by block, so that a block that cannot be written holds up its own units only.
void remap_set::supersede_doubt() {
  if (doubt_.empty())
    return;
  std::map<std::uint32_t, bool> written;
  std::vector<slot_change> settled, left;
  for (const slot_change& c : doubt_) {
    const std::uint32_t block = geometry::block_of(c.unit);
    const auto [at, first] = written.try_emplace(block, false);
    if (first)
      at->second = spare().write_blocks({&block, 1}, sequences_).has_value();
    (at->second ? settled : left).push_back(c);
  }
  doubt_ = std::move(left);
  for (const auto& [block, done] : written)
    note_chunks({&block, 1});
  publish(settled);
  doubt_count_.store(doubt_.size());
}

bool remap_set::complete_doubt() {
  if (in_doubt())
    (void)commit({}, std::nullopt); // its data was flushed before its tables
  return !in_doubt();
}

void remap_set::publish(std::span<const slot_change> changes) {
  std::vector<spare_unit> freed;
  {
    const std::lock_guard lock(map_mutex_);
    for (const slot_change& c : changes) {
      if (c.kind == slot_kind::retired) {
        const std::lock_guard allocation(allocation_mutex_);
        ++retired_units_;
        continue;
      }
      const map_entry before = map_.lookup(c.main);
      const map_entry after = c.entry();
      counters_.lost_sectors += lost_in(after.lost()) - lost_in(before.lost()); // modulo 2^64
      counters_.by_hand_units += std::uint64_t{after.by_hand()} - std::uint64_t{before.by_hand()};
      if (after.present()) {
        map_.set(c.main, after);
      } else {
        map_.erase(c.main);
        freed.push_back(c.unit);
      }
    }
  }
  release_units(0, freed);
}

/// The chunk being filled and the one behind it are made ready before a request needs them.
void remap_set::prepare_ahead() {
  std::uint64_t next = 0;
  {
    const std::lock_guard lock(allocation_mutex_);
    next = first_maybe_free_;
  }
  spare_metadata& m = spare();
  for (const std::uint64_t unit : {next, next + slots_per_block / 2}) {
    if (unit >= m.places().units)
      return;
    const std::uint32_t chunk = m.places().chunk_of(geometry::block_of(spare_unit(unit)));
    if (m.super.good_replicas(chunk) == 0 && reserve_sequences(1))
      (void)m.prepare_chunk(chunk, sequences_); // best effort: the commit that needs it reports
  }
}

} // namespace dmremap
