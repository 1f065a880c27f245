// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"
#include "engine/member.h"
#include "engine/storage.h"

#include <string>
#include <vector>

namespace dmremap::recover {

/// Something to look at: a block device, a regular file, or a range of one.
struct target {
  member_spec spec;
  storage place;
  bool named = false;                 ///< by the caller: what goes wrong with it is told
  std::vector<byte_range> partitions; ///< of a disk: parts that are targets of their own; from its start
};

struct target_list {
  std::vector<target> targets;
  std::vector<error> failed; ///< what was named and cannot be looked at
};

/// What to look at. With `paths`: those, each a block device, a file, a range or a folder, which stands for
/// the regular files below it on the same file system. Without: every block device that udev lists, but loop
/// devices on images of sets of this host, and the members that configuration and state of this host name.
/// `image_dir`, where not empty, is a further folder. Opens nothing.
[[nodiscard]] target_list find_targets(const std::vector<std::string>& paths, const std::string& image_dir);

} // namespace dmremap::recover
