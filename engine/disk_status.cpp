// SPDX-License-Identifier: GPL-2.0-or-later
// What status, stats, table and lost show.
#include "engine/disk_impl.h"

#include <bit>

namespace dmremap {

void disk::impl::sum_counters(request_counters& sum) const {
  const std::lock_guard lock(contexts_mutex);
  past.add_to(sum);
  for (const io_context::impl* c : contexts)
    c->counters.add_to(sum);
}

void disk::clear_stats() {
  impl& i = *impl_;
  request_counters sum;
  i.sum_counters(sum);
  i.baseline.reads = sum.reads.load();
  i.baseline.writes = sum.writes.load();
  i.baseline.zeroes = sum.zeroes.load();
  i.baseline.read_bytes = sum.read_bytes.load();
  i.baseline.written_bytes = sum.written_bytes.load();
  for (auto* c :
       {&i.counts.main_read_errors, &i.counts.main_write_errors, &i.counts.spare_read_errors,
        &i.counts.spare_write_errors, &i.counts.spare_host_full, &i.counts.flush_errors, &i.counts.lost_reads,
        &i.counts.absent_requests, &i.counts.slow_requests, &i.counts.flushes})
    c->store(0);
}

bool disk::impl::host_full(std::optional<unsigned> spare) const {
  const std::lock_guard lock(members_mutex);
  for (unsigned n = 0; n < max_spares; ++n)
    if (spares[n] && !spares[n]->absent && (!spare || *spare == n))
      if (const std::uint64_t at = spares[n]->full_at.load();
          at != disk_member::nowhere && (at != disk_member::in_doubt || set->in_doubt()))
        return true;
  return false;
}

disk_stats disk::stats() const {
  const impl& i = *impl_;
  request_counters sum;
  i.sum_counters(sum);
  disk_stats s;
  s.reads = sum.reads - i.baseline.reads;
  s.writes = sum.writes - i.baseline.writes;
  s.zeroes = sum.zeroes - i.baseline.zeroes;
  s.read_bytes = sum.read_bytes - i.baseline.read_bytes;
  s.written_bytes = sum.written_bytes - i.baseline.written_bytes;
  s.flushes = i.counts.flushes;
  s.main_read_errors = i.counts.main_read_errors;
  s.main_write_errors = i.counts.main_write_errors;
  s.spare_read_errors = i.counts.spare_read_errors;
  s.spare_write_errors = i.counts.spare_write_errors;
  s.spare_host_full_errors = i.counts.spare_host_full;
  s.flush_errors = i.counts.flush_errors;
  s.lost_reads = i.counts.lost_reads;
  s.slow_requests = i.counts.slow_requests;
  const auto& c = i.set->counts();
  s.remapped_units = i.set->remapped();
  s.manual_remapped_units = c.by_hand_units;
  s.auto_remapped_units = s.remapped_units - std::min(s.remapped_units, s.manual_remapped_units);
  s.auto_remaps = c.auto_remaps;
  s.manual_remaps = c.manual_remaps;
  s.lifetime_allocations = c.lifetime_allocations;
  s.lost_sectors = c.lost_sectors;
  s.saves_tried = c.saves_tried;
  s.saves_done = c.saves_done;
  s.auto_remap = i.auto_remap;
  s.breaker_open = i.breaker.open();
  s.main_gone = i.main_gone;
  if (i.main_gone)
    s.state = "main does not answer";
  else if (s.breaker_open)
    s.state = "breaker open: automatic remapping stopped";
  else if (i.spares_absent != 0)
    s.state = "spare absent";
  else if (i.spares_unwritable != 0)
    s.state = "a spare takes no writes";
  else if (i.host_full())
    s.state = "no space left on the file system of a spare";
  else if (i.set->in_doubt())
    s.state = "a table change is in doubt";
  else if (!i.options.read_only && i.set->free_units() == 0)
    s.state = "No spare capacity available";
  else if (s.lost_sectors != 0)
    s.state = "lost sectors";
  else if (i.options.read_only)
    s.state = "read-only";
  else
    s.state = "ok";
  return s;
}

result<disk_info> disk::info() {
  impl& i = *impl_;
  disk_info d;
  d.main_path = i.main.io->identity().path;
  d.main_direct = i.main.io->identity().direct;
  d.main_sectors = i.bytes / sector_bytes;
  if (i.main.io->identity().block_device)
    d.main_block_bytes = i.main.io->block_size();
  d.read_only = i.options.read_only;
  d.notices = i.notices;
  if (i.keeper && i.keeper->late())
    d.notices.emplace_back(
        "what this host saw of the set was not kept in time: until it is, an old copy of a "
        "spare would not be noticed after a crash");
  const superblock super = i.set->super_copy();
  d.set_name = super.set_name;
  d.set_uuid = to_text(super.set_uuid);
  d.sequence_end = super.sequence_end;
  for (unsigned n = 0; n < i.set->places(); ++n) {
    const auto o = i.set->overview(n);
    if (!o)
      continue;
    spare_status s;
    s.index = n;
    s.uuid = o->uuid;
    s.path = o->path;
    s.present = o->present;
    s.readable = o->readable;
    s.draining = o->draining;
    s.host_full = i.host_full(n);
    s.protected_by = o->sixth_host;
    s.units = o->units;
    s.usable_units = o->usable;
    s.allocated_units = o->allocated;
    s.free_units = o->room;
    s.sequence = o->sequence;
    s.clean = o->clean;
    s.weakest_block_copies = o->weakest_chunk;
    unsigned valid = 0;
    i.set->with_metadata(n, [&](spare_metadata& m) {
      if (!m.present())
        return;
      s.direct = m.io().identity().direct;
      valid = m.verify_supers();
    });
    s.super_copies_valid = static_cast<unsigned>(std::popcount(valid & ((1u << fixed_supers) - 1)));
    s.head_copies_valid = static_cast<unsigned>(std::popcount(valid >> fixed_supers));
    if (s.present && valid == 0)
      s.weakest_block_copies = 0; // memory knows of more, but no open would find them
    d.spares.push_back(s);
    if (!s.present)
      d.notices.push_back("spare " + s.uuid +
                          (s.readable ? " takes no writes: what it holds is read, writes go to other spares"
                                      : " is absent: its units answer EIO"));
  }
  if (d.spares.size() > 1)
    for (const spare_status& s : d.spares)
      if (s.protected_by < 0)
        d.notices.push_back("not protected against the loss of " + (s.present ? s.path : "spare " + s.uuid));
  return d;
}

std::shared_ptr<const set_dump> disk::dump() const {
  auto d = std::make_shared<set_dump>(impl_->set->dump());
  d->live = !impl_->options.read_only && !impl_->closed;
  return d;
}

void disk::for_each_remap(const std::function<void(const remap_entry&)>& visit) const {
  const impl& i = *impl_;
  for (const main_unit u : i.set->remapped_units()) {
    const map_entry e = i.set->lookup(u);
    if (!e.present())
      continue;
    const slot s = i.set->slot_of(e);
    if (s.serves() && s.main() == u)
      visit({u, e.spare(), e.unit(), s.lost(), s.main_may_answer(), s.kind() == slot_kind::explicit_remap,
             s.sequence()});
    else if (!e.in_doubt() && !i.set->io_of(e.spare()) && i.set->lookup(u) == e)
      // its last change is known to that spare alone
      visit({u, e.spare(), e.unit(), e.lost(), 0, e.by_hand(), 0});
    // else it is in doubt and nowhere yet, or changed since the lookup
  }
}

std::vector<lost_range> disk::lost() const {
  std::vector<lost_range> ranges;
  for (const main_unit u : impl_->set->remapped_units()) {
    const std::uint8_t mask = impl_->set->lookup(u).lost();
    for (std::uint64_t s = 0; s < unit_sectors; ++s) {
      if ((mask >> s & 1) == 0)
        continue;
      const sector_number sector = first_sector(u).plus(s);
      if (!ranges.empty() && ranges.back().first.plus(ranges.back().count) == sector)
        ++ranges.back().count;
      else
        ranges.push_back({sector, 1});
    }
  }
  return ranges;
}

} // namespace dmremap
