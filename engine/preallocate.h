// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"
#include "engine/member.h"
#include "engine/unique_fd.h"

#include <cstdint>
#include <utility>
#include <vector>

namespace dmremap {

/// Room on the host's file system for all that a spare file (or a range of one) can hold, taken before it is
/// used: a write to it then cannot meet a host that is full. Changes neither size nor content. Not
/// thread-safe.
class preallocation {
public:
  preallocation() = default; ///< of nothing
  /// Takes the room; durable on return. Nothing to do for a block device. The caller has claimed the member.
  /// Errors, after which the file has the room that it had: "spare-host-full" (ENOSPC, EDQUOT),
  /// "cannot-preallocate" (the file system cannot, or another reason), "not-found".
  [[nodiscard]] static result<preallocation> take(const member_spec& spare);
  /// Gives the room back, unless keep() came first: where there were holes there are holes again.
  ~preallocation() { give_back(); }
  preallocation(preallocation&& other) noexcept
      : fd_(std::move(other.fd_)), holes_(std::exchange(other.holes_, {})) {}
  preallocation& operator=(preallocation&& other) noexcept {
    give_back();
    fd_ = std::move(other.fd_);
    holes_ = std::exchange(other.holes_, {});
    return *this;
  }
  /// The file is about to be formatted: the room stays with it.
  void keep() { holes_.clear(); }

private:
  struct hole {
    std::uint64_t start = 0, length = 0; // bytes
  };
  [[nodiscard]] result<void> find_holes(const member_spec& spare, std::uint64_t start, std::uint64_t end);
  void give_back();

  unique_fd fd_;
  std::vector<hole> holes_; // as they were
};

} // namespace dmremap
