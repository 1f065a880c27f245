// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/run_lock.h"

#include "engine/paths.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <sys/file.h>
#include <sys/stat.h>
#include <thread>

namespace dmremap {
namespace {

std::string pid_in(const std::string& file) {
  std::ifstream in(file);
  std::string pid;
  in >> pid;
  return pid;
}

std::string owner_of(const std::string& pid_file) {
  const auto pid = pid_in(pid_file);
  return pid.empty() ? "another fusedisk" : "fusedisk with process number " + pid;
}

/// 0, or the error number; EWOULDBLOCK: somebody else has it.
int try_lock(int file) {
  return ::flock(file, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
}

} // namespace

tl::unexpected<error> run_dir_failure(const std::string& path) {
  const int why = errno;
  return fail(why == EACCES || why == EPERM || why == EROFS ? "no-permission" : "run-dir", path,
              std::string(std::strerror(why)) + "; DMREMAP_RUN_DIR names another folder");
}

result<void> make_run_folder(const std::string& path, mode_t mode) {
  if (::mkdir(path.c_str(), mode) != 0 && errno != EEXIST)
    return run_dir_failure(path);
  struct stat st {};
  if (::lstat(path.c_str(), &st) != 0)
    return run_dir_failure(path);
  if (!S_ISDIR(st.st_mode) || (st.st_uid != geteuid() && st.st_uid != 0))
    return fail("bad-run-dir", path, "it is not a folder of this user; remove it, or set DMREMAP_RUN_DIR");
  return {};
}

result<unique_fd> lock_pid_file(const std::string& dir, const std::string& set_name) {
  const std::string path = dir + "/pid";
  for (;;) {
    unique_fd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
    if (!file)
      return run_dir_failure(path);
    if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK)
        return run_dir_failure(path);
      if (::flock(file.get(), LOCK_SH | LOCK_NB) == 0) // somebody who only looks: over in a moment
        continue;
      return fail("in-use", set_name, "a set of this name is served by " + owner_of(path));
    }
    // Its place may be taken between open and lock by one who removes it: look again.
    struct stat here {
    }, there{};
    if (::fstat(file.get(), &here) == 0 && ::stat(path.c_str(), &there) == 0 && here.st_ino == there.st_ino &&
        here.st_dev == there.st_dev)
      return file;
  }
}

bool pid_file_locked(const std::string& dir) {
  const unique_fd file(::open((dir + "/pid").c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  return file && ::flock(file.get(), LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

result<unique_fd> lock_set(const std::string& name, const std::string& uuid,
                           const std::function<void(const std::string&)>& note,
                           std::chrono::milliseconds limit) {
  using clock = std::chrono::steady_clock;
  using namespace std::chrono_literals;
  const auto folder = run_dir() + "/.turns";
  CHECK_OK(make_run_folder(run_dir(), 0755));
  CHECK_OK(make_run_folder(folder, 0700));
  auto path = folder + "/";
  std::transform(uuid.begin(), uuid.end(), std::back_inserter(path), [](char c) {
    return c == '/' ? '_' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  });
  unique_fd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600)); // stays there
  if (!file)
    return run_dir_failure(path);
  const auto start = clock::now();
  bool told = false;
  for (int failed = try_lock(file.get()); failed != 0; failed = try_lock(file.get())) {
    if (failed != EWOULDBLOCK && failed != EINTR)
      return run_dir_failure(path);
    const auto who = "another command (process " + pid_in(path) + ") attaches, detaches or renames this set";
    if (clock::now() - start >= limit)
      return fail("in-use", name, who + ", and has not come to its end");
    if (!told && clock::now() - start >= 1s) {
      note(name + ": " + who + "; waiting for it");
      told = true;
    }
    std::this_thread::sleep_for(10ms);
  }
  const auto pid = std::to_string(::getpid()) + "\n"; // for messages only
  if (::ftruncate(file.get(), 0) != 0 ||
      ::pwrite(file.get(), pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size()))
    return run_dir_failure(path);
  return file;
}

} // namespace dmremap
