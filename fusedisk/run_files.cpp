// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/run_files.h"

#include "engine/paths.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace dmremap {
namespace {

tl::unexpected<error> failed(const std::string& path) {
  const int why = errno;
  return fail(why == EACCES || why == EPERM || why == EROFS ? "no-permission" : "run-dir", path,
              std::string(std::strerror(why)) + "; DMREMAP_RUN_DIR names another folder");
}

/// A folder of ours: nobody else may have made it, since we trust what lies in it.
result<void> make_folder(const std::string& path, mode_t mode) {
  if (::mkdir(path.c_str(), mode) != 0 && errno != EEXIST)
    return failed(path);
  struct stat st {};
  if (::lstat(path.c_str(), &st) != 0)
    return failed(path);
  if (!S_ISDIR(st.st_mode) || (st.st_uid != geteuid() && st.st_uid != 0))
    return fail("bad-run-dir", path, "it is not a folder of this user; remove it, or set DMREMAP_RUN_DIR");
  return {};
}

std::string owner_of(const std::string& pid_file) {
  std::ifstream in(pid_file);
  std::string pid;
  in >> pid;
  return pid.empty() ? "another fusedisk" : "fusedisk with process number " + pid;
}

void remove_known_files(const std::string& path) {
  for (const char* name : {"/control", "/stats", "/info.json", "/info.json.new", "/pid"})
    ::unlink((path + name).c_str());
}

/// The lock lies on the pid file. Its place may be taken between open and lock by one who removes it: look
/// again.
result<int> lock_pid_file(const std::string& path, const std::string& set_name) {
  for (;;) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0)
      return failed(path);
    if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
      const int why = errno;
      ::close(fd);
      if (why == EWOULDBLOCK)
        return fail("in-use", set_name, "a set of this name is served by " + owner_of(path));
      errno = why;
      return failed(path);
    }
    struct stat here {
    }, there{};
    if (::fstat(fd, &here) == 0 && ::stat(path.c_str(), &there) == 0 && here.st_ino == there.st_ino &&
        here.st_dev == there.st_dev)
      return fd;
    ::close(fd);
  }
}

} // namespace

result<std::unique_ptr<run_files>> run_files::claim(const std::string& set_name) {
  CHECK_OK(make_folder(run_dir(), 0755));
  CHECK_OK(make_folder(run_dir() + "/.sets", 0755));
  const std::string path = set_run_dir(set_name);
  for (int attempt = 0;; ++attempt) {
    CHECK_OK(make_folder(path, 0700));
    auto fd = lock_pid_file(path + "/pid", set_name);
    if (!fd && fd.error().id == "run-dir" && attempt < 10)
      continue; // the one who was there removed the folder just now
    if (!fd)
      return tl::make_unexpected(std::move(fd).error());
    // Who took it over from a dead daemon clears what that one left; the lock file stays.
    for (const char* name : {"/control", "/stats", "/info.json", "/info.json.new"})
      ::unlink((path + name).c_str());
    ::chmod(path.c_str(), 0700);
    const std::string pid = std::to_string(getpid()) + "\n";
    if (::ftruncate(*fd, 0) != 0 ||
        ::pwrite(*fd, pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
      auto out = failed(path + "/pid");
      ::close(*fd);
      return out;
    }
    return std::unique_ptr<run_files>(new run_files(path, *fd));
  }
}

run_files::~run_files() {
  remove_known_files(path_);
  ::rmdir(path_.c_str());
  ::close(lock_fd_);
}

result<void> run_files::write_info(const std::string& json) const {
  const std::string target = path_ + "/info.json", fresh = target + ".new";
  {
    std::ofstream out(fresh);
    out << json << '\n' << std::flush;
    if (!out)
      return failed(fresh);
  }
  if (::rename(fresh.c_str(), target.c_str()) != 0)
    return failed(target);
  return {};
}

result<void> run_files::rename(const std::string& new_name) {
  const std::string target = set_run_dir(new_name);
  if (target == path_)
    return {};
  {
    auto claimed = claim(new_name); // clears what a dead daemon left there, and removes it again
    if (!claimed && claimed.error().id == "in-use")
      return fail("name-taken", new_name, claimed.error().why);
    if (!claimed)
      return tl::make_unexpected(std::move(claimed).error());
  }
  if (::rename(path_.c_str(), target.c_str()) != 0)
    return failed(target);
  path_ = target;
  return {};
}

} // namespace dmremap
