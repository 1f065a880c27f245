// SPDX-License-Identifier: GPL-2.0-or-later
// Reading, writing and flushing in the model.
#include "tests/engine/pool_model.h"

#include <catch2/catch.hpp>

#include <algorithm>

namespace dmremap::test {
namespace {

/// Flushes that the device itself has done well. Whoever asked for them, what was written before is durable.
std::uint64_t flushes_done(const memory_store& m) {
  return m.counts().flushes - m.failed_flushes();
}

} // namespace

pool_model::range pool_model::pick_range() {
  const std::uint64_t first = pick(2) == 0 ? pick(sectors) : pick(main_units) * unit_sectors;
  const std::uint64_t most = std::min(sectors - first, 1 + pick(40));
  return {first, pick(3) == 0 ? std::min<std::uint64_t>(sectors - first, unit_sectors) : most};
}

/// Bit i: the range covers sector i of the unit.
std::uint8_t pool_model::part(range r, std::uint64_t unit) {
  unsigned mask = 0;
  for (std::uint64_t s = 0; s < unit_sectors; ++s) {
    const std::uint64_t at = unit * unit_sectors + s;
    mask |= at >= r.first && at < r.first + r.count ? 1u << s : 0u;
  }
  return static_cast<std::uint8_t>(mask);
}

void pool_model::each_unit(range r, const std::function<void(std::uint64_t, std::uint8_t)>& visit) const {
  for (std::uint64_t u = r.first / unit_sectors; u * unit_sectors < r.first + r.count; ++u)
    visit(u, part(r, u));
}

bool pool_model::read(range r) {
  doing_ = "read of sectors " + std::to_string(r.first) + "+" + std::to_string(r.count);
  effect e;
  verdict v;
  each_unit(r, [&](std::uint64_t u, std::uint8_t) { e.touched.set(u); });
  begin(e);
  each_unit(r, [&](std::uint64_t u, std::uint8_t wanted) { judge_read(v, u, wanted); });
  std::vector<std::byte> got(r.count * sector_bytes, std::byte{0xA5});
  const auto done = set_->read(*context_, got, r.first * sector_bytes);
  counts_.failed_reads += done ? 0 : 1;
  if (done)
    each_unit(r, [&](std::uint64_t u, std::uint8_t) {
      const spare* const s = spare_of(u);
      counts_.read_from_unwritable += s != nullptr && s->rejecting ? 1 : 0;
    });
  judge_outcome(v, done);
  for (std::uint64_t s = 0; done && s < r.count; ++s)
    if (const auto wrong = versions_.settle(r.first + s, got.data() + s * sector_bytes); !wrong.empty())
      FAIL(where() << ": " << wrong);
  follow(e, !done);
  if (done)
    doubtful_ &= ~e.touched; // they are served
  return done.has_value();
}

bool pool_model::write(range r, bool zeros) {
  doing_ = (zeros ? "zero of sectors " : "write of sectors ") + std::to_string(r.first) + "+" +
           std::to_string(r.count);
  effect e;
  verdict v;
  each_unit(r, [&](std::uint64_t u, std::uint8_t) { e.touched.set(u); });
  begin(e);
  each_unit(r, [&](std::uint64_t u, std::uint8_t wanted) { judge_write(v, u, wanted); });
  std::vector<std::byte> data(r.count * sector_bytes);
  const std::uint64_t version = zeros ? 0 : ++version_;
  for (std::uint64_t s = 0; s < r.count; ++s) {
    sector_versions::fill(data.data() + s * sector_bytes, r.first + s, version);
    e.cured.set(r.first + s);
  }
  const picture before = was_;
  const flush_marks marked = marks();
  const auto done = zeros ? set_->zero(*context_, r.first * sector_bytes, data.size())
                          : set_->write(*context_, data, r.first * sector_bytes);
  judge_outcome(v, done);
  for (std::uint64_t s = r.first; s < r.first + r.count; ++s)
    done ? versions_.written(s, version) : versions_.write_failed(s, version);
  follow(e, !done);
  if (done) {
    for (std::uint64_t s = r.first; s < r.first + r.count; ++s)
      if (was_.lost[s])
        FAIL(where() << ": sector " << s << " is lost although it was written");
    doubtful_ &= ~e.touched;
    note_dirty(r, before, marked);
    return true;
  }
  ++counts_.failed_writes;
  for (std::uint64_t s = r.first; s < r.first + r.count; ++s)
    if (before.lost[s] && !was_.lost[s]) // only this write can have brought it back
      versions_.written(s, version);
  read_again(r);
  return false;
}

/// After a failed write each sector is old or new: what it says now it must say for good.
void pool_model::read_again(range r) {
  for (std::uint64_t s = r.first; s < r.first + r.count; ++s)
    (void)read({s, 1});
}

// --- flushing
// -------------------------------------------------------------------------------------------------------

pool_model::flush_marks pool_model::marks() const {
  flush_marks m{};
  m.back() = flushes_done(*main_);
  for (const spare& s : spares_)
    m[s.index] = flushes_done(s.io->inner());
  return m;
}

/// After a write that was answered: the members that it went to need a flush since `marked`, which was before
/// it. What it moved is durable already.
void pool_model::note_dirty(range r, const picture& before, const flush_marks& marked) {
  each_unit(r, [&](std::uint64_t u, std::uint8_t) {
    if (before.at[u] != was_.at[u])
      return;
    if (!before.at[u])
      main_dirty_ = marked.back();
    else if (spare* const s = at_index(before.at[u]->spare); s->state != health::away)
      s->dirty = marked[s->index];
  });
}

void pool_model::flush() {
  doing_ = "flush";
  verdict v;
  const auto still_dirty = [&](const spare& s) { return s.dirty && flushes_done(s.io->inner()) == *s.dirty; };
  for (const spare& s : spares_) {
    if (s.io->dead() && s.untold && still_dirty(s))
      v.must("writes on spare " + std::to_string(s.index) + ", which has died since");
    if (s.untold)
      v.may("spare " + std::to_string(s.index) + " failed");
  }
  if (flush_owed_)
    v.may("a spare left without a flush");
  begin({});
  const auto done = set_->flush();
  judge_outcome(v, done);
  counts_.failed_flushes += done ? 0 : 1;
  flush_owed_ = false;
  if (done && main_dirty_ && flushes_done(*main_) == *main_dirty_)
    FAIL(where() << ": a flush succeeds and has not reached main");
  for (spare& s : spares_) {
    if (done && s.state == health::well && still_dirty(s))
      FAIL(where() << ": a flush succeeds and has not reached spare " << s.index);
    if (!done && s.state == health::failing && presence_of(s) != presence::present)
      s.untold = false; // told once
    if (done || !s.untold)
      s.dirty.reset();
  }
  if (done)
    main_dirty_.reset();
  follow({}, !done);
}

/// One flush of a member fails, be it the caller's own or one of a table change: the next flush of the caller
/// must say so, and the one after that is good again.
void pool_model::flush_fails() {
  if (any_failing())
    return;
  const std::uint64_t unit = pick(main_units);
  const auto before = was_.at[unit];
  const bool was_lost = lost_here(unit) != 0;
  if (!write({unit * unit_sectors, unit_sectors}, false) || was_lost || was_.at[unit] != before)
    return; // what was moved is durable
  const spare* const on = spare_of(unit);
  memory_store& member = on == nullptr ? *main_ : on->io->inner();
  member.fail_flushes(1);
  const bool met = pick(2) == 0 && meet_failed_flush(unit, member);
  doing_ = "flush after one that failed";
  begin({});
  if (set_->flush())
    FAIL(where() << ": a flush succeeds although a flush of " << member.identity().path << " has failed"
                 << (met ? " for a change of a table" : ""));
  ++counts_.failed_flushes;
  follow({}, false);
  member.fail_flushes(0);
  flush();
}

/// Somebody else's flush of the member fails. False: nobody asked for one.
bool pool_model::meet_failed_flush(std::uint64_t unit, memory_store& member) {
  if (&member != main_.get()) {
    const auto saved = set_->save(); // written twice where the set has another spare
    judge_refusal(saved, true, {"save-failed"});
    return member.faults().flush_failures == 0;
  }
  for (std::uint64_t n = 1; n < main_units; ++n) {
    const std::uint64_t other = (unit + n) % main_units;
    if (!was_.at[other])
      continue;
    unmap(other);
    return member.faults().flush_failures == 0;
  }
  return false;
}

void pool_model::sync() {
  flush(); // so that what is left for it to fail is its own
  doing_ = "sync";
  begin({});
  const bool sure = settled();
  const auto done = set_->sync();
  if (sure && std::none_of(spares_.begin(), spares_.end(), [](const spare& s) { return s.untold; }))
    judge_refusal(done, true, {});
  else
    judge_refusal(done, true, {"flush-failed", "commit-in-doubt", "save-failed"});
  follow({}, !done);
}

/// Nothing fails any more.
void pool_model::compare_all() {
  if (doubtful_.any())
    FAIL(where() << ": units are in doubt though everything is back");
  for (std::uint64_t s = 0; s < sectors; ++s) {
    const bool expected = !was_.lost[s];
    if (read({s, 1}) != expected)
      FAIL(where() << ": sector " << s << (expected ? " cannot be read" : " is read although it is lost"));
  }
}

} // namespace dmremap::test
