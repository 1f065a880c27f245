// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/geometry.h"

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace dmremap {

/// Which data units of one spare are taken: a bitmap, first fit. Not thread-safe: its owner serialises
/// (remap_set). Units that hold metadata, its own or a guest's, are taken for good.
class spare_space {
public:
  explicit spare_space(const geometry& places);

  /// A unit that a slot describes: in use or retired.
  void note_slot(spare_unit u, bool retired);
  /// Up to `count` free units behind the head of the spare; fewer or none where there are no more.
  [[nodiscard]] std::vector<spare_unit> take(std::uint64_t count);
  /// A run of `count` free neighbours, or nothing.
  [[nodiscard]] std::optional<spare_unit> take_run(std::uint64_t count);
  /// Exactly these; false (and none taken) where one is in use, metadata or out of range.
  [[nodiscard]] bool take_these(spare_unit first, std::uint64_t count);
  /// The most neighbours that take_run() gives now.
  [[nodiscard]] std::uint64_t longest_run() const;
  /// Where `count` free neighbours begin, nearest to `wanted`; nothing is taken.
  [[nodiscard]] std::optional<spare_unit> nearest_free(spare_unit wanted, std::uint64_t count) const;
  void give_back(spare_unit u);
  void retire() { ++retired_; } ///< a unit that is taken will never be given back

  /// A guest's replica: metadata from now on. False where a unit of it is taken.
  [[nodiscard]] bool host(spare_unit first, std::uint64_t count);
  /// A run of free units for a guest's replica, or nothing.
  [[nodiscard]] std::optional<spare_unit> find_host_run(std::uint64_t count) const;
  void unhost(spare_unit first, std::uint64_t count);

  [[nodiscard]] bool is_free(spare_unit u) const { return u.value < places_.units && !taken(u.value); }
  [[nodiscard]] std::uint64_t allocated() const { return used_ - retired_; }
  [[nodiscard]] std::uint64_t usable() const { return places_.data_units() - retired_ - hosted_; }
  /// Units that take() gives now. Not among them: free ones in the spare's head, which only take_these()
  /// gives, and those in chunks that cannot change.
  [[nodiscard]] std::uint64_t room() const { return room_; }
  [[nodiscard]] spare_unit first_maybe_free() const { return spare_unit(first_maybe_free_); }

  /// Allocation keeps away from chunks that cannot change.
  void set_chunk_usable(std::uint32_t chunk, bool usable);

private:
  [[nodiscard]] bool taken(std::uint64_t u) const { return (bits_[u / 64] >> (u % 64) & 1) != 0; }
  [[nodiscard]] bool open_to(std::uint64_t u) const {
    return !taken(u) && chunk_usable_[places_.chunk_of(geometry::block_of(spare_unit(u)))] != 0;
  }
  void mark(std::uint64_t u, bool on);

  geometry places_;
  std::vector<std::uint64_t> bits_;        // bit u: unit u is taken (in use, retired, metadata, being filled)
  std::vector<std::uint8_t> chunk_usable_; // mirrors the good bits
  std::uint64_t first_maybe_free_ = 0;     // automatic allocation starts to look here
  std::uint64_t room_ = 0;                 // bits that are 0 behind the head, in usable chunks
  std::uint64_t used_ = 0, retired_ = 0, hosted_ = 0;
};

} // namespace dmremap
