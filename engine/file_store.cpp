// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/file_store.h"

#include "engine/device_identity.h"
#include "engine/units.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

namespace dmremap {
namespace {

constexpr std::size_t bounce_bytes = std::size_t{1} << 20;

struct free_memory {
  void operator()(std::byte* p) const { std::free(p); }
};
using aligned_buffer = std::unique_ptr<std::byte, free_memory>;

aligned_buffer allocate_aligned(std::size_t bytes) {
  return aligned_buffer(static_cast<std::byte*>(std::aligned_alloc(4096, align_up(bytes, 4096))));
}

std::string reason(int value) {
  return std::strerror(value);
}

tl::unexpected<error> open_error(const std::string& path, int value, bool read_only) {
  switch (value) {
  case ENOENT:
  case ENOTDIR:
  case ELOOP:
    return fail("not-found", path,
                "there is no such file or device; check the path (lsblk lists block devices)");
  case EACCES:
  case EPERM:
    return fail(
        "no-permission", path,
        read_only ? "may not be read by this user; run as root or change its permissions"
                  : "may not be written by this user, or is read-only; run as root, change its permissions, "
                    "or open the set read-only");
  case EROFS:
    return fail("no-permission", path,
                "lies on a read-only file system; remount that, or open the set read-only");
  case EBUSY:
    return fail("in-use", path, "is in use by something else (see lsblk and fuser); release it first");
  case ENXIO:
  case ENODEV:
  case ENOMEDIUM:
    return fail("open-failed", path,
                "no drive answers behind this device (" + reason(value) + "); check that it is plugged in");
  default:
    return fail("open-failed", path, "cannot be opened: " + reason(value));
  }
}

/// O_DIRECT where it is accepted. Sets `direct`.
int open_direct(const char* path, int flags, bool& direct) {
  direct = true;
  int fd = ::open(path, flags | O_DIRECT);
  if (fd < 0 && errno == EINVAL) {
    direct = false;
    fd = ::open(path, flags);
  }
  return fd;
}

} // namespace

result<std::shared_ptr<file_store>> file_store::open(const std::string& path, const options& how) {
  struct stat before {};
  if (::stat(path.c_str(), &before) != 0)
    return open_error(path, errno, how.read_only);
  // Looked at before the open: opening a FIFO would block, opening some character devices has effects.
  if (!S_ISBLK(before.st_mode) && !S_ISREG(before.st_mode))
    return fail("not-a-device", path,
                S_ISDIR(before.st_mode) ? "is a folder; name a block device or a regular file"
                                        : "is neither a block device nor a regular file");
  const bool block = S_ISBLK(before.st_mode);
  const int flags =
      O_CLOEXEC | O_NOCTTY | (how.read_only ? O_RDONLY : O_RDWR) | (block && how.exclusive ? O_EXCL : 0);
  std::shared_ptr<file_store> self(new file_store);
  self->fd_ = unique_fd(open_direct(path.c_str(), flags, self->identity_.direct));
  if (!self->fd_)
    return open_error(path, errno, how.read_only);
  struct stat after {};
  if (::fstat(self->fd_.get(), &after) != 0 || after.st_dev != before.st_dev ||
      after.st_ino != before.st_ino || after.st_rdev != before.st_rdev)
    return fail("open-failed", path, "was replaced while it was being opened; try again");
  self->read_only_ = how.read_only;
  self->identity_.path = path;
  self->identity_.block_device = block;
  CHECK_OK(self->measure());
  if (block)
    fill_device_identity(after.st_rdev, self->identity_);
  return self;
}

result<void> file_store::measure() {
  if (identity_.block_device) {
    std::uint64_t bytes = 0;
    int sector = 0;
    if (::ioctl(fd_.get(), BLKGETSIZE64, &bytes) != 0 || ::ioctl(fd_.get(), BLKSSZGET, &sector) != 0)
      return fail("open-failed", identity_.path, "does not tell its size: " + reason(errno));
    int write_protected = 0;
    if (!read_only_ && ::ioctl(fd_.get(), BLKROGET, &write_protected) == 0 && write_protected != 0)
      return open_error(identity_.path, EACCES, false); // newer kernels let the open pass and fail the writes
    if (sector != 512 && sector != 4096)
      return fail("block-size-unsupported", identity_.path,
                  "has sectors of " + std::to_string(sector) + " bytes; 512 and 4096 are supported");
    block_size_ = static_cast<std::uint32_t>(sector);
    size_ = bytes;
#ifdef STATX_DIOALIGN
    struct statx facts {};
    if (::statx(fd_.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &facts) == 0 &&
        (facts.stx_mask & STATX_DIOALIGN) != 0 && std::has_single_bit(facts.stx_dio_mem_align))
      memory_alignment_ = facts.stx_dio_mem_align;
#endif
  } else {
    CHECK_OK(measure_file());
  }
  size_ = align_down(size_, block_size_);
  if (size_ == 0)
    return fail("empty-member", identity_.path,
                "has no size; give it one (truncate -s SIZE) or check the drive");
  return {};
}

/// Size and alignment of a regular file. Falls back to buffered I/O where the file system accepts O_DIRECT at
/// the open and refuses it afterwards.
result<void> file_store::measure_file() {
  struct stat st {};
  if (::fstat(fd_.get(), &st) != 0)
    return fail("open-failed", identity_.path, "does not tell its size: " + reason(errno));
  size_ = static_cast<std::uint64_t>(st.st_size);
  bool known = false;
#ifdef STATX_DIOALIGN
  struct statx facts {};
  if (identity_.direct && ::statx(fd_.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &facts) == 0 &&
      (facts.stx_mask & STATX_DIOALIGN) != 0) {
    known = true;
    // Zero says that direct I/O is not possible on this file; more than a unit cannot be used here.
    identity_.direct = std::has_single_bit(facts.stx_dio_mem_align) && facts.stx_dio_mem_align <= 4096 &&
                       std::has_single_bit(facts.stx_dio_offset_align) && facts.stx_dio_offset_align <= 4096;
    if (identity_.direct) {
      memory_alignment_ = facts.stx_dio_mem_align;
      block_size_ = std::max(512u, facts.stx_dio_offset_align) > 512 ? 4096 : 512;
    }
  }
#endif
  if (identity_.direct && !known && size_ >= 512) {
    // No word about alignment: ask with a read.
    const auto probe = allocate_aligned(4096);
    if (!probe)
      return fail("open-failed", identity_.path, "out of memory");
    if (::pread(fd_.get(), probe.get(), 512, 0) < 0 && errno == EINVAL) {
      block_size_ = 4096;
      identity_.direct = !(::pread(fd_.get(), probe.get(), 4096, 0) < 0 && errno == EINVAL);
    }
  }
  if (!identity_.direct) {
    block_size_ = 512;
    memory_alignment_ = 1;
    const int flags = ::fcntl(fd_.get(), F_GETFL);
    if (flags < 0 || ::fcntl(fd_.get(), F_SETFL, flags & ~O_DIRECT) != 0)
      return fail("open-failed", identity_.path, "cannot leave direct I/O: " + reason(errno));
  }
  return {};
}

io_result file_store::check(std::size_t length, std::uint64_t offset) const {
  // Block sizes are powers of two.
  if (((length | offset) & (block_size_ - 1)) != 0 || offset > size_ || length > size_ - offset) [[unlikely]]
    return io_fail(io_error::invalid);
  return {};
}

bool file_store::usable_as_is(const void* memory) const {
  return (reinterpret_cast<std::uintptr_t>(memory) & (memory_alignment_ - 1)) == 0;
}

io_result file_store::read_whole(std::byte* to, std::size_t length, std::uint64_t offset) const {
  std::size_t done = 0;
  while (done < length) {
    const ssize_t n = ::pread(fd_.get(), to + done, length - done, static_cast<off_t>(offset + done));
    if (n < 0) {
      if (errno == EINTR)
        continue;
      return io_fail(classify_errno(errno));
    }
    if (n ==
        0) // within the size that it had: the drive was pulled out or the file cut off; nothing is made up
      return io_fail(io_error::gone);
    // A short transfer may end inside a block, where direct I/O cannot go on.
    const std::size_t next = align_down(done + static_cast<std::size_t>(n), block_size_);
    if (next == done)
      return io_fail(io_error::gone);
    done = next;
  }
  return {};
}

/// ENOSPC from a block device is also what writing behind the end of a device without size (pulled out)
/// gives.
io_error file_store::classify_write(int value, std::uint64_t end) const {
  std::uint64_t now = 0;
  if (value == ENOSPC && identity_.block_device && ::ioctl(fd_.get(), BLKGETSIZE64, &now) == 0 && now < end)
    return io_error::gone;
  return classify_errno(value);
}

io_result file_store::write_whole(const std::byte* from, std::size_t length, std::uint64_t offset) const {
  std::size_t done = 0;
  while (done < length) {
    const ssize_t n = ::pwrite(fd_.get(), from + done, length - done, static_cast<off_t>(offset + done));
    if (n < 0) {
      if (errno == EINTR)
        continue;
      return io_fail(classify_write(errno, offset + length));
    }
    const std::size_t next = align_down(done + static_cast<std::size_t>(n), block_size_);
    if (next == done) // less than a block went: a full host or a size limit, no word about the medium
      return io_fail(io_error::no_space);
    done = next;
  }
  return {};
}

io_result file_store::read(std::span<std::byte> buffer, std::uint64_t offset) {
  CHECK_OK(check(buffer.size(), offset));
  if (usable_as_is(buffer.data())) [[likely]]
    return read_whole(buffer.data(), buffer.size(), offset);
  const auto bounce = allocate_aligned(std::min(buffer.size(), bounce_bytes));
  if (!bounce)
    return io_fail(io_error::transient);
  for (std::size_t done = 0; done < buffer.size();) {
    const std::size_t piece = std::min(buffer.size() - done, bounce_bytes);
    CHECK_OK(read_whole(bounce.get(), piece, offset + done));
    std::memcpy(buffer.data() + done, bounce.get(), piece);
    done += piece;
  }
  return {};
}

io_result file_store::write(std::span<const std::byte> buffer, std::uint64_t offset) {
  if (read_only_)
    return io_fail(io_error::read_only);
  CHECK_OK(check(buffer.size(), offset));
  if (usable_as_is(buffer.data())) [[likely]]
    return write_whole(buffer.data(), buffer.size(), offset);
  const auto bounce = allocate_aligned(std::min(buffer.size(), bounce_bytes));
  if (!bounce)
    return io_fail(io_error::transient);
  for (std::size_t done = 0; done < buffer.size();) {
    const std::size_t piece = std::min(buffer.size() - done, bounce_bytes);
    std::memcpy(bounce.get(), buffer.data() + done, piece);
    CHECK_OK(write_whole(bounce.get(), piece, offset + done));
    done += piece;
  }
  return {};
}

io_result file_store::flush() {
  if (read_only_)
    return {};
  // Not repeated on an error: the kernel reports a lost write once and forgets it.
  return flushes_.run([this]() -> io_result {
    if (::fdatasync(fd_.get()) == 0)
      return {};
    const int why = errno;
    ++failed_flushes_;
    return io_fail(classify_errno(why));
  });
}

io_result file_store::zero(std::uint64_t offset, std::uint64_t length) {
  if (read_only_)
    return io_fail(io_error::read_only);
  CHECK_OK(check(length, offset));
  if (length == 0)
    return {};
  // On a file: a hole, which reads as zeros. On a block device: blkdev_issue_zeroout() without fallback, that
  // is, zeros made by the device or EOPNOTSUPP at the first command. FALLOC_FL_ZERO_RANGE would fall back to
  // writing zeros from here: fstrim would then wear the drive; the caller's own writes are no slower.
  // BLKDISCARD promises no zeros.
  while (::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                     static_cast<off_t>(length)) != 0) {
    if (errno == EINVAL) // of the two kinds of holes, or of a file system's own: it cannot
      return io_fail(io_error::unsupported);
    if (errno != EINTR)
      return io_fail(classify_write(errno, offset + length));
  }
  return {};
}

} // namespace dmremap
