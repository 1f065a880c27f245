// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/device_use.h"
#include "engine/error.h"
#include "engine/member.h"

#include <optional>
#include <string>

/// Where members lie. Two paths may lead to the same sectors: this is what they have in common.
namespace dmremap {

struct storage {
  bool block = false;
  dev_t device = 0; ///< the whole disk; of a file: its file system
  ino_t inode = 0;  ///< of a file
  byte_range bytes;
  std::string file; ///< where a loop device led to a file: its path, as the kernel has it

  [[nodiscard]] bool same_thing(const storage& other) const {
    return block == other.block && device == other.device && inode == other.inode;
  }
  [[nodiscard]] bool overlaps(const storage& other) const {
    return same_thing(other) && bytes.overlaps(other.bytes);
  }
};

/// A partition on its disk, a file as itself, and a loop device as the disk that it pretends to be. Errors:
/// "not-found", "no-permission", "not-a-device".
[[nodiscard]] result<storage> find_place(const member_spec& spec);
/// A loop device stands for what is below it, as far down as that goes; all else stays what it is.
[[nodiscard]] storage at_bottom(storage top);
/// Both: where it lies on what is at the bottom. Errors: those of find_place.
[[nodiscard]] result<storage> find_storage(const member_spec& spec);
/// Nothing where that is an error.
[[nodiscard]] std::optional<storage> storage_of(const member_spec& spec);

} // namespace dmremap
