// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/device_use.h"

#include "engine/device_identity.h"
#include "engine/mount_table.h"
#include "engine/unique_fd.h"

#include <algorithm>
#include <boost/filesystem.hpp>
#include <fcntl.h>
#include <fstream>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <vector>

namespace dmremap {
namespace {

namespace fs = boost::filesystem;

bool on_range(dev_t device, dev_t disk, byte_range range) {
  if (device == 0)
    return false;
  const device_extent e = extent_of(device);
  return e.disk == disk && range.overlaps({e.start, e.start + e.length});
}

dev_t block_device_at(const std::string& path) {
  struct stat st {};
  return ::stat(path.c_str(), &st) == 0 && S_ISBLK(st.st_mode) ? st.st_rdev : 0;
}

dev_t number_in(const std::string& text) {
  unsigned major = 0, minor = 0;
  return std::sscanf(text.c_str(), "%u:%u", &major, &minor) == 2 ? makedev(major, minor) : 0;
}

dev_t number_of(const mount_entry& entry) {
  return number_in(entry.device);
}

device_use mounted_use(const std::string& point) {
  return {"mounted", "is mounted on " + point + "; unmount it first (umount " + point + ")"};
}

std::vector<std::string> swaps() {
  std::vector<std::string> out;
  std::ifstream file("/proc/swaps");
  std::string line;
  std::getline(file, line); // the heading
  while (std::getline(file, line))
    out.push_back(unescape_mount_text(line.substr(0, line.find_first_of(" \t"))));
  return out;
}

device_use swap_use(const std::string& path) {
  return {"swap", "is in use as swap space; switch it off first (swapoff " + path + ")"};
}

std::vector<fs::path> folder(const fs::path& path) {
  std::vector<fs::path> out;
  boost::system::error_code ec;
  for (fs::directory_iterator it(path, ec), end; !ec && it != end; it.increment(ec))
    out.push_back(it->path());
  return out;
}

/// Device mapper and RAID devices standing on the disk or on one of its partitions that lie in the range.
std::optional<device_use> find_holder(dev_t disk, byte_range range) {
  boost::system::error_code ec;
  const fs::path base = fs::canonical("/sys/dev/block/" + dev_text(disk), ec);
  if (ec)
    return std::nullopt;
  std::vector<fs::path> holders = folder(base / "holders");
  for (const auto& entry : folder(base)) {
    if (!fs::exists(entry / "partition", ec))
      continue;
    if (on_range(block_device_at("/dev/" + entry.filename().string()), disk, range)) {
      const auto more = folder(entry / "holders");
      holders.insert(holders.end(), more.begin(), more.end());
    }
  }
  if (holders.empty())
    return std::nullopt;
  return device_use{"in-use", "is held by /dev/" + holders.front().filename().string() +
                                  " (device mapper or RAID); release that first (lsblk shows the stack)"};
}

struct bound_loop {
  std::string node;
  loop_backing backing;
};

std::vector<bound_loop> bound_loops() {
  std::vector<bound_loop> out;
  boost::system::error_code ec;
  for (const auto& entry : folder("/sys/block")) {
    const std::string name = entry.filename().string();
    if (!name.starts_with("loop") || !fs::exists(entry / "loop/backing_file", ec))
      continue;
    bound_loop l{"/dev/" + name, {}};
    std::ifstream file((entry / "loop/backing_file").string());
    std::getline(file, l.backing.path);
    const unique_fd fd(::open(l.node.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    loop_info64 info{};
    struct stat st {};
    if (fd && ::ioctl(fd.get(), LOOP_GET_STATUS64, &info) == 0) {
      l.backing.device = static_cast<dev_t>(info.lo_device);
      l.backing.inode = static_cast<ino_t>(info.lo_inode);
      // For a file the kernel gives the file system's device here as well.
      l.backing.block = info.lo_rdevice != info.lo_device ? static_cast<dev_t>(info.lo_rdevice) : 0;
    } else if (::stat(l.backing.path.c_str(), &st) == 0) { // without the permission to ask the loop device
      l.backing.device = st.st_dev;
      l.backing.inode = st.st_ino;
      l.backing.block = S_ISBLK(st.st_mode) ? st.st_rdev : 0;
    }
    out.push_back(std::move(l));
  }
  return out;
}

device_use loop_use(const std::string& node) {
  return {"loop-backed",
          "loop device " + node + " stands on it; detach that first (losetup -d " + node + ")"};
}

/// The block devices that a folder of sysfs links to.
std::vector<dev_t> devices_in(const fs::path& links) {
  std::vector<dev_t> found;
  for (const auto& link : folder(links)) {
    std::ifstream file((link / "dev").string());
    std::string line;
    std::getline(file, line);
    found.push_back(number_in(line));
  }
  return found;
}

/// All devices of the btrfs that has this one.
std::vector<dev_t> with_its_btrfs(dev_t device) {
  for (const auto& one : folder("/sys/fs/btrfs")) {
    const auto members = devices_in(one / "devices");
    if (std::find(members.begin(), members.end(), device) != members.end())
      return members;
  }
  return {device};
}

/// What the file system of `file` was mounted from, where its number is no device's: the mount that the file
/// is reached by tells it. The files of a btrfs do not even have the number of its mount.
std::vector<dev_t> devices_of_mount(const std::string& file) {
  struct statx facts {};
  if (::statx(AT_FDCWD, file.c_str(), 0, STATX_MNT_ID, &facts) != 0 || (facts.stx_mask & STATX_MNT_ID) == 0)
    return {};
  for (const auto& m : read_mount_table())
    if (static_cast<std::uint64_t>(m.id) == facts.stx_mnt_id && m.source.starts_with("/"))
      if (const dev_t device = block_device_at(m.source); device != 0)
        return with_its_btrfs(device);
  return {};
}

/// One step down from a block device.
void add_below(dev_t disk, std::vector<dev_t>& devices, std::vector<std::string>& files) {
  if (const auto backing = find_loop_backing(disk)) {
    devices.push_back(backing->block != 0 ? backing->block : backing->device);
    struct stat st {};
    if (backing->block == 0 && ::stat(backing->path.c_str(), &st) == 0 && st.st_dev == backing->device &&
        st.st_ino == backing->inode)
      files.push_back(backing->path);
  }
  const auto slaves = devices_in("/sys/dev/block/" + dev_text(disk) + "/slaves");
  devices.insert(devices.end(), slaves.begin(), slaves.end());
}

} // namespace

std::optional<device_use> find_disk_use(dev_t disk, byte_range range) {
  for (const auto& m : read_mount_table()) {
    if (on_range(number_of(m), disk, range))
      return mounted_use(m.point);
    // btrfs and others show an anonymous device number.
    if (major(number_of(m)) == 0 && m.source.starts_with("/dev/") &&
        on_range(block_device_at(m.source), disk, range))
      return mounted_use(m.point);
  }
  for (const auto& path : swaps())
    if (on_range(block_device_at(path), disk, range))
      return swap_use(path);
  if (auto use = find_holder(disk, range))
    return use;
  for (const auto& l : bound_loops())
    if (on_range(l.backing.block, disk, range))
      return loop_use(l.node);
  return std::nullopt;
}

std::optional<device_use> find_file_use(const struct stat& file) {
  const auto same = [&](const std::string& path) {
    struct stat st {};
    return ::stat(path.c_str(), &st) == 0 && S_ISREG(st.st_mode) && st.st_dev == file.st_dev &&
           st.st_ino == file.st_ino;
  };
  for (const auto& l : bound_loops())
    if (l.backing.device == file.st_dev && l.backing.inode == file.st_ino)
      return loop_use(l.node);
  for (const auto& path : swaps())
    if (same(path))
      return swap_use(path);
  for (const auto& m : read_mount_table())
    if (m.type == "erofs" && m.source.starts_with("/") &&
        same(m.source)) // mounts a file without a loop device
      return mounted_use(m.point);
  return std::nullopt;
}

std::optional<loop_backing> find_loop_backing(dev_t disk) {
  if (major(disk) != 7) // LOOP_MAJOR
    return std::nullopt;
  for (auto& l : bound_loops())
    if (block_device_at(l.node) == disk)
      return l.backing;
  return std::nullopt;
}

std::vector<dev_t> devices_below(const std::string& path) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0)
    return {};
  const bool block = S_ISBLK(st.st_mode);
  std::vector<dev_t> found, devices = {block ? st.st_rdev : st.st_dev};
  std::vector<std::string> files;
  if (!block)
    files.push_back(path);
  while (!devices.empty() || !files.empty()) {
    if (devices.empty()) {
      devices = devices_of_mount(files.back());
      files.pop_back();
      continue;
    }
    const dev_t disk = extent_of(devices.back()).disk;
    devices.pop_back();
    if (disk == 0 || std::find(found.begin(), found.end(), disk) != found.end())
      continue;
    found.push_back(disk);
    add_below(disk, devices, files);
  }
  return found;
}

} // namespace dmremap
