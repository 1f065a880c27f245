// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/supervisor.h"

#include "fusedisk/clock.h"
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

std::vector<noticed_event> compare_stats(const disk_stats& a, const disk_stats& b,
                                         const std::string& main_path) {
  std::vector<noticed_event> out;
  const auto more = [&](std::uint64_t before, std::uint64_t after, log_level level, const std::string& text) {
    if (after > before)
      out.push_back({level, std::to_string(after - before) + " " + text});
  };
  more(a.main_read_errors, b.main_read_errors, log_level::warn, "failed reads of main " + main_path);
  more(a.main_write_errors, b.main_write_errors, log_level::warn, "failed writes of main " + main_path);
  more(a.spare_read_errors, b.spare_read_errors, log_level::error, "failed reads of a spare");
  more(a.spare_write_errors, b.spare_write_errors, log_level::error, "failed writes of a spare");
  more(a.flush_errors, b.flush_errors, log_level::error, "failed flushes: what was written last may be lost");
  more(a.auto_remaps, b.auto_remaps, log_level::warn,
       "units of main " + main_path + " moved to a spare after errors");
  more(a.lost_sectors, b.lost_sectors, log_level::error,
       "more sectors lost: they answer EIO until written or salvaged");
  more(b.lost_sectors, a.lost_sectors, log_level::info, "fewer sectors lost");
  if (b.breaker_open && !a.breaker_open)
    out.push_back({log_level::error, "too many errors at once: automatic remapping has stopped; "
                                     "reset_breaker goes on"});
  if (b.main_gone != a.main_gone)
    out.push_back(
        {log_level::error, "main " + main_path + (b.main_gone ? " does not answer" : " answers again")});
  return out;
}

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
