// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/supervisor.h"

#include "fusedisk/clock.h"
#include "fusedisk/events.h"
#include "fusedisk/replies.h"

#include <ctime>
#include <unistd.h>

namespace dmremap {
namespace {

constexpr std::uint64_t ms = 1'000'000;
constexpr std::uint64_t heartbeat_ns = 100 * ms;
/// A worker is taken to hang after two to three ticks. While some do, the drive is known to be slow, and the
/// next one is to hold up those behind it for less.
constexpr std::uint64_t calm_tick_ns = 5 * ms, busy_tick_ns = 1 * ms;

void sleep_ns(std::uint64_t ns) {
  const timespec t{static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
  clock_nanosleep(CLOCK_MONOTONIC, 0, &t, nullptr);
}

} // namespace

supervisor::supervisor(worker_pool& workers, live_target& target, stats_segment& segment, event_log& log)
    : workers_(workers), target_(target), segment_(segment), log_(log), logged_(target.stats()) {
  publish();
  thread_ = std::thread([this] { run(); });
}

supervisor::~supervisor() {
  stop_.store(true);
  thread_.join();
}

void supervisor::run() {
  std::uint64_t next_heartbeat = 0;
  while (!stop_.load(std::memory_order_relaxed)) {
    sleep_ns(workers_.any_away() ? busy_tick_ns : calm_tick_ns);
    workers_.tick();
    if (const std::uint64_t now = boottime_ns(); now >= next_heartbeat) {
      publish();
      next_heartbeat = now + heartbeat_ns;
    }
  }
}

void supervisor::publish() {
  const disk_info info = target_.known_info();
  const auto load = workers_.now();
  stats_snapshot s;
  s.stats = target_.stats();
  for (auto& event : compare_stats(logged_, s.stats, info.main_path))
    log_.write(event.level, std::move(event.text));
  logged_ = s.stats;
  s.heartbeat_ns = boottime_ns();
  s.pid = static_cast<std::uint64_t>(getpid());
  s.name = info.set_name;
  s.uuid = info.set_uuid;
  s.read_only = info.read_only;
  s.requests_away = load.away;
  s.oldest_request_ns = load.oldest_ns;
  s.dm_line = dm_line(s.stats, info);
  segment_.publish(s);
}

} // namespace dmremap
