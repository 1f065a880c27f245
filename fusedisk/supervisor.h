// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/disk.h"
#include "engine/stats_segment.h"
#include "fusedisk/live_target.h"
#include "fusedisk/log.h"
#include "fusedisk/worker_pool.h"

#include <atomic>
#include <thread>

namespace dmremap {

/// The thread that must never wait for a drive: it ticks the worker pool, publishes the live statistics every
/// 100 ms, and logs what the counters say.
class supervisor {
public:
  supervisor(worker_pool& workers, live_target& target, stats_segment& segment, event_log& log);
  ~supervisor();
  supervisor(const supervisor&) = delete;
  supervisor& operator=(const supervisor&) = delete;

private:
  void run();
  void publish();

  worker_pool& workers_;
  live_target& target_;
  stats_segment& segment_;
  event_log& log_;
  disk_stats logged_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

} // namespace dmremap
