// SPDX-License-Identifier: GPL-2.0-or-later
// Spares that are added, emptied, removed and forgotten in the model.
#include "tests/engine/pool_model.h"

#include <catch2/catch.hpp>

#include <algorithm>

namespace dmremap::test {

std::shared_ptr<mortal_store> pool_model::make_store() {
  auto inner = std::make_shared<memory_store>(16u << 20, pick(3) == 0 ? 4096u : 512u);
  store_identity identity;
  identity.path = "/spare" + std::to_string(made_++);
  inner->set_identity(identity);
  return std::make_shared<mortal_store>(inner);
}

std::optional<unsigned> pool_model::some_index() {
  return spares_.empty() ? std::nullopt : std::optional(spares_[pick(spares_.size())].index);
}

/// It is not one of the set's spares any more.
void pool_model::drop(unsigned index) {
  const spare& s = *at_index(index);
  flush_owed_ = flush_owed_ || s.untold || (s.dirty && s.state != health::well);
  for (auto& held : held_by_)
    held.erase(index);
  std::erase_if(spares_, [&](const spare& each) { return each.index == index; });
}

void pool_model::add_spare() {
  if (spares_.size() >= 5)
    return;
  spare fresh;
  fresh.io = make_store();
  doing_ = "adding a spare";
  if (faults_ == pool_faults::spares && pick(4) == 0 && well_spares() > 2) {
    fresh.io->die_after(pick(30));
    fails_from_now(fresh);
  }
  begin({});
  const bool well = fresh.state == health::well && settled();
  const auto added = set_->add_spare(fresh.io);
  if (well)
    judge_refusal(added, true, {});
  else
    judge_refusal(added, true, {"format-failed", "add-in-doubt"});
  if (added) {
    if (at_index(*added) != nullptr)
      FAIL(where() << ": it became spare " << *added << ", which there is");
    fresh.index = *added;
    spares_.push_back(std::move(fresh));
    ++counts_.added;
  }
  follow({}, !added);
}

void pool_model::remove_spare() {
  const auto index = some_index();
  if (!index)
    return;
  const spare& s = *at_index(*index);
  if (s.state == health::well && well_spares() < 2)
    return; // the others may all be about to die
  doing_ = "removal of spare " + std::to_string(*index);
  begin({});
  const bool in_use = units_on(*index).any(), present = presence_of(s) == presence::present;
  const bool last = present_spares() < 2, sure = s.state == health::well && settled() && doubtful_.none();
  const bool others_away = std::any_of(spares_.begin(), spares_.end(), [&](const spare& other) {
    return &other != &s && other.state != health::well;
  });
  const auto done = set_->remove_spare(*index);
  if (!present)
    judge_refusal(done, false, {"spare-absent"});
  else if (last)
    judge_refusal(done, false, {"last-spare"});
  else if (!sure)
    judge_refusal(done, !in_use,
                  {"spare-in-use", "remove-failed", "commit-in-doubt", "last-spare", "spare-absent"});
  else if (in_use)
    judge_refusal(done, false, {"spare-in-use"});
  else if (others_away) // it may hold the only map of one of them
    judge_refusal(done, true, {"spare-in-use"});
  else
    judge_refusal(done, true, {});
  if (done) {
    ++counts_.removed;
    drop(*index);
  }
  follow({}, !done);
}

void pool_model::evacuate() {
  const auto index = some_index();
  if (!index)
    return;
  spare& s = *at_index(*index);
  doing_ = "evacuation of spare " + std::to_string(*index);
  effect e;
  e.touched = units_on(*index);
  e.elsewhere = true;
  begin(e);
  const std::uint64_t held = e.touched.count(), stop_at = pick(30);
  std::array<std::uint8_t, main_units> unreadable{};
  for (std::uint64_t u = 0; u < main_units; ++u)
    unreadable[u] = e.touched[u] ? bad_here(u, false, true) : std::uint8_t{0};
  const presence before = presence_of(s);
  const bool last = before == presence::present && present_spares() < 2;
  const bool sure = s.state == health::well && settled() && (doubtful_ & e.touched).none();
  const std::size_t lost_before = was_.lost.count();
  const auto done =
      set_->evacuate_spare(*index, [&](std::uint64_t moved, std::uint64_t) { return moved < stop_at; });
  const bool full = !done && done.error().id == "no-spare-capacity";
  if (!full) // where there is no room at all it is refused, and nothing drains
    s.draining = s.draining || (before != presence::absent && !last);
  else if (!sure) // or the room has gone on the way
    s.draining = drains(*index);
  if (s.state == health::away)
    judge_refusal(done, false, {"spare-absent"});
  else if (last)
    judge_refusal(done, false, {"last-spare"});
  else if (!sure)
    judge_refusal(done, before != presence::absent || held == 0,
                  {"spare-absent", "spare-unreadable", "commit-in-doubt", "commit-failed",
                   "no-spare-capacity", "cancelled"});
  else if (held != 0 && !room(&s))
    judge_refusal(done, false, {"no-spare-capacity"});
  else if (held != 0 && stop_at == 0)
    judge_refusal(done, false, {"cancelled"});
  else if (held > stop_at)
    judge_refusal(done, false, {"cancelled"});
  else
    judge_refusal(done, true, {});
  follow(e, !done && done.error().id != "cancelled");
  const std::uint64_t moved = held - (units_on(*index) & e.touched).count();
  counts_.evacuated += done ? 1 : 0;
  counts_.moved += moved;
  if (sure && !last && moved != (room(&s) ? std::min(held, stop_at) : 0))
    FAIL(where() << ": " << moved << " of " << held << " units moved, to stop at " << stop_at);
  if (done && (done->moved != moved || moved != held))
    FAIL(where() << ": " << done->moved << " moved units are counted, " << moved << " of " << held << " did");
  if (done && done->lost_sectors != was_.lost.count() - lost_before)
    FAIL(where() << ": " << done->lost_sectors << " lost sectors are counted");
  for (std::uint64_t u = 0; u < main_units; ++u)
    if (e.touched[u] && was_.at[u] && was_.at[u]->spare != *index && (unreadable[u] & ~lost_here(u)) != 0)
      FAIL(where() << ": unit " << u << " has sectors that nobody can have read");
  if (pick(2) == 0)
    refill(s);
}

bool pool_model::drains(unsigned index) const {
  const auto info = set_->info();
  return std::any_of(info->spares.begin(), info->spares.end(),
                     [&](const spare_status& s) { return s.index == index && s.draining; });
}

void pool_model::refill(spare& s) {
  set_->refill_spare(s.index);
  s.draining = false;
}

void pool_model::forget() {
  const auto index = some_index();
  if (!index || pick(3) != 0)
    return;
  const spare& s = *at_index(*index);
  doing_ = "forgetting of spare " + std::to_string(*index);
  if (s.state == health::well) {
    judge_refusal(set_->forget_spare(*index), false, {"spare-present"});
    return;
  }
  effect e;
  e.touched = units_on(*index);
  const unit_set units = e.touched;
  const bool sure = s.state == health::away && doubtful_.none();
  e.touched |= doubtful_;
  e.gives_up = e.elsewhere = true;
  begin(e);
  std::uint64_t lost = 0;
  for (std::uint64_t sector = 0; sector < sectors; ++sector)
    lost += units[sector / unit_sectors] && !was_.lost[sector] ? 1 : 0;
  const auto plan = set_->plan_forget(*index);
  if (!sure || (units.any() && !room() && !settled())) // the engine may still count on one that fails
    judge_refusal(plan, true, {"spare-present", "spare-in-use", "no-spare-capacity"});
  else if (units.any() && !room())
    judge_refusal(plan, false, {"no-spare-capacity"});
  else
    judge_refusal(plan, true, {});
  if (!plan)
    return;
  const auto count = [&](const forget_reply& r) {
    if (sure && (r.units != units.count() || r.lost_sectors != lost))
      FAIL(where() << ": " << r.units << " units and " << r.lost_sectors << " sectors are counted, not "
                   << units.count() << " and " << lost);
  };
  count(*plan);
  const bool others_away = std::any_of(spares_.begin(), spares_.end(), [&](const spare& other) {
    return &other != &s && other.state != health::well;
  });
  const bool settled_before = settled();
  const auto done = set_->forget_spare(*index);
  if (!sure || !settled_before)
    judge_refusal(done, true,
                  {"no-spare-capacity", "commit-failed", "commit-in-doubt", "spare-in-use", "remove-failed",
                   "last-spare"});
  else if (others_away) // it may hold the only map of one of them
    judge_refusal(done, true, {"spare-in-use"});
  else
    judge_refusal(done, true, {});
  if (done) {
    ++counts_.forgotten;
    count(*done);
    drop(*index);
  }
  follow(e, !done);
  for (std::uint64_t u = 0; done && u < main_units; ++u)
    if (units[u] && (lost_here(u) != 0xFF || !was_.at[u]))
      FAIL(where() << ": unit " << u << " was only there and is not lost");
}

} // namespace dmremap::test
