// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace dmremap {

enum class log_level : int { error = 0, warn = 1, info = 2, debug = 3 };

[[nodiscard]] std::string_view name_of(log_level level);
/// Errors: "bad-option" (usage): not one of error, warn, info, debug, nor 0 to 3.
[[nodiscard]] result<log_level> parse_log_level(const std::string& text);

/// The daemon's log. A line is queued and written by a thread of its own: where the reader of the log is
/// itself waiting for this disk, nobody here waits for it. Lines beyond the queue or the rate are counted and
/// the count is logged. Thread-safe.
class event_log {
public:
  using sink = std::function<void(log_level, const std::string&)>;

  explicit event_log(log_level level) : level_(level) {}
  ~event_log(); ///< writes what is queued

  /// Starts the writer; before that lines only queue. Once.
  void start(sink out);

  [[nodiscard]] log_level level() const { return level_.load(std::memory_order_relaxed); }
  void set_level(log_level level) { level_.store(level, std::memory_order_relaxed); }
  [[nodiscard]] bool wants(log_level level) const { return level <= this->level(); }

  /// One line, without its end. Never waits for the sink.
  void write(log_level level, std::string line) { put(level, std::move(line), 0); }
  /// A line of the kind that every request may bring: it leaves room for those that come once, so that what
  /// explains a flood is not lost in it.
  void write_often(log_level level, std::string line) { put(level, std::move(line), reserved_lines); }
  void error(std::string line) { write(log_level::error, std::move(line)); }
  void warn(std::string line) { write(log_level::warn, std::move(line)); }
  void info(std::string line) { write(log_level::info, std::move(line)); }
  void debug(std::string line) { write(log_level::debug, std::move(line)); }

  static constexpr std::size_t queue_lines = 256;
  static constexpr unsigned lines_per_second = 50, burst = 200;
  static constexpr unsigned reserved_lines = 50; ///< of the queue and of the burst: for lines that come once

private:
  struct entry {
    log_level level;
    std::string text;
  };
  void put(log_level level, std::string line, unsigned leave);
  [[nodiscard]] bool may_pass(std::uint64_t now_ns, unsigned leave);
  void run(const sink& out);

  std::atomic<log_level> level_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<entry> queue_;
  std::uint64_t dropped_ = 0;
  double tokens_ = burst;
  std::uint64_t filled_ns_ = 0;
  bool stop_ = false;
  std::thread writer_;
};

/// To standard error, as "fusedisk: <line>".
[[nodiscard]] event_log::sink stderr_sink();
/// To syslog(3), facility daemon.
[[nodiscard]] event_log::sink syslog_sink();

} // namespace dmremap
