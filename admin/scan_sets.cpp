// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/scan_sets.h"

#include "engine/member.h"

#include <algorithm>
#include <boost/filesystem.hpp>
#include <cstdint>
#include <fstream>

namespace dmremap::admin {
namespace {

namespace fs = boost::filesystem;

/// Size in sectors; 0 where it is not known (an unused loop device, an empty drive).
std::uint64_t size_of(const std::string& sys) {
  std::ifstream file(sys + "/size");
  std::uint64_t sectors = 0;
  file >> sectors;
  return sectors;
}

std::vector<std::string> block_devices() {
  std::vector<std::string> devices;
  boost::system::error_code failed;
  for (fs::directory_iterator at("/sys/class/block", failed), end; !failed && at != end;
       at.increment(failed)) {
    auto name = at->path().filename().string();
    std::replace(name.begin(), name.end(), '!', '/'); // "cciss!c0d0"
    if (size_of(at->path().string()) != 0)
      devices.push_back("/dev/" + name);
  }
  std::sort(devices.begin(), devices.end());
  return devices;
}

} // namespace

std::vector<found_set> scan_for_sets(const std::vector<std::string>& skipped) {
  std::vector<found_set> found;
  const auto skips = [&](const std::string& device) {
    return std::any_of(skipped.begin(), skipped.end(), [&](const std::string& whole) {
      return device == whole || device.compare(0, whole.size() + 1, whole + "p") == 0;
    });
  };
  for (const auto& device : block_devices()) {
    if (skips(device))
      continue;
    const auto spec = parse_member(device);
    if (!spec)
      continue;
    const auto opened = open_members({{member_role::spare, *spec}}, access_mode::read_only);
    if (!opened || opened->empty())
      continue;
    for (const auto& one : probe_set_signatures(*opened->front().io))
      if (one.type == "dmremap")
        found.push_back({one.detail, one.set_uuid, device});
  }
  return found;
}

} // namespace dmremap::admin
