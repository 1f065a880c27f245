// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <sys/stat.h>
#include <sys/types.h>
#include <vector>

namespace dmremap {

/// Bytes [start, end) of a whole disk or of a file.
struct byte_range {
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  [[nodiscard]] bool overlaps(const byte_range& o) const { return start < o.end && o.start < end; }
  friend bool operator==(const byte_range&, const byte_range&) = default;
};

/// Why something may not become a member: who uses it.
struct device_use {
  std::string id;  ///< mounted, swap, loop-backed or in-use
  std::string why; ///< with what to do next
};

/// Mounts, swap, device-mapper or RAID holders and loop devices on any part of `range` of whole disk `disk`:
/// also on a partition of it. Opens loop devices for reading only. Sees this mount namespace; O_EXCL covers
/// the others.
[[nodiscard]] std::optional<device_use> find_disk_use(dev_t disk, byte_range range);

/// The same for a regular file, by device and inode number.
[[nodiscard]] std::optional<device_use> find_file_use(const struct stat& file);

/// What a bound loop device stands on.
struct loop_backing {
  std::string path;
  dev_t device = 0; ///< of the file system that holds the file, or the device node
  ino_t inode = 0;
  dev_t block = 0; ///< the block device, where it stands on one
};
/// Nothing where `disk` is no bound loop device.
[[nodiscard]] std::optional<loop_backing> find_loop_backing(dev_t disk);

/// All that the file or block device at `path` lies on: numbers of file systems and of whole disks, through
/// loop devices, device mapper and RAID, and all devices of a btrfs. Sees this mount namespace. Empty where
/// there is nothing at `path`.
[[nodiscard]] std::vector<dev_t> devices_below(const std::string& path);

} // namespace dmremap
