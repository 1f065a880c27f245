// SPDX-License-Identifier: GPL-2.0-or-later
// Spares added, removed, emptied and forgotten while the disk is in use.
#include "engine/disk_impl.h"

#include <bit>
#include <mutex>
#include <set>
#include <shared_mutex>

namespace dmremap {
namespace {

tl::unexpected<error> no_such_spare(unsigned index) {
  return fail("no-such-spare", "", "the set has no spare " + std::to_string(index));
}

/// One unit of a spare to another place; nothing where it is not there any more.
result<void> evacuate_unit(disk::impl& i, main_unit u, unsigned spare, evacuate_reply& answer) {
  const unsigned mark = i.gate.freeze({u.value, 1});
  const auto thaw = [&] { i.gate.thaw(mark, [] {}); };
  const map_entry e = i.set->lookup(u);
  if (!e.present() || e.spare() != spare) {
    thaw();
    return {};
  }
  const std::string what = sector_text(u);
  if (e.in_doubt()) {
    thaw();
    return fail("commit-in-doubt", what, "an earlier change of this unit is not complete yet; try again");
  }
  moving_unit moving{u, {}};
  const slot now = i.set->slot_of(e);
  io_result read = io_fail(io_error::absent);
  if (!i.member_of(e).absent)
    read = i.read_image_from_spare(e, moving.image, sector_mask(0, i.valid_sectors(u)));
  if (!read) {
    const bool absent = i.member_of(e).absent;
    thaw();
    return fail(absent ? "spare-absent" : "spare-unreadable", what,
                std::string(name_of(read.error())) + "; this unit was not moved");
  }
  moving.kind = now.kind();
  moving.may_answer = static_cast<std::uint8_t>(now.main_may_answer() & now.lost());
  moving.from = e;
  moving.retire_from = moving.image.lost != e.lost();
  std::vector<slot_change> changes;
  const commit_reply reply = i.place({&moving, 1}, changes, i.set->marks(), 1u << spare);
  if (reply.outcome != commit_outcome::done) {
    thaw();
    if (reply.outcome == commit_outcome::refused && i.set->free_units(1u << spare) == 0)
      return fail("no-spare-capacity", what, "No spare capacity available");
    return not_committed(what, reply);
  }
  i.set->publish(changes);
  i.release_old_places({&moving, 1});
  thaw();
  ++answer.moved;
  answer.lost_sectors +=
      static_cast<std::uint64_t>(std::popcount(moving.image.lost) - std::popcount(e.lost()));
  return {};
}

/// What an absent spare serves, and what may be about to be shown as served from it: whoever freezes such a
/// unit waits for that.
std::set<main_unit> units_to_forget(disk::impl& i, unsigned spare) {
  { const std::unique_lock none_under_way(i.placing); } // it is absent: no new one begins there
  const auto shown = i.set->units_on(spare);
  std::set<main_unit> units(shown.begin(), shown.end());
  i.set->with_metadata(spare, [&](spare_metadata& m) {
    m.for_each_used([&](spare_unit, const slot& s) {
      if (s.serves())
        units.insert(s.main());
    });
  });
  return units;
}

/// All sectors of one unit of an absent spare become lost, on another spare. Main may still answer for those
/// that were lost already because main could not be read: nobody has written them since, anywhere. What the
/// spare held main never answers for.
result<void> forget_unit(disk::impl& i, main_unit u, unsigned spare, forget_reply& answer) {
  const unsigned mark = i.gate.freeze({u.value, 1});
  const map_entry e = i.set->lookup(u);
  const auto thaw = [&] { i.gate.thaw(mark, [] {}); };
  if (!e.present() || e.spare() != spare) {
    thaw();
    return {};
  }
  const std::string what = sector_text(u);
  if (e.in_doubt()) {
    thaw();
    return fail("commit-in-doubt", what, "an earlier change of this unit is not complete yet; try again");
  }
  const auto place = i.set->allocate();
  if (!place) {
    thaw();
    return fail("no-spare-capacity", what, "No spare capacity available");
  }
  const slot now = i.set->slot_of(e);
  const auto every = sector_mask(0, i.valid_sectors(u));
  const auto may_answer =
      static_cast<std::uint8_t>(now.serves() ? now.main_may_answer() & now.lost() & e.lost() : 0);
  const slot_change change{place->spare, place->unit, now.serves() ? now.kind() : slot_kind::remap, u,
                           every,        may_answer};
  commit_reply reply{commit_outcome::done, {}};
  if (i.keeps(&commit_rules::forget_marks_lost))
    reply = i.set->commit({&change, 1}, std::nullopt);
  if (reply.outcome != commit_outcome::done) {
    thaw();
    if (reply.outcome == commit_outcome::refused)
      i.set->release_unit(*place);
    return not_committed(what, reply);
  }
  i.gate.thaw(mark, [&] { i.set->publish({&change, 1}); });
  ++answer.units;
  answer.lost_sectors += static_cast<std::uint64_t>(std::popcount(every) - std::popcount(e.lost()));
  return {};
}

} // namespace

result<unsigned> disk::add_spare(std::shared_ptr<store> io) {
  impl& i = *impl_;
  if (i.options.read_only)
    return fail("read-only", io->identity().path, "the set is open read-only");
  const std::lock_guard admin(i.admin_mutex);
  auto place = i.set->add_spare(std::move(io));
  for (unsigned n = 0; n < max_spares && !place; ++n)
    if (!i.set->listed(n))
      i.drop_member(n);
  if (place)
    i.spare_full = false;
  return place;
}

result<void> disk::remove_spare(unsigned index) {
  impl& i = *impl_;
  if (i.options.read_only)
    return fail("read-only", "", "the set is open read-only");
  const std::lock_guard admin(i.admin_mutex);
  if (!i.set->listed(index))
    return no_such_spare(index);
  const auto before = i.set->overview(index);
  if (!before->present)
    return fail("spare-absent", before->uuid,
                before->readable
                    ? "takes no writes; empty it: dmremap spare evacuate, then dmremap spare forget"
                    : "is absent; if it will not come back: dmremap spare forget");
  const bool draining = before->draining;
  i.set->set_draining(index, true); // nothing new may come between the look and the removal
  i.settle_member(index);
  auto removed = i.set->remove_spare(index);
  if (!removed) {
    i.set->set_draining(index, draining);
    return removed;
  }
  i.drop_member(index);
  return {};
}

result<evacuate_reply>
disk::evacuate_spare(unsigned index, const std::function<bool(std::uint64_t, std::uint64_t)>& progress) {
  impl& i = *impl_;
  if (i.options.read_only)
    return fail("read-only", "", "the set is open read-only");
  if (!i.set->listed(index))
    return no_such_spare(index);
  const auto before = i.set->overview(index);
  if (!before)
    return no_such_spare(index);
  if (!before->present && !before->readable)
    return fail("spare-absent", before->uuid, "is absent: nothing can be read from it");
  if (before->present && i.set->present_count() < 2)
    return fail("last-spare", before->path, "is the only spare that is present");
  i.set->set_draining(index, true);
  evacuate_reply answer;
  // Until a look finds nothing: a request that had its place before the ban may still come in.
  for (auto units = i.set->units_on(index); !units.empty(); units = i.set->units_on(index)) {
    const std::uint64_t moved_before = answer.moved;
    for (std::size_t n = 0; n < units.size(); ++n) {
      if (progress && !progress(answer.moved, answer.moved + units.size() - n))
        return fail("cancelled", before->path,
                    std::to_string(answer.moved) + " units were moved; call again to go on");
      const std::lock_guard admin(i.admin_mutex);
      CHECK_OK(evacuate_unit(i, units[n], index, answer));
    }
    if (answer.moved == moved_before)
      break;
  }
  if (progress)
    (void)progress(answer.moved, answer.moved);
  return answer;
}

void disk::refill_spare(unsigned index) {
  impl_->set->set_draining(index, false);
}

result<forget_reply> disk::plan_forget(unsigned index) {
  impl& i = *impl_;
  const auto o = i.set->overview(index);
  if (!o)
    return no_such_spare(index);
  if (o->present)
    return fail("spare-present", o->path, "is present: evacuate it, then remove it");
  if (o->readable && !i.set->units_on(index).empty())
    return fail("spare-in-use", o->path, "takes no writes, but can be read: evacuate it first");
  forget_reply plan;
  for (const main_unit u : i.set->units_on(index)) {
    ++plan.units;
    plan.lost_sectors +=
        i.valid_sectors(u) - static_cast<std::uint64_t>(std::popcount(i.set->lookup(u).lost()));
  }
  plan.free_units = i.set->free_units();
  return plan;
}

result<forget_reply> disk::forget_spare(unsigned index) {
  impl& i = *impl_;
  if (i.options.read_only)
    return fail("read-only", "", "the set is open read-only");
  const forget_reply plan = TRY(plan_forget(index));
  const auto before = i.set->overview(index);
  if (!before)
    return no_such_spare(index);
  const std::string uuid = before->uuid;
  if (plan.units > plan.free_units)
    return fail("no-spare-capacity", uuid,
                std::to_string(plan.units) + " units must be marked lost on other spares, which have " +
                    std::to_string(plan.free_units) + " free: add a spare first (" +
                    std::to_string(plan.units - plan.free_units) + " units short)");
  CHECK_OK(i.set->free_maps_on(index)); // before anything becomes lost
  forget_reply answer;
  answer.free_units = plan.free_units;
  (void)i.set->complete_doubt();
  for (const main_unit u : units_to_forget(i, index)) {
    const std::lock_guard admin(i.admin_mutex);
    CHECK_OK(forget_unit(i, u, index, answer));
  }
  const std::lock_guard admin(i.admin_mutex);
  if (!i.set->listed(index))
    return no_such_spare(index);
  if (!i.set->units_on(index).empty())
    return fail("spare-in-use", uuid, "a unit came to it meanwhile; try again");
  CHECK_OK(i.set->remove_spare(index));
  i.drop_member(index);
  return answer;
}

std::optional<unsigned> disk::find_spare(const std::string& uuid_or_path) {
  for (unsigned n = 0; n < impl_->set->places(); ++n)
    if (const auto o = impl_->set->overview(n); o && (o->uuid == uuid_or_path || o->path == uuid_or_path))
      return n;
  return std::nullopt;
}

/// No unit is on the spare any more, and whoever was looking it up has ended: units are frozen while they
/// move.
void disk::impl::drop_member(unsigned index) {
  settle_member(index);
  {
    const std::lock_guard lock(to_retire_mutex); // another spare may get this number
    std::erase_if(to_retire, [&](const taken_unit& t) { return t.spare == index; });
  }
  std::shared_ptr<disk_member> out;
  const std::lock_guard lock(members_mutex);
  out = std::move(spares[index]);
  if (out && out->absent && spares_absent != 0)
    --spares_absent;
  if (out && out->unwritable && spares_unwritable != 0)
    --spares_unwritable;
}

/// What the next flush would have said of a spare that is about to leave, it will still say.
void disk::impl::settle_member(unsigned index) {
  std::shared_ptr<disk_member> m;
  {
    const std::lock_guard lock(members_mutex);
    m = spares[index];
  }
  if (m && !m->flush_if_written())
    flush_owed = true;
}

} // namespace dmremap
