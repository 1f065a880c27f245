// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/write_breaker.h"

#include <algorithm>

namespace dmremap {

void write_breaker::set_limits(std::uint64_t units, std::chrono::seconds within) {
  const std::lock_guard lock(mutex_);
  limit_ = units;
  length_ = within;
}

bool write_breaker::trips(std::uint64_t units, std::uint64_t taken, time_point now) {
  const std::lock_guard lock(mutex_);
  if (!window_ || now - window_->start > length_)
    window_ = window{now, taken, 0, 0};
  window_->units += units;
  ++window_->failed_writes;
  if (taken > last_taken_) {
    last_taken_ = taken;
    units_since_ = 0;
  }
  units_since_ += units;
  // A thread that was overtaken on its way here brings an older number.
  const std::uint64_t good = taken - std::min(taken, window_->taken_before);
  if (units_since_ > limit_ || (window_->units > limit_ && good < window_->failed_writes))
    open_ = true;
  return open_;
}

void write_breaker::forget(std::uint64_t units) {
  const std::lock_guard lock(mutex_);
  units_since_ -= std::min(units_since_, units);
  if (!window_ || units == 0)
    return;
  window_->units -= std::min(window_->units, units);
  window_->failed_writes -= std::min<std::uint64_t>(window_->failed_writes, 1);
}

void write_breaker::reset() {
  const std::lock_guard lock(mutex_);
  window_.reset();
  units_since_ = 0;
  open_ = false;
}

} // namespace dmremap
