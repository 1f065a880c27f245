// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/units.h"

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

namespace dmremap {

/// A run of main units, at least one and at most max_count, packed into one word so that it is published at
/// once.
struct unit_range {
  static constexpr std::uint64_t max_count = 0xFFFF;
  std::uint64_t first = 0;
  std::uint64_t count = 0;

  [[nodiscard]] constexpr std::uint64_t packed() const { return first << 16 | count; }
  [[nodiscard]] static constexpr unit_range unpack(std::uint64_t word) { return {word >> 16, word & 0xFFFF}; }
  [[nodiscard]] constexpr bool overlaps(unit_range o) const {
    return count != 0 && o.count != 0 && first < o.first + o.count && o.first < first + count;
  }
};

/// The points of the protocol at which a test may pause a thread, in the order in which a thread passes them.
enum class gate_step {
  worker_published,
  worker_checked,
  worker_left,
  mover_marked,
  mover_drained,
  mover_published_map,
  mover_thawed
};

/// Production: no pauses, no swaps; everything folds away.
struct no_gate_steps {
  static constexpr bool publish_before_check = true;
  static constexpr bool mark_before_scan = true;
  static constexpr bool map_before_thaw = true;
  void at(gate_step) const noexcept {}
};

/// Who may touch which units. Fast path: a worker publishes its range, then looks for freeze marks, and
/// withdraws if one overlaps. A mover sets a mark, then waits for the published ranges that overlap it, and
/// only for those. All of it is sequentially consistent: either the worker sees the mark or the mover sees
/// the range (Dekker's argument). The worker looks at the marks below marks_high_ only, and that is part of
/// the argument: a mover raises it above its mark before it scans, and it is lowered, under the mutex, to no
/// less than the highest mark that is set. So a worker whose range the mover did not see reads a value that
/// lets it find the mark. Thread-safe. A worker's slot belongs to one thread at a time. A thread holds one
/// freeze at a time and publishes no range while it holds or waits for one, so nobody waits in a circle. One
/// thread of all may hold several, taken in ascending order and fewer than max_marks by far: who holds what
/// it waits for waits for none itself.
template <class Steps = no_gate_steps>
class range_gate {
public:
  static constexpr unsigned max_workers = 1024;
  /// One for each worker, for all of them may be at a bad place at once while others go on, and some for
  /// movers that are no workers.
  static constexpr unsigned max_marks = max_workers + 64;

  struct alignas(64) worker_slot {
    std::atomic<std::uint64_t> range{0};
    std::atomic<bool> taken{false};
  };

  explicit range_gate(Steps steps = {})
      : steps_(steps), workers_(std::make_unique<worker_slot[]>(max_workers)) {}

  /// nullptr when more than max_workers are at work.
  [[nodiscard]] worker_slot* acquire_slot() {
    for (unsigned i = 0; i < max_workers; ++i) {
      bool expected = false;
      if (workers_[i].taken.compare_exchange_strong(expected, true)) {
        unsigned high = high_water_.load();
        while (high < i + 1 && !high_water_.compare_exchange_weak(high, i + 1)) {
        }
        return &workers_[i];
      }
    }
    return nullptr;
  }
  void release_slot(worker_slot* s) { s->taken.store(false); }

  /// False: a mark overlaps, nothing is published. True: published until leave().
  [[nodiscard]] bool enter(worker_slot& s, unit_range r) {
    if constexpr (Steps::publish_before_check) {
      s.range.store(r.packed());
      steps_.at(gate_step::worker_published);
      if (frozen(r)) {
        leave(s);
        return false;
      }
      steps_.at(gate_step::worker_checked);
    } else {
      if (frozen(r))
        return false;
      steps_.at(gate_step::worker_checked);
      s.range.store(r.packed());
      steps_.at(gate_step::worker_published);
    }
    return true;
  }

  void leave(worker_slot& s) {
    s.range.store(0);
    if (drainers_.load() != 0) {
      const std::lock_guard lock(mutex_);
      drained_.notify_all();
    }
    steps_.at(gate_step::worker_left);
  }

  /// Returns when the range is marked and no published range overlaps it. The result goes to thaw().
  [[nodiscard]] unsigned freeze(unit_range r) {
    std::unique_lock lock(mutex_);
    unsigned index = max_marks;
    thawed_.wait(lock, [&] { return !frozen(r) && (index = free_mark()) < max_marks; });
    if constexpr (Steps::mark_before_scan) {
      set_mark(index, r);
      steps_.at(gate_step::mover_marked);
      drain(lock, r);
    } else {
      drain(lock, r);
      lock.unlock();
      steps_.at(gate_step::mover_drained);
      lock.lock();
      set_mark(index, r);
    }
    lock.unlock();
    steps_.at(gate_step::mover_drained);
    return index;
  }

  /// `publish` makes the new map entries visible; it runs before the mark goes.
  template <class Publish>
  void thaw(unsigned index, Publish&& publish) {
    if constexpr (Steps::map_before_thaw) {
      publish();
      steps_.at(gate_step::mover_published_map);
      clear_mark(index);
    } else {
      clear_mark(index);
      steps_.at(gate_step::mover_published_map);
      publish();
    }
    steps_.at(gate_step::mover_thawed);
  }

  /// Waits until no mark overlaps (one may come right after).
  void wait_thawed(unit_range r) {
    std::unique_lock lock(mutex_);
    thawed_.wait(lock, [&] { return !frozen(r); });
  }

private:
  [[nodiscard]] bool frozen(unit_range r) const {
    const unsigned high = marks_high_.load();
    for (unsigned i = 0; i < high; ++i)
      if (unit_range::unpack(marks_[i].load()).overlaps(r))
        return true;
    return false;
  }
  [[nodiscard]] unsigned free_mark() const {
    for (unsigned i = 0; i < max_marks; ++i)
      if (marks_[i].load() == 0)
        return i;
    return max_marks;
  }
  void set_mark(unsigned index, unit_range r) { // under mutex_
    marks_[index].store(r.packed());
    if (index >= marks_high_.load())
      marks_high_.store(index + 1);
  }
  void clear_mark(unsigned index) {
    const std::lock_guard lock(mutex_);
    marks_[index].store(0);
    unsigned high = marks_high_.load();
    while (high != 0 && marks_[high - 1].load() == 0)
      --high;
    marks_high_.store(high);
    thawed_.notify_all();
  }
  [[nodiscard]] bool busy(unit_range r) const {
    const unsigned high = high_water_.load();
    for (unsigned i = 0; i < high; ++i)
      if (unit_range::unpack(workers_[i].range.load()).overlaps(r))
        return true;
    return false;
  }
  void drain(std::unique_lock<std::mutex>& lock, unit_range r) {
    drainers_.fetch_add(1);
    drained_.wait(lock, [&] { return !busy(r); });
    drainers_.fetch_sub(1);
  }

  [[no_unique_address]] Steps steps_;
  std::unique_ptr<worker_slot[]> workers_;
  std::atomic<unsigned> high_water_{0};
  alignas(64) std::atomic<unsigned> marks_high_{0}; // no mark is set at or above it; written under mutex_
  std::atomic<std::uint32_t> drainers_{0};
  std::array<std::atomic<std::uint64_t>, max_marks> marks_{};
  std::mutex mutex_;
  std::condition_variable drained_, thawed_;
};

} // namespace dmremap
