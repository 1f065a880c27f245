// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/store.h"

#include <map>
#include <string>
#include <sys/types.h>
#include <vector>

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

/// The partitions of a whole disk that the kernel knows, in ascending order: number and device. From sysfs.
[[nodiscard]] std::map<unsigned, dev_t> partitions_of(dev_t disk);
/// All block devices that the kernel knows, partitions too. From sysfs.
[[nodiscard]] std::vector<dev_t> all_block_devices();
/// "/dev/sdb1", as the kernel names the device; empty where sysfs does not know it.
[[nodiscard]] std::string node_of(dev_t device);
/// What udev's database says of a device; empty without udev, or where it does not know the property.
[[nodiscard]] std::string udev_property(dev_t device, const char* key);

/// "MAJOR:MINOR"
[[nodiscard]] std::string dev_text(dev_t device);

} // namespace dmremap
