// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/deep_search.h"

#include "engine/codec.h"
#include "engine/units.h"

#include <algorithm>
#include <cstring>
#include <future>
#include <optional>

namespace dmremap::recover {
namespace {

constexpr std::uint64_t piece_bytes = 8u << 20;
constexpr std::uint64_t behind_bytes = unit_bytes; ///< a block may begin in a piece's last sector
constexpr std::size_t max_finds = 65536;           ///< of which each device of use has a handful

struct piece {
  std::uint64_t at = 0;     ///< byte of the device
  std::uint64_t length = 0; ///< heads of blocks are looked for in these bytes ...
  std::uint64_t have = 0;   ///< ... with so many read
  std::vector<block_bytes> buffer = std::vector<block_bytes>((piece_bytes + behind_bytes) / unit_bytes);
  std::uint64_t unreadable = 0;
  bool gone = false;

  [[nodiscard]] std::byte* bytes() { return buffer.front().bytes.data(); }
};

/// What fails as a whole is read in halves, down to a unit; that one reads as zeros.
void read_range(store& device, piece& p, std::uint64_t offset, std::uint64_t length) {
  if (p.gone)
    return;
  const auto done = device.read({p.bytes() + offset, length}, p.at + offset);
  if (done)
    return;
  if (done.error() == io_error::gone) {
    p.gone = true;
  } else if (length > unit_bytes) {
    const std::uint64_t half = align_up(length / 2, unit_bytes);
    read_range(device, p, offset, half);
    read_range(device, p, offset + half, length - half);
  } else {
    std::memset(p.bytes() + offset, 0, length);
    p.unreadable += offset < p.length ? length : 0;
  }
}

/// The next bytes to search at or behind `at`; nothing at the end.
std::optional<byte_range> next_range(std::uint64_t at, std::uint64_t end,
                                     const std::vector<byte_range>& skip) {
  std::uint64_t stop = end;
  for (const auto& s : skip) {
    if (at >= s.start && at < s.end)
      at = align_up(s.end, unit_bytes);
    else if (s.start > at)
      stop = std::min(stop, s.start);
  }
  if (at >= end)
    return std::nullopt;
  return byte_range{at, std::min({stop, end, at + piece_bytes})};
}

class collector {
public:
  explicit collector(deep_state& state) : state_(state) {}

  void search(piece& p) {
    for (std::uint64_t offset = 0; offset < p.length && offset + unit_bytes <= p.have;) {
      const auto kind = kind_of_block(p.bytes() + offset);
      const bool sound = kind != block_kind::none && take(p, offset, kind);
      offset += sound ? unit_bytes : sector_bytes;
    }
    state_.unreadable += p.unreadable;
  }

private:
  bool take(piece& p, std::uint64_t offset, block_kind kind) {
    std::memcpy(block_.bytes.data(), p.bytes() + offset, unit_bytes);
    const auto said = stated_place_of(block_, kind);
    const std::uint64_t at = p.at + offset;
    if (kind == block_kind::table) {
      if (!decode_table_block(block_, said.owner_low, said.number, said.unit, table_))
        return false;
      if (deep_find* find = find_for(at, said))
        ++find->table_blocks;
      return true;
    }
    const auto super =
        said.number <= sixth_super_copy
            ? decode_superblock(block_, said.number, said.unit)
            : tl::expected<superblock, block_fault>(tl::make_unexpected(block_fault::misplaced));
    if (!super)
      return false;
    if (deep_find* find = find_for(at, said)) {
      if (find->supers == 0 || super->sequence > find->sequence) {
        find->spare = super->spare_uuid;
        find->set = super->set_uuid;
        find->set_name = super->set_name;
        find->units = super->places.units;
        find->sequence = super->sequence;
      }
      find->supers |= 1u << said.number;
    }
    return true;
  }

  deep_find* find_for(std::uint64_t at, const stated_place& said) {
    const auto start = static_cast<std::int64_t>(at) - static_cast<std::int64_t>(byte_of(said.unit));
    const std::pair key(start, said.owner_low);
    auto there = state_.finds.find(key);
    if (there == state_.finds.end()) {
      if (state_.finds.size() >= max_finds) {
        ++state_.left_out;
        return nullptr;
      }
      there = state_.finds.try_emplace(key).first;
      there->second.start = start;
      there->second.owner_low = said.owner_low;
      there->second.first = at;
    }
    there->second.last = at;
    return &there->second;
  }

  deep_state& state_;
  block_bytes block_;
  table_block table_;
};

} // namespace

result<void> search_device(store& device, const std::vector<byte_range>& skip, deep_state& state,
                           const std::function<bool()>& go_on) {
  const std::uint64_t size = align_down(device.size(), unit_bytes);
  piece pieces[2];
  const auto fill = [&](piece& p, byte_range range) {
    p.at = range.start;
    p.length = range.end - range.start;
    p.have = std::min(p.length + behind_bytes, size - range.start);
    p.unreadable = 0;
    read_range(device, p, 0, p.have);
  };
  collector collect(state);
  auto range = next_range(align_down(state.done, unit_bytes), size, skip);
  if (range)
    fill(pieces[0], *range);
  for (unsigned now = 0; range; now ^= 1) {
    piece& p = pieces[now];
    if (p.gone)
      return fail("device-gone", device.identity().path,
                  "stopped answering at sector " + std::to_string(p.at / sector_bytes));
    const auto next = next_range(range->end, size, skip);
    std::future<void> ahead;
    if (next)
      ahead = std::async(std::launch::async, [&fill, &pieces, now, next] { fill(pieces[now ^ 1], *next); });
    collect.search(p);
    state.done = range->end;
    const bool more = go_on();
    if (ahead.valid())
      ahead.get();
    if (!more)
      return {};
    range = next;
  }
  state.done = size;
  return {};
}

} // namespace dmremap::recover
