// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/disk.h"
#include "engine/error.h"
#include "fusedisk/log.h"
#include "fusedisk/mount.h"
#include "fusedisk/worker_pool.h"

#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace dmremap {

/// What the mount serves and how.
struct fuse_settings {
  mount_place place;
  bool read_only = false;
  bool allow_other = false;
  /// The content of a file under ctl/; may take as long as a drive does.
  std::function<std::string(std::string_view name)> ctl_text;
};

/// The FUSE session over one disk: protocol, mount and callbacks. Hides libfuse.
class fuse_server {
public:
  /// Mounts; nothing is answered before workers of make_source() run. `d` and `log` must outlive the server.
  /// Errors: "mount-failed", "no-permission".
  [[nodiscard]] static result<std::unique_ptr<fuse_server>> mount(disk& d, fuse_settings settings,
                                                                  event_log& log);
  /// The session must have ended (its mount been taken away), or no worker ever run: then this unmounts.
  virtual ~fuse_server() = default;
  fuse_server(const fuse_server&) = delete;
  fuse_server& operator=(const fuse_server&) = delete;

  /// A worker's side, for worker_pool; null without memory. `ahead`: its buffer is touched now, not at its
  /// first use.
  [[nodiscard]] virtual std::unique_ptr<request_source> make_source(worker_pool::place& place,
                                                                    bool ahead) = 0;
  /// Blocks until the kernel has said hello, that is until the mount serves; false: it did not within ten
  /// seconds.
  [[nodiscard]] virtual bool wait_until_ready() = 0;
  /// "major:minor" of the mount.
  [[nodiscard]] virtual const std::string& device() const = 0;

  /// Requests of loop and others that the kernel keeps under way at once, at most.
  static constexpr unsigned max_background = 256;
  static constexpr std::size_t max_transfer = std::size_t{1} << 20U;

protected:
  fuse_server() = default;
};

} // namespace dmremap
