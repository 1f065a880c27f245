// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "admin/context.h"

#include <string>
#include <vector>

namespace dmremap::admin {

struct listed_set {
  std::string name, uuid;
  std::string
      state; ///< "running", "died", "configured", "found" (on a block device, without a configuration)
  std::string image; ///< of one that runs
  std::string next;  ///< the next command; empty: none is needed
  std::string main;
  std::vector<std::string> spares, loops;
};

/// The sets that run; with `all` also those that are configured, and those found on block devices. A
/// configuration that cannot be read is a note.
[[nodiscard]] std::vector<listed_set> list_sets(const context& c, bool all);

} // namespace dmremap::admin
