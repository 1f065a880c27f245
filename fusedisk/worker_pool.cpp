// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/worker_pool.h"

#include "fusedisk/clock.h"

#include <algorithm>
#include <system_error>

namespace dmremap {

worker_pool::worker_pool(limits limit, source_factory make)
    : limit_{std::max(1U, limit.receivers), std::max({2U, limit.threads, limit.receivers + 1}),
             std::max(1U, limit.prespawned)},
      make_(std::move(make)) {
  workers_.reserve(limit_.threads);
  parked_.reserve(limit_.threads);
}

worker_pool::~worker_pool() {
  for (auto& w : workers_)
    if (w->thread.joinable())
      w->thread.join();
}

result<void> worker_pool::start() {
  std::unique_lock lock(mutex_);
  for (unsigned i = 0; i < std::max(limit_.receivers, limit_.prespawned); ++i) {
    const bool receives = i < limit_.receivers;
    if (!spawn(true, receives) && receives)
      return fail("no-threads", "worker threads",
                  "cannot start " + std::to_string(limit_.receivers) +
                      " threads; ask for fewer with -o workers=");
    in_place_ += receives ? 1 : 0;
  }
  ended_changed_.wait(lock, [&] { return made_ == workers_.size(); });
  if (in_place_ == 0)
    return fail("no-memory", "worker threads", "there is no memory for the buffers of a single one");
  return {};
}

/// Under mutex_. A thread that is not summoned parks at once.
bool worker_pool::spawn(bool ahead, bool summoned) {
  const std::size_t index = workers_.size();
  if (index >= limit_.threads || ended_)
    return false;
  auto w = std::make_unique<worker>();
  w->ahead = ahead;
  w->summoned = summoned;
  try { // std::thread has no form that returns an error
    w->thread = std::thread([this, &w = *w] { run(w); });
  } catch (const std::system_error&) {
    spawn_failed_ = true;
    return false;
  }
  ++live_;
  workers_.push_back(std::move(w));
  spawned_.store(index + 1, std::memory_order_release);
  return true;
}

void worker_pool::run(worker& w) {
  place here(*this, w);
  std::unique_ptr<request_source> source = make_(here, w.ahead);
  bool goes_on = false;
  {
    std::unique_lock lock(mutex_);
    const bool placed = w.summoned;
    w.summoned = false;
    ++made_;
    ended_changed_.notify_all();
    if (!source) {
      in_place_ -= placed ? 1 : 0;
      spawn_failed_ = true;
    } else {
      goes_on = !ended_ && (placed || park(w, lock));
    }
  }
  while (goes_on) {
    if (!source->receive()) {
      end();
      break;
    }
    std::uint64_t mine = tick_.load(std::memory_order_relaxed) * 2 + 1;
    w.word.store(mine, std::memory_order_relaxed);
    source->process();
    if (!w.word.compare_exchange_strong(mine, idle)) [[unlikely]]
      goes_on = come_back(w, *source);
  }
  source.reset();
  const std::lock_guard lock(mutex_);
  --live_;
  ended_changed_.notify_all();
}

void worker_pool::leave(worker& w) {
  std::uint64_t seen = w.word.load(std::memory_order_relaxed);
  if (seen != idle && seen != away_mark)
    mark_away(w, seen);
}

/// Takes `w` out of its place where it still is busy with what `seen` says, and puts another one there.
void worker_pool::mark_away(worker& w, std::uint64_t& seen) {
  w.away_since_ns.store(boottime_ns(), std::memory_order_relaxed);
  // The mutex first: come_back() must find the numbers that belong to the mark.
  const std::lock_guard lock(mutex_);
  if (!w.word.compare_exchange_strong(seen, away_mark))
    return;
  --in_place_;
  away_.fetch_add(1, std::memory_order_relaxed);
  fill_places();
}

/// Under mutex_. Where no thread can be had, the places stay empty until one comes back.
void worker_pool::fill_places() {
  while (in_place_ < limit_.receivers && !ended_) {
    if (!parked_.empty()) {
      worker* w = parked_.back();
      parked_.pop_back();
      w->summoned = true;
      w->called.notify_one();
    } else if (spawn_failed_ || !spawn(false, true)) {
      return;
    }
    ++in_place_;
  }
}

/// True: the worker has a place again. False: all has ended.
bool worker_pool::come_back(worker& w, request_source& source) {
  std::unique_lock lock(mutex_);
  away_.fetch_sub(1, std::memory_order_relaxed);
  w.word.store(idle, std::memory_order_relaxed);
  spawn_failed_ = false; // what failed for want of memory may work again
  const auto place_free = [&] { return in_place_ < limit_.receivers; };
  if (!ended_ && !place_free() && !w.ahead) {
    lock.unlock();
    source.rest();
    lock.lock();
  }
  if (ended_)
    return false;
  if (place_free()) {
    ++in_place_;
    return true;
  }
  return park(w, lock);
}

bool worker_pool::park(worker& w, std::unique_lock<std::mutex>& lock) {
  parked_.push_back(&w);
  w.called.wait(lock, [&] { return w.summoned || ended_; });
  w.summoned = false;
  return !ended_;
}

void worker_pool::tick() {
  const std::uint64_t tick = tick_.fetch_add(1, std::memory_order_relaxed) + 1;
  const std::size_t count = spawned_.load(std::memory_order_acquire);
  for (std::size_t i = 0; i < count; ++i) {
    worker& w = *workers_[i];
    std::uint64_t seen = w.word.load(std::memory_order_relaxed);
    if (seen != idle && seen != away_mark && tick - seen / 2 > 2)
      mark_away(w, seen);
  }
}

void worker_pool::end() {
  const std::lock_guard lock(mutex_);
  ended_ = true;
  for (worker* w : parked_)
    w->called.notify_one();
  ended_changed_.notify_all();
}

void worker_pool::wait() {
  std::unique_lock lock(mutex_);
  ended_changed_.wait(lock, [&] { return live_ == 0; });
  lock.unlock();
  for (auto& w : workers_) // no thread is left that could add one
    if (w->thread.joinable())
      w->thread.join();
}

worker_pool::load worker_pool::now() const {
  load out;
  {
    const std::lock_guard lock(mutex_);
    out.threads = live_;
    out.in_place = in_place_;
    out.parked = static_cast<unsigned>(parked_.size());
  }
  out.away = away_.load(std::memory_order_relaxed);
  const std::uint64_t now_ns = boottime_ns();
  const std::size_t count = spawned_.load(std::memory_order_acquire);
  for (std::size_t i = 0; i < count; ++i) {
    const worker& w = *workers_[i];
    if (w.word.load(std::memory_order_relaxed) != away_mark)
      continue;
    const std::uint64_t since = w.away_since_ns.load(std::memory_order_relaxed);
    out.oldest_ns = std::max(out.oldest_ns, now_ns > since ? now_ns - since : 0);
  }
  return out;
}

} // namespace dmremap
