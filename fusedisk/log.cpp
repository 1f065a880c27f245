// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/log.h"

#include "fusedisk/clock.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <syslog.h>
#include <unistd.h>

namespace dmremap {
namespace {
constexpr std::array<std::string_view, 4> level_names = {"error", "warn", "info", "debug"};
}

std::string_view name_of(log_level level) {
  return level_names[static_cast<std::size_t>(level)];
}

result<log_level> parse_log_level(const std::string& text) {
  for (std::size_t i = 0; i < level_names.size(); ++i)
    if (text == level_names[i] || text == std::to_string(i))
      return static_cast<log_level>(i);
  return fail("bad-option", "log_level=" + text, "it is one of error, warn, info and debug",
              exit_code::usage);
}

event_log::~event_log() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (writer_.joinable())
    writer_.join();
}

void event_log::start(sink out) {
  writer_ = std::thread([this, out = std::move(out)] { run(out); });
}

/// Under mutex_. A token bucket, of which `leave` lines are not for this one.
bool event_log::may_pass(std::uint64_t now_ns, unsigned leave) {
  if (filled_ns_ != 0)
    tokens_ =
        std::min<double>(burst, tokens_ + static_cast<double>(now_ns - filled_ns_) * 1e-9 * lines_per_second);
  filled_ns_ = now_ns;
  if (tokens_ < 1 + leave || queue_.size() + leave >= queue_lines)
    return false;
  tokens_ -= 1;
  return true;
}

void event_log::put(log_level level, std::string line, unsigned leave) {
  if (!wants(level))
    return;
  {
    const std::lock_guard lock(mutex_);
    if (!may_pass(boottime_ns(), leave)) {
      ++dropped_;
      return;
    }
    if (dropped_ != 0) {
      queue_.push_back(
          {log_level::warn, std::to_string(dropped_) + " lines of the log left out: too many at once"});
      dropped_ = 0;
    }
    queue_.push_back({level, std::move(line)});
  }
  changed_.notify_one();
}

void event_log::run(const sink& out) {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stop_ || !queue_.empty(); });
    if (queue_.empty())
      return;
    const entry next = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    out(next.level, next.text);
    lock.lock();
  }
}

event_log::sink stderr_sink() {
  return [](log_level level, const std::string& line) {
    const std::string text = "fusedisk: " + std::string(name_of(level)) + ": " + line + "\n";
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, text.data(), text.size());
  };
}

event_log::sink syslog_sink() {
  openlog("fusedisk", LOG_PID | LOG_NDELAY, LOG_DAEMON);
  return [](log_level level, const std::string& line) {
    static constexpr std::array priorities = {LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG};
    syslog(priorities[static_cast<std::size_t>(level)], "%s", line.c_str());
  };
}

} // namespace dmremap
