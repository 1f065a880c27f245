// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/recover/image_set.h"

#include <fstream>

namespace dmremap::test {

std::vector<std::string> page_items(const std::string& page, const std::string& section) {
  std::ifstream in(std::string(DMREMAP_SOURCE_DIR) + "/man/" + page);
  std::vector<std::string> items;
  bool inside = false;
  for (std::string text; std::getline(in, text);) {
    if (text.rfind(".Sh ", 0) == 0)
      inside = text == ".Sh " + section;
    else if (inside && text.rfind(".It ", 0) == 0)
      items.push_back(text.substr(4));
  }
  return items;
}

} // namespace dmremap::test
