// SPDX-License-Identifier: GPL-2.0-or-later
// What fails in the model, and opening the set again.
#include "tests/engine/pool_model.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <limits>

namespace dmremap::test {
namespace {

/// By these the engine tells a dead path from a bad place: they stay good, and where they are.
constexpr bool answers_for_main(std::uint64_t unit) {
  return unit == 0 || unit == 16;
}

} // namespace

std::uint64_t pool_model::some_unit() {
  for (;;)
    if (const std::uint64_t unit = pick(main_units); !answers_for_main(unit))
      return unit;
}

// --- faults
// -------------------------------------------------------------------------------------------------------

void pool_model::break_main() {
  const std::uint64_t first = pick(sectors), count = std::min(1 + pick(3), sectors - first);
  const std::uint64_t last_unit = (first + count - 1) / unit_sectors;
  if (answers_for_main(first / unit_sectors) || answers_for_main(last_unit))
    return;
  const auto when = std::array{direction::read, direction::write, direction::both}[pick(3)];
  bad_range bad{first, count, when, io_error::medium, pick(3) == 0 ? 1 + pick(2) : always, pick(2) == 0};
  if (faults_ == pool_faults::main_writes) { // a read fails once at the most: the engine reads again
    main_faults_ = main_->faults();
    if (when == direction::both)
      bad.when = direction::write;
    if (when == direction::read) {
      bad.times = 1;
      if (main_bad(first / unit_sectors, false, false) != 0 || main_bad(last_unit, false, false) != 0)
        return;
    }
  }
  main_->add_bad(bad);
}

void pool_model::break_spare_place() {
  std::vector<place> all;
  for (const auto& at : was_.at)
    if (at)
      all.push_back(*at);
  if (all.empty())
    return;
  const place where = all[pick(all.size())];
  at_index(where.spare)
      ->io->inner()
      .add_bad({where.unit * unit_sectors + pick(unit_sectors), 1,
                std::array{direction::read, direction::write, direction::both}[pick(3)]});
}

void pool_model::heal() {
  main_->clear_bad(pick(sectors), 60);
  for (const spare& s : spares_)
    if (pick(3) == 0)
      s.io->inner().clear_faults(); // one that took no writes may be given up until the next open
}

unsigned pool_model::well_spares() const {
  return static_cast<unsigned>(
      std::count_if(spares_.begin(), spares_.end(), [](const spare& s) { return s.state == health::well; }));
}

void pool_model::fails_from_now(spare& s) {
  s.state = health::failing;
  s.dying = s.untold = true;
}

void pool_model::kill_spare() {
  if (well_spares() < 2)
    return;
  spare& s = spares_[pick(spares_.size())];
  if (s.state == health::away || s.dying)
    return;
  s.io->die_after(pick(3) == 0 ? 0 : pick(60), pick(2) == 0 ? io_error::gone : io_error::medium);
  fails_from_now(s);
  ++counts_.vanished;
}

/// The spare takes no writes from now on, but answers reads.
void pool_model::reject_writes() {
  spare& s = spares_[pick(spares_.size())];
  if (pick(3) != 0 || well_spares() < 2 || s.state != health::well)
    return;
  s.io->inner().add_bad({0, s.io->size() / sector_bytes, direction::write});
  s.state = health::failing;
  s.rejecting = true;
  ++counts_.rejecting;
}

/// Everything is well again, and the set is open with everything.
void pool_model::heal_all() {
  main_->clear_faults();
  for (spare& s : spares_) {
    s.io->inner().clear_faults();
    s.rejecting = false;
  }
  open_all();
}

// --- opening
// -------------------------------------------------------------------------------------------------------

result<void> pool_model::try_open(const std::vector<bool>& stays_away, bool degraded) {
  context_.reset();
  set_.reset();
  open_options options;
  options.degraded = degraded;
  options.accept_main = true;
  options.last_seen = last_seen_.load();
  options.on_record = [this](std::uint64_t end) { last_seen_ = std::max(last_seen_.load(), end); };
  options.breaker_remaps = std::numeric_limits<unsigned>::max(); // it goes by the clock
  std::vector<std::shared_ptr<store>> present;
  for (std::size_t n = 0; n < spares_.size(); ++n)
    if (!stays_away[n])
      present.push_back(spares_[n].io);
  auto opened = disk::open(main_, present, options);
  if (!opened)
    return tl::make_unexpected(opened.error());
  set_ = std::move(*opened);
  context_ = set_->make_context();
  return {};
}

void pool_model::opened(const std::vector<bool>& stays_away) {
  bool whole = true;
  for (std::size_t n = 0; n < spares_.size(); ++n) {
    spare& s = spares_[n];
    counts_.returned += s.state == health::away && !stays_away[n] ? 1 : 0;
    s.state = stays_away[n] ? health::away : s.rejecting ? health::failing : health::well;
    s.dying = s.draining = s.untold = false;
    s.dirty.reset(); // the open has flushed it, or it is not there
    whole = whole && s.state == health::well;
    if (stays_away[n])
      s.io->die_after(0);
    if (stays_away[n] && presence_of(s) != presence::absent)
      FAIL(where() << ": spare " << s.index << " was not given and is there");
    if (!stays_away[n] && set_->find_spare(s.io->identity().path) != s.index)
      FAIL(where() << ": spare " << s.index << " is not in its place");
  }
  flush_owed_ = false;
  begin({});
  follow({}, false);
  if (!whole)
    return;
  doubtful_.reset();
  tainted_.reset();
  for (auto& held : held_by_)
    held.clear();
}

/// Nothing of the metadata fails, so it must go.
void pool_model::open_all() {
  doing_ = "open with everything";
  for (spare& s : spares_)
    s.io->revive();
  const std::vector<bool> none(spares_.size(), false);
  if (const auto done = try_open(none, false); !done)
    FAIL(where() << ": " << done.error().id << ": " << done.error().text());
  opened(none);
}

/// What status says is protected can be opened without, if all that is given is well.
bool pool_model::must_open(const std::vector<bool>& stays_away) {
  const auto info = set_->info();
  for (std::size_t n = 0; n < spares_.size(); ++n) {
    const spare& s = spares_[n];
    if (!stays_away[n] && s.state != health::well)
      return false;
    for (const spare_status& said : info->spares) {
      if (!stays_away[n] || said.index != s.index)
        continue;
      for (std::size_t host = 0; host < spares_.size(); ++host)
        if (static_cast<int>(spares_[host].index) == said.protected_by && stays_away[host])
          return false;
      if (said.protected_by < 0)
        return false;
    }
  }
  return true;
}

/// False where the engine refuses that: nothing is open then.
bool pool_model::reopen_without(const std::vector<bool>& stays_away) {
  const bool must = must_open(stays_away);
  const bool rejecting =
      std::any_of(spares_.begin(), spares_.end(), [](const spare& s) { return s.rejecting; });
  for (std::size_t n = 0; n < spares_.size(); ++n)
    if (!stays_away[n])
      spares_[n].io->revive();
  doing_ = "open without some";
  const auto done = try_open(stays_away, true);
  if (must)
    judge_refusal(done, true, {});
  else // its map may be nowhere else, those given may be older, or the open cannot write what it must
    judge_refusal(done, true,
                  {"spare-unprotected", "spare-missing", "spare-older", "block-destroyed",
                   rejecting ? "cannot-mend" : "spare-missing"});
  if (!done)
    return false;
  opened(stays_away);
  ++counts_.degraded;
  counts_.sure_opens += must ? 1 : 0;
  return true;
}

void pool_model::reopen() {
  doing_ = "close";
  if (pick(3) == 0) {
    const bool sure = !any_failing() && doubtful_.none() && !flush_owed_;
    const auto closed = set_->close();
    if (sure)
      judge_refusal(closed, true, {});
    else
      judge_refusal(closed, true, {"close-failed", "in-doubt"});
  }
  if (pick(2) == 0)
    for (spare& s : spares_)
      if (s.rejecting) {
        s.io->inner().clear_faults();
        s.rejecting = false;
        s.state = s.state == health::away ? health::away : health::failing;
      }
  std::vector<bool> stays_away(spares_.size(), false);
  bool some_away = false, some_there = false, rejecting = false;
  for (std::size_t n = 0; n < spares_.size(); ++n) {
    const spare& s = spares_[n];
    const bool was_gone = s.dying || s.state == health::away;
    stays_away[n] = was_gone ? pick(2) == 0 : faults_ == pool_faults::spares && pick(16) == 0;
    some_away = some_away || stays_away[n];
    some_there = some_there || !stays_away[n];
    rejecting = rejecting || (s.rejecting && !stays_away[n]);
  }
  if (some_there && (some_away || rejecting)) {
    if (reopen_without(stays_away))
      return;
    ++counts_.refused_opens;
  }
  for (spare& s : spares_)
    if (s.rejecting) {
      s.io->inner().clear_faults();
      s.rejecting = false;
    }
  open_all();
}

} // namespace dmremap::test
