// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <istream>
#include <string>
#include <vector>

namespace dmremap {

/// One line of /proc/self/mountinfo.
struct mount_entry {
  int id = 0, parent = 0;
  std::string device; ///< "major:minor" of the file system; btrfs has one of its own
  std::string root;   ///< the folder of the file system that is seen at `point`
  std::string point, type;
  std::string source;     ///< what was mounted, in the file system's words: mostly the path of a device
  bool read_only = false; ///< the file system, not only this mount of it
};

/// proc(5): blank, tab, newline and backslash stand as \ooo in mountinfo and swaps.
[[nodiscard]] std::string unescape_mount_text(const std::string& text);

/// Lines that do not have the form are left out. Later entries lie over earlier ones.
[[nodiscard]] std::vector<mount_entry> parse_mount_table(std::istream& in);
/// This process's own; empty where /proc is not there. Asks no file system, so it cannot hang.
[[nodiscard]] std::vector<mount_entry> read_mount_table();
/// The topmost entry at `point`, or null.
[[nodiscard]] const mount_entry* topmost_at(const std::vector<mount_entry>& table, const std::string& point);

} // namespace dmremap
