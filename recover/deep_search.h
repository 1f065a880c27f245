// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/device_use.h"
#include "engine/error.h"
#include "engine/store.h"
#include "engine/uuid.h"

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

/// The search through a whole device for blocks of metadata, wherever they lie.
namespace dmremap::recover {

/// Sound blocks that agree on whose they are and on where their spare begins. A block that is not where it
/// was written, such as one of a backup image, implies another beginning than its neighbours.
struct deep_find {
  std::int64_t start = 0;      ///< byte of the device at which the spare begins that holds them
  std::uint64_t owner_low = 0; ///< first half of the UUID of the spare whose blocks they are
  unsigned supers = 0;         ///< bit c: superblock copy c was met; bit 10: the head of a sixth replica
  std::uint64_t table_blocks = 0;
  std::uint64_t first = 0, last = 0; ///< bytes of the device: of the first and the last one
  // Of the newest superblock; where there is none, empty, or what other spares of the set tell.
  uuid_bytes spare{}, set{};
  std::string set_name;
  std::uint64_t units = 0, sequence = 0;

  [[nodiscard]] bool own_supers() const { return (supers & 0x3FF) != 0; }
  /// Only what another spare's sixth replica consists of.
  [[nodiscard]] bool hosted() const { return supers == 1u << 10; }
};

struct deep_state {
  std::uint64_t done = 0; ///< bytes from the start that have been searched
  std::uint64_t unreadable = 0;
  std::uint64_t left_out = 0; ///< blocks beyond the number of finds that is kept
  std::map<std::pair<std::int64_t, std::uint64_t>, deep_find> finds; ///< by start and owner
};

/// Searches `device` from `state.done` on, but for the ranges in `skip` (bytes of the device, ascending), at
/// the speed of the device: 8 MiB a read, one ahead. Blocks are found at every sector, sound ones only. What
/// cannot be read is narrowed down to units, counted and passed over. `go_on` is called after each piece,
/// when `state` covers it; false stops. Writes nothing. Errors: "device-gone".
[[nodiscard]] result<void> search_device(store& device, const std::vector<byte_range>& skip,
                                         deep_state& state, const std::function<bool()>& go_on);

} // namespace dmremap::recover
