// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/mount.h"

#include "fusedisk/mount_table.h"

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;

namespace dmremap {
namespace {

constexpr const char* our_type = "fuse.fusedisk";

std::string absolute(const std::string& path) {
  if (!path.empty() && path.front() == '/')
    return path;
  char buffer[PATH_MAX];
  return std::string(getcwd(buffer, sizeof buffer) != nullptr ? buffer : "") + "/" + path;
}

/// fusermount3 -u: what a user who is not root has. Returns an errno.
int unmount_as_user(const std::string& path) {
  std::string program = "fusermount3", flag = "-u", separator = "--", target = path;
  char* argv[] = {program.data(), flag.data(), separator.data(), target.data(), nullptr};
  pid_t pid = 0;
  if (const int failed = posix_spawnp(&pid, program.c_str(), nullptr, nullptr, argv, environ); failed != 0)
    return failed;
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : EBUSY;
}

int try_unmount(const std::string& path) {
  if (geteuid() != 0)
    return unmount_as_user(path);
  return umount2(path.c_str(), UMOUNT_NOFOLLOW) == 0 ? 0 : errno;
}

/// A daemon that was killed leaves a mount that answers ENOTCONN.
result<void> clear_dead_mount(const std::string& path) {
  const auto table = read_mount_table();
  const auto* entry = topmost_at(table, path);
  const std::string next = "a mount whose server is gone lies there; ";
  if (entry == nullptr || entry->type != our_type)
    return fail("stale-mount", path, next + "take it away with umount first");
  const int failed = try_unmount(path);
  if (failed == 0)
    return {};
  return fail("stale-mount", path,
              next + "it cannot be taken away (" + std::strerror(failed) +
                  "): detach what still stands on its image (losetup -a), then umount it");
}

/// 0, or why nothing can be mounted there. stat() alone does not see that a mount's server is gone, because
/// the kernel keeps the attributes; statfs() asks.
int look_at(const std::string& path, struct stat& st) {
  struct statfs fs {};
  return ::stat(path.c_str(), &st) == 0 && ::statfs(path.c_str(), &fs) == 0 ? 0 : errno;
}

} // namespace

result<mount_place> find_mount_place(const std::string& path) {
  mount_place place;
  place.path = absolute(path);
  struct stat st {};
  int failed = look_at(place.path, st);
  if (failed == ENOTCONN) {
    while (place.path.size() > 1 && place.path.back() == '/')
      place.path.pop_back();
    CHECK_OK(clear_dead_mount(place.path));
    failed = look_at(place.path, st);
  }
  if (failed == ENOENT || failed == ENOTDIR)
    return fail("mountpoint-not-found", path, "no such file or folder; make it first");
  if (failed == EACCES)
    return fail("no-permission", path, "no permission to look at the mount point");
  if (failed != 0)
    return fail("bad-mountpoint", path, std::strerror(failed));
  char buffer[PATH_MAX];
  if (::realpath(place.path.c_str(), buffer) != nullptr)
    place.path = buffer;
  place.file = S_ISREG(st.st_mode);
  if (!place.file && !S_ISDIR(st.st_mode))
    return fail("bad-mountpoint", path, "it is neither a folder nor a regular file");
  place.image = place.file ? place.path : place.path + "/disk.img";
  const auto table = read_mount_table();
  if (const auto* entry = topmost_at(table, place.path); entry != nullptr && entry->type == our_type)
    return fail("already-mounted", path,
                "another fusedisk serves there; umount it first or choose another place");
  return place;
}

result<void> check_fuse_device() {
  const int fd = ::open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (fd >= 0) {
    ::close(fd);
    return {};
  }
  if (errno == EACCES || errno == EPERM)
    return fail("no-permission", "/dev/fuse", "no permission to use FUSE; run as root");
  return fail("no-fuse", "/dev/fuse",
              std::string("this system offers no FUSE (") + std::strerror(errno) + "); try: modprobe fuse");
}

std::string mounted_device(const mount_place& place) {
  const auto table = read_mount_table();
  const auto* entry = topmost_at(table, place.path);
  return entry != nullptr && entry->type == our_type ? entry->device : std::string{};
}

result<void> unmount(const mount_place& place, const std::string& device) {
  const auto table = read_mount_table();
  const auto* top = topmost_at(table, place.path);
  bool ours_is_there = false;
  for (const auto& entry : table)
    ours_is_there = ours_is_there || (entry.point == place.path && entry.device == device);
  if (!ours_is_there)
    return {};
  if (top->device != device)
    return fail("image-in-use", place.path, "another file system is mounted over it; umount that first");
  const int failed = try_unmount(place.path);
  if (failed == 0)
    return {};
  if (failed != EBUSY)
    return fail("unmount-failed", place.path, std::strerror(failed));
  std::string users;
  for (const auto& user : users_of(place, device))
    users += (users.empty() ? "" : ", ") + user;
  return fail("image-in-use", place.path,
              "still in use by " + (users.empty() ? "somebody that cannot be named from here" : users));
}

} // namespace dmremap
