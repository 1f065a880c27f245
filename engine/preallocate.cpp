// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/preallocate.h"

#include "engine/units.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

namespace dmremap {
namespace {

constexpr std::uint64_t mib = 1024 * 1024;
constexpr const char* way_out =
    "; or give --sparse: then a write to it may fail when its file system is full";

int allocate(int fd, int mode, std::uint64_t start, std::uint64_t length) {
  int done = 0;
  do
    done = ::fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(start), static_cast<off_t>(length));
  while (done != 0 && errno == EINTR);
  return done;
}

tl::unexpected<error> cannot(const member_spec& spare, int why) {
  return fail("cannot-preallocate", spare.text(),
              std::string("its file system cannot set its space aside (") + std::strerror(why) + ")" +
                  way_out);
}

tl::unexpected<error> host_full(const member_spec& spare, int fd, std::uint64_t bytes) {
  std::string free;
  struct statvfs host {};
  if (::fstatvfs(fd, &host) == 0)
    free = ", which has " + std::to_string(std::uint64_t{host.f_bavail} * host.f_frsize / mib) + " MiB free";
  return fail("spare-host-full", spare.text(),
              "there is no room for all of its " + std::to_string(bytes / mib) +
                  " MiB on the file system that it lies on" + free + ": make room" + way_out);
}

} // namespace

result<preallocation> preallocation::take(const member_spec& spare) {
  preallocation room;
  room.fd_ = unique_fd(::open(spare.path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
  struct stat facts {};
  if (!room.fd_ || ::fstat(room.fd_.get(), &facts) != 0)
    return fail("not-found", spare.text(), std::string("cannot be opened: ") + std::strerror(errno));
  if (!S_ISREG(facts.st_mode))
    return room;
  const auto size = static_cast<std::uint64_t>(facts.st_size);
  const std::uint64_t start = spare.start.value_or(0) * sector_bytes;
  const std::uint64_t end = spare.length ? std::min(size, start + *spare.length * sector_bytes) : size;
  CHECK_OK(room.find_holes(spare, start, end));
  // Hole by hole: a file without any is complete, also where the file system knows no allocation ahead.
  for (const hole& h : room.holes_)
    if (allocate(room.fd_.get(), 0, h.start, h.length) != 0) {
      const int why = errno;
      room.give_back(); // before the free space is told
      return why == ENOSPC || why == EDQUOT ? host_full(spare, room.fd_.get(), end - start)
                                            : cannot(spare, why);
    }
  if (room.holes_.empty())
    return room;
  if (::fsync(room.fd_.get()) != 0)
    return cannot(spare, errno);
  struct stat now {};
  if (::fstat(room.fd_.get(), &now) == 0 && now.st_blocks == facts.st_blocks)
    room.keep(); // it had all of it before: somebody else set it aside
  return room;
}

/// Space set aside earlier counts as a hole here; it is then taken again, which changes nothing.
result<void> preallocation::find_holes(const member_spec& spare, std::uint64_t start, std::uint64_t end) {
  for (std::uint64_t at = start; at < end;) {
    const off_t hole_at = ::lseek(fd_.get(), static_cast<off_t>(at), SEEK_HOLE);
    if (hole_at < 0)
      return cannot(spare, errno);
    const auto first = static_cast<std::uint64_t>(hole_at);
    if (first >= end)
      break;
    const off_t data_at = ::lseek(fd_.get(), hole_at, SEEK_DATA);
    if (data_at < 0 && errno != ENXIO) // ENXIO: no data behind it
      return cannot(spare, errno);
    at = data_at < 0 ? end : std::min(end, static_cast<std::uint64_t>(data_at));
    holes_.push_back({first, at - first});
  }
  return {};
}

void preallocation::give_back() {
  for (const hole& h : holes_)
    (void)allocate(fd_.get(), FALLOC_FL_PUNCH_HOLE, h.start,
                   h.length); // best effort: it holds zeros, or no room
  holes_.clear();
}

} // namespace dmremap
