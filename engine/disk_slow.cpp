// SPDX-License-Identifier: GPL-2.0-or-later
// The slow path: failed, frozen and table-changing requests. Runs in the caller's thread, which publishes no
// range here and holds one freeze at a time.
#include "engine/disk_impl.h"

#include <bit>
#include <cstring>

namespace dmremap {
namespace {

constexpr std::uint64_t frozen_write_units =
    16; // what one freeze of a failed write covers: one commit for all
constexpr unsigned rescue_tries = 8;
constexpr std::uint64_t probe_walk = 4096; // units that are passed over for one that main still serves

} // namespace

void disk::impl::note_error(const attempt& a, bool writing) {
  if (a.why == io_error::lost)
    return;
  if (a.on_main) {
    ++(writing ? counts.main_write_errors : counts.main_read_errors);
    if (a.why == io_error::gone)
      main_gone = true;
  } else if (writing && a.why == io_error::no_space) {
    ++counts.spare_host_full;
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
    if (!last.on_main) {
      check_spare(last.spare, last.why);
      if (range.count == 1 && gone_or_removed(last.spare))
        return io_fail(io_error::absent);
    }
    if (last.why != io_error::medium)
      return io_fail(last.why);
    if (range.count > 1) { // bisect: what reads is not read again sector by sector
      const std::uint64_t middle = (range.first + range.count / 2) * unit_bytes - offset;
      const auto left = buffer.first(middle), right = buffer.subspan(middle);
      auto first = resolve_read(c, left, offset, try_read(c, left, offset));
      auto second = resolve_read(c, right, offset + middle, try_read(c, right, offset + middle));
      return first ? second : first;
    }
    bool again = false;
    auto rescued =
        last.on_main ? rescue_read(c, buffer, offset, again) : rescue_from_spare(buffer, offset, again);
    if (!again)
      return rescued;
  }
  return io_fail(io_error::medium);
}

/// One unit that main failed to read. `again`: somebody else has moved it, or a change that was in doubt is
/// not any more; look it up anew.
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
  if (whole || whole.error() != io_error::medium || !auto_remap || breaker.open()) {
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
  const moving_unit moving{u, image, image.lost};
  const commit_reply reply = place({&moving, 1}, changes, set->marks());
  if (reply.outcome == commit_outcome::done) {
    ++set->counts().auto_remaps;
    gate.thaw(mark, [&] { set->publish(changes); });
    report({&moving, 1}, changes, false);
    return answer(image, io_error::lost);
  }
  thaw();
  again = reply.outcome == commit_outcome::in_doubt && settle({u.value, 1});
  return reply.outcome == commit_outcome::refused ? answer(image, io_error::medium) : io_fail(io_error::lost);
}

/// Block by block, so that one bad place costs no more than it must. Only a medium error makes a sector lost.
io_result disk::impl::read_image_from_main(main_unit u, unit_image& image, std::uint8_t wanted,
                                           bool by_hand) {
  const std::uint64_t step = main.io->block_size() / sector_bytes;
  for (std::uint64_t s = 0; s < valid_sectors(u); s += step) {
    const std::uint8_t here = sector_mask(s, step);
    if ((here & wanted) == 0)
      continue;
    if (by_hand && stopping)
      return io_fail(io_error::transient);
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
  if (units == 0)
    return true;
  for (std::uint64_t candidate :
       {std::uint64_t{0}, units / 7, units / 3, units / 2, units * 5 / 7, units - 1}) {
    const auto may_ask = [&](std::uint64_t c) {
      return c != u.value && !set->lookup(main_unit(c)).present();
    };
    for (std::uint64_t n = 0; n < std::min(units, probe_walk) && !may_ask(candidate); ++n)
      candidate = (candidate + 1) % units;
    if (!may_ask(candidate))
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
      if (!last.on_main)
        check_spare(last.spare, last.why);
      if (last.why != io_error::medium && (last.on_main || !is_absent(last.spare)))
        return io_fail(last.on_main ? last.why : said_by_spare(last.why));
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
/// lost sectors overwritten; all table changes in one commit. `again`: a unit was in doubt and is not any
/// more; the write is to be done anew.
io_result disk::impl::write_frozen(std::span<const std::byte> data, std::uint64_t offset, bool& again) {
  const unit_range range = range_of(offset, data.size());
  const unsigned mark = gate.freeze(range);
  for (std::uint64_t u = range.first; u < range.first + range.count; ++u)
    if (set->lookup(main_unit(u)).in_doubt()) {
      gate.thaw(mark, [] {});
      again = settle(range);
      return io_fail(io_error::lost);
    }
  const flush_marks data_since = set->marks();
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
    note(e.present() ? write_spare_piece(e, u, at, piece, changes, moves)
                     : write_main_piece(u, at, piece, moves));
    done += piece.size();
  }
  if (auto allowed = may_spend(moves); !allowed) {
    note(allowed);
    std::erase_if(moves, [](const moving_unit& m) { return !m.from.present(); });
  }
  if (moves.empty() && changes.empty()) {
    gate.thaw(mark, [] {});
    return outcome;
  }
  if (moves.empty() && !keeps(&commit_rules::lost_overwrite_is_table_change)) {
    gate.thaw(mark, [&] { set->publish(changes); });
    return outcome;
  }
  const auto by_error = static_cast<std::uint64_t>(
      std::count_if(moves.begin(), moves.end(), [](const moving_unit& m) { return !m.from.present(); }));
  commit_reply reply{commit_outcome::refused};
  const auto on_absent = [&](const slot_change& c) { return is_absent(c.spare); };
  do {
    note(rehome_changes_of_absent(data, offset, changes, moves));
    const std::size_t given = changes.size();
    if (given == 0 && moves.empty())
      break;
    reply = place(moves, changes, data_since);
    if (reply.outcome == commit_outcome::refused)
      changes.resize(given);
  } while (reply.outcome == commit_outcome::refused &&
           std::any_of(changes.begin(), changes.end(), on_absent));
  if (reply.outcome != commit_outcome::done) {
    gate.thaw(mark, [] {});
    if (reply.outcome == commit_outcome::refused)
      breaker.forget(by_error); // nothing was spent; the next one will say of main's health what this did
    else
      again = settle(range); // completed at the second try, or taken back: another place may serve it
    return outcome ? io_fail(reply.outcome == commit_outcome::refused ? reply.why : io_error::lost) : outcome;
  }
  set->counts().auto_remaps += by_error;
  show_moved(changes, moves);
  gate.thaw(mark, [] {});
  report(moves, changes, true);
  return outcome;
}

/// Of `changes` those on spares that have gone since: their tables take no change any more, so the units join
/// `moves`. An error is of one that could not; the others have.
io_result disk::impl::rehome_changes_of_absent(std::span<const std::byte> data, std::uint64_t offset,
                                               std::vector<slot_change>& changes,
                                               std::vector<moving_unit>& moves) {
  const auto gone = std::stable_partition(changes.begin(), changes.end(),
                                          [&](const slot_change& c) { return !is_absent(c.spare); });
  io_result outcome;
  for (auto c = gone; c != changes.end(); ++c) {
    const std::uint64_t from = std::max(offset, byte_of(c->main)),
                        end = std::min(offset + data.size(), byte_of(c->main.plus(1)));
    const unit_image had{{}, 0xFF};
    auto moved = rehome_piece(set->lookup(c->main), c->main, from, data.subspan(from - offset, end - from),
                              had, moves);
    if (!moved && outcome)
      outcome = moved;
  }
  changes.erase(gone, changes.end());
  return outcome;
}

/// On a medium error the unit joins `moves` with its other sectors: as patch() read them, else what main
/// still has of them.
io_result disk::impl::write_main_piece(main_unit u, std::uint64_t offset, std::span<const std::byte> piece,
                                       std::vector<moving_unit>& moves) {
  unit_image had{{}, 0xFF};
  auto written = patch(main, offset, piece, had);
  if (written || written.error() != io_error::medium) {
    if (!written)
      note_error({attempt_end::failed, written.error(), true}, true);
    return written;
  }
  note_error({attempt_end::failed, io_error::medium, true}, true);
  if (!auto_remap || breaker.open())
    return written;
  const std::uint8_t covered = covered_sectors(u, offset, piece.size());
  const auto needed = static_cast<std::uint8_t>(sector_mask(0, valid_sectors(u)) & ~covered);
  moving_unit moving{u, had};
  moving.image.lost = 0;
  CHECK_OK(read_image_from_main(u, moving.image, needed & had.lost));
  if ((moving.image.lost & touched_sectors(u, offset, piece.size())) != 0)
    return io_fail(io_error::medium); // half a sector cannot be made whole: its other half is unreadable
  moving.may_answer = moving.image.lost;
  std::memcpy(moving.image.data.bytes.data() + (offset - byte_of(u)), piece.data(), piece.size());
  moves.push_back(moving);
  return {};
}

/// Lost sectors that the piece covers whole become a table change, the unit moves on where its slot cannot be
/// changed any more; one that the piece covers in part fails.
io_result disk::impl::write_spare_piece(map_entry e, main_unit u, std::uint64_t offset,
                                        std::span<const std::byte> piece, std::vector<slot_change>& changes,
                                        std::vector<moving_unit>& moves) {
  const std::uint8_t covered = covered_sectors(u, offset, piece.size());
  if ((e.lost() & touched_sectors(u, offset, piece.size()) & ~covered) != 0)
    return io_fail(io_error::lost);
  disk_member& m = member_of(e);
  unit_image had{{}, 0xFF};
  if (!m.takes_writes())
    return rehome_piece(e, u, offset, piece, had, moves);
  if ((e.lost() & covered) != 0 && auto_remap && !set->can_change(e.spare(), e.unit())) {
    CHECK_OK(rehome_piece(e, u, offset, piece, had, moves));
    moves.back().retire_from = false; // the place is good: its slot only cannot say so
    return {};
  }
  if (auto written = patch(m, byte_of(e.unit()) + (offset - byte_of(u)), piece, had); !written) {
    note_error({attempt_end::failed, written.error(), false}, true);
    check_spare(e.spare(), written.error());
    if (!m.takes_writes() || written.error() == io_error::medium)
      return rehome_piece(e, u, offset, piece, had, moves);
    return io_fail(said_by_spare(written.error()));
  }
  if ((e.lost() & covered) == 0)
    return {};
  const slot now = set->slot_of(e);
  const auto keep = static_cast<std::uint8_t>(~covered);
  changes.push_back({e.spare(), e.unit(), now.kind(), u, static_cast<std::uint8_t>(now.lost() & keep),
                     static_cast<std::uint8_t>(now.main_may_answer() & keep)});
  return {};
}

/// Writes bytes of any alignment within one unit of a member; the caller holds the unit's freeze. What it
/// reads of blocks that are cut is in `had`: once the write has failed the medium may not give it a second
/// time.
io_result disk::impl::patch(disk_member& m, std::uint64_t at, std::span<const std::byte> data,
                            unit_image& had) {
  if (fits_blocks(*m.io, at, data.size()))
    return m.write(data, at);
  const std::uint64_t start = align_down(at, m.io->block_size());
  const std::uint64_t length = align_up(at + data.size(), m.io->block_size()) - start;
  const auto whole = had.data.span().subspan(start % unit_bytes, length);
  CHECK_OK(m.io->read(whole, start));
  const auto read = sector_mask(start % unit_bytes / sector_bytes, length / sector_bytes);
  had.lost = static_cast<std::uint8_t>(had.lost & ~read);
  std::memcpy(whole.data() + (at - start), data.data(), data.size());
  return m.write(whole, start);
}

/// Promise 8: is this a bad place, or a device that fails as a whole?
io_result disk::impl::may_spend(std::span<const moving_unit> moves) {
  std::uint64_t from_main = 0;
  main_unit first;
  for (const moving_unit& m : moves)
    if (!m.from.present() && from_main++ == 0)
      first = m.main;
  if (from_main == 0)
    return {};
  if (!main_answers_elsewhere(first)) {
    main_gone = true;
    return io_fail(io_error::gone);
  }
  if (breaker.trips(from_main, main.taken(), std::chrono::steady_clock::now()))
    return io_fail(io_error::medium);
  return {};
}

} // namespace dmremap
