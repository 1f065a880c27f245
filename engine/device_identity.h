// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/store.h"

#include <sys/types.h>

namespace dmremap {

/// Fills serial and wwn (of the whole disk) and partuuid of block device `device`. Leaves a field empty where
/// nothing tells it. sysfs first, so that the same drive has the same names with and without udev's database.
/// Strings are trimmed, fit the superblock's fields (63, 63 and 39 bytes) and hold printable ASCII only.
void fill_device_identity(dev_t device, store_identity& identity);

/// Where a block device lies on its whole disk, from sysfs.
struct device_extent {
  dev_t disk = 0;           ///< the whole disk
  std::uint64_t start = 0;  ///< bytes
  std::uint64_t length = 0; ///< bytes
  bool partition = false;
};

/// The whole device from 0 on where sysfs does not know it (length 0 then).
[[nodiscard]] device_extent extent_of(dev_t device);

/// "MAJOR:MINOR"
[[nodiscard]] std::string dev_text(dev_t device);

} // namespace dmremap
