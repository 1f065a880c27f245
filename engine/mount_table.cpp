// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/mount_table.h"

#include <fstream>
#include <sstream>

namespace dmremap {

std::string unescape_mount_text(const std::string& text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto digit = [&](std::size_t n) {
      return i + n < text.size() && text[i + n] >= '0' && text[i + n] < '8';
    };
    if (text[i] == '\\' && digit(1) && digit(2) && digit(3)) {
      out += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

std::vector<mount_entry> parse_mount_table(std::istream& in) {
  std::vector<mount_entry> table;
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    mount_entry entry;
    std::string word, options;
    words >> entry.id >> entry.parent >> entry.device >> entry.root >> entry.point;
    while (words >> word && word != "-") {
    }
    if (!(words >> entry.type))
      continue;
    words >> entry.source >> options;
    entry.root = unescape_mount_text(entry.root);
    entry.point = unescape_mount_text(entry.point);
    entry.source = unescape_mount_text(entry.source);
    entry.read_only = ("," + options + ",").find(",ro,") != std::string::npos;
    table.push_back(std::move(entry));
  }
  return table;
}

std::vector<mount_entry> read_mount_table() {
  std::ifstream in("/proc/self/mountinfo");
  return parse_mount_table(in);
}

const mount_entry* topmost_at(const std::vector<mount_entry>& table, const std::string& point) {
  for (auto entry = table.rbegin(); entry != table.rend(); ++entry)
    if (entry->point == point)
      return &*entry;
  return nullptr;
}

} // namespace dmremap
