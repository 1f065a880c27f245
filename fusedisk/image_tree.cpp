// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/image_tree.h"

#include "engine/units.h"

#include <ctime>
#include <unistd.h>

namespace dmremap {

image_tree::image_tree(bool on_file, bool read_only, std::uint64_t bytes)
    : on_file_(on_file), read_only_(read_only), bytes_(bytes), image_(on_file ? root : disk_inode) {
  clock_gettime(CLOCK_REALTIME, &made_);
}

std::optional<std::string_view> image_tree::ctl_name(std::uint64_t inode) const {
  if (on_file_ || inode < first_ctl_file || inode - first_ctl_file >= ctl_names.size())
    return std::nullopt;
  return ctl_names[inode - first_ctl_file];
}

std::optional<std::uint64_t> image_tree::find(std::uint64_t parent, std::string_view name) const {
  for (const auto& known : list(parent))
    if (known.name == name)
      return known.inode;
  return std::nullopt;
}

std::optional<struct stat> image_tree::attributes(std::uint64_t inode) const {
  struct stat st {};
  st.st_ino = inode;
  st.st_nlink = 1;
  st.st_uid = geteuid();
  st.st_gid = getegid();
  st.st_blksize = unit_bytes;
  st.st_atim = st.st_mtim = st.st_ctim = made_;
  if (is_image(inode)) {
    st.st_mode = S_IFREG | (read_only_ ? 0400U : 0600U);
    st.st_size = static_cast<off_t>(bytes_);
    st.st_blocks = static_cast<blkcnt_t>(bytes_ / sector_bytes);
  } else if (ctl_name(inode)) {
    st.st_mode = S_IFREG | 0400U; // of no size: made when it is opened
  } else if (inode == root || (!on_file_ && inode == ctl_inode)) {
    st.st_mode = S_IFDIR | 0755U;
    st.st_nlink = 2;
  } else {
    return std::nullopt;
  }
  return st;
}

std::vector<image_tree::entry> image_tree::list(std::uint64_t inode) const {
  if (on_file_)
    return {};
  if (inode == root)
    return {{".", root}, {"..", root}, {"disk.img", disk_inode}, {"ctl", ctl_inode}};
  if (inode != ctl_inode)
    return {};
  std::vector<entry> out = {{".", ctl_inode}, {"..", root}};
  for (std::size_t i = 0; i < ctl_names.size(); ++i)
    out.push_back({std::string(ctl_names[i]), first_ctl_file + i});
  return out;
}

} // namespace dmremap
