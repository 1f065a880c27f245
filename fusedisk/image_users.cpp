// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/mount_table.h"
#include "fusedisk/mount.h"

#include <algorithm>
#include <boost/filesystem.hpp>
#include <cctype>
#include <cstdio>
#include <fcntl.h>
#include <fstream>
#include <linux/loop.h>
#include <set>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

namespace dmremap {
namespace {

namespace fs = boost::filesystem;

std::string first_line(const fs::path& path) {
  std::ifstream in(path.string());
  std::string line;
  std::getline(in, line);
  return line;
}

std::string base_name(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

std::string link_target(const fs::path& link) {
  boost::system::error_code failed;
  return fs::read_symlink(link, failed).string();
}

std::vector<fs::path> entries_of(const fs::path& folder) {
  std::vector<fs::path> out;
  boost::system::error_code failed;
  for (fs::directory_iterator it(folder, failed), end; !failed && it != end; it.increment(failed))
    out.push_back(it->path());
  std::sort(out.begin(), out.end());
  return out;
}

/// What the kernel says the loop device stands on, as "major:minor"; empty: cannot tell.
std::string device_under(const std::string& loop) {
  const int fd = ::open(loop.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0)
    return {};
  loop_info64 info{};
  const bool known = ioctl(fd, LOOP_GET_STATUS64, &info) == 0;
  ::close(fd);
  if (!known)
    return {};
  return std::to_string(major(info.lo_device)) + ":" + std::to_string(minor(info.lo_device));
}

bool lies_in(const std::string& path, const std::string& folder) {
  return path.compare(0, folder.size(), folder) == 0 &&
         (path.size() == folder.size() || path[folder.size()] == '/');
}

/// fdinfo names the mount of an open file without asking its file system, which may hang.
bool has_open_file(const fs::path& process, const std::set<int>& mount_ids) {
  for (const auto& info : entries_of(process / "fdinfo")) {
    std::ifstream in(info.string());
    for (std::string key, value; in >> key >> value;)
      if (key == "mnt_id:" && mount_ids.count(std::atoi(value.c_str())) != 0)
        return true;
  }
  return false;
}

bool uses(const fs::path& process, const std::string& point, const std::set<int>& mount_ids) {
  for (const char* link : {"cwd", "root", "exe"})
    if (const auto target = link_target(process / link); !target.empty() && lies_in(target, point))
      return true;
  return has_open_file(process, mount_ids);
}

} // namespace

std::vector<std::string> loops_standing_on(const mount_place& place, const std::string& device) {
  std::vector<std::string> loops;
  for (const auto& block : entries_of("/sys/block")) {
    // The path is what somebody once called the file; the device number decides.
    const std::string backing = first_line(block / "loop" / "backing_file");
    if (backing.empty() || base_name(backing) != base_name(place.image))
      continue;
    const std::string name = "/dev/" + block.filename().string(), under = device_under(name);
    if (under == device || (under.empty() && backing == place.image))
      loops.push_back(name);
  }
  return loops;
}

std::vector<std::string> users_of(const mount_place& place, const std::string& device) {
  std::vector<std::string> users;
  for (const auto& loop : loops_standing_on(place, device))
    users.push_back("loop device " + loop + " (losetup -d " + loop + ")");
  std::set<int> ids;
  const auto table = read_mount_table();
  for (const auto& entry : table)
    if (entry.device == device)
      ids.insert(entry.id);
  for (const auto& entry : table)
    if (ids.count(entry.parent) != 0)
      users.push_back("the mount on " + entry.point);
  for (const auto& process : entries_of("/proc")) {
    const std::string pid = process.filename().string();
    if (std::isdigit(static_cast<unsigned char>(pid.front())) != 0 && uses(process, place.path, ids))
      users.push_back("process " + pid + " (" + first_line(process / "comm") + ")");
  }
  return users;
}

} // namespace dmremap
