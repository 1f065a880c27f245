// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/input_file.h"

#include "engine/unique_fd.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

namespace dmremap {
namespace {

tl::unexpected<read_failure> cannot(int number) {
  return tl::unexpected<read_failure>(
      read_failure{number == EISDIR, std::string("cannot be read: ") + std::strerror(number)});
}

/// Empty where it can be read to an end.
std::string kind_of(int file, const struct stat& facts) {
  struct statfs system {};
  if (S_ISREG(facts.st_mode))
    return "";
  if (S_ISFIFO(facts.st_mode))
    return ::fstatfs(file, &system) == 0 && system.f_type == PIPEFS_MAGIC ? "" : "a named pipe";
  return S_ISDIR(facts.st_mode) ? "a folder" : S_ISBLK(facts.st_mode) ? "a block device" : "a device";
}

tl::expected<std::string, read_failure> read_to_end(int file) {
  std::string text;
  std::array<char, 65536> piece;
  for (;;) {
    const auto got = ::read(file, piece.data(), piece.size());
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0)
      return cannot(errno);
    if (got == 0)
      return text;
    text.append(piece.data(), static_cast<std::size_t>(got));
  }
}

} // namespace

tl::expected<std::string, read_failure> read_input_file(const std::string& path) {
  if (path == "-")
    return read_to_end(STDIN_FILENO);
  const unique_fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  struct stat facts {};
  if (!file || ::fstat(file.get(), &facts) != 0)
    return cannot(errno);
  if (const auto kind = kind_of(file.get(), facts); !kind.empty())
    return tl::unexpected<read_failure>(read_failure{true, "is " + kind + "; name a file"});
  if (::fcntl(file.get(), F_SETFL, 0) != 0) // the pipe of another process may be empty for a while
    return cannot(errno);
  return read_to_end(file.get());
}

} // namespace dmremap
