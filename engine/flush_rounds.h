// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"

#include <condition_variable>
#include <memory>
#include <mutex>

namespace dmremap {

/// Flushes of one descriptor, one at a time: the kernel reports a lost write to one of them only, so another
/// may call nothing durable before that one has counted its failure. All that come while one runs share the
/// next, which covers what was written before any of them: nobody waits for more than two. Thread-safe.
class flush_rounds {
public:
  /// `flush` counts its failure before it returns. Returns what a round said that began after the call.
  template <class Flush>
  [[nodiscard]] io_result run(Flush&& flush) {
    std::unique_lock lock(mutex_);
    const std::shared_ptr<round> mine = next_;
    changed_.wait(lock, [&] { return mine->over || !running_; });
    if (mine->over)
      return mine->outcome;
    next_ = std::make_shared<round>(); // who comes from now on
    running_ = true;
    lock.unlock();
    const io_result outcome = flush();
    lock.lock();
    running_ = false;
    mine->outcome = outcome;
    mine->over = true;
    changed_.notify_all();
    return outcome;
  }

private:
  struct round {
    bool over = false;
    io_result outcome;
  };
  std::mutex mutex_;
  std::condition_variable changed_;
  bool running_ = false;
  std::shared_ptr<round> next_ = std::make_shared<round>();
};

} // namespace dmremap
