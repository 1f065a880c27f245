// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/units.h"

#include <cstdint>
#include <vector>

namespace dmremap::fsck {

/// Finds units of main that several slots name, among many millions. Keeps a bit for each unit of main where
/// that is no more than 256 MiB, else the numbers themselves.
class double_finder {
public:
  explicit double_finder(std::uint64_t main_units);
  void add(main_unit u) {
    if (bits_.empty()) {
      numbers_.push_back(u.value);
      return;
    }
    std::uint64_t& word = bits_[u.value / 64];
    const std::uint64_t bit = std::uint64_t{1} << u.value % 64;
    if ((word & bit) != 0)
      twice_.push_back(u.value);
    word |= bit;
  }
  /// Ends the search: the units that came more than once, ascending, each once.
  [[nodiscard]] std::vector<std::uint64_t> take();

private:
  std::vector<std::uint64_t> bits_, numbers_, twice_;
};

} // namespace dmremap::fsck
