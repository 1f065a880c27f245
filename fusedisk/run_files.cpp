// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/run_files.h"

#include "engine/paths.h"
#include "engine/run_lock.h"

#include <cstdio>
#include <fstream>
#include <sys/stat.h>
#include <unistd.h>

namespace dmremap {
namespace {

void remove_known_files(const std::string& path) {
  for (const char* name : {"/control", "/stats", "/info.json", "/info.json.new", "/pid"})
    ::unlink((path + name).c_str());
}

} // namespace

result<std::unique_ptr<run_files>> run_files::claim(const std::string& set_name) {
  CHECK_OK(make_run_folder(run_dir(), 0755));
  CHECK_OK(make_run_folder(run_dir() + "/.sets", 0755));
  const std::string path = set_run_dir(set_name);
  for (int attempt = 0;; ++attempt) {
    CHECK_OK(make_run_folder(path, 0700));
    auto fd = lock_pid_file(path, set_name);
    if (!fd && fd.error().id == "run-dir" && attempt < 10)
      continue; // the one who was there removed the folder just now
    if (!fd)
      return tl::make_unexpected(std::move(fd).error());
    // Who took it over from a dead daemon clears what that one left; the lock file stays.
    for (const char* name : {"/control", "/stats", "/info.json", "/info.json.new"})
      ::unlink((path + name).c_str());
    ::chmod(path.c_str(), 0700);
    const std::string pid = std::to_string(getpid()) + "\n";
    if (::ftruncate(fd->get(), 0) != 0 ||
        ::pwrite(fd->get(), pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size()))
      return run_dir_failure(path + "/pid");
    return std::unique_ptr<run_files>(new run_files(path, std::move(*fd)));
  }
}

run_files::~run_files() {
  remove_known_files(path_);
  ::rmdir(path_.c_str());
}

std::string run_files::path() const {
  const std::lock_guard lock(mutex_);
  return path_;
}

result<void> run_files::write_info(const std::function<std::string()>& make) const {
  const std::lock_guard lock(mutex_);
  const std::string target = path_ + "/info.json", fresh = target + ".new";
  {
    std::ofstream out(fresh);
    out << make() << '\n' << std::flush;
    if (!out)
      return run_dir_failure(fresh);
  }
  if (::rename(fresh.c_str(), target.c_str()) != 0)
    return run_dir_failure(target);
  return {};
}

result<void> run_files::rename(const std::string& new_name) {
  const std::lock_guard lock(mutex_);
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
    return run_dir_failure(target);
  path_ = target;
  return {};
}

} // namespace dmremap
