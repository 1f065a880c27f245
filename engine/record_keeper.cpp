// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/record_keeper.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

namespace dmremap {

struct record_keeper::shared {
  explicit shared(hook t) : tell(std::move(t)) {}
  const hook tell;
  std::mutex mutex;
  std::condition_variable changed;
  std::uint64_t wanted = 0, kept = 0;
  bool started = false, stop = false, late = false;
};

record_keeper::record_keeper(hook tell) : state_(std::make_shared<shared>(std::move(tell))) {}

record_keeper::~record_keeper() {
  const std::lock_guard lock(state_->mutex);
  state_->stop = true;
  state_->changed.notify_all();
}

bool record_keeper::keep(std::uint64_t sequence_end, std::chrono::milliseconds at_most) {
  shared& s = *state_;
  std::unique_lock lock(s.mutex);
  if (!s.started) {
    try {
      std::thread(run, state_).detach();
    } catch (const std::system_error&) {
      s.late = true; // no thread to be had: the next record tries again
      return false;
    }
    s.started = true;
  }
  s.wanted = std::max(s.wanted, sequence_end);
  s.changed.notify_all();
  if (!s.late)
    s.late = !s.changed.wait_for(lock, at_most, [&] { return s.kept >= sequence_end; });
  return !s.late;
}

bool record_keeper::late() const {
  const std::lock_guard lock(state_->mutex);
  return state_->late;
}

void record_keeper::run(const std::shared_ptr<shared>& state) {
  shared& s = *state;
  std::unique_lock lock(s.mutex);
  for (;;) {
    s.changed.wait(lock, [&] { return s.stop || s.wanted > s.kept; });
    if (s.wanted <= s.kept)
      return;
    const std::uint64_t now = s.wanted;
    lock.unlock();
    s.tell(now);
    lock.lock();
    s.kept = now;
    s.late = s.late && s.wanted > s.kept;
    s.changed.notify_all();
  }
}

} // namespace dmremap
