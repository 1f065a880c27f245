// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <sys/stat.h>
#include <vector>

namespace dmremap {

/// The few names that the mount shows, and their attributes. Constant after construction, but for the time
/// stamps.
///
/// A mount on a folder:  /disk.img  /ctl/status stats remap_table metadata_status health
/// A mount on a file:    the root itself is the image.
class image_tree {
public:
  static constexpr std::uint64_t root = 1; ///< FUSE_ROOT_ID
  static constexpr std::array<std::string_view, 5> ctl_names = {"status", "stats", "remap_table",
                                                                "metadata_status", "health"};

  image_tree(bool on_file, bool read_only, std::uint64_t bytes);

  [[nodiscard]] bool is_image(std::uint64_t inode) const { return inode == image_; }
  [[nodiscard]] std::optional<std::string_view> ctl_name(std::uint64_t inode) const;
  /// The inode called `name` in the folder `parent`.
  [[nodiscard]] std::optional<std::uint64_t> find(std::uint64_t parent, std::string_view name) const;
  /// Nothing: no such inode.
  [[nodiscard]] std::optional<struct stat> attributes(std::uint64_t inode) const;

  struct entry {
    std::string name;
    std::uint64_t inode;
  };
  /// With "." and ".."; empty where `inode` is no folder.
  [[nodiscard]] std::vector<entry> list(std::uint64_t inode) const;

private:
  static constexpr std::uint64_t disk_inode = 2, ctl_inode = 3, first_ctl_file = 16;
  const bool on_file_, read_only_;
  const std::uint64_t bytes_, image_;
  timespec made_{};
};

} // namespace dmremap
