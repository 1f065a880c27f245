// SPDX-License-Identifier: GPL-2.0-or-later
// Spares added, removed, emptied and forgotten while the disk is in use.
#include "engine/disk_impl.h"

#include <algorithm>
#include <mutex>
#include <set>
#include <shared_mutex>
#include <vector>

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
    return not_committed(what, reply);
  }
  i.show_moved(changes, {&moving, 1});
  thaw();
  ++answer.moved;
  answer.lost_sectors += sectors_in(moving.image.lost) - sectors_in(e.lost());
  return {};
}

/// All whose data goes with an absent spare. What may be about to be shown as served from it is waited for:
/// whoever is to show it has the unit frozen. From then on nothing comes to it any more.
std::vector<main_unit> units_to_forget(disk::impl& i, unsigned spare) {
  { const std::unique_lock none_under_way(i.placing); } // it is absent: no new one begins there
  std::set<main_unit> not_shown;
  i.set->with_metadata(spare, [&](spare_metadata& m) {
    m.for_each_used([&](spare_unit, const slot& s) {
      if (s.serves())
        not_shown.insert(s.main());
    });
  });
  for (const main_unit u : i.set->units_on(spare))
    not_shown.erase(u);
  for (const main_unit u : not_shown)
    i.gate.thaw(i.gate.freeze({u.value, 1}), [] {});
  return i.set->units_lost_with(spare);
}

/// Places for all that is to become lost, taken before the first unit is: no remap in between can take the
/// last one. What is not used goes back.
class places_ahead {
public:
  explicit places_ahead(remap_set& set) : set_(set) {}
  ~places_ahead() {
    for (; used_ < places_.size(); ++used_)
      set_.release_unit(places_[used_]);
  }
  places_ahead(const places_ahead&) = delete;
  places_ahead& operator=(const places_ahead&) = delete;

  /// False: there are not so many.
  [[nodiscard]] bool take(std::uint64_t count) {
    if (set_.free_units() < count)
      return false;
    while (places_.size() < count) {
      const auto place = set_.allocate();
      if (!place)
        return false;
      places_.push_back(*place);
    }
    return true;
  }
  /// One on a spare that has gone since is made up for where there is room.
  [[nodiscard]] std::optional<taken_unit> next() {
    while (used_ < places_.size()) {
      const taken_unit place = places_[used_++];
      if (set_.present(place.spare))
        return place;
      set_.release_unit(place);
    }
    return set_.allocate();
  }

private:
  remap_set& set_;
  std::vector<taken_unit> places_;
  std::size_t used_ = 0; // of them, from the front
};

tl::unexpected<error> no_room_to_forget(const std::string& uuid, std::uint64_t units, std::uint64_t room) {
  return fail("no-spare-capacity", uuid,
              std::to_string(units) + " units must be marked lost on other spares, which have " +
                  std::to_string(room) + " free for remaps: add a spare first (" +
                  std::to_string(units - std::min(units, room)) + " units short)");
}

/// What became lost before stays lost, and is told.
tl::unexpected<error> partly_forgotten(error why, const forget_reply& done) {
  if (done.units == 0)
    return tl::unexpected<error>(std::move(why));
  const std::string nothing = "; nothing changed";
  if (const auto at = why.why.find(nothing); at != std::string::npos)
    why.why.erase(at, nothing.size());
  why.why += "; before it " + std::to_string(done.units) + " units became lost (" +
             std::to_string(done.lost_sectors) + " sectors); to forget it again goes on";
  return tl::unexpected<error>(std::move(why));
}

/// The room that was there at the start has gone to other remaps since.
error room_gone(disk::impl& i, unsigned spare, std::uint64_t moved) {
  const auto o = i.set->overview(spare);
  const std::uint64_t left = i.set->units_on(spare).size(), room = i.set->free_units(1u << spare);
  return {"no-spare-capacity", o ? o->path : "",
          "No spare capacity available: " + std::to_string(moved) + " units were moved, " +
              std::to_string(left) + " are left, and the other spares have " + std::to_string(room) +
              " free for remaps; add a spare, then evacuate again (" +
              std::to_string(left - std::min(left, room)) + " units short)"};
}

