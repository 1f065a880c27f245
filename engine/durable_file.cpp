// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/durable_file.h"

#include "engine/unique_fd.h"

#include <boost/filesystem.hpp>
#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <unistd.h>

namespace dmremap {
namespace {

tl::unexpected<write_failure> failed(const std::string& path, const char* action, int number) {
  return tl::unexpected<write_failure>(write_failure{path, action, number});
}

/// 0, or the errno.
int write_whole(int file, const std::string& text) {
  std::size_t done = 0;
  while (done < text.size()) {
    const auto put = ::write(file, text.data() + done, text.size() - done);
    if (put < 0 && errno == EINTR)
      continue;
    if (put < 0)
      return errno;
    done += static_cast<std::size_t>(put);
  }
  return ::fsync(file) != 0 ? errno : 0;
}

/// Errno, or 0.
int put_in_place(const std::string& temporary, const std::string& path, existing_file there) {
  const unsigned flags = there == existing_file::keep ? RENAME_NOREPLACE : 0;
  if (::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, path.c_str(), flags) == 0)
    return 0;
  if (errno != EINVAL || there != existing_file::keep)
    return errno;
  // A file system that cannot do that, such as NFS: the name is taken by a file of ours, which is replaced.
  if (const unique_fd taken(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)); !taken)
    return errno;
  if (::rename(temporary.c_str(), path.c_str()) == 0)
    return 0;
  const int why = errno;
  ::unlink(path.c_str());
  return why;
}

} // namespace

tl::expected<void, write_failure> sync_folder(const std::string& folder) {
  const unique_fd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0)
    return failed(folder, "sync", errno);
  return {};
}

tl::expected<void, write_failure> write_in_folder(const std::string& path, const std::string& text,
                                                  existing_file there) {
  const auto slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  if (::access(folder.c_str(), F_OK) != 0)
    return failed(folder, "write in", errno);
  return write_durably(path, text, there);
}

tl::expected<void, write_failure> write_durably(const std::string& path, const std::string& text,
                                                existing_file there) {
  const auto slash = path.rfind('/');
  // A bare name lies in the folder that we are in.
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash);
  const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  boost::system::error_code no_folder;
  const bool made = slash != std::string::npos && boost::filesystem::create_directories(folder, no_folder);
  if (no_folder)
    return failed(folder, "make the folder", no_folder.value());
  std::string temporary = folder + "/." + name + ".XXXXXX";
  const unique_fd file(::mkostemp(temporary.data(), O_CLOEXEC)); // mode 0600
  if (!file)
    return failed(folder, "write in", errno);
  int why = write_whole(file.get(), text);
  if (why == 0)
    why = put_in_place(temporary, path, there);
  if (why == 0) {
    auto synced = sync_folder(folder);
    for (auto above = boost::filesystem::path(folder).parent_path(); made && synced && !above.empty();
         above = above.parent_path()) // any of them may be new
      synced = sync_folder(above.string());
    return synced;
  }
  ::unlink(temporary.c_str());
  return failed(path, "write", why);
}

} // namespace dmremap
