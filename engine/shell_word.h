// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <string>

namespace dmremap {

/// The word as a shell wants it in a command that is shown to be copied.
[[nodiscard]] inline std::string shell_word(const std::string& word) {
  if (!word.empty() && word.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                              "@%+=:,./_-") == std::string::npos)
    return word;
  std::string out = "'";
  for (const char c : word)
    out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

} // namespace dmremap