/// Of what becomes lost together: so many freezes, of neighbours one, so that those that requests need are
/// left, and so many units.
constexpr std::size_t freezes_per_forget = 32, units_per_forget = 1024;

/// Units of an absent spare that become lost in one table change. They are frozen meanwhile, all at once: in
/// ascending order, and by nobody else, for changes by hand exclude each other; a request holds one freeze at
/// a time and takes no other thing that is held here, so nobody waits in a circle.
class forgetting {
public:
  forgetting(disk::impl& i, unsigned spare, places_ahead& places) : i_(i), spare_(spare), places_(places) {}
  ~forgetting() { thaw(); }
  forgetting(const forgetting&) = delete;
  forgetting& operator=(const forgetting&) = delete;

  /// As many of `units` as go together, from the first on; how many, at least one. An error is of the first.
  result<std::size_t> take(std::span<const main_unit> units);
  /// Durable on return, and in `answer`. Errors: as not_committed(); then nothing is counted.
  result<void> commit(forget_reply& answer);

private:
  result<void> add(main_unit u);
  void thaw();

  disk::impl& i_;
  const unsigned spare_;
  places_ahead& places_;
  std::vector<unsigned> marks_;
  std::vector<slot_change> changes_;
  std::uint64_t newly_lost_ = 0; ///< sectors
};

void forgetting::thaw() {
  for (const unsigned mark : marks_)
    i_.gate.thaw(mark, [] {});
  marks_.clear();
}

result<std::size_t> forgetting::take(std::span<const main_unit> units) {
  std::size_t taken = 0;
  while (taken < units.size() && marks_.size() < freezes_per_forget && taken < units_per_forget) {
    std::size_t end = taken + 1;
    while (end < units.size() && end < units_per_forget && units[end] == units[end - 1].plus(1))
      ++end;
    marks_.push_back(i_.gate.freeze({units[taken].value, end - taken}));
    for (; taken < end; ++taken)
      if (auto added = add(units[taken]); !added) {
        if (taken == 0)
          return tl::make_unexpected(added.error());
        return taken; // it is the first of the next ones
      }
  }
  return taken;
}

/// All sectors of a unit become lost, on another spare. Main may still answer for those that were lost
/// already because main could not be read: nobody has written them since, anywhere. What the spare held main
/// never answers for. Nothing where the unit is not there any more.
result<void> forgetting::add(main_unit u) {
  const map_entry e = i_.set->lookup(u);
  if (!e.present() || !i_.set->lost_with(u, spare_))
    return {};
  const std::string what = sector_text(u);
  if (e.in_doubt())
    return fail("commit-in-doubt", what, "an earlier change of this unit is not complete yet; try again");
  const auto place = places_.next();
  if (!place)
    return fail("no-spare-capacity", what, "No spare capacity available");
  const slot now = i_.set->slot_of(e);
  const auto every = sector_mask(0, i_.valid_sectors(u));
  const auto may_answer = static_cast<std::uint8_t>(
      now.serves() && e.spare() == spare_ ? now.main_may_answer() & now.lost() & e.lost() : 0);
  changes_.push_back(
      {place->spare, place->unit, now.serves() ? now.kind() : slot_kind::remap, u, every, may_answer});
  newly_lost_ += sectors_in(every) - sectors_in(e.lost());
  return {};
}

