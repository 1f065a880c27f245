// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/units.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace dmremap::test {

/// What each sector may show: the version of the last write that was answered, or of one that failed since.
/// A version's bytes name the sector, too, so that somebody else's are known; version 0 is zeros. One thread.
class sector_versions {
public:
  explicit sector_versions(std::uint64_t count) : allowed_(count, {0}) {}

  static void fill(std::byte* bytes, std::uint64_t sector, std::uint64_t version) {
    const std::uint64_t words[2] = {version == 0 ? 0 : sector, version};
    for (std::size_t at = 0; at < sector_bytes; at += sizeof words)
      std::memcpy(bytes + at, words, sizeof words);
  }
  void written(std::uint64_t sector, std::uint64_t version) { allowed_[sector] = {version}; }
  void write_failed(std::uint64_t sector, std::uint64_t version) {
    if (std::find(allowed_[sector].begin(), allowed_[sector].end(), version) == allowed_[sector].end())
      allowed_[sector].push_back(version);
  }
  /// Where the bytes are one of the allowed versions it is the only one from now on, and nothing is returned;
  /// else what is wrong.
  [[nodiscard]] std::string settle(std::uint64_t sector, const std::byte* bytes) {
    std::array<std::byte, sector_bytes> expected;
    for (const std::uint64_t version : allowed_[sector]) {
      fill(expected.data(), sector, version);
      if (std::memcmp(bytes, expected.data(), sector_bytes) == 0) {
        allowed_[sector] = {version};
        return {};
      }
    }
    std::uint64_t words[2];
    std::memcpy(words, bytes, sizeof words);
    std::string text = "sector " + std::to_string(sector) + " shows sector " + std::to_string(words[0]) +
                       " version " + std::to_string(words[1]) + ", not version";
    for (const std::uint64_t version : allowed_[sector])
      text += " " + std::to_string(version);
    return text;
  }

private:
  std::vector<std::vector<std::uint64_t>> allowed_;
};

} // namespace dmremap::test
