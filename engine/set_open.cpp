// SPDX-License-Identifier: GPL-2.0-or-later
// Opening a set: which spares it has, whose copies count, the map, mending.
#include "engine/remap_set.h"

#include <algorithm>
#include <array>
#include <bit>
#include <set>

namespace dmremap {
namespace {

error missing(const superblock& record, unsigned index, const std::string& why, const char* id) {
  return {id, record.set_name,
          "spare " + std::to_string(index) + " (" + to_text(record.spare_uuids[index]) + ") " + why,
          exit_code::damaged};
}

} // namespace

result<std::unique_ptr<remap_set>> remap_set::assemble(std::vector<std::unique_ptr<spare_metadata>> spares,
                                                       bool degraded, const commit_rules& rules) {
  const set_record record = TRY(choose_record(spares));
  std::unique_ptr<remap_set> set(new remap_set(rules));
  set->degraded_ = degraded;
  for (const unsigned n : record.ignored)
    set->notices_.push_back(spares[n]->path() + " was removed from the set, or forgotten; it is left alone");
  CHECK_OK(set->load_spares(std::move(spares), record, degraded));
  const superblock& s = record.newest;
  set->counters_.lifetime_allocations = s.lifetime_allocations;
  set->counters_.auto_remaps = s.auto_remaps;
  set->counters_.manual_remaps = s.manual_remaps;
  set->counters_.saves_tried = s.saves_tried;
  set->counters_.saves_done = s.saves_done;
  set->build_map();
  return set;
}

result<void> remap_set::load_spares(std::vector<std::unique_ptr<spare_metadata>> loaded,
                                    const set_record& record, bool degraded) {
  for (unsigned i = 0; i < max_spares; ++i)
    if (record.places[i].listed) {
      place_count_ = i + 1;
      if (record.places[i].given < 0 && !degraded)
        return tl::make_unexpected(missing(
            record.newest, i, "is missing; name it, too, or open the set with -o degraded", "spare-missing"));
    }
  for (unsigned i = 0; i < max_spares; ++i) { // those in use first: the others' maps lie on them
    const auto& p = record.places[i];
    if (p.given < 0 || p.returned)
      continue;
    auto m = std::move(loaded[static_cast<std::size_t>(p.given)]);
    copy_set_fields(record.newest, m->super);
    spares_[i] = std::make_unique<pool_spare>(std::move(m));
    spares_[i]->held = p.held;
  }
  attach_sixths(record);
  for (auto& p : spares_)
    if (p)
      CHECK_OK(p->meta->load_tables());
  // The map of one that was away may lie on another that was away after it: hosts before their guests.
  const auto host_waits = [&](unsigned i) {
    const int from = record.places[i].map_from;
    return from >= 0 && !spares_[static_cast<unsigned>(from)] &&
           record.places[static_cast<unsigned>(from)].given >= 0;
  };
  for (bool more = true; more;) {
    more = false;
    for (unsigned i = 0; i < max_spares; ++i) {
      const auto& p = record.places[i];
      if (!p.listed || spares_[i] || host_waits(i))
        continue;
      CHECK_OK(load_away(i, p.given >= 0 ? std::move(loaded[static_cast<std::size_t>(p.given)]) : nullptr,
                         record));
      more = true;
    }
  }
  for (unsigned i = 0; i < max_spares; ++i)
    if (record.places[i].listed && !spares_[i])
      return tl::make_unexpected(
          missing(record.newest, i, "and another each claim to hold the other's map", "forked-set"));
  for (unsigned i = 0; i < max_spares; ++i)
    if (spares_[i])
      host_guests(i);
  return {};
}

/// A spare that is absent, or was while the set was in use.
result<void> remap_set::load_away(unsigned index, std::unique_ptr<spare_metadata> loaded,
                                  const set_record& record) {
  const auto& p = record.places[index];
  const superblock& newest = record.newest;
  const unsigned told = newest.absent_map[index];
  if (p.map_from < 0 && (told != 0 || !loaded)) {
    if (told != 0)
      return tl::make_unexpected(missing(newest, index,
                                         "has its newest map on spare " + std::to_string(told - 1) +
                                             (told <= max_spares // else there is no such place
                                                  ? " (" + to_text(newest.spare_uuids[told - 1]) + ")"
                                                  : "") +
                                             ", which must be present, too",
                                         "spare-missing"));
    return tl::make_unexpected(missing(
        newest, index, "is missing and no other spare protects it: it must be present", "spare-unprotected"));
  }
  std::shared_ptr<store> host_io;
  std::uint32_t start = 0;
  if (p.map_from >= 0) {
    const auto from = static_cast<unsigned>(p.map_from);
    host_io = spares_[from]->meta->share_io();
    start = spares_[from]->meta->super.hosted_start[index];
    auto head = start == 0 ? nullptr
                           : spare_metadata::absent(host_io, start, newest.set_uuid,
                                                    newest.spare_uuids[index], rules_);
    // Room for less than all of it would be given to others; a chunk that it lacks would look as if it moved
    // nothing.
    bool whole = head && spares_[from]->meta->super.hosted_blocks[index] == head->places().table_blocks;
    for (std::uint32_t c = 0; whole && c < head->places().chunks(); ++c)
      whole = head->super.good_replicas(c) == 0 || head->super.is_good(sixth_replica, c);
    if (!whole)
      return tl::make_unexpected(
          missing(newest, index,
                  "has no readable copy of its map on spare " + std::to_string(from) + ": it must be present",
                  "spare-unprotected"));
    if (!loaded) {
      if (const auto read = head->load_tables(false); !read && read.error().id == "block-destroyed")
        return tl::make_unexpected(
            missing(newest, index,
                    "has a damaged copy of its map on spare " + std::to_string(from) + ": it must be present",
                    "spare-unprotected"));
      else
        CHECK_OK(read);
      head->super.sixth_host = from;
      spares_[index] = std::make_unique<pool_spare>(std::move(head));
      copy_set_fields(newest, spares_[index]->meta->super);
      return {};
    }
    loaded->super.good[sixth_replica] = head->super.good[sixth_replica];
    loaded->attach_sixth(host_io, from, start);
  } else {
    loaded->detach_sixth();
  }
  CHECK_OK(loaded->load_tables(p.map_from < 0));
  copy_set_fields(newest, loaded->super);
  spares_[index] = std::make_unique<pool_spare>(std::move(loaded));
  spares_[index]->held = p.held;
  spares_[index]->returned = true;
  return {};
}

/// A sixth replica counts where both superblocks say so and it covers the whole table.
void remap_set::attach_sixths(const set_record& record) {
  for (unsigned g = 0; g < max_spares; ++g) {
    if (!spares_[g])
      continue;
    spare_metadata& guest = *spares_[g]->meta;
    const std::uint32_t h = guest.super.sixth_host;
    bool stands = h < max_spares && h != g && spares_[h] && !record.places[h].returned;
    if (stands) {
      const superblock& host = spares_[h]->meta->super;
      stands = host.hosted_start[g] == guest.super.sixth_start && guest.super.sixth_start != 0 &&
               host.hosted_blocks[g] == guest.places().table_blocks && (host.hosted_protected >> g & 1) != 0;
    }
    for (std::uint32_t c = 0; c < guest.places().chunks() && stands; ++c)
      stands = guest.super.good_replicas(c) == 0 || guest.super.is_good(sixth_replica, c);
    if (stands)
      guest.attach_sixth(spares_[h]->meta->share_io(), h, guest.super.sixth_start);
    else
      guest.detach_sixth();
  }
}

/// The guests' replicas on a spare keep their places; a listing that nobody relies on goes with the next
/// superblock.
void remap_set::host_guests(unsigned index) {
  pool_spare& p = *spares_[index];
  superblock& s = p.meta->super;
  for (unsigned g = 0; g < max_spares; ++g) {
    if (s.hosted_start[g] == 0)
      continue;
    const bool relied_on = spares_[g] && spares_[g]->meta->super.sixth_host == index &&
                           spares_[g]->meta->has_sixth() &&
                           spares_[g]->meta->super.sixth_start == s.hosted_start[g];
    const bool fits =
        relied_on && p.space.host(spare_unit(s.hosted_start[g]), std::uint64_t{s.hosted_blocks[g]} + 1);
    if (fits)
      continue;
    s.hosted_start[g] = s.hosted_blocks[g] = 0;
    s.hosted_protected &= ~(1u << g);
  }
}

void remap_set::build_map() {
  for (unsigned i = 0; i < max_spares; ++i) {
    if (!spares_[i])
      continue;
    pool_spare& p = *spares_[i];
    const geometry& g = p.meta->places();
    for (std::uint32_t c = 0; c < g.chunks(); ++c)
      if (const unsigned good = p.meta->super.good_replicas(c); good != 0 && std::popcount(good) < 2)
        p.space.set_chunk_usable(c, false);
    p.meta->for_each_used([&](spare_unit u, const slot& s) {
      p.space.note_slot(u, s.kind() == slot_kind::retired);
      if (s.kind() == slot_kind::retired)
        return;
      const auto lose = [&](unsigned spare, spare_unit unit) {
        losers_.push_back({spare, unit, slot_kind::free, s.main(), 0, 0, true});
      };
      const map_entry there = map_.lookup(s.main());
      if (there.present()) { // two slots for one unit: the higher sequence wins
        if (spares_[there.spare()]->meta->get(there.unit()).sequence() >= s.sequence())
          return lose(i, u);
        lose(there.spare(), there.unit());
        counters_.lost_sectors -= sectors_in(there.lost());
        counters_.by_hand_units -= there.by_hand() ? 1 : 0;
      }
      map_.set(s.main(), map_entry::make(i, u, s.lost(), s.kind() == slot_kind::explicit_remap));
      counters_.lost_sectors += sectors_in(s.lost());
      counters_.by_hand_units += s.kind() == slot_kind::explicit_remap ? 1 : 0;
    });
  }
  for (const slot_change& c : losers_)
    old_.add(c.main, c.spare, c.unit);
  std::erase_if(losers_, [&](const slot_change& c) { return !spares_[c.spare]->present; });
}

// --- the writable open
// ---------------------------------------------------------------------------------------------

result<void> remap_set::start_session() {
  const std::lock_guard lock(metadata_mutex_);
  const std::string name = leader().super.set_name;
  std::string other_way;
  const auto cannot = [&](std::string_view step, io_error why) {
    return fail("cannot-mend", name,
                std::string(step) + " cannot be made durable in two copies (" + std::string(name_of(why)) +
                    "); open it with -o ro to read what is there" + (degraded_ ? "" : other_way));
  };
  std::uint64_t start = 0;
  for (const auto& p : spares_)
    if (p)
      start = std::max({start, p->meta->highest_sequence() + 1, p->meta->super.sequence_end});
  if (!rules_.fresh_sequences)
    start = leader().super.sequence_next;
  if (start + rules_.sequences_a_range() >= sequence_limit)
    return fail("sequence-overflow", name,
                "the set has used up its sequence numbers; make a new set and copy the data");
  sequences_ = {start, start + rules_.sequences_a_range()};
  writable_ = true;
  for (auto& p : spares_)
    if (p && p->returned)
      p->present = false;                   // not in use before it is up to date
  for (unsigned i = 0; i < max_spares; ++i) // who is away, and where its map is
    if (spares_[i])
      note_map(i, !spares_[i]->present && spares_[i]->meta->has_sixth()
                      ? spares_[i]->meta->super.sixth_host + 1
                      : 0);

  const auto mend_all = [&]() -> io_result {
    for (auto& p : spares_)
      if (p && p->present)
        CHECK_OK(mend(*p));
    return {};
  };
  if (auto kept = keep_what_was_found(); !kept)
    return fail("cannot-mend", name,
                "a spare cannot flush what was found on it (" + std::string(name_of(kept.error())) +
                    "): open it again, which reads anew what is there" +
                    (degraded_ ? "" : ", or with -o degraded to go on without that spare"));
  if (!rules_.session_first)
    if (auto mended = mend_all(); !mended)
      return cannot("mending the table", mended.error());
  if (auto recorded = record_session(); !recorded)
    return cannot("the session record", recorded.error());
  if (!rules_.mend_before_release)
    if (auto released = release_losers(); !released)
      return cannot("releasing superseded slots", released.error());
  if (rules_.session_first)
    if (auto mended = mend_all(); !mended)
      return cannot("mending the table", mended.error());
  if (auto back = take_back_returned(); !back) {
    other_way = ", or with -o degraded to go on with that spare only read";
    return cannot("the map of a spare that is back", back.error());
  }
  if (auto released = release_losers(); !released)
    return cannot("releasing superseded slots", released.error());
  if (auto settled = settle(); !settled)
    return cannot("a superblock", settled.error());
  ensure_protected();
  prepare_ahead();
  return {};
}

/// What was read may lie in the caches of the drives alone, where a process that was killed left it. It is
/// made durable before anything relies on it: a record that names the session of a spare, data in a unit that
/// a table names. Where a flush fails it may be gone: the set has to be read anew, or, where that was allowed
/// by hand, goes on without the spare.
io_result remap_set::keep_what_was_found() {
  std::array<io_result, max_spares> flushed;
  for (unsigned i = 0; i < max_spares && rules_.flush_found; ++i)
    if (const auto io = spares_[i] ? spares_[i]->meta->share_io() : nullptr)
      flushed[i] = io->flush();
  for (unsigned i = 0; i < max_spares; ++i) {
    if (flushed[i])
      continue;
    if (!degraded_ || !is_dead(flushed[i].error()))
      return flushed[i];
    pool_spare& p = *spares_[i];
    if (p.returned) { // as it was: its map is where the record says, on another one or on itself
      p.returned = false;
      stay_away(i, p.meta->answers());
    } else if (!vanish(i)) {
      return flushed[i];
    }
  }
  return {};
}

/// Blocks whose copies differed are written anew, everywhere.
io_result remap_set::mend(pool_spare& p) {
  std::vector<std::uint32_t> blocks;
  for (const damaged_block& d : p.meta->damaged())
    blocks.push_back(d.number);
  if (blocks.empty() || !rules_.mend)
    return {};
  CHECK_OK(reserve_sequences(blocks.size()));
  CHECK_OK(p.meta->write_blocks(blocks, sequences_, rules_.mend_new_sequence));
  for (const std::uint32_t b : blocks)
    if (!p.meta->in_two_copies(b))
      return io_fail(io_error::medium);
  return {};
}

/// A spare that was away while the set was in use holds old tables: they are written anew from what the
/// record says is its map, and only then is it in use again. One that takes no writes stays away: where that
/// was allowed by hand, what it holds is read.
io_result remap_set::take_back_returned() {
  unsigned back = 0; // bit a spare
  for (unsigned i = 0; i < max_spares; ++i) {
    if (!spares_[i] || !spares_[i]->returned)
      continue;
    pool_spare& p = *spares_[i];
    if (p.meta->has_sixth() && rules_.return_from_sixth && rules_.return_before_record)
      if (auto rewritten = p.meta->rewrite_tables(); !rewritten) {
        if (!degraded_ || !is_dead(rewritten.error()))
          return rewritten;
        p.returned = false;
        stay_away(i, p.meta->answers());
        continue;
      }
    back |= 1u << i;
  }
  if (back == 0)
    return {};
  for (auto& p : spares_)
    if (p && p->returned) {
      copy_set_fields(leader().super, p->meta->super);
      p->present = true;
      p->returned = false;
    }
  for (unsigned i = 0; i < max_spares; ++i)
    if (spares_[i] && spares_[i]->present)
      note_map(i, 0);
  CHECK_OK(record_session());
  for (unsigned i = 0; i < max_spares && !rules_.return_before_record; ++i)
    if ((back >> i & 1) != 0 && spares_[i]->present && spares_[i]->meta->has_sixth())
      CHECK_OK(spares_[i]->meta->rewrite_tables());
  for (unsigned i = 0; i < max_spares && !degraded_; ++i)
    if ((back >> i & 1) != 0 && !spares_[i]->present)
      return io_fail(io_error::medium); // it has gone again
  for (auto& p : spares_)               // those whose own copies were their map
    if (p && p->present)
      CHECK_OK(mend(*p));
  return {};
}

/// Their winners are durable in all good replicas now. A slot in a chunk that must not change any more stays,
/// and is known to be old.
io_result remap_set::release_losers() {
  std::erase_if(losers_, [&](const slot_change& c) {
    const spare_metadata& m = *spares_[c.spare]->meta;
    return !m.may_change(geometry::block_of(c.unit));
  });
  for (unsigned i = 0; i < max_spares; ++i) {
    const auto on_it = [&](const slot_change& c) { return c.spare == i; };
    const auto count = static_cast<std::uint64_t>(std::count_if(losers_.begin(), losers_.end(), on_it));
    if (count == 0)
      continue;
    CHECK_OK(reserve_sequences(2 * count)); // a number for each slot, and one for each block
    if (!spares_[i]->present)
      continue;
    std::set<std::uint32_t> blocks;
    for (const slot_change& c : losers_)
      if (on_it(c)) {
        spares_[i]->meta->set(c.unit, slot::make(slot_kind::free, main_unit(0), 0, 0, sequences_.take()));
        blocks.insert(geometry::block_of(c.unit));
      }
    const std::vector<std::uint32_t> touched(blocks.begin(), blocks.end());
    auto written = spares_[i]->meta->write_blocks(touched, sequences_);
    if (!written && written.error() != io_error::medium)
      return written;
    for (const std::uint32_t b : touched)
      if (!written && finish_block(i, b) == block_end::open)
        return written;
    note_chunks(i, touched);
  }
  std::erase_if(losers_, [&](const slot_change& c) {
    const pool_spare& p = *spares_[c.spare];
    return p.present && p.meta->get(c.unit).kind() != slot_kind::free;
  });
  const std::lock_guard map_lock(map_mutex_);
  const std::lock_guard allocation(allocation_mutex_);
  for (const slot_change& c : losers_)
    if (spares_[c.spare]->present) {
      spares_[c.spare]->space.give_back(c.unit);
      old_.remove(c.spare, c.unit);
    }
  losers_.clear();
  return {};
}

} // namespace dmremap
