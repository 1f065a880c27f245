// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/storage.h"

#include "engine/device_identity.h"
#include "engine/units.h"

#include <cerrno>
#include <fstream>
#include <sys/stat.h>

namespace dmremap {
namespace {

std::uint64_t loop_offset(dev_t loop) {
  std::ifstream file("/sys/dev/block/" + dev_text(loop) + "/loop/offset");
  std::uint64_t bytes = 0;
  file >> bytes;
  return bytes;
}

} // namespace

storage at_bottom(storage top) {
  for (unsigned depth = 0; top.block && depth < 8; ++depth) {
    const auto backing = find_loop_backing(top.device);
    if (!backing || (backing->block == 0 && backing->inode == 0)) // not bound, or not to be told
      break;
    const std::uint64_t offset = loop_offset(top.device) + top.bytes.start;
    const std::uint64_t length = top.bytes.end - top.bytes.start;
    if (backing->block == 0) {
      top = {false, backing->device, backing->inode, {offset, offset + length}, backing->path};
    } else {
      const auto extent = extent_of(backing->block);
      top = {true, extent.disk, 0, {extent.start + offset, extent.start + offset + length}, ""};
    }
  }
  return top;
}

result<storage> find_place(const member_spec& spec) {
  struct stat st {};
  if (::stat(spec.path.c_str(), &st) != 0) {
    if (errno == EACCES)
      return fail("no-permission", spec.path, "may not be reached by this user; run it as root");
    return fail("not-found", spec.path,
                "there is no such file or device; check the path (lsblk lists block devices)");
  }
  if (!S_ISBLK(st.st_mode) && !S_ISREG(st.st_mode))
    return fail("not-a-device", spec.path,
                S_ISDIR(st.st_mode) ? "is a folder; name a block device or a regular file"
                                    : "is neither a block device nor a regular file");
  storage found;
  std::uint64_t length = 0;
  if (S_ISBLK(st.st_mode)) {
    const auto extent = extent_of(st.st_rdev);
    found = {true, extent.disk, 0, {extent.start, extent.start}, ""};
    length = extent.length;
  } else {
    found = {false, st.st_dev, st.st_ino, {}, ""};
    length = static_cast<std::uint64_t>(st.st_size);
  }
  if (spec.start) {
    found.bytes.start += *spec.start * sector_bytes;
    length = *spec.length * sector_bytes;
  }
  found.bytes.end = found.bytes.start + length;
  return found;
}

result<storage> find_storage(const member_spec& spec) {
  return at_bottom(TRY(find_place(spec)));
}

std::optional<storage> storage_of(const member_spec& spec) {
  const auto found = find_storage(spec);
  return found ? std::optional(*found) : std::nullopt;
}

} // namespace dmremap
