// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/live_status.h"

#include "admin/figures.h"
#include "engine/loop_control.h"
#include "engine/stats_fields.h"
#include "engine/stats_segment.h"

#include <ctime>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace dmremap::admin {
namespace {

using nlohmann::json;

constexpr std::chrono::milliseconds answer_limit{500};

/// Counts the time that the machine sleeps, too, as the daemon's heartbeat does.
std::uint64_t boottime_now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000U + static_cast<std::uint64_t>(now.tv_nsec);
}

double seconds_since(std::uint64_t boottime_ns) {
  const auto now_ns = boottime_now_ns();
  return now_ns > boottime_ns ? static_cast<double>(now_ns - boottime_ns) * 1e-9 : 0;
}

std::string local_time_before(double seconds) {
  const std::time_t then = std::time(nullptr) - static_cast<std::time_t>(seconds);
  std::tm fields{};
  char text[32] = "";
  if (::localtime_r(&then, &fields) != nullptr)
    static_cast<void>(std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &fields));
  return text;
}

std::string notice_for(bool beats, double age) {
  if (beats)
    return fmt::format(
        "the daemon is at work but does not answer in time: it waits for a device; figures {:.1f} s old",
        age);
  return fmt::format(
      "the daemon does not answer since {} (figures {:.1f} s old): it is stopped, or waits for a drive",
      local_time_before(age), age);
}

/// Nobody is served by a daemon that hangs, whatever it said last.
std::string unhealthy(std::string dm_line) {
  const std::string good = " health=1 ";
  if (const auto at = dm_line.find(good); at != std::string::npos)
    dm_line[at + good.size() - 2] = '0';
  return dm_line;
}

json stand_in(const running_set& set, const stats_snapshot& last, std::uint64_t asked_ns) {
  const double age = seconds_since(last.heartbeat_ns);
  // A heartbeat comes every 100 ms: where one came since the question, the daemon lives, and only this answer
  // waits for something.
  const bool beats = last.heartbeat_ns > asked_ns;
  return {{"schema", 1},
          {"name", last.name},
          {"uuid", last.uuid},
          {"running", true},
          {"answers", false},
          {"hangs", !beats},
          {"age_seconds", age},
          {"state", beats ? last.stats.state : "does not answer (was: " + last.stats.state + ")"},
          {"main", {{"path", set.main}}},
          {"mountpoint", set.mountpoint},
          {"image", set.image},
          {"loop", loops_on(set.image)},
          {"pid", last.pid},
          {"read_only", last.read_only},
          {"auto_remap", last.stats.auto_remap},
          {"requests_away", last.requests_away},
          {"oldest_request_seconds", static_cast<double>(last.oldest_request_ns) * 1e-9},
          {"stats", stats_json(last.stats)},
          {"spares", set.spares},
          {"notices", {notice_for(beats, age)}},
          {"dm", beats ? last.dm_line : unhealthy(last.dm_line)}};
}

} // namespace

result<json> live_status(const running_set& set) {
  const auto asked_ns = boottime_now_ns();
  auto reply = control_request(set.dir, "status", {}, answer_limit);
  if (reply)
    return part_of(*reply, "result");
  if (reply.error().id != "no-answer") {
    if (reply.error().what == set.dir)
      reply.error().what = set.name;
    return reply;
  }
  const auto last = read_stats_segment(set.dir + "/stats");
  if (!last)
    return fail(
        "no-answer", set.name,
        fmt::format("the daemon (process {}) does not answer, and its last figures cannot be read: {}",
                    set.pid, last.error().why));
  return stand_in(set, *last, asked_ns);
}

} // namespace dmremap::admin
