// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/disk.h"
#include "engine/error.h"

#include <cstdint>
#include <memory>
#include <string>

namespace dmremap {

/// What a daemon says of itself at one instant. Texts longer than the segment has room for are cut.
struct stats_snapshot {
  std::uint64_t heartbeat_ns =
      0; ///< CLOCK_BOOTTIME when this was written: its age tells whether the daemon answers
  std::uint64_t pid = 0;
  std::string name, uuid;
  disk_stats stats; ///< `state` included
  bool read_only = false;
  std::uint64_t requests_away = 0;     ///< requests that left the fast path and are not answered yet
  std::uint64_t oldest_request_ns = 0; ///< for how long the oldest of them
  std::string dm_line;                 ///< the line of `status --format dm`
};

/// The writer's side: a file that others map read-only. One thread publishes.
class stats_segment {
public:
  /// Makes the file (mode 0600), replacing one that is there. Errors: "stats-segment".
  [[nodiscard]] static result<std::unique_ptr<stats_segment>> create(const std::string& path);
  virtual ~stats_segment() = default;
  stats_segment(const stats_segment&) = delete;
  stats_segment& operator=(const stats_segment&) = delete;

  /// Waits for nobody and allocates nothing. A writer that dies or is stopped in here leaves the last
  /// snapshot readable.
  virtual void publish(const stats_snapshot& snapshot) noexcept = 0;

protected:
  stats_segment() = default;
};

/// The newest whole snapshot. Never waits for the writer. Errors: "not-running" (no such file), "bad-stats"
/// (not a segment of this version, or nothing published yet), "stats-segment".
[[nodiscard]] result<stats_snapshot> read_stats_segment(const std::string& path);

} // namespace dmremap
