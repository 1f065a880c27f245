// SPDX-License-Identifier: GPL-2.0-or-later
// Putting units onto spares: a place, the data, the table change, and what becomes of the place before.
#include "engine/disk_impl.h"

#include <array>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <utility>

namespace dmremap {
namespace {

constexpr unsigned place_tries = 3;
constexpr unsigned spare_unit_tries = 64;  // for one unit of main
constexpr unsigned tries_before_doubt = 8; // then the spare has to show that it answers at all

} // namespace

io_result disk::impl::allocate_and_write(const moving_unit& unit, std::vector<slot_change>& changes,
                                         unsigned not_on) {
  const unsigned asked = not_on;
  std::array<unsigned, max_spares> failed{};
  io_error last = io_error::medium;
  for (unsigned tries = 0; tries < spare_unit_tries; ++tries) {
    const auto got = set->allocate(not_on);
    if (!got) {
      if (set->in_doubt() && set->complete_doubt()) // units of a chunk in doubt are not given out
        continue;
      return io_fail(not_on == asked ? io_error::no_place : last); // EIO for this request alone
    }
    const unsigned s = got->spare;
    const auto member = member_at(s); // ours: once the place is given back the spare may leave
    auto written = member->io->write(unit.image.data.span(), byte_of(got->unit));
    if (written) {
      member->full_at = disk_member::nowhere;
      changes.push_back({s, got->unit, unit.kind, unit.main, unit.image.lost, unit.may_answer});
      return {};
    }
    note_error({attempt_end::failed, written.error(), false, s}, true);
    if (written.error() == io_error::medium) {
      changes.push_back({s, got->unit, slot_kind::retired, main_unit(0), 0, 0}); // and the next one
      if (++failed[s] < tries_before_doubt)
        continue;
      const bool in_question = failed[s] == tries_before_doubt;
      if (in_question && !spare_answers(s))
        check_spare(s, io_error::gone);
      else if (in_question ? set->takes_writes(s) : set->present_count() == 1)
        continue;
    } else {
      set->release_unit(*got);
      if (written.error() == io_error::no_space)
        member->full_at = byte_of(got->unit);
      last = said_by_spare(written.error());
      check_spare(s, written.error());
    }
    if (is_absent(s) &&
        std::any_of(changes.begin(), changes.end(), [&](const slot_change& c) { return c.spare == s; }))
      return io_fail(io_error::gone); // what was put there before needs another place, too
    not_on |= 1u << s;
  }
  return io_fail(last);
}

/// A spare failed: if it is gone as a whole, its use ends.
void disk::impl::check_spare(unsigned spare, io_error why) {
  if (options.read_only)
    return;
  if (is_absent(spare)) {
    if (why == io_error::gone || (why == io_error::medium && !spare_answers(spare)))
      set->lose_readable(spare);
    return;
  }
  if (set->present_count() < 2)
    return;
  if (why == io_error::gone || (why == io_error::medium && !spare_answers(spare)))
    (void)set->drop_spare(spare);
  else if (why == io_error::read_only)
    (void)set->takes_writes(spare); // ends its use where it really does not
}

/// Shows what place() has committed, and releases where the units were on a spare before: free, or retired
/// where the place is bad. From the moment they are shown elsewhere that spare may leave, and another one get
/// its number: not before the release is done. The caller holds the units' freeze.
void disk::impl::show_moved(std::span<const slot_change> placed, std::span<const moving_unit> units) {
  const std::shared_lock no_spare_leaves(placing);
  const auto is_at = [&](main_unit u, map_entry place) {
    const map_entry now = set->lookup(u);
    return now.present() && now.spare() == place.spare() && now.unit() == place.unit();
  };
  std::vector<const moving_unit*> left;
  for (const moving_unit& m : units) // not where its spare was forgotten meanwhile
    if (m.from.present() && is_at(m.main, m.from))
      left.push_back(&m);
  set->publish(placed);
  if (!keeps(&commit_rules::winner_before_loser))
    return; // done along with the new places
  std::vector<slot_change> changes;
  for (const moving_unit* m : left)
    if (!is_at(m->main, m->from) && !is_absent(m->from.spare()))
      changes.push_back({m->from.spare(), m->from.unit(),
                         m->retire_from ? slot_kind::retired : slot_kind::free,
                         m->retire_from ? main_unit(0) : m->main, 0, 0, true});
  if (changes.empty())
    return;
  if (set->commit(changes, std::nullopt).outcome == commit_outcome::done)
    set->publish(changes); // else the next open releases them
}

/// Out of the set, once no unit is between two places.
result<bool> disk::impl::take_out(unsigned spare) {
  const std::unique_lock none_under_way(placing);
  return set->remove_spare(spare);
}

/// Tells whoever opened the set of `moved` units; `changes` says where they went, and of other changes, too.
void disk::impl::report(std::span<const moving_unit> moved, std::span<const slot_change> changes,
                        bool writing) const {
  if (!options.on_remap)
    return;
  for (const slot_change& c : changes)
    for (const moving_unit& m : moved)
      if (c.main == m.main && !c.loser && c.entry().present())
        options.on_remap({c.main, c.spare, c.unit, c.lost, writing});
}

bool disk::impl::spare_answers(unsigned spare) {
  bool answers = false;
  set->with_metadata(spare, [&](spare_metadata& m) { answers = m.answers(); });
  return answers;
}

/// Units that failed stay taken and are retired along with the next change: else every later try would begin
/// with the same bad place again. Not so where the spare does not answer at all: that says nothing of them.
void disk::impl::abandon(std::span<const slot_change> changes) {
  std::array<std::optional<bool>, max_spares> answers;
  std::vector<taken_unit> bad;
  for (const slot_change& c : changes) {
    auto& known = answers[c.spare];
    if (c.kind == slot_kind::retired && !known)
      known = spare_answers(c.spare);
    if (c.kind == slot_kind::retired && *known)
      bad.push_back({c.spare, c.unit});
    else
      set->release_unit({c.spare, c.unit});
  }
  const std::lock_guard lock(to_retire_mutex);
  to_retire.insert(to_retire.end(), bad.begin(), bad.end());
}

/// Of a spare that is to leave: its units that failed count as taken no more. Should it stay, their next use
/// finds them bad again.
void disk::impl::give_back_failed(unsigned spare) {
  const std::lock_guard lock(to_retire_mutex);
  std::erase_if(to_retire, [&](const taken_unit& bad) {
    if (bad.spare == spare)
      set->release_unit(bad);
    return bad.spare == spare;
  });
}

/// A commit, and what it says of the room on the hosts of the spares that it changes.
commit_reply disk::impl::commit_placed(std::span<const slot_change> changes, const flush_marks& data_since) {
  commit_reply reply = set->commit(changes, data_since);
  const bool full = reply.outcome != commit_outcome::done && reply.why == io_error::no_space;
  if (full) {
    ++counts.spare_host_full;
    reply.why = io_error::host_full;
  }
  for (const slot_change& c : changes) {
    const auto member = member_at(c.spare);
    if (!member) // it has left: there was nothing on it
      continue;
    auto& full_at = member->full_at;
    if (full)
      full_at = reply.outcome == commit_outcome::in_doubt ? disk_member::in_doubt : disk_member::in_tables;
    else if (reply.outcome == commit_outcome::done && full_at >= disk_member::in_doubt)
      full_at = disk_member::nowhere;
  }
  return reply;
}

/// Puts units onto spares and commits them along with what `changes` already holds. Where the reply is
/// `done`, `changes` is what the caller publishes before it thaws; then it releases the old places.
/// `data_since`: the set's marks before the data of the given changes was written. `not_on`: bit a spare.
commit_reply disk::impl::place(std::span<const moving_unit> units, std::vector<slot_change>& changes,
                               flush_marks data_since, unsigned not_on) {
  const std::shared_lock under_way(placing);
  const std::size_t given = changes.size();
  commit_reply reply;
  for (unsigned tries = 0; tries < place_tries; ++tries) {
    changes.resize(given);
    if (given == 0) // all data is written anew, whatever became of it in the try before
      data_since = set->marks();
    io_result written;
    for (const moving_unit& u : units)
      if (written = allocate_and_write(u, changes, not_on); !written)
        break;
    if (!written) {
      abandon(std::span(changes).subspan(given));
      if (written.error() == io_error::gone && tries + 1 < place_tries && set->free_units(not_on) != 0)
        continue; // a spare went meanwhile
      return {commit_outcome::refused, written.error()};
    }
    if (tries == 0) { // no more than once: their chunk may be one that cannot change any more
      const std::lock_guard lock(to_retire_mutex);
      for (const taken_unit& bad : std::exchange(to_retire, {}))
        if (!is_absent(bad.spare))
          changes.push_back({bad.spare, bad.unit, slot_kind::retired, main_unit(0), 0, 0});
    }
    if (!keeps(&commit_rules::winner_before_loser))
      for (const moving_unit& u : units)
        if (u.from.present() && !is_absent(u.from.spare()))
          changes.push_back({u.from.spare(), u.from.unit(), slot_kind::free, u.main, 0, 0, true});
    reply = commit_placed(changes, data_since);
    if (reply.outcome == commit_outcome::done)
      set->counts().lifetime_allocations += units.size();
    if (reply.outcome != commit_outcome::refused)
      return reply;
    const bool of_the_spares = reply.why == io_error::host_full || reply.why == io_error::read_only;
    for (const slot_change& c : std::span(changes).subspan(given))
      not_on |= of_the_spares ? 1u << c.spare : 0u;
    abandon(std::span(changes).subspan(given));
    reply.why = said_by_spare(reply.why);
    if (reply.why != io_error::medium && reply.why != io_error::gone &&
        (reply.why != io_error::host_full || set->free_units(not_on) == 0))
      return reply; // else the chunk may have become unusable, or a spare went: other units may do
  }
  return reply;
}

} // namespace dmremap
