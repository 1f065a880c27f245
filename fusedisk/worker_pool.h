// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace dmremap {

/// What one worker thread does: takes requests from a queue that it shares with its peers. Knows nothing of
/// FUSE, so that the pool can be tested without. Used by one thread at a time.
class request_source {
public:
  virtual ~request_source() = default;
  request_source() = default;
  request_source(const request_source&) = delete;
  request_source& operator=(const request_source&) = delete;

  /// Blocks until a request is there; false: the queue has ended, for every worker.
  [[nodiscard]] virtual bool receive() = 0;
  /// Answers the request that receive() took. May block for as long as a dying drive pleases.
  virtual void process() = 0;
  /// No request is in hand, and none will be for a while: gives back memory that the next can take anew.
  virtual void rest() {}
};

/// Threads that receive and process, so that slow requests never occupy the ones that receive.
///
/// `receivers` threads are in place: they receive, or process something quick. One whose request leaves the
/// fast path (leave()), or takes longer than two ticks, is away: a parked or a new thread stands in at once.
/// When it comes back and its place is taken, it parks; beyond the prespawned ones it rests first, so that a
/// time of many slow requests leaves no memory taken. Thread-safe.
class worker_pool {
  struct worker;

public:
  struct limits {
    unsigned receivers = 4;
    unsigned threads = 268;  ///< all, away ones included
    unsigned prespawned = 8; ///< threads started (and their buffers touched) by start()
  };

  /// What a request_source is given to say that the request in its hands leaves the fast path.
  class place {
  public:
    /// Call from the worker's own thread, while processing. Idempotent within a request. Takes a mutex that
    /// is never held across I/O.
    void leave() { pool_.leave(worker_); }

  private:
    friend class worker_pool;
    place(worker_pool& pool, worker& w) : pool_(pool), worker_(w) {}
    worker_pool& pool_;
    worker& worker_;
  };

  /// Called in the new thread; `ahead`: the thread is one of the prespawned. Nothing: the thread ends, and
  /// the pool does with fewer.
  using source_factory = std::function<std::unique_ptr<request_source>(place&, bool ahead)>;

  worker_pool(limits limit, source_factory make);
  /// wait() must have returned, or start() not been called.
  ~worker_pool();

  /// Starts the prespawned threads (at least `receivers`); they have their buffers on return. Errors:
  /// "no-threads", "no-memory". After an error the queue must be ended, and wait() called, all the same.
  [[nodiscard]] result<void> start();
  /// To be called every few milliseconds by one thread: puts others in the places of those that take too
  /// long.
  void tick();
  /// Returns when the queue has ended and every thread with it, also those that were away.
  void wait();

  struct load {
    unsigned threads = 0, in_place = 0, away = 0, parked = 0;
    std::uint64_t oldest_ns = 0; ///< how long the request that has been away longest is away
  };
  [[nodiscard]] load now() const;
  [[nodiscard]] bool any_away() const { return away_.load(std::memory_order_relaxed) != 0; }

private:
  /// worker::word: idle, away, or busy since a tick (2 * tick + 1).
  static constexpr std::uint64_t idle = 0, away_mark = ~std::uint64_t{0};

  struct worker {
    std::atomic<std::uint64_t> word{idle};
    std::atomic<std::uint64_t> away_since_ns{0};
    std::condition_variable called;
    bool summoned = false; ///< under mutex_: leave the parking place
    bool ahead = false;
    std::thread thread;
  };

  void run(worker& w);
  void leave(worker& w);
  void mark_away(worker& w, std::uint64_t& seen);
  bool come_back(worker& w, request_source& source);
  bool park(worker& w, std::unique_lock<std::mutex>& lock);
  void fill_places();
  bool spawn(bool ahead, bool summoned);
  void end();

  const limits limit_;
  const source_factory make_;
  std::atomic<std::uint64_t> tick_{1};
  std::atomic<unsigned> away_{0};

  mutable std::mutex mutex_;
  std::condition_variable ended_changed_;
  bool ended_ = false;
  bool spawn_failed_ = false;
  unsigned in_place_ = 0;
  std::size_t made_ = 0;        ///< threads whose source is made, or could not be
  unsigned live_ = 0;           ///< threads that have not left run()
  std::vector<worker*> parked_; ///< the last one in is the first one out: its buffers are still in the cache
  std::vector<std::unique_ptr<worker>> workers_; ///< capacity reserved: never moves
  std::atomic<std::size_t> spawned_{0};          ///< workers_[0 .. spawned_) may be read without the mutex
};

} // namespace dmremap
