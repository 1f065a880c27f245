// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

namespace dmremap {

/// A number as a command line has it: decimal, whatever zeros it begins with, or 0x and hexadecimal digits.
/// Nothing for all else: no text, a sign, a blank, more than 64 bits.
[[nodiscard]] inline std::optional<std::uint64_t> parse_number(std::string_view text) {
  const bool hex = text.size() > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
  const char* const end = text.data() + text.size();
  std::uint64_t value = 0;
  const auto [stopped, failed] = std::from_chars(text.data() + (hex ? 2 : 0), end, value, hex ? 16 : 10);
  return failed == std::errc() && stopped == end ? std::optional(value) : std::nullopt;
}

/// Why an option of this type of number does not take the text; empty where it does. CLI11, which converts
/// it, would take "010" as eight and cut off what is too large: as its check().
template <class Number>
[[nodiscard]] std::string why_no_number(const std::string& text) {
  const std::string_view digits = std::string_view(text).substr(text.rfind('-', 0) == 0 ? 1 : 0);
  const char* const end = text.data() + text.size();
  Number value{};
  const auto [stopped, failed] = std::from_chars(text.data(), end, value);
  if (failed == std::errc() && stopped == end && (digits.size() == 1 || digits[0] != '0'))
    return {};
  return "takes a decimal number" +
         std::string(failed == std::errc::result_out_of_range ? ", and '" : ", not '") + text +
         (failed == std::errc::result_out_of_range ? "' is too large" : "'");
}

} // namespace dmremap
