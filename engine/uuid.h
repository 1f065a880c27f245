// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace dmremap {

using uuid_bytes = std::array<std::uint8_t, 16>;

[[nodiscard]] uuid_bytes random_uuid();             ///< version 4, from getrandom(2)
[[nodiscard]] std::uint64_t random_u64();           ///< never 0
[[nodiscard]] std::string to_text(const uuid_bytes&); ///< lower case, with dashes
[[nodiscard]] std::optional<uuid_bytes> parse_uuid(const std::string&);
/// What a table block carries of its owner: the first eight bytes as a little-endian number.
[[nodiscard]] std::uint64_t low_half(const uuid_bytes&);

/// Tests only: while one lives, random_uuid() and random_u64() of its thread derive their numbers from
/// `next`, which counts up, so that what does the same writes the same. No program makes one. The innermost
/// of several counts.
class counted_numbers {
public:
  explicit counted_numbers(std::uint64_t& next); ///< `next` outlives it
  counted_numbers(const counted_numbers&) = delete;
  counted_numbers& operator=(const counted_numbers&) = delete;
  ~counted_numbers();

private:
  std::uint64_t* const before_;
};

} // namespace dmremap