result<void> forgetting::commit(forget_reply& answer) {
  if (changes_.empty())
    return {};
  commit_reply reply{commit_outcome::done, {}};
  if (i_.keeps(&commit_rules::forget_marks_lost))
    reply = i_.set->commit(changes_, std::nullopt);
  if (reply.outcome != commit_outcome::done) {
    thaw();
    for (const slot_change& c : changes_)
      if (reply.outcome == commit_outcome::refused)
        i_.set->release_unit({c.spare, c.unit});
    return not_committed(sector_text(changes_.front().main), reply);
  }
  i_.set->publish(changes_); // before any of them thaws
  answer.units += changes_.size();
  answer.lost_sectors += newly_lost_;
  return {};
}

/// Group by group; what is lost already stays so when one fails.
result<void> forget_units(disk::impl& i, unsigned spare, std::span<const main_unit> units,
                          places_ahead& places, forget_reply& answer) {
  while (!units.empty()) {
    const std::lock_guard admin(i.admin_mutex);
    if (i.stopping)
      return stopped("forget", "");
    forgetting group(i, spare, places);
    units = units.subspan(TRY(group.take(units)));
    CHECK_OK(group.commit(answer));
  }
  return {};
}

} // namespace

result<void> disk::ready_for_spare(const std::string& path) {
  impl& i = *impl_;
  if (i.options.read_only)
    return fail("read-only", path, "the set is open read-only");
  const std::lock_guard admin(i.admin_mutex);
  if (i.stopping)
    return stopped(path, "; nothing changed");
  return i.set->ready_for_spare(path);
}

result<unsigned> disk::add_spare(std::shared_ptr<store> io) {
  impl& i = *impl_;
  if (i.options.read_only)
    return fail("read-only", io->identity().path, "the set is open read-only");
  const std::lock_guard admin(i.admin_mutex);
  if (i.stopping)
    return stopped(io->identity().path, "; nothing changed");
  auto place = i.set->add_spare(std::move(io));
  for (unsigned n = 0; n < max_spares && !place; ++n)
    if (!i.set->listed(n))
      i.drop_member(n);
  return place;
}

result<void> disk::plan_remove(unsigned index) const {
  const impl& i = *impl_;
  if (i.options.read_only)
    return fail("read-only", i.set->super_copy().set_name, "the set is open read-only");
  const auto before = i.set->overview(index);
  if (!before)
    return no_such_spare(index);
  if (!before->present)
    return fail("spare-absent", before->uuid,
                !before->readable                ? "is absent; if it will not come back: dmremap spare forget"
                : i.set->units_on(index).empty() ? "takes no writes and serves nothing: dmremap spare forget"
                                                 : "takes no writes; empty it: dmremap spare evacuate, then "
                                                   "dmremap spare forget");
  std::uint64_t failed = 0;
  {
    const std::lock_guard lock(i.to_retire_mutex); // a request may want it while a table is being written
    failed = static_cast<std::uint64_t>(std::count_if(
        i.to_retire.begin(), i.to_retire.end(), [&](const taken_unit& bad) { return bad.spare == index; }));
  }
  return i.set->plan_remove(index, failed);
}

result<bool> disk::remove_spare(unsigned index) {
  impl& i = *impl_;
  const std::lock_guard admin(i.admin_mutex);
  if (i.stopping)
    return stopped("remove", "; nothing changed");
  const auto before = i.set->overview(index);
  if (!before)
    return no_such_spare(index);
  i.set->set_draining(index, true); // nothing new may come between the look and the removal
  const auto remove = [&]() -> result<bool> {
    CHECK_OK(plan_remove(index));
    i.settle_member(index);
    i.give_back_failed(index);
    return i.take_out(index);
  };
  auto removed = remove();
  if (removed)
    i.drop_member(index);
  else
    i.set->set_draining(index, before->draining);
  return removed;
}

