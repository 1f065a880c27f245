// SPDX-License-Identifier: GPL-2.0-or-later
// Remapped units whose place on a spare fails, or whose spare is not there.
#include "engine/disk_impl.h"

#include <cstring>

namespace dmremap {

/// The unit's place on a spare is bad, or its spare absent: the unit moves on, with what can still be had of
/// the sectors that the piece does not cover: from `had`, else from the spare.
io_result disk::impl::rehome_piece(map_entry e, main_unit u, std::uint64_t offset,
                                   std::span<const std::byte> piece, const unit_image& had,
                                   std::vector<moving_unit>& moves) {
  const disk_member& m = member_of(e);
  const io_error why = m.absent ? io_error::absent : io_error::medium;
  if (m.takes_writes() && !auto_remap)
    return io_fail(why);
  const std::uint8_t covered = covered_sectors(u, offset, piece.size());
  const auto needed = static_cast<std::uint8_t>(sector_mask(0, valid_sectors(u)) & ~covered);
  if (m.absent && (needed & had.lost) != 0)
    return io_fail(why); // the rest of the unit is where nobody can read it
  const slot now = set->slot_of(e);
  moving_unit moving{u, had};
  moving.image.lost = 0;
  moving.kind = now.serves() ? now.kind() : slot_kind::remap; // a release was in doubt when the spare went
  moving.from = e;
  moving.retire_from = m.takes_writes();
  if (needed != 0)
    CHECK_OK(read_image_from_spare(e, moving.image, needed & (had.lost | e.lost())));
  if ((moving.image.lost & touched_sectors(u, offset, piece.size())) != 0)
    return io_fail(why);
  moving.may_answer = static_cast<std::uint8_t>(now.main_may_answer() & now.lost() & needed);
  std::memcpy(moving.image.data.bytes.data() + (offset - byte_of(u)), piece.data(), piece.size());
  moves.push_back(moving);
  return {};
}

/// Sectors of `wanted` from the spare that serves the unit; those that are lost already, or cannot be read,
/// are lost in the image. Dead paths often look like plain EIO: where the spare does not answer at all
/// nothing is lost, its use ends, and the read fails.
io_result disk::impl::read_image_from_spare(map_entry e, unit_image& image, std::uint8_t wanted) {
  store& io = *member_of(e).io;
  image.lost = static_cast<std::uint8_t>(e.lost() & wanted);
  const std::uint64_t step = io.block_size() / sector_bytes;
  for (std::uint64_t s = 0; s < unit_sectors; s += step) {
    const auto here = static_cast<std::uint8_t>(sector_mask(s, step) & wanted & ~e.lost());
    if (here == 0)
      continue;
    const auto block = image.data.span().subspan(s * sector_bytes, step * sector_bytes);
    auto read = io.read(block, byte_of(e.unit()) + s * sector_bytes);
    for (unsigned retry = 0; !read && retry < read_retries; ++retry)
      read = io.read(block, byte_of(e.unit()) + s * sector_bytes);
    if (read)
      continue;
    note_error({attempt_end::failed, read.error(), false, e.spare()}, false);
    if (read.error() != io_error::medium) {
      check_spare(e.spare(), read.error());
      return read;
    }
    image.lost = static_cast<std::uint8_t>(image.lost | here);
    std::memset(block.data(), 0, block.size()); // never what a failed transfer left there
  }
  if ((image.lost & ~e.lost()) != 0 && !spare_answers(e.spare())) {
    check_spare(e.spare(), io_error::gone);
    return io_fail(io_error::absent);
  }
  return {};
}

/// One unit that a spare failed to read: what is left of it moves on, its place is retired.
io_result disk::impl::rescue_from_spare(std::span<std::byte> buffer, std::uint64_t offset, bool& again) {
  const main_unit u = unit_at(offset);
  const unsigned mark = gate.freeze({u.value, 1});
  const auto thaw = [&] { gate.thaw(mark, [] {}); };
  const map_entry e = set->lookup(u);
  const std::uint8_t touched = touched_sectors(u, offset, buffer.size());
  if (!e.present() || e.in_doubt()) {
    thaw();
    again = true;
    return {};
  }
  if (member_of(e).absent || (e.lost() & touched) != 0) {
    thaw();
    return io_fail((e.lost() & touched) != 0 ? io_error::lost : io_error::absent);
  }
  const auto valid = sector_mask(0, valid_sectors(u));
  moving_unit moving{u, {}};
  const auto answer = [&](io_error otherwise) -> io_result {
    if ((moving.image.lost & touched) != 0)
      return io_fail(otherwise);
    std::memcpy(buffer.data(), moving.image.data.bytes.data() + (offset - byte_of(u)), buffer.size());
    return {};
  };
  auto read = read_image_from_spare(e, moving.image, valid);
  if (read && moving.image.lost == e.lost()) { // it reads after all
    thaw();
    return answer(io_error::lost);
  }
  if (!read || !auto_remap) {
    thaw();
    return read ? answer(io_error::medium) : read;
  }
  const slot now = set->slot_of(e);
  moving.may_answer = static_cast<std::uint8_t>(now.main_may_answer() & now.lost());
  moving.kind = now.kind();
  moving.from = e;
  moving.retire_from = true;
  std::vector<slot_change> changes;
  const commit_reply reply = place({&moving, 1}, changes, set->marks());
  if (reply.outcome != commit_outcome::done) {
    thaw();
    again = reply.outcome == commit_outcome::in_doubt && settle({u.value, 1});
    return reply.outcome == commit_outcome::refused ? answer(io_error::medium) : io_fail(io_error::lost);
  }
  show_moved(changes, {&moving, 1});
  thaw();
  report({&moving, 1}, changes, false);
  return answer(io_error::lost);
}

} // namespace dmremap
