// SPDX-License-Identifier: GPL-2.0-or-later
// Sixth replicas: each spare's table on another spare, and where the maps of absent spares are. All private
// functions here are called with the metadata mutex.
#include "engine/remap_set.h"

#include <algorithm>

namespace dmremap {
namespace {

constexpr unsigned protect_tries_a_session = 64;
constexpr unsigned longest_pause = 255; // batches

} // namespace

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
    if (placed && !rules_.unlist_map_last) {
      unlist(absent);
      placed = settle_protection();
    }
    if (placed) {
      list_guest(h, absent, *start);
      placed = rules_.list_moved_map ? host.write_super(sequences_) : io_result{};
      if (placed)
        return true;
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

void remap_set::list_guest(unsigned host, unsigned guest, std::uint32_t start) {
  superblock& s = spares_[host]->meta->super;
  s.hosted_start[guest] = start;
  s.hosted_blocks[guest] = spares_[guest]->meta->places().table_blocks;
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
  if (!rules_.list_full_sixth) {
    list_guest(host, guest, *start);
    (void)h.write_super(sequences_);
  }
  if (auto placed = g.place_sixth(h.share_io(), host, *start, sequences_); !placed) {
    count_try(placed.error());
    if (placed.error() == io_error::medium)
      return false; // the units stay taken: they may be what failed
    const std::lock_guard lock(allocation_mutex_);
    spares_[host]->space.unhost(spare_unit(*start), g.sixth_units());
    return false;
  }
  list_guest(host, guest, *start);
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

} // namespace dmremap
