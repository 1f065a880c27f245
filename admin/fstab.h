// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/member.h"

#include <string>
#include <vector>

namespace dmremap::admin {

/// A line of fstab that mounts main, or a partition of it, past the set.
struct fstab_conflict {
  unsigned line = 0;                      ///< from 1
  std::string source, point;              ///< as they stand there
  std::string instead;                    ///< what to put in the place of `source`
  [[nodiscard]] std::string text() const; ///< in words, with what to do
};

/// $DMREMAP_FSTAB, else /etc/fstab.
[[nodiscard]] std::string fstab_path();

/// The lines of the file `fstab` that name main by path, or by a UUID or label that it or one of its
/// partitions shows: those are read from main by libblkid, as far as it can be read. Nothing for a range that
/// does not begin where the device does: what is at the start of the device is not its.
[[nodiscard]] std::vector<fstab_conflict>
find_fstab_conflicts(const std::string& fstab, const member_spec& main, const std::string& set_name);

} // namespace dmremap::admin
