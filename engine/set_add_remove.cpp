// SPDX-License-Identifier: GPL-2.0-or-later
// Spares that are taken into the set, or out of it.
#include "engine/remap_set.h"

#include <algorithm>

namespace dmremap {

result<void> remap_set::ready_for_spare(const std::string& path) {
  const std::lock_guard lock(metadata_mutex_);
  (void)TRY(place_for_spare(path));
  return {};
}

/// Where a new spare is listed, once no record is on its way: a spare holds one such, not two. A place that
/// none has had comes first: of each place the set knows what the last spare there held, which tells one that
/// was forgotten from one that was in use since. With metadata_mutex_.
result<unsigned> remap_set::place_for_spare(const std::string& path) {
  if (!writable_)
    return fail("read-only", path, "the set is open read-only");
  unsigned place = max_spares;
  for (unsigned i = max_spares; i-- > 0;)
    if (!spares_[i] && (place == max_spares || leader().super.sessions[i].given == 0 ||
                        leader().super.sessions[place].given != 0))
      place = i;
  if (place == max_spares)
    return fail("too-many-spares", path, "a set has at most 16 spares");
  if (!settle() || !reserve_sequences(64))
    return fail("format-failed", path, "the set's superblocks cannot be written; nothing changed");
  return place;
}

/// Whether any spare does that is present, but for one. With metadata_mutex_.
bool remap_set::others_take_writes(unsigned but) {
  for (unsigned i = 0; i < max_spares; ++i)
    if (i != but && spares_[i] && spares_[i]->present && can_be_written(i))
      return true;
  return false;
}

/// The spare that was at the place bears nothing any more: there is nobody to tell from others. Until the
/// next superblocks are written the place counts as one that a spare has had.
void remap_set::forget_place(unsigned place) {
  for (auto& p : spares_) // whoever leads when they are written
    if (p)
      p->meta->super.sessions[place] = {};
}

result<unsigned> remap_set::add_spare(std::shared_ptr<store> io) {
  const std::lock_guard lock(metadata_mutex_);
  const std::string path = io->identity().path;
  const unsigned place = TRY(place_for_spare(path));
  superblock s;
  s.spare_uuid = random_uuid();
  s.spare_index = place;
  copy_set_fields(leader().super, s);
  auto fresh = std::make_unique<pool_spare>(TRY(spare_metadata::blank(std::move(io), s, rules_)));
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
  if (!recorded && p.present && !others_take_writes(place)) {
    p.replaces_lone = true;
    recorded = record_session();
  }
  if (recorded && (!p.present || p.meta->verify_supers() != p.meta->super.super_good))
    recorded = io_fail(io_error::medium);
  if (!recorded) {
    p.present = false;
    const auto out = put(nullptr);
    if (on_absent)
      on_absent(place, false);
    // While the others may list it, the set does not open without it: then it keeps what names it.
    const auto unlisted = record_session();
    if (unlisted && out->meta->present() && out->meta->erase_supers())
      forget_place(place);
    return fail(unlisted ? "format-failed" : "add-in-doubt", path,
                "the metadata could not be written: " + std::string(name_of(recorded.error())) +
                    (unlisted
                         ? "; the set is as before"
                         : "; nor could it be taken back: name this spare, too, if the set asks for it"));
  }
  p.joining = false;
  ensure_protected();
  return place;
}

result<void> remap_set::plan_remove(unsigned spare, std::uint64_t failed) const {
  const std::lock_guard lock(metadata_mutex_);
  return check_removal(spare, failed);
}

/// What stands against taking a spare out. `failed`: units that failed and are in no table. With
/// metadata_mutex_.
result<void> remap_set::check_removal(unsigned spare, std::uint64_t failed) const {
  if (!writable_)
    return fail("read-only", leader().super.set_name, "the set is open read-only");
  if (spare >= max_spares || !spares_[spare])
    return fail("no-such-spare", leader().super.set_name, "has no spare " + std::to_string(spare));
  const pool_spare& p = *spares_[spare];
  const std::string path = p.meta->path();
  const bool last = count_present() < (p.present ? 2u : 1u);
  std::uint64_t active = 0, doubted = 0;
  {
    const std::lock_guard map_lock(map_mutex_);
    const std::lock_guard allocation(allocation_mutex_);
    active = p.space.allocated();
    const auto old = old_.on(spare);
    doubted = static_cast<std::uint64_t>(
        std::count_if(old.begin(), old.end(), [&](main_unit u) { return doubted_.contains(u.value); }));
    active -= std::min(active, old.size() - doubted + failed); // served from elsewhere by now, or by nobody
  }
  if (p.present && active != 0)
    return fail("spare-in-use", path,
                "Cannot remove spare " + path + ": " + std::to_string(active) + " active allocations" +
                    (last ? "; it is the only spare of the set: add another one, then evacuate it" : "") +
                    (doubted != 0 ? "; " + std::to_string(doubted) +
                                        " of them were to move to a spare that is absent, and nobody knows "
                                        "whether they did: bring that one back, or forget it"
                                  : ""));
  if (!p.present)
    if (const auto units = units_lost_with(spare); !units.empty())
      return fail("spare-in-use", path,
                  "is absent, and " + std::to_string(units.size()) +
                      " units are on it: they become lost first (dmremap spare forget)");
  if (last)
    return fail("last-spare", path, "is the only spare of the set");
  return {};
}

result<bool> remap_set::remove_spare(unsigned spare) {
  const std::lock_guard lock(metadata_mutex_);
  CHECK_OK(check_removal(spare, 0));
  pool_spare& p = *spares_[spare];
  const std::string path = p.meta->path();
  const bool was_present = p.present;
  CHECK_OK(move_maps_off(spare));
  if (std::any_of(doubt_.begin(), doubt_.end(), [&](const slot_change& c) { return c.spare == spare; }))
    return fail("commit-in-doubt", path, "a change of its table is not complete yet; try again");
  const auto cannot = [&](io_error why) {
    return fail("remove-failed", was_present ? path : to_text(p.meta->super.spare_uuid),
                "the set's superblocks cannot be written: " + std::string(name_of(why)) +
                    "; it stays in the set. Try again");
  };
  if (auto ready = settle(); !ready) // a spare holds one record that is on its way, not two
    return cannot(ready.error());
  if (auto room = reserve_sequences(256); !room)
    return cannot(room.error());
  p.draining = true;
  for (unsigned g = 0; g < max_spares && rules_.rehost_before_remove; ++g) // its guests move first
    if (spares_[g] && spares_[g]->present && spares_[g]->meta->has_sixth() &&
        spares_[g]->meta->super.sixth_host == spare) {
      spares_[g]->meta->detach_sixth();
      if (was_present)
        unlist(g, spare);
    }
  if (rules_.rehost_before_remove)
    ensure_protected();
  if (count_present() < (was_present && p.present ? 2u : 1u) || was_present != p.present || record_pending_)
    return cannot(io_error::gone); // another one, or this one, went meanwhile
  if (!rules_.unlist_leaving_last) {
    unlist(spare);
    (void)settle_protection();
  }
  if (!rules_.record_before_erase && p.meta->present())
    (void)p.meta->erase_supers();
  const auto out = record_without(spare);
  if (!out)
    return cannot(out.error());
  if (on_absent)
    on_absent(spare, false);
  spare_metadata& gone = *(*out)->meta;
  const bool erased = gone.present() && gone.erase_supers(); // else a spare that no set lists
  if (erased)
    forget_place(spare);
  gone.lose(false);
  {
    const std::lock_guard map_lock(map_mutex_);
    old_.remove_all(spare);
    return_doubted(spare);
  }
  // Its sixth replica counted until now: had the record failed, it might have been its only map.
  if (gone.has_sixth() && spares_[gone.super.sixth_host])
    to_unhost_.push_back(
        {gone.super.sixth_host, gone.super.sixth_start, static_cast<std::uint32_t>(gone.sixth_units())});
  unlist(spare);
  (void)settle_protection(); // where this fails the next change tries it first
  return erased;
}

/// The spare out of the set, durably, and out of spares_. Where that fails it is in the set again. Some
/// copies of the superblocks, or all, may be without it by then: it is recorded anew, and before that is
/// durable no table changes.
tl::expected<std::unique_ptr<remap_set::pool_spare>, io_error> remap_set::record_without(unsigned spare) {
  const auto put = [&](std::unique_ptr<pool_spare> what, bool present) {
    const std::lock_guard allocation(allocation_mutex_);
    std::swap(spares_[spare], what);
    (what ? what : spares_[spare])->present = present;
    return what;
  };
  const bool was_present = spares_[spare]->present;
  const unsigned map_on = leader().super.absent_map[spare];
  auto out = put(nullptr, false);
  note_map(spare, 0);
  fresh_range();
  if (auto recorded = record_session(); !recorded) {
    spare_metadata& m = *out->meta;
    if (was_present)                            // an absent one's is the head of its map, and must list it
      copy_set_fields(leader().super, m.super); // with the sessions that the others are being given
    (void)put(std::move(out), was_present);
    note_map(spare, map_on);
    if (was_present && m.has_sixth() && !spares_[m.super.sixth_host]->present)
      m.detach_sixth(); // its host went meanwhile
    (void)keep_maps_of_absent();
    (void)record_session();
    return tl::make_unexpected(recorded.error());
  }
  std::erase_if(to_unhost_, [&](const hosted_run& run) { return run.host == spare; });
  return out;
}

} // namespace dmremap