result<std::uint64_t> disk::plan_evacuate(unsigned index, bool partial) {
  impl& i = *impl_;
  if (i.options.read_only)
    return fail("read-only", i.set->super_copy().set_name, "the set is open read-only");
  const auto before = i.set->overview(index);
  if (!before)
    return no_such_spare(index);
  if (!before->present && !before->readable)
    return fail("spare-absent", before->uuid, "is absent: nothing can be read from it");
  if (before->present && i.set->present_count() < 2)
    return fail("last-spare", before->path, "is the only spare that is present");
  const std::uint64_t units = i.set->units_on(index).size(), room = i.set->free_units(1u << index);
  if (units > room && (!partial || room == 0))
    return fail("no-spare-capacity", before->path,
                "holds " + std::to_string(units) + " units, and the other spares have " +
                    std::to_string(room) + " free for remaps: add a spare first (" +
                    std::to_string(units - room) + " units short)");
  return std::min(units, room);
}

result<evacuate_reply> disk::evacuate_spare(unsigned index,
                                            const std::function<bool(std::uint64_t, std::uint64_t)>& progress,
                                            bool partial) {
  impl& i = *impl_;
  CHECK_OK(plan_evacuate(index, partial));
  const auto before = i.set->overview(index);
  if (!before)
    return no_such_spare(index);
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
      if (i.stopping)
        return stopped(before->path, "; " + std::to_string(answer.moved) + " units were moved");
      if (auto moved = evacuate_unit(i, units[n], index, answer); !moved)
        return tl::make_unexpected(moved.error().id == "no-spare-capacity" ? room_gone(i, index, answer.moved)
                                                                           : moved.error());
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
  if (i.options.read_only)
    return fail("read-only", i.set->super_copy().set_name, "the set is open read-only");
  const auto o = i.set->overview(index);
  if (!o)
    return no_such_spare(index);
  if (o->present)
    return fail("spare-present", o->path, "is present: evacuate it, then remove it");
  if (o->readable && !i.set->units_on(index).empty())
    return fail("spare-in-use", o->path, "takes no writes, but can be read: evacuate it first");
  forget_reply plan;
  for (const main_unit u : i.set->units_lost_with(index)) {
    ++plan.units;
    plan.lost_sectors += i.valid_sectors(u) - sectors_in(i.set->lookup(u).lost());
  }
  plan.free_units = i.set->free_units();
  if (plan.units > plan.free_units)
    return no_room_to_forget(o->uuid, plan.units, plan.free_units);
  return plan;
}

result<forget_reply> disk::forget_spare(unsigned index) {
  impl& i = *impl_;
  const forget_reply plan = TRY(plan_forget(index));
  const auto before = i.set->overview(index);
  if (!before)
    return no_such_spare(index);
  const std::string uuid = before->uuid;
  CHECK_OK(i.set->free_maps_on(index)); // before anything becomes lost
  forget_reply answer;
  answer.free_units = plan.free_units;
  (void)i.set->complete_doubt();
  const auto units = units_to_forget(i, index);
  places_ahead places(*i.set);
  if (!places.take(units.size())) // the plan fitted: remaps came meanwhile
    return no_room_to_forget(uuid, units.size(), i.set->free_units());
  if (auto lost = forget_units(i, index, units, places, answer); !lost)
    return partly_forgotten(std::move(lost.error()), answer);
  const std::lock_guard admin(i.admin_mutex);
  if (!i.set->listed(index))
    return no_such_spare(index);
  if (!i.set->units_lost_with(index).empty())
    return partly_forgotten(
        {"spare-in-use", uuid, "a unit came to it meanwhile; try again", exit_code::failed}, answer);
  // What was to move to it, and nobody knows whether it did, is shown where it was before from then on.
  const auto shown_there = i.set->units_on(index);
  if (auto removed = i.take_out(index); !removed)
    return partly_forgotten(std::move(removed.error()), answer);
  for (const main_unit u : shown_there) // whoever still goes by that place has ended then
    i.gate.thaw(i.gate.freeze({u.value, 1}), [] {});
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
  const auto m = member_at(index);
  if (m && keeps(&commit_rules::flush_leaving) && !m->flush_if_written())
    flush_owed = true;
}

} // namespace dmremap
