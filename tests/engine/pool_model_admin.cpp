// SPDX-License-Identifier: GPL-2.0-or-later
// Changes by hand in the model: each has an outcome that the contract names.
#include "tests/engine/pool_model.h"

#include <catch2/catch.hpp>

#include <bit>

namespace dmremap::test {
namespace {

unsigned count_of(std::uint8_t mask) {
  return static_cast<unsigned>(std::popcount(mask));
}

} // namespace

void pool_model::remap() {
  const std::uint64_t unit = some_unit();
  doing_ = "remap of unit " + std::to_string(unit);
  effect e;
  e.touched.set(unit);
  e.to_spare = true;
  begin(e);
  const bool mapped = was_.at[unit].has_value(), in_doubt = doubtful_[unit];
  const bool all_settled = settled();
  const std::uint8_t sure = bad_here(unit, false, true), perhaps = bad_here(unit, false, false);
  const auto reply = set_->remap(sector_number(unit * unit_sectors + pick(unit_sectors)));
  if (in_doubt || (!mapped && !all_settled)) // it may go to a spare that fails
    judge_refusal(reply, true, {"commit-in-doubt", "commit-failed", "no-spare-capacity"});
  else if (mapped || room())
    judge_refusal(reply, true, {});
  else
    judge_refusal(reply, false, {"no-spare-capacity"});
  follow(e, !reply);
  if (!reply || in_doubt)
    return;
  ++counts_.remaps;
  if (reply->units != (mapped ? 0u : 1u) || reply->already != (mapped ? 1u : 0u))
    FAIL(where() << ": " << reply->units << " new and " << reply->already << " old remaps are counted");
  if (!was_.at[unit])
    FAIL(where() << ": it is still on main");
  if (mapped)
    return;
  const std::uint8_t lost = lost_here(unit);
  if (reply->lost_sectors != count_of(lost) || (sure & ~lost) != 0 || (lost & ~perhaps) != 0)
    FAIL(where() << ": " << reply->lost_sectors << " sectors are counted as lost, " << count_of(lost)
                 << " are, of " << count_of(sure) << " to " << count_of(perhaps) << " that main cannot read");
}

void pool_model::unmap(std::uint64_t unit) {
  doing_ = "unmap of unit " + std::to_string(unit);
  effect e;
  e.touched.set(unit);
  e.to_main = true;
  begin(e);
  const spare* const s = spare_of(unit);
  const std::uint8_t read_back = main_bad(unit, false, false), written = main_bad(unit, true, false);
  const bool main_sure = main_bad(unit, true, true) != 0, in_doubt = doubtful_[unit];
  bool shadow = tainted_[unit]; // an older place on a spare that is not there now
  for (const unsigned index : held_by_[unit])
    if (const spare* const held = at_index(index); held != nullptr && held->state != health::well)
      shadow = true;
  const bool failing_flush = main_->faults().flush_failures != 0;
  const bool unreadable = bad_here(unit, false, true) != 0, all_settled = settled();
  const auto done = set_->unmap(sector_number(unit * unit_sectors));
  if (in_doubt)
    judge_refusal(done, true,
                  {"commit-in-doubt", "commit-failed", "not-remapped", "spare-absent", "spare-unreadable",
                   "lost-sectors", "main-still-bad"});
  else if (s == nullptr)
    judge_refusal(done, false, {"not-remapped"});
  else if (s->state == health::away)
    judge_refusal(done, false, {"spare-absent"});
  else if (s->state == health::failing)
    judge_refusal(done, true,
                  {"spare-absent", "spare-unreadable", "commit-in-doubt", "commit-failed", "lost-sectors",
                   "main-still-bad"});
  else if (shadow && !done && done.error().id == "spare-absent")
    (void)0; // it would bring old data back
  else if (lost_here(unit) != 0)
    judge_refusal(done, false, {"lost-sectors"});
  else if (unreadable)
    judge_refusal(done, false, {"spare-unreadable"});
  else if (main_sure || failing_flush)
    judge_refusal(done, false, {"main-still-bad"});
  else if (written != 0 || read_back != 0) // main may have recovered, or the write mends it
    judge_refusal(done, true, {"main-still-bad", all_settled ? "main-still-bad" : "commit-in-doubt"});
  else if (all_settled)
    judge_refusal(done, true, {});
  else // its map is on a spare that fails
    judge_refusal(done, true, {"commit-in-doubt", "commit-failed"});
  follow(e, !done);
  counts_.refused_changes += done ? 0 : 1;
  if (!done)
    return;
  ++counts_.unmaps;
  held_by_[unit].clear();
  if (was_.at[unit])
    FAIL(where() << ": it is still on a spare");
}

/// A whole unit, to any place of a spare: it shows what the spare held there.
void pool_model::add_remap() {
  const auto index = some_index();
  const std::uint64_t unit = some_unit();
  if (!index)
    return;
  doing_ = "add_remap of unit " + std::to_string(unit) + " to spare " + std::to_string(*index);
  effect e;
  e.touched.set(unit);
  e.to_spare = true;
  begin(e);
  const spare& s = *at_index(*index);
  const bool mapped = was_.at[unit].has_value(), in_doubt = doubtful_[unit];
  const bool present = presence_of(s) == presence::present, all_settled = settled();
  const auto reply = set_->add_remap(sector_number(unit * unit_sectors), std::nullopt, unit_sectors, *index);
  if (!present)
    judge_refusal(reply, false, {"spare-absent"});
  else if (mapped && !in_doubt)
    judge_refusal(reply, false, {"contradicts-remap"});
  else if (in_doubt || s.state != health::well || !all_settled)
    judge_refusal(reply, true,
                  {"contradicts-remap", "commit-in-doubt", "commit-failed", "no-spare-capacity"});
  else
    judge_refusal(reply, true, {});
  const bool unknown = !reply && (reply.error().id == "commit-in-doubt" || in_doubt);
  if (reply) {
    ++counts_.by_hand;
    std::vector<std::byte> held(unit_bytes), got(unit_bytes);
    s.io->inner().image().read(held, reply->spare_sector.value * sector_bytes);
    follow(e, false);
    if (reply->units != 1 || reply->already != 0 || reply->lost_sectors != 0 || !was_.at[unit] ||
        was_.at[unit]->spare != *index || was_.at[unit]->unit * unit_sectors != reply->spare_sector.value)
      FAIL(where() << ": it went elsewhere");
    if (s.state == health::well && bad_here(unit, false, false) == 0 &&
        (!set_->read(*context_, got, unit * unit_bytes) || got != held))
      FAIL(where() << ": it does not show what the spare held");
  } else {
    follow(e, true);
  }
  if (reply || unknown)
    make_known(unit);
}

/// The unit shows something that the model did not write: it is written, so that it is known. Everything is
/// mended first where that fails.
void pool_model::make_known(std::uint64_t unit) {
  const range r{unit * unit_sectors, unit_sectors};
  for (unsigned tries = 0; tries < 2; ++tries) {
    doing_ = "write of unit " + std::to_string(unit) + ", so that it is known";
    std::vector<std::byte> data(unit_bytes);
    effect e;
    verdict v;
    e.touched.set(unit);
    for (std::uint64_t s = r.first; s < r.first + r.count; ++s) {
      sector_versions::fill(data.data() + (s - r.first) * sector_bytes, s, version_ + 1);
      e.cured.set(s);
    }
    begin(e);
    judge_write(v, unit, 0xFF);
    const picture before = was_;
    const flush_marks marked = marks();
    const auto done = set_->write(*context_, data, unit * unit_bytes);
    judge_outcome(v, done);
    follow(e, !done);
    if (done) {
      doubtful_.reset(unit);
      note_dirty(r, before, marked);
      ++version_;
      for (std::uint64_t s = r.first; s < r.first + r.count; ++s)
        versions_.written(s, version_);
      return;
    }
    heal_all();
  }
  FAIL(where() << ": it fails although everything is well");
}

void pool_model::salvage() {
  doing_ = "salvage";
  effect e;
  std::uint64_t allowed = 0, not_allowed = 0, sure = 0, perhaps = 0;
  bool exact = true, could_fail = false;
  for (std::uint64_t u = 0; u < main_units; ++u)
    e.touched[u] = lost_here(u) != 0;
  begin(e);
  for (std::uint64_t u = 0; u < main_units; ++u) {
    const spare* const s = spare_of(u);
    if (!e.touched[u] || s == nullptr || s->state == health::away)
      continue;
    const std::uint8_t lost = lost_here(u);
    bool unsure = false;
    for (std::uint64_t n = u * unit_sectors; n < (u + 1) * unit_sectors; ++n) {
      e.cured[n] = unsure_answer_[n];
      unsure = unsure || unsure_answer_[n];
    }
    exact = exact && s->state == health::well && !doubtful_[u] && !unsure;
    const auto asked = static_cast<std::uint8_t>(lost & may_answer_here(u));
    allowed += count_of(asked);
    not_allowed += count_of(static_cast<std::uint8_t>(lost & ~asked));
    for (std::uint64_t n = 0; n < unit_sectors; ++n)
      e.cured[u * unit_sectors + n] =
          e.cured[u * unit_sectors + n] || ((asked & ~main_bad(u, false, true)) >> n & 1) != 0;
    sure += count_of(static_cast<std::uint8_t>(asked & ~main_bad(u, false, false)));
    perhaps += count_of(static_cast<std::uint8_t>(asked & ~main_bad(u, false, true)));
    could_fail = could_fail || (!room() && (bad_here(u, false, false) | bad_here(u, true, false)) != 0);
  }
  exact = exact && settled();
  const sector_set lost_before = was_.lost;
  const auto reply = set_->salvage(std::nullopt);
  if (!exact)
    judge_refusal(
        reply, true,
        {"spare-absent", "spare-unreadable", "spare-unwritable", "commit-in-doubt", "commit-failed"});
  else if (could_fail) // what comes back needs another place
    judge_refusal(reply, true, {"commit-failed"});
  else
    judge_refusal(reply, true, {});
  follow(e, !reply);
  const sector_set back = lost_before & ~was_.lost;
  counts_.salvaged += back.count();
  if (reply && exact) {
    if (reply->tried != allowed || reply->not_allowed != not_allowed || reply->recovered != back.count() ||
        back.count() < sure || back.count() > perhaps)
      FAIL(where() << ": " << reply->tried << " tried, " << reply->not_allowed << " not allowed, "
                   << reply->recovered << " came back; " << back.count() << " of " << sure << " to "
                   << perhaps << " did, " << allowed << " could be tried, " << not_allowed << " not");
  }
  for (std::uint64_t s = 0; s < sectors; ++s)
    if (back[s])
      (void)read({s, 1});
}

} // namespace dmremap::test
