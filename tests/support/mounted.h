// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>
#include <sys/mount.h>
#include <sys/stat.h>

namespace dmremap::test {

/// A file system that is mounted while this lives. Needs root; throws where it cannot be mounted.
class mounted_fs {
public:
  /// `source`: a device, or any word for a tmpfs. Makes the folder `at`.
  mounted_fs(const std::string& type, const std::string& source, const std::string& at,
             const std::string& options = "")
      : point_(at) {
    ::mkdir(at.c_str(), 0700);
    if (::mount(source.c_str(), at.c_str(), type.c_str(), 0, options.c_str()) != 0)
      throw std::runtime_error("mount " + type + " on " + at + ": " + std::strerror(errno));
  }
  ~mounted_fs() { ::umount2(point_.c_str(), MNT_DETACH); }
  mounted_fs(const mounted_fs&) = delete;
  mounted_fs& operator=(const mounted_fs&) = delete;
  [[nodiscard]] std::string operator/(const std::string& name) const { return point_ + "/" + name; }

private:
  std::string point_;
};

} // namespace dmremap::test
