// SPDX-License-Identifier: GPL-2.0-or-later
// The slow path: failed, frozen and table-changing requests. Runs in the caller's thread, which publishes no
// range here and holds one freeze at a time.
#include "engine/disk_impl.h"

#include <bit>
#include <cstring>
#include <utility>

namespace dmremap {
namespace {

constexpr std::uint64_t frozen_write_units =
    16; // what one freeze of a failed write covers: one commit for all
constexpr unsigned rescue_tries = 8;
constexpr unsigned place_tries = 3;
constexpr unsigned spare_unit_tries = 64;  // for one unit of main
constexpr unsigned tries_before_doubt = 8; // then the spare has to show that it answers at all
constexpr auto breaker_window = std::chrono::seconds(10);
constexpr std::uint64_t breaker_remaps = 64;

std::uint8_t sector_mask(std::uint64_t first, std::uint64_t count) {
  return static_cast<std::uint8_t>(((1u << count) - 1) << first);
}

/// Sectors of `u` that [offset, offset + length) covers from end to end.
std::uint8_t covered_sectors(main_unit u, std::uint64_t offset, std::uint64_t length) {
  const std::uint64_t first = align_up(offset, sector_bytes), end = align_down(offset + length, sector_bytes);
  if (first >= end)
    return 0;
  return sector_mask((first - byte_of(u)) / sector_bytes, (end - first) / sector_bytes);
}

} // namespace

void disk::impl::note_error(const attempt& a, bool writing) {
  if (a.why == io_error::lost)
    return;
  if (a.on_main) {
    ++(writing ? counts.main_write_errors : counts.main_read_errors);
    if (a.why == io_error::gone)
      main_gone = true;
  } else {
    ++(writing ? counts.spare_write_errors : counts.spare_read_errors);
  }
}

/// Tries to complete what is in doubt. True: nothing in the range is in doubt any more.
bool disk::impl::settle(unit_range r) {
  if (set->complete_doubt())
    return true;
  for (std::uint64_t u = r.first; u < r.first + r.count; ++u)
    if (set->lookup(main_unit(u)).in_doubt())
      return false;
  return true;
}

// --- reading
// -------------------------------------------------------------------------------------------------------

io_result disk::impl::resolve_read(io_context::impl& c, std::span<std::byte> buffer, std::uint64_t offset,
                                   attempt last) {
  const unit_range range = range_of(offset, buffer.size());
  for (unsigned tries = 0; tries < rescue_tries; ++tries, last = try_read(c, buffer, offset)) {
    if (last.end == attempt_end::done)
      return {};
    if (last.end == attempt_end::frozen) {
      gate.wait_thawed(range);
      tries = 0;
      continue;
    }
    if (last.end == attempt_end::doubtful) {
      if (!settle(range))
        return io_fail(io_error::lost);
      continue;
    }
    note_error(last, false);
    if (last.why != io_error::medium)
      return io_fail(last.why);
    if (range.count > 1) { // bisect: what reads is not read again sector by sector
      const std::uint64_t middle = (range.first + range.count / 2) * unit_bytes - offset;
      const auto left = buffer.first(middle), right = buffer.subspan(middle);
      auto first = resolve_read(c, left, offset, try_read(c, left, offset));
      auto second = resolve_read(c, right, offset + middle, try_read(c, right, offset + middle));
      return first ? second : first;
    }
    if (!last.on_main)
      return io_fail(io_error::medium);
    bool again = false;
    auto rescued = rescue_read(c, buffer, offset, again);
    if (!again)
      return rescued;
  }
  return io_fail(io_error::medium);
}

/// One unit that main failed to read. `again`: somebody else has moved it; look it up anew.
io_result disk::impl::rescue_read(io_context::impl&, std::span<std::byte> buffer, std::uint64_t offset,
                                  bool& again) {
  const main_unit u = unit_at(offset);
  const unsigned mark = gate.freeze({u.value, 1});
  const auto thaw = [&] { gate.thaw(mark, [] {}); };
  const auto answer = [&](const unit_image& image, io_error otherwise) -> io_result {
    if ((image.lost & touched_sectors(u, offset, buffer.size())) != 0)
      return io_fail(otherwise);
    std::memcpy(buffer.data(), image.data.bytes.data() + (offset - byte_of(u)), buffer.size());
    return {};
  };
  if (set->lookup(u).present()) {
    thaw();
    again = true;
    return {};
  }
  unit_image image{};
  auto whole = main.io->read(image.data.span().first(valid_sectors(u) * sector_bytes), byte_of(u));
  if (whole || whole.error() != io_error::medium || !auto_remap || breaker) {
    thaw();
    return whole ? answer(image, io_error::medium) : whole;
  }
  if (auto read = read_image_from_main(u, image); !read) {
    thaw();
    return read;
  }
  const auto every = sector_mask(0, valid_sectors(u));
  if (image.lost == every && !main_answers_elsewhere(u)) { // a dead path, not a bad place: spend nothing
    main_gone = true;
    thaw();
    return io_fail(io_error::gone);
  }
  std::vector<slot_change> changes;
  const moving_unit moving{u, image};
  const commit_reply reply = place({&moving, 1}, slot_kind::remap, changes, spares[0]->io->failed_flushes());
  if (reply.outcome == commit_outcome::done) {
    ++set->counts().auto_remaps;
    gate.thaw(mark, [&] { set->publish(changes); });
    report({&moving, 1}, changes, false);
    return answer(image, io_error::lost);
  }
  thaw();
  return reply.outcome == commit_outcome::refused ? answer(image, io_error::medium) : io_fail(io_error::lost);
}

/// Block by block, so that one bad place costs no more than it must. Only a medium error makes a sector lost.
io_result disk::impl::read_image_from_main(main_unit u, unit_image& image, std::uint8_t wanted) {
  const std::uint64_t step = main.io->block_size() / sector_bytes;
  for (std::uint64_t s = 0; s < valid_sectors(u); s += step) {
    const std::uint8_t here = sector_mask(s, step);
    if ((here & wanted) == 0)
      continue;
    const auto block = image.data.span().subspan(s * sector_bytes, step * sector_bytes);
    auto read = main.io->read(block, byte_of(u) + s * sector_bytes);
    for (unsigned retry = 0; !read && retry < read_retries; ++retry)
      read = main.io->read(block, byte_of(u) + s * sector_bytes);
    if (read)
      continue;
    note_error({attempt_end::failed, read.error(), true}, false);
    if (read.error() != io_error::medium)
      return read;
    image.lost = static_cast<std::uint8_t>(image.lost | (here & wanted));
    std::memset(block.data(), 0, block.size()); // never what a failed transfer left there
  }
  return {};
}

/// Dead paths often look like plain EIO: does main read anything at all, away from `u`?
bool disk::impl::main_answers_elsewhere(main_unit u) {
  const std::uint64_t units = bytes / unit_bytes;
  unsigned asked = 0;
  block_bytes bytes_read;
  for (const std::uint64_t candidate :
       {std::uint64_t{0}, units / 7, units / 3, units / 2, units * 5 / 7, units - 1}) {
    if (units == 0 || candidate == u.value || set->lookup(main_unit(candidate)).present())
      continue;
    ++asked;
    if (main.io->read(bytes_read.span(), candidate * unit_bytes)) {
      main_gone = false;
      return true;
    }
  }
  return asked == 0; // nothing left to ask: the benefit of the doubt
}

// --- writing
// -------------------------------------------------------------------------------------------------------

io_result disk::impl::resolve_write(io_context::impl& c, std::span<const std::byte> data,
                                    std::uint64_t offset, attempt last) {
  const unit_range range = range_of(offset, data.size());
  for (unsigned tries = 0; tries < rescue_tries; ++tries, last = try_write(c, data, offset)) {
    if (last.end == attempt_end::done)
      return {};
    if (last.end == attempt_end::frozen) {
      gate.wait_thawed(range);
      tries = 0;
      continue;
    }
    if (last.end == attempt_end::doubtful) {
      if (!settle(range))
        return io_fail(io_error::lost);
      continue;
    }
    if (last.end == attempt_end::failed) {
      note_error(last, true);
      if (last.why != io_error::medium)
        return io_fail(last.why);
    }
    if (range.count > frozen_write_units) {
      const std::uint64_t middle = (range.first + range.count / 2) * unit_bytes - offset;
      const auto left = data.first(middle), right = data.subspan(middle);
      auto first = resolve_write(c, left, offset, try_write(c, left, offset));
      auto second = resolve_write(c, right, offset + middle, try_write(c, right, offset + middle));
      return first ? second : first;
    }
    bool again = false;
    auto written = write_frozen(data, offset, again);
    if (!again)
      return written;
  }
  return io_fail(io_error::medium);
}

/// Writes under a freeze: unit by unit, read-modify-write where blocks are cut, failed units to the spare,
/// lost sectors overwritten; all table changes in one commit. `again`: a unit was in doubt, nothing was
/// written.
io_result disk::impl::write_frozen(std::span<const std::byte> data, std::uint64_t offset, bool& again) {
  const unit_range range = range_of(offset, data.size());
  const unsigned mark = gate.freeze(range);
  for (std::uint64_t u = range.first; u < range.first + range.count; ++u)
    if (set->lookup(main_unit(u)).in_doubt()) {
      gate.thaw(mark, [] {});
      again = settle(range);
      return io_fail(io_error::lost);
    }
  const std::uint64_t data_since = spares[0]->io->failed_flushes();
  io_result outcome;
  const auto note = [&](io_result r) {
    if (!r && outcome)
      outcome = r;
  };
  std::vector<moving_unit> moves;
  std::vector<slot_change> changes;
  for (std::uint64_t done = 0; done < data.size();) {
    const std::uint64_t at = offset + done;
    const main_unit u = unit_at(at);
    const auto piece = data.subspan(done, std::min(data.size() - done, unit_bytes - at % unit_bytes));
    const map_entry e = set->lookup(u);
    note(e.present() ? write_spare_piece(e, u, at, piece, changes) : write_main_piece(u, at, piece, moves));
    done += piece.size();
  }
  if (!moves.empty())
    if (auto allowed = may_spend(moves); !allowed) {
      note(allowed);
      moves.clear();
    }
  if (moves.empty() && changes.empty()) {
    gate.thaw(mark, [] {});
    return outcome;
  }
  if (moves.empty() && options.rules != nullptr && !options.rules->lost_overwrite_is_table_change) {
    gate.thaw(mark, [&] { set->publish(changes); });
    return outcome;
  }
  const std::size_t by_error = moves.size();
  const commit_reply reply = place(moves, slot_kind::remap, changes, data_since);
  if (reply.outcome != commit_outcome::done) {
    gate.thaw(mark, [] {});
    return outcome ? io_fail(reply.outcome == commit_outcome::refused ? reply.why : io_error::lost) : outcome;
  }
  set->counts().auto_remaps += by_error;
  gate.thaw(mark, [&] { set->publish(changes); });
  report(moves, changes, true);
  return outcome;
}

/// On a medium error the unit joins `moves` with what main still has of its other sectors.
io_result disk::impl::write_main_piece(main_unit u, std::uint64_t offset, std::span<const std::byte> piece,
                                       std::vector<moving_unit>& moves) {
  auto written = patch(main, offset, piece);
  if (written || written.error() != io_error::medium) {
    if (!written)
      note_error({attempt_end::failed, written.error(), true}, true);
    return written;
  }
  note_error({attempt_end::failed, io_error::medium, true}, true);
  if (!auto_remap || breaker)
    return written;
  const std::uint8_t covered = covered_sectors(u, offset, piece.size());
  const auto needed = static_cast<std::uint8_t>(sector_mask(0, valid_sectors(u)) & ~covered);
  moving_unit moving{u, {}};
  CHECK_OK(read_image_from_main(u, moving.image, needed));
  if ((moving.image.lost & touched_sectors(u, offset, piece.size())) != 0)
    return io_fail(io_error::medium); // half a sector cannot be made whole: its other half is unreadable
  std::memcpy(moving.image.data.bytes.data() + (offset - byte_of(u)), piece.data(), piece.size());
  moves.push_back(moving);
  return {};
}

/// Lost sectors that the piece covers whole become a table change; one that it covers in part fails.
io_result disk::impl::write_spare_piece(map_entry e, main_unit u, std::uint64_t offset,
                                        std::span<const std::byte> piece, std::vector<slot_change>& changes) {
  const std::uint8_t covered = covered_sectors(u, offset, piece.size());
  if ((e.lost() & touched_sectors(u, offset, piece.size()) & ~covered) != 0)
    return io_fail(io_error::lost);
  disk_member& m = member_of(e);
  if (auto written = patch(m, byte_of(e.unit()) + (offset - byte_of(u)), piece); !written) {
    note_error({attempt_end::failed, written.error(), false}, true);
    return written;
  }
  if ((e.lost() & covered) == 0)
    return {};
  const slot now = set->slot_of(e);
  const auto keep = static_cast<std::uint8_t>(~covered);
  changes.push_back({e.spare(), e.unit(), now.kind(), u, static_cast<std::uint8_t>(now.lost() & keep),
                     static_cast<std::uint8_t>(now.main_may_answer() & keep)});
  return {};
}

/// Writes bytes of any alignment within one unit of a member; the caller holds the unit's freeze.
io_result disk::impl::patch(disk_member& m, std::uint64_t at, std::span<const std::byte> data) {
  if (fits_blocks(*m.io, at, data.size()))
    return m.write(data, at);
  const std::uint64_t start = align_down(at, m.io->block_size());
  const std::uint64_t length = align_up(at + data.size(), m.io->block_size()) - start;
  block_bytes merged;
  const auto whole = merged.span().first(length);
  CHECK_OK(m.io->read(whole, start));
  std::memcpy(whole.data() + (at - start), data.data(), data.size());
  return m.write(whole, start);
}

/// Promise 8: is this a bad place, or a device that fails as a whole?
io_result disk::impl::may_spend(std::span<const moving_unit> moves) {
  if (!main_answers_elsewhere(moves.front().main)) {
    main_gone = true;
    return io_fail(io_error::gone);
  }
  if (breaker_trips(moves.size()))
    return io_fail(io_error::medium);
  return {};
}

bool disk::impl::breaker_trips(std::uint64_t units) {
  request_counters sum;
  sum_counters(sum);
  const auto now = std::chrono::steady_clock::now();
  const std::lock_guard lock(breaker_mutex);
  if (now - window_start > breaker_window) {
    window_start = now;
    window_remaps = window_bad_writes = 0;
    window_good_before = sum.writes;
  }
  window_remaps += units;
  ++window_bad_writes;
  const std::uint64_t all = sum.writes - window_good_before;
  const std::uint64_t good = all > window_bad_writes ? all - window_bad_writes : 0;
  if (window_remaps > breaker_remaps && good < window_bad_writes)
    breaker = true;
  return breaker;
}

// --- onto the spare
// ------------------------------------------------------------------------------------------------

io_result disk::impl::allocate_and_write(const moving_unit& unit, slot_kind kind,
                                         std::vector<slot_change>& changes) {
  for (unsigned tries = 0; tries < spare_unit_tries; ++tries) {
    if (tries == tries_before_doubt && !spare_answers())
      break;
    const auto got = set->allocate(0, 1);
    if (got.empty()) {
      if (set->in_doubt() && set->complete_doubt()) // units of a chunk in doubt are not given out
        continue;
      spare_full = true;
      return io_fail(io_error::medium); // no spare capacity: EIO for this request alone
    }
    spare_full = false;
    auto written = spares[0]->io->write(unit.image.data.span(), byte_of(got.front()));
    if (written) {
      changes.push_back({0, got.front(), kind, unit.main, unit.image.lost, unit.image.lost});
      return {};
    }
    note_error({attempt_end::failed, written.error(), false}, true);
    if (written.error() != io_error::medium) {
      set->release_units(0, got);
      return written;
    }
    changes.push_back({0, got.front(), slot_kind::retired, main_unit(0), 0, 0}); // and the next one
  }
  return io_fail(io_error::medium);
}

/// Tells whoever opened the set of `moved` units; `changes` says where they went, and of other changes, too.
void disk::impl::report(std::span<const moving_unit> moved, std::span<const slot_change> changes,
                        bool writing) const {
  if (!options.on_remap)
    return;
  for (const slot_change& c : changes)
    for (const moving_unit& m : moved)
      if (c.kind == slot_kind::remap && c.main == m.main)
        options.on_remap({c.main, c.spare, c.unit, c.lost, writing});
}

bool disk::impl::spare_answers() {
  bool answers = false;
  set->with_metadata([&](spare_metadata& m) { answers = m.verify_supers() != 0; });
  return answers;
}

/// Units that failed stay taken and are retired along with the next change: else every later try would begin
/// with the same bad place again. Not so where the spare does not answer at all: that says nothing of them.
void disk::impl::abandon(std::span<const slot_change> changes) {
  std::vector<spare_unit> good, bad;
  for (const slot_change& c : changes)
    (c.kind == slot_kind::retired ? bad : good).push_back(c.unit);
  if (!bad.empty() && !spare_answers()) {
    good.insert(good.end(), bad.begin(), bad.end());
    bad.clear();
  }
  set->release_units(0, good);
  const std::lock_guard lock(to_retire_mutex);
  to_retire.insert(to_retire.end(), bad.begin(), bad.end());
}

/// Puts units onto the spare and commits them along with what `changes` already holds. Where the reply is
/// `done`, `changes` is what the caller publishes before it thaws. `data_since`: failed flushes of the spare
/// before the data of the given changes was written.
commit_reply disk::impl::place(std::span<const moving_unit> units, slot_kind kind,
                               std::vector<slot_change>& changes, std::uint64_t data_since) {
  const std::size_t given = changes.size();
  commit_reply reply;
  for (unsigned tries = 0; tries < place_tries; ++tries) {
    changes.resize(given);
    if (given == 0) // all data is written anew, whatever became of it in the try before
      data_since = spares[0]->io->failed_flushes();
    io_result written;
    for (const moving_unit& u : units)
      if (written = allocate_and_write(u, kind, changes); !written)
        break;
    if (!written) {
      abandon(std::span(changes).subspan(given));
      return {commit_outcome::refused, written.error()};
    }
    if (tries == 0) { // no more than once: their chunk may be one that cannot change any more
      const std::lock_guard lock(to_retire_mutex);
      for (const spare_unit bad : std::exchange(to_retire, {}))
        changes.push_back({0, bad, slot_kind::retired, main_unit(0), 0, 0});
    }
    reply = set->commit(changes, data_since);
    if (reply.outcome == commit_outcome::done)
      set->counts().lifetime_allocations += units.size();
    if (reply.outcome != commit_outcome::refused)
      return reply;
    abandon(std::span(changes).subspan(given));
    if (reply.why != io_error::medium)
      return reply; // else the chunk may have become unusable: other units may do
  }
  return reply;
}

} // namespace dmremap
