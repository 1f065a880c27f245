// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"

#include <string>
#include <vector>

namespace dmremap::admin {

struct listed_set {
  std::string name, uuid;
  /// "running", "died", "configured", "found" (on a block device, without a configuration), "unreadable" (the
  /// configuration is)
  std::string state;
  std::string image; ///< of one that runs
  std::string next;  ///< the next command; empty: none is needed
  std::string main;
  std::vector<std::string> spares, loops;
  std::vector<std::string> options{}; ///< of the configuration
  error trouble{};                    ///< of one that is unreadable
};

/// The sets that run; with `all` also those that are configured, and those found on block devices.
[[nodiscard]] std::vector<listed_set> list_sets(bool all);

} // namespace dmremap::admin
