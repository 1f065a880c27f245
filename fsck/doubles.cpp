// SPDX-License-Identifier: GPL-2.0-or-later
#include "fsck/doubles.h"

#include <algorithm>
#include <utility>

namespace dmremap::fsck {

double_finder::double_finder(std::uint64_t main_units) {
  constexpr std::uint64_t most_bytes = 256u << 20;
  if (main_units / 8 <= most_bytes)
    bits_.resize(main_units / 64 + 1);
}

std::vector<std::uint64_t> double_finder::take() {
  std::sort(numbers_.begin(), numbers_.end());
  for (std::size_t n = 1; n < numbers_.size(); ++n)
    if (numbers_[n] == numbers_[n - 1])
      twice_.push_back(numbers_[n]);
  bits_ = {};
  numbers_ = {};
  std::sort(twice_.begin(), twice_.end());
  twice_.erase(std::unique(twice_.begin(), twice_.end()), twice_.end());
  return std::exchange(twice_, {});
}

} // namespace dmremap::fsck
