// SPDX-License-Identifier: GPL-2.0-or-later
// What the model knows of the set, and what may become of it: nothing changes and nothing fails without a
// reason that is named here.
#include "tests/engine/pool_model.h"

#include <catch2/catch.hpp>

#include <algorithm>

namespace dmremap::test {

// --- what is
// -------------------------------------------------------------------------------------------------------

pool_model::picture pool_model::look() const {
  picture p;
  set_->for_each_remap([&](const remap_entry& e) {
    p.at[e.main.value] = place{e.spare_index, e.spare.value};
  });
  for (const lost_range& r : set_->lost())
    for (std::uint64_t s = r.first.value; s < r.first.value + r.count; ++s)
      p.lost.set(s);
  return p;
}

pool_model::spare* pool_model::at_index(unsigned index) {
  const auto at =
      std::find_if(spares_.begin(), spares_.end(), [&](const spare& s) { return s.index == index; });
  return at == spares_.end() ? nullptr : &*at;
}
const pool_model::spare* pool_model::at_index(unsigned index) const {
  const auto at =
      std::find_if(spares_.begin(), spares_.end(), [&](const spare& s) { return s.index == index; });
  return at == spares_.end() ? nullptr : &*at;
}

const pool_model::spare* pool_model::spare_of(std::uint64_t unit) const {
  return was_.at[unit] ? at_index(was_.at[unit]->spare) : nullptr;
}

/// What the engine takes the spare for, asked without I/O: a spare that is about to die must not die of this.
pool_model::presence pool_model::presence_of(const spare& s) const {
  const auto plan = set_->plan_forget(s.index);
  if (!plan && plan.error().id == "spare-present")
    return presence::present;
  return !plan && plan.error().id == "spare-in-use" ? presence::readable : presence::absent;
}

bool pool_model::any_failing() const {
  return std::any_of(spares_.begin(), spares_.end(),
                     [](const spare& s) { return s.state == health::failing; });
}

/// No spare fails that the engine still relies on.
bool pool_model::settled() const {
  return std::none_of(spares_.begin(), spares_.end(), [&](const spare& s) {
    return s.state == health::failing && presence_of(s) == presence::present;
  });
}

/// Some spare is well and takes new data; none ever comes near to being full.
bool pool_model::room(const spare* without) const {
  return std::any_of(spares_.begin(), spares_.end(),
                     [&](const spare& s) { return &s != without && s.state == health::well && !s.draining; });
}

unsigned pool_model::present_spares() const {
  return static_cast<unsigned>(std::count_if(
      spares_.begin(), spares_.end(), [&](const spare& s) { return presence_of(s) == presence::present; }));
}

pool_model::unit_set pool_model::units_on(unsigned index) const {
  unit_set units;
  for (std::uint64_t u = 0; u < main_units; ++u)
    units[u] = was_.at[u] && was_.at[u]->spare == index;
  return units;
}

/// Bit i: sector i of the unit that begins at sector `first` of a device fails, widened to its blocks.
/// `surely`: however often it is asked.
std::uint8_t pool_model::bad_sectors(const fault_table& faults, std::uint64_t first, std::uint32_t block,
                                     bool writing, bool surely) {
  const auto unwanted = writing ? direction::read : direction::write;
  unsigned mask = 0;
  for (const bad_range& bad : faults.bad)
    if (bad.when != unwanted && bad.times != 0 && (!surely || bad.times == always) &&
        bad.first < first + unit_sectors && first < bad.first + bad.count)
      for (std::uint64_t s = 0; s < unit_sectors; ++s)
        mask |= first + s >= bad.first && first + s < bad.first + bad.count ? 1u << s : 0u;
  return static_cast<std::uint8_t>(mask != 0 && block > sector_bytes ? 0xFFu : mask);
}

std::uint8_t pool_model::main_bad(std::uint64_t unit, bool writing, bool surely) const {
  return bad_sectors(main_faults_, unit * unit_sectors, main_->block_size(), writing, surely);
}

/// Of the place that serves the unit.
std::uint8_t pool_model::bad_here(std::uint64_t unit, bool writing, bool surely) const {
  const spare* const s = spare_of(unit);
  if (s == nullptr)
    return main_bad(unit, writing, surely);
  return bad_sectors(s->io->inner().faults(), was_.at[unit]->unit * unit_sectors, s->io->block_size(),
                     writing, surely);
}

std::uint32_t pool_model::block_of(std::uint64_t unit) const {
  const spare* const s = spare_of(unit);
  return s == nullptr ? main_->block_size() : s->io->block_size();
}

std::uint8_t pool_model::lost_here(std::uint64_t unit) const {
  unsigned mask = 0;
  for (std::uint64_t s = 0; s < unit_sectors; ++s)
    mask |= was_.lost[unit * unit_sectors + s] ? 1u << s : 0u;
  return static_cast<std::uint8_t>(mask);
}

std::uint8_t pool_model::may_answer_here(std::uint64_t unit) const {
  unsigned mask = 0;
  for (std::uint64_t s = 0; s < unit_sectors; ++s)
    mask |= may_answer_[unit * unit_sectors + s] ? 1u << s : 0u;
  return static_cast<std::uint8_t>(mask);
}

// --- what a request may say
// -------------------------------------------------------------------------------------------------------

void pool_model::judge_read(verdict& v, std::uint64_t unit, std::uint8_t wanted) const {
  const std::string of = " of unit " + std::to_string(unit);
  if ((lost_here(unit) & wanted) != 0)
    v.must("lost sectors" + of);
  if ((bad_here(unit, false, true) & wanted) != 0)
    v.must("a place that cannot be read" + of);
  if (doubtful_[unit])
    v.may("a change in doubt" + of);
  const spare* const s = spare_of(unit);
  if (s == nullptr) { // what fails once only, the engine reads again
    if (faults_ != pool_faults::main_writes && (bad_here(unit, false, false) & wanted) != 0)
      v.may("a place that fails some times" + of);
    return;
  }
  if (s->state == health::away || s->io->dead())
    v.must("the spare" + of + " is away");
  else if (s->dying)
    v.may("the spare" + of + " is about to die");
  // One that takes no writes is read on, as long as another one has its map: else a change may be half done.
  else if (s->rejecting && std::any_of(spares_.begin(), spares_.end(), [&](const spare& other) {
             return &other != s && other.state != health::well;
           }))
    v.may("the spare" + of + " takes no writes, nor does another one");
}

/// Something has to go to another place.
void pool_model::judge_move(verdict& v) const {
  if (!settled())
    v.may("it may go to a spare that fails");
  else if (!room())
    v.must("no spare takes new data");
}

void pool_model::judge_write(verdict& v, std::uint64_t unit, std::uint8_t wanted) const {
  const std::string of = " of unit " + std::to_string(unit);
  if (doubtful_[unit])
    v.may("a change in doubt" + of);
  const spare* const s = spare_of(unit);
  const bool whole = wanted == 0xFF;
  if (s != nullptr && (s->state == health::away || s->io->dead())) {
    if (!whole)
      v.must("the spare with the rest" + of + " is away");
    else if (s->state == health::away)
      judge_move(v);
    else
      v.may("the spare" + of + " has died");
    return;
  }
  if (s != nullptr && s->state == health::failing)
    return v.may("the spare" + of + " fails");
  if ((lost_here(unit) & wanted) != 0 && !settled())
    v.may("a table change while a spare fails");
  const bool blocks_cut = !whole && block_of(unit) > sector_bytes;
  const auto meets = [&](bool surely) {
    const auto written = bad_here(unit, true, surely), read = bad_here(unit, false, surely);
    return blocks_cut ? (written | read) != 0 : (written & wanted) != 0;
  };
  if (!meets(false))
    return;
  verdict move;
  judge_move(move);
  if (!move.must_fail.empty())
    meets(true) ? v.must(move.must_fail) : v.may(move.must_fail);
  if (!move.may_fail.empty())
    v.may(move.may_fail);
}

void pool_model::judge_outcome(const verdict& v, const io_result& done) const {
  if (done && !v.must_fail.empty())
    FAIL(where() << ": it succeeds in spite of " << v.must_fail);
  if (!done && v.must_fail.empty() && v.may_fail.empty())
    FAIL(where() << ": it fails, and nothing says why: " << name_of(done.error()));
}

void pool_model::judge_id(const std::string& id, const std::string& text, bool may_succeed,
                          std::initializer_list<const char*> ids) const {
  if (id.empty() && !may_succeed) {
    std::string expected;
    for (const char* each : ids)
      expected += std::string(" ") + each;
    FAIL(where() << ": it succeeds, and should be refused:" << expected);
  }
  if (!id.empty() && std::none_of(ids.begin(), ids.end(), [&](const char* each) { return id == each; }))
    FAIL(where() << ": it fails, and nothing says why: " << id << ": " << text);
}

// --- what an operation may change
// -------------------------------------------------------------------------------------------------------

/// Before an operation: why its units could be lost by it, or leave their places.
void pool_model::begin(const effect& e) {
  main_faults_ = main_->faults();
  could_lose_.reset();
  could_leave_.reset();
  for (std::uint64_t u = 0; u < main_units; ++u) {
    if (!e.touched[u])
      continue;
    const std::uint8_t unreadable = bad_here(u, false, false);
    for (std::uint64_t s = 0; s < unit_sectors; ++s)
      could_lose_[u * unit_sectors + s] =
          e.gives_up || (faults_ != pool_faults::main_writes && (unreadable >> s & 1) != 0);
    const spare* const on = spare_of(u);
    could_leave_[u] =
        unreadable != 0 || bad_here(u, true, false) != 0 || (on != nullptr && on->state != health::well);
  }
}

/// After it: the engine's picture of the set is taken over, as far as there is a reason for each difference.
void pool_model::follow(const effect& e, bool failed) {
  const picture now = look();
  if (failed && any_failing()) {
    doubtful_ |= e.touched;
    tainted_ |= e.touched;
    doubtful_lost_ |= could_lose_;
    doubtful_cured_ |= e.cured;
  }
  for (const spare& s : spares_)
    if (s.state == health::well && presence_of(s) != presence::present)
      FAIL(where() << ": spare " << s.index << " is given up, and nothing was wrong with it");
  for (std::uint64_t u = 0; u < main_units; ++u)
    if (now.at[u] != was_.at[u])
      follow_place(u, now.at[u], e);
  follow_lost(now.lost, e);
  was_ = now;
  if (doubtful_.none())
    doubtful_lost_ = doubtful_cured_ = {};
  const disk_stats stats = set_->stats();
  if (doubtful_.none() && stats.lost_sectors != was_.lost.count())
    FAIL(where() << ": " << stats.lost_sectors << " lost sectors are counted, and there are "
                 << was_.lost.count());
}

void pool_model::follow_place(std::uint64_t unit, const std::optional<place>& now, const effect& e) {
  const auto& before = was_.at[unit];
  const bool on_purpose = !before ? e.to_spare : !now ? e.to_main : e.elsewhere;
  const bool by_error = now && could_leave_[unit];
  if (!doubtful_[unit] && !(e.touched[unit] && (on_purpose || by_error)))
    FAIL(where() << ": unit " << unit << " goes from " << (before ? "spare " : "main")
                 << (before ? std::to_string(before->spare) : "") << " to " << (now ? "spare " : "main")
                 << (now ? std::to_string(now->spare) : "") << ", and nothing says why");
  if (before)
    held_by_[unit].insert(before->spare);
}

void pool_model::follow_lost(const sector_set& now, const effect& e) {
  for (std::uint64_t s = 0; s < sectors; ++s) {
    if (now[s] == was_.lost[s])
      continue;
    const std::uint64_t unit = s / unit_sectors;
    const bool doubtful = doubtful_[unit];
    if (now[s] && !could_lose_[s] && !(doubtful && doubtful_lost_[s]))
      FAIL(where() << ": sector " << s << " is lost, and nothing says why");
    if (!now[s] && !e.cured[s] && !(doubtful && doubtful_cured_[s]))
      FAIL(where() << ": sector " << s << " is not lost any more, and nobody wrote it");
    may_answer_[s] = now[s] && !was_.at[unit]; // main could not be read: it may be able to later
    unsure_answer_[s] = now[s] && doubtful;
    counts_.lost += now[s] ? 1 : 0;
  }
}

} // namespace dmremap::test
