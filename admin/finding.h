// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <string>
#include <vector>

namespace dmremap::admin {

/// Something that is worth a word about a set: what it means, and what to do next.
struct finding {
  std::string id;                ///< stable: "main-gone"
  bool problem = true;           ///< false: good to know
  std::string text;              ///< what is so, and what it means
  std::vector<std::string> next; ///< commands, in the order in which to try them; empty: nothing to do
  std::string error{};           ///< identifier of the error that it comes from; empty: of none
};

} // namespace dmremap::admin
