// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/image_layout.h"

#include "engine/mount_table.h"

#include <algorithm>
#include <blkid/blkid.h>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <memory>
#include <sys/mount.h>
#include <sys/stat.h>

namespace dmremap::admin {
namespace {

constexpr std::uint64_t sector_size = 512;

struct close_probe {
  void operator()(blkid_probe p) const { blkid_free_probe(p); }
};
using probe_handle = std::unique_ptr<std::remove_pointer_t<blkid_probe>, close_probe>;

tl::unexpected<error> image_failed(const std::string& image, const std::string& why) {
  return fail("image-failed", image, why);
}

/// The type of the content of `length` bytes (0: up to the end) from `offset`; empty where there is none that
/// is known, or more than one.
std::string type_at(int image, std::uint64_t offset, std::uint64_t length) {
  const probe_handle p(blkid_new_probe());
  if (!p || blkid_probe_set_device(p.get(), image, static_cast<blkid_loff_t>(offset),
                                   static_cast<blkid_loff_t>(length)) != 0)
    return "";
  blkid_probe_enable_superblocks(p.get(), 1);
  blkid_probe_set_superblocks_flags(p.get(), BLKID_SUBLKS_TYPE);
  const char* type = nullptr;
  if (blkid_do_safeprobe(p.get()) != 0 || blkid_probe_lookup_value(p.get(), "TYPE", &type, nullptr) != 0 ||
      type == nullptr)
    return "";
  return type;
}

std::vector<image_area> partitions_of(int image) {
  std::vector<image_area> areas;
  const probe_handle p(blkid_new_probe());
  if (!p || blkid_probe_set_device(p.get(), image, 0, 0) != 0)
    return areas;
  blkid_probe_enable_partitions(p.get(), 1);
  const auto list = blkid_probe_get_partitions(p.get());
  for (int i = 0; list != nullptr && i < blkid_partlist_numof_partitions(list); ++i) {
    const auto one = blkid_partlist_get_partition(list, i);
    if (blkid_partition_is_extended(one) != 0)
      continue;
    image_area area;
    area.offset = static_cast<std::uint64_t>(blkid_partition_get_start(one)) * sector_size;
    area.length = static_cast<std::uint64_t>(blkid_partition_get_size(one)) * sector_size;
    if (area.length != 0)
      areas.push_back(area);
  }
  std::sort(areas.begin(), areas.end(), [](const auto& a, const auto& b) { return a.offset < b.offset; });
  return areas;
}

std::uint64_t number_at(const boost::filesystem::path& file) {
  std::ifstream in(file.string());
  std::uint64_t value = 0;
  in >> value;
  return value;
}

/// The loop devices on the image and their partitions, as places of the image.
std::vector<image_area> shown_places(const std::string& image) {
  namespace fs = boost::filesystem;
  std::vector<image_area> places;
  for (const auto& device : loops_on(image)) {
    const fs::path sys = "/sys/block/" + device.substr(device.rfind('/') + 1);
    const auto offset = number_at(sys / "loop/offset");
    places.push_back({offset, number_at(sys / "size") * sector_size, "", device});
    boost::system::error_code failed;
    for (fs::directory_iterator at(sys, failed), end; !failed && at != end; at.increment(failed))
      if (fs::exists(at->path() / "partition", failed))
        places.push_back({offset + number_at(at->path() / "start") * sector_size,
                          number_at(at->path() / "size") * sector_size, "",
                          "/dev/" + at->path().filename().string()});
  }
  return places;
}

dev_t device_number(const std::string& path) {
  struct stat st {};
  return ::stat(path.c_str(), &st) == 0 && S_ISBLK(st.st_mode) ? st.st_rdev : 0;
}

/// What the kernel says of the last call on `context`: "ext4: ...", else the error's number in words.
std::string kernel_words(int context) {
  const int number = errno;
  std::string words;
  char line[512];
  for (ssize_t got = 0; (got = ::read(context, line, sizeof line)) > 0;) {
    std::string text(line, static_cast<std::size_t>(got));
    if (text.size() > 2 && text[0] == 'e') // of errors; others are warnings
      words += (words.empty() ? "" : "; ") + text.substr(2);
  }
  return words.empty() ? std::strerror(number) : words + " (" + std::strerror(number) + ")";
}

/// The kernel's name of the file system of this type as libblkid has it.
std::string kernel_type(const std::string& type) {
  return type == "ext2" || type == "ext3" ? "ext4" : type;
}

} // namespace

result<std::vector<image_area>> areas_of_image(const std::string& image) {
  const unique_fd file(::open(image.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat st {};
  if (!file || ::fstat(file.get(), &st) != 0)
    return image_failed(image, std::string("cannot be opened: ") + std::strerror(errno));
  std::vector<image_area> areas;
  if (auto type = type_at(file.get(), 0, 0); !type.empty()) {
    areas.push_back({0, static_cast<std::uint64_t>(st.st_size), type, ""});
  } else {
    areas = partitions_of(file.get());
    for (auto& area : areas)
      area.type = type_at(file.get(), area.offset, area.length);
  }
  for (const auto& place : shown_places(image))
    for (auto& area : areas)
      if (area.device.empty() && area.offset == place.offset && area.length <= place.length)
        area.device = place.device;
  return areas;
}

std::string visible_files::path_of(const std::string& relative) const {
  for (const auto& place : places) {
    const std::string root = place.root == "/" ? "" : place.root.substr(1) + "/";
    if (relative.compare(0, root.size(), root) == 0)
      return (place.point == "/" ? "" : place.point) + "/" + relative.substr(root.size());
  }
  return relative;
}

result<visible_files> make_visible(const std::string& image, const image_area& area) {
  visible_files seen;
  std::string device = area.device;
  if (device.empty()) {
    seen.loop = TRY(show_on_loop(image, area.offset, area.length));
    device = seen.loop.device;
  }
  bool read_only = true;
  const dev_t number = device_number(device);
  for (const auto& mount : read_mount_table())
    if (number != 0 && device_number(mount.source) == number) {
      seen.mounted = true;
      read_only = mount.read_only;
      seen.places.push_back({mount.root, mount.point});
    }
  const auto type = kernel_type(area.type);
  const unique_fd context(::fsopen(type.c_str(), FSOPEN_CLOEXEC));
  if (!context)
    return fail("mount-failed", device, "the kernel cannot mount " + type + ": " + std::strerror(errno));
  const auto flag = [&](const char* name) {
    return ::fsconfig(context.get(), FSCONFIG_SET_FLAG, name, nullptr, 0) == 0;
  };
  const auto text = [&](const char* name, const char* value) {
    return ::fsconfig(context.get(), FSCONFIG_SET_STRING, name, value, 0) == 0;
  };
  bool good = text("source", device.c_str()) && (!read_only || flag("ro"));
  if (good && !seen.mounted) { // of one that is mounted, these are settled
    if (type == "ext4")
      good = flag("noload");
    else if (type == "xfs")
      good = flag("norecovery") && flag("nouuid");
    else if (type == "btrfs")
      good = text("rescue", "nologreplay");
  }
  if (good && type == "btrfs")
    good = text("subvolid", "5");
  if (!good || ::fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    return fail("mount-failed", device, "cannot be looked into: " + kernel_words(context.get()));
  const unique_fd mount(::fsmount(context.get(), FSMOUNT_CLOEXEC,
                                  MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOATIME | MOUNT_ATTR_NODEV |
                                      MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC));
  if (mount)
    seen.top.reset(::openat(mount.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!seen.top)
    return fail("mount-failed", device, "cannot be looked into: " + kernel_words(context.get()));
  return seen;
}

} // namespace dmremap::admin
