// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstdint>
#include <string>

namespace dmremap {

/// "3 sectors", "1 sector".
[[nodiscard]] inline std::string counted(std::uint64_t n, const std::string& thing) {
  return std::to_string(n) + " " + thing + (n == 1 ? "" : "s");
}

} // namespace dmremap
