// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>

namespace dmremap {

/// Tells a bad place of main from a main that fails to write as a whole (promise 8). It opens where more
/// units than the limit had to go to a spare because main failed to write them
/// - within the window, with fewer writes that main took than failed ones; or
/// - however long it took, with not one write between them that main took.
/// What a spare took says nothing of main and is not counted. Stays open until reset(). Thread-safe.
class write_breaker {
public:
  using time_point = std::chrono::steady_clock::time_point;

  void set_limits(std::uint64_t units, std::chrono::seconds within);
  [[nodiscard]] bool open() const { return open_.load(); }
  /// A write failed in `units` units of main. `taken`: how many writes main has taken so far. True: the
  /// breaker is open, nothing may be spent on them.
  [[nodiscard]] bool trips(std::uint64_t units, std::uint64_t taken, time_point now);
  /// A failed write that trips() counted spent nothing after all, for a reason that is not main's.
  void forget(std::uint64_t units);
  /// Closes it; nothing that was before counts any more.
  void reset();

private:
  struct window {
    time_point start;
    std::uint64_t taken_before = 0, units = 0, failed_writes = 0;
  };
  std::atomic<bool> open_{false};
  std::mutex mutex_;
  std::uint64_t limit_ = 64;
  std::chrono::seconds length_{10};
  std::optional<window> window_;
  std::uint64_t last_taken_ = 0, units_since_ = 0; // since the last write that main took
};

} // namespace dmremap
