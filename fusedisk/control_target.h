// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/disk.h"
#include "engine/error.h"
#include "fusedisk/log.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace dmremap {

class dust_control; // engine/dust_store.h

/// What is known about the daemon without asking any drive.
struct daemon_facts {
  std::string mountpoint, image;
  std::uint64_t pid = 0;
  std::uint64_t requests_away = 0; ///< requests that left the fast path and are not answered yet
  std::uint64_t oldest_request_ns = 0;
};

/// What disk::info() last said, and how long ago that was.
struct dated_info {
  disk_info info;
  double age_seconds = 0;
};

/// A running set as messages and commands see it; a test puts a fake here. Thread-safe.
class control_target {
public:
  virtual ~control_target() = default;
  control_target() = default;
  control_target(const control_target&) = delete;
  control_target& operator=(const control_target&) = delete;

  // These never wait for a drive.
  [[nodiscard]] virtual disk_stats stats() const = 0;
  [[nodiscard]] virtual daemon_facts facts() const = 0;
  /// Asks the disk, but waits no longer than `limit`: then what it said last (at the latest when it was
  /// opened).
  [[nodiscard]] virtual dated_info info(std::chrono::milliseconds limit) = 0;
  virtual void for_each_remap(const std::function<void(const remap_entry&)>& visit) const = 0;
  [[nodiscard]] virtual std::vector<lost_range> lost() const = 0;
  [[nodiscard]] virtual unsigned read_retries() const = 0;
  [[nodiscard]] virtual log_level logging() const = 0;
  virtual void set_auto_remap(bool on) = 0;
  virtual void set_read_retries(unsigned n) = 0;
  virtual void set_logging(log_level level) = 0;
  virtual void clear_stats() = 0;
  virtual void reset_breaker() = 0;

  // These may take as long as a drive does.
  [[nodiscard]] virtual std::vector<std::string> loops() const = 0;
  [[nodiscard]] virtual result<remap_reply> remap(sector_number sector) = 0;
  [[nodiscard]] virtual result<void> unmap(sector_number sector) = 0;
  [[nodiscard]] virtual result<remap_reply> add_remap(sector_number dest, std::optional<sector_number> source,
                                                      std::uint64_t sectors, unsigned spare_index) = 0;
  [[nodiscard]] virtual result<salvage_reply> salvage(std::optional<sector_number> sector) = 0;
  [[nodiscard]] virtual result<void> sync() = 0;
  [[nodiscard]] virtual result<void> save() = 0;
  [[nodiscard]] virtual result<void> rename(const std::string& new_name) = 0;
  /// The dust member called "main", "spare0" or by its path. Errors: "no-such-store", "not-dust".
  [[nodiscard]] virtual result<dust_control*> dust(const std::string& store) = 0;
  /// Takes the mount away; the daemon then ends. Errors: "image-in-use", "unmount-failed".
  [[nodiscard]] virtual result<void> stop() = 0;
};

} // namespace dmremap
