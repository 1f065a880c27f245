// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <string>
#include <vector>

namespace dmremap::admin {

/// A set that a block device's superblock speaks of.
struct found_set {
  std::string name, uuid, spare;
};

/// Reads the start of every block device that this process may read, opened for reading only. A device that
/// cannot be read or is in use is passed over, and so are the `skipped` ones with their partitions: the loop
/// devices of sets that run, which would hang as their daemons do.
[[nodiscard]] std::vector<found_set> scan_for_sets(const std::vector<std::string>& skipped);

} // namespace dmremap::admin
