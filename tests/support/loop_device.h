// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/unique_fd.h"

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <linux/blkpg.h>
#include <linux/loop.h>
#include <stdexcept>
#include <string>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

namespace dmremap::test {

/// A loop device on a file, detached at the end. Needs root; throws where none can be had.
class loop_device {
public:
  struct options {
    std::uint32_t block_size = 512; ///< 512 or 4096
    bool direct = false;
    bool read_only = false;
  };

  loop_device(const std::string& file, const options& how) {
    backing_.reset(::open(file.c_str(), (how.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC));
    unique_fd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    if (!backing_ || !control)
      throw std::runtime_error("no loop control or no file " + file + ": " + std::strerror(errno));
    for (int tries = 0; tries < 64; ++tries) {
      const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
      if (number < 0)
        break;
      path_ = "/dev/loop" + std::to_string(number);
      if (::access(path_.c_str(), F_OK) != 0)
        (void)::mknod(path_.c_str(), S_IFBLK | 0600, makedev(7, static_cast<unsigned>(number)));
      fd_.reset(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
      loop_config config{};
      config.fd = static_cast<std::uint32_t>(backing_.get());
      config.block_size = how.block_size;
      if (how.direct)
        config.info.lo_flags |= LO_FLAGS_DIRECT_IO;
      if (how.read_only)
        config.info.lo_flags |= LO_FLAGS_READ_ONLY;
      if (fd_ && ::ioctl(fd_.get(), LOOP_CONFIGURE, &config) == 0) {
        backing_.reset();
        fd_.reset(::open(path_.c_str(), O_RDONLY | O_CLOEXEC)); // no writer of our own stays open
        return;
      }
      if (errno != EBUSY) // somebody else was quicker: another number
        break;
    }
    throw std::runtime_error("no loop device for " + file + ": " + std::strerror(errno));
  }
  ~loop_device() {
    for (; partitions_ > 0; --partitions_)
      (void)partition(BLKPG_DEL_PARTITION, partitions_, 0, 0);
    if (!fd_)
      return;
    const std::string before = backing_file();
    (void)::ioctl(fd_.get(), LOOP_CLR_FD);
    fd_.reset();
    // It goes when the last one closes it: whoever goes through all devices has it open for a moment.
    for (int tries = 0; tries < 500 && !before.empty() && backing_file() == before; ++tries)
      ::usleep(10'000);
  }
  loop_device(const loop_device&) = delete;
  loop_device& operator=(const loop_device&) = delete;

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string backing_file() const {
    std::ifstream file("/sys/block" + path_.substr(4) + "/loop/backing_file");
    std::string line;
    std::getline(file, line);
    return line;
  }
  /// Tells the kernel of the next partition, in sectors, and returns its path: works on kernels that read no
  /// partition tables themselves, too.
  [[nodiscard]] std::string add_partition(std::uint64_t start, std::uint64_t length) {
    if (!partition(BLKPG_ADD_PARTITION, partitions_ + 1, start, length))
      throw std::runtime_error("no partition on " + path_ + ": " + std::strerror(errno));
    return path_ + "p" + std::to_string(++partitions_);
  }
  /// Takes over a new size of the file below.
  [[nodiscard]] bool set_capacity() const { return ::ioctl(fd_.get(), LOOP_SET_CAPACITY) == 0; }
  /// From now on the device takes whole blocks of that size alone.
  [[nodiscard]] bool set_block_size(unsigned long bytes) const {
    return ::ioctl(fd_.get(), LOOP_SET_BLOCK_SIZE, bytes) == 0;
  }
  /// "loop3"
  [[nodiscard]] std::string name() const { return path_.substr(5); }

private:
  bool partition(int what, int number, std::uint64_t start, std::uint64_t length) const {
    blkpg_partition p{};
    p.start = static_cast<long long>(start * 512);
    p.length = static_cast<long long>(length * 512);
    p.pno = number;
    blkpg_ioctl_arg request{};
    request.op = what;
    request.datalen = sizeof p;
    request.data = &p;
    return ::ioctl(fd_.get(), BLKPG, &request) == 0;
  }

  unique_fd backing_, fd_;
  int partitions_ = 0;
  std::string path_;
};

} // namespace dmremap::test
