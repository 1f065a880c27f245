// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/mount.h"

#include "engine/control_client.h"
#include "engine/mount_table.h"

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
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

/// fusermount3 -u, or -uz: what a user who is not root has. Returns an errno.
int unmount_as_user(const std::string& path, bool lazily) {
  std::string program = "fusermount3", flag = lazily ? "-uz" : "-u", separator = "--", target = path;
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
    return unmount_as_user(path, false);
  return umount2(path.c_str(), UMOUNT_NOFOLLOW) == 0 ? 0 : errno;
}

/// A live daemon is asked nothing: it may hang.
bool is_served(const std::string& path) {
  for (const auto& set : list_running_sets())
    if (set.alive && set.mountpoint == path)
      return true;
  return false;
}

/// Whether a daemon that was killed left a mount there: it answers ENOTCONN. (stat may be answered from what
/// the kernel has kept; statfs never is.)
result<bool> has_dead_mount(const std::string& path) {
  const auto table = read_mount_table();
  const auto* entry = topmost_at(table, path);
  if (entry == nullptr || entry->type != our_type)
    return false;
  struct statvfs st {};
  if (is_served(path) || ::statvfs(path.c_str(), &st) == 0 || errno != ENOTCONN)
    return fail("already-mounted", path,
                "another fusedisk serves there; umount it first or choose another place");
  return true;
}

result<void> clear_dead_mount(const std::string& path) {
  if (!TRY(has_dead_mount(path)))
    return {};
  const int failed = try_unmount(path);
  if (failed == 0)
    return {};
  return fail("stale-mount", path,
              std::string("a mount whose server is gone lies there and cannot be taken away (") +
                  std::strerror(failed) +
                  "): detach what still stands on its image (losetup -a), then umount it");
}

/// Without links. A dead mount at its end is no hindrance.
std::string real_path(const std::string& path) {
  char buffer[PATH_MAX];
  std::string whole = absolute(path);
  if (::realpath(whole.c_str(), buffer) != nullptr)
    return buffer;
  while (whole.size() > 1 && whole.back() == '/')
    whole.pop_back();
  return whole;
}

/// `path` as it was given, for the messages.
result<mount_place> judge(mount_place place, const std::string& path) {
  struct stat st {};
  if (::stat(place.path.c_str(), &st) != 0) {
    if (errno == ENOENT || errno == ENOTDIR)
      return fail("mountpoint-not-found", path, "no such file or folder; make it first");
    if (errno == EACCES)
      return fail("no-permission", path, "no permission to look at the mount point");
    if (errno == ENOTCONN)
      return fail("stale-mount", path, "a mount whose server is gone lies there; umount it first");
    return fail("bad-mountpoint", path, std::strerror(errno));
  }
  place.file = S_ISREG(st.st_mode);
  if (!place.file && !S_ISDIR(st.st_mode))
    return fail("bad-mountpoint", path, "it is neither a folder nor a regular file");
  place.image = place.file ? place.path : place.path + "/disk.img";
  return place;
}

} // namespace

result<mount_place> find_mount_place(const std::string& path) {
  mount_place place;
  place.path = real_path(path);
  CHECK_OK(clear_dead_mount(place.path));
  return judge(std::move(place), path);
}

result<mount_place> look_at_mount_place(const std::string& path) {
  mount_place place;
  place.path = real_path(path);
  if (!TRY(has_dead_mount(place.path)))
    return judge(std::move(place), path);
  place.image = place.path + "/disk.img";
  return place;
}

result<void> check_no_member(const mount_place& place, const member_spec& main,
                             const std::vector<member_spec>& spares) {
  std::vector<member_spec> members = spares;
  members.push_back(main);
  struct stat here {
  }, there{};
  for (const auto& member : members)
    if (::stat(place.path.c_str(), &here) == 0 && ::stat(member.path.c_str(), &there) == 0 &&
        here.st_dev == there.st_dev && here.st_ino == there.st_ino)
      return fail("bad-mountpoint", place.path,
                  "is a member of the set, which the image would hide; name a folder, or another file");
  return {};
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

bool take_away(const mount_place& place) {
  if (geteuid() != 0)
    return unmount_as_user(place.path, true) == 0;
  return umount2(place.path.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0;
}

} // namespace dmremap
