// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"
#include "engine/loop_control.h"
#include "engine/unique_fd.h"

#include <cstdint>
#include <string>
#include <vector>

/// What lies on the image of a running set: file systems, on the whole disk or on partitions, and where they
/// are mounted.
namespace dmremap::admin {

/// A place of the image with content that libblkid knows. Bytes.
struct image_area {
  std::uint64_t offset = 0, length = 0;
  std::string type;   ///< "ext4", "crypto_LUKS", ... ; empty: nothing that is known
  std::string device; ///< block device that shows it now ("/dev/loop3", "/dev/loop3p1"); empty: none
};

/// The areas, ascending, without overlap: one that is the whole image, or one a partition (no extended ones).
/// Reads from the image. Errors: "image-failed".
[[nodiscard]] result<std::vector<image_area>> areas_of_image(const std::string& image);

/// A file system made visible for reading, at no place that anybody else sees. Where it is mounted already,
/// it is that one; else it is mounted read-only, its journal is not replayed, nothing is written. It goes
/// with this object.
struct visible_files {
  passing_loop loop; ///< where no block device showed the area
  unique_fd top;     ///< its root folder (of btrfs: that of the top-level subvolume)
  bool mounted = false;
  struct mount_place {
    std::string root;  ///< folder of the file system ...
    std::string point; ///< ... that is seen there
  };
  std::vector<mount_place> places;

  /// The path that users know: below the mount point where there is one, else relative to the root.
  [[nodiscard]] std::string path_of(const std::string& relative) const;
};

/// Errors: "mount-failed" (why, in the kernel's words), those of show_on_loop. Needs root.
[[nodiscard]] result<visible_files> make_visible(const std::string& image, const image_area& area);

} // namespace dmremap::admin
