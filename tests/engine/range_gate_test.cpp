// SPDX-License-Identifier: GPL-2.0-or-later
// The freeze protocol, paused at every step. The property: while a mover copies a unit, no worker that looked
// it up before may still write to the old place; what a worker wrote is never left behind the copy.
#include "engine/range_gate.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <condition_variable>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

using namespace dmremap;

namespace {

constexpr auto mover_copied = static_cast<gate_step>(100);     // between the copy and the new map entry
constexpr auto worker_looked_up = static_cast<gate_step>(101); // between the map and the write

/// Lets a test hold one thread at one step and another at another, and see how far each has got.
class stage {
public:
  void pause_at(gate_step step) {
    const std::lock_guard lock(mutex_);
    state_[step] = armed;
  }
  void reached(gate_step step) {
    std::unique_lock lock(mutex_);
    const auto at = state_.find(step);
    if (at == state_.end() || at->second != armed)
      return;
    at->second = holding;
    changed_.notify_all();
    changed_.wait(lock, [&] { return state_[step] == released; });
  }
  void finished(bool& flag) {
    const std::lock_guard lock(mutex_);
    flag = true;
    changed_.notify_all();
  }
  /// Returns once a thread is held at the step or has finished, or, where it waits for the other one and so
  /// can do neither, after a while: the time decides nothing but how long the test takes.
  void as_far_as_it_gets(gate_step step, const bool& flag) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::milliseconds(20), [&] { return state_[step] == holding || flag; });
  }
  void go_on(gate_step step) {
    const std::lock_guard lock(mutex_);
    state_[step] = released;
    changed_.notify_all();
  }

private:
  enum pause { idle, armed, holding, released };
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<gate_step, pause> state_;
};

template <bool PublishFirst, bool MarkFirst, bool MapFirst>
struct staged {
  static constexpr bool publish_before_check = PublishFirst;
  static constexpr bool mark_before_scan = MarkFirst;
  static constexpr bool map_before_thaw = MapFirst;
  stage* at_stage;
  void at(gate_step s) const { at_stage->reached(s); }
};

/// One unit that lives on main or on the spare, one worker that writes it, one mover that moves it.
template <class Steps>
struct play {
  stage at;
  range_gate<Steps> gate{Steps{&at}};
  std::atomic<bool> on_spare{false};
  std::atomic<int> main_value{1}, spare_value{0};
  bool worker_done = false, mover_done = false;

  void worker(int value) {
    auto* slot = gate.acquire_slot();
    for (bool done = false; !done;) {
      if (!gate.enter(*slot, {7, 1})) {
        gate.wait_thawed({7, 1});
        continue;
      }
      auto& place = on_spare ? spare_value : main_value;
      at.reached(worker_looked_up);
      place = value;
      gate.leave(*slot);
      done = true;
    }
    gate.release_slot(slot);
    at.finished(worker_done);
  }
  void mover() {
    const unsigned mark = gate.freeze({7, 1});
    spare_value = main_value.load();
    at.reached(mover_copied);
    gate.thaw(mark, [&] { on_spare = true; });
    at.finished(mover_done);
  }
  /// What a read of the unit returns now.
  int value() const { return on_spare ? spare_value : main_value; }

  /// Holds the worker at one step and the mover at another, the one that starts first is let go first.
  int run(gate_step worker_step, gate_step mover_step, bool worker_first) {
    at.pause_at(worker_step);
    at.pause_at(mover_step);
    std::thread a, b;
    const auto start_worker = [&] {
      a = std::thread([&] { worker(2); });
      at.as_far_as_it_gets(worker_step, worker_done);
    };
    const auto start_mover = [&] {
      b = std::thread([&] { mover(); });
      at.as_far_as_it_gets(mover_step, mover_done);
    };
    const auto free_worker = [&] {
      at.go_on(worker_step);
      at.as_far_as_it_gets(static_cast<gate_step>(-1), worker_done);
    };
    const auto free_mover = [&] {
      at.go_on(mover_step);
      at.as_far_as_it_gets(static_cast<gate_step>(-1), mover_done);
    };
    if (worker_first) {
      start_worker();
      start_mover();
      free_worker();
      free_mover();
    } else {
      start_mover();
      start_worker();
      free_mover();
      free_worker();
    }
    a.join();
    b.join();
    return value();
  }
};

template <class Steps>
bool loses_a_write() {
  using enum gate_step;
  bool lost = false;
  for (const gate_step w : {worker_published, worker_checked, worker_looked_up, worker_left})
    for (const gate_step m : {mover_marked, mover_drained, mover_copied, mover_published_map, mover_thawed})
      for (const bool worker_first : {true, false})
        lost |= play<Steps>{}.run(w, m, worker_first) != 2;
  return lost;
}

/// For a mutant that loses it in one schedule only, which may not come about where the machine stalls.
template <class Steps>
bool ever_loses() {
  for (int round = 0; round < 10; ++round)
    if (loses_a_write<Steps>())
      return true;
  return false;
}

} // namespace

TEST_CASE("paused at any step, the freeze protocol loses no write", "[range_gate]") {
  REQUIRE_FALSE(loses_a_write<staged<true, true, true>>());
}

TEST_CASE("with two steps swapped the same schedule loses a write", "[range_gate]") {
  REQUIRE(ever_loses<staged<false, true, true>>()); // looked at the marks before it published its range
  REQUIRE(ever_loses<staged<true, false, true>>()); // waited for the ranges before it set its mark
  REQUIRE(ever_loses<staged<true, true, false>>()); // took the mark away before the new entry was visible
}

TEST_CASE("a mover waits for overlapping ranges only", "[range_gate]") {
  range_gate<> gate;
  auto* far = gate.acquire_slot();
  auto* near = gate.acquire_slot();
  REQUIRE(gate.enter(*far, {1000, 256})); // a read that hangs elsewhere
  REQUIRE(gate.enter(*near, {10, 4}));
  std::atomic<bool> frozen{false};
  std::thread mover([&] {
    const unsigned mark = gate.freeze({13, 2});
    frozen = true;
    gate.thaw(mark, [] {});
  });
  gate.leave(*near);
  mover.join(); // returns although `far` is still published
  REQUIRE(frozen);
  gate.leave(*far);
}

TEST_CASE("a frozen range turns workers away, its neighbours do not", "[range_gate]") {
  range_gate<> gate;
  auto* slot = gate.acquire_slot();
  const unsigned mark = gate.freeze({8, 8});
  REQUIRE_FALSE(gate.enter(*slot, {0, 9}));
  REQUIRE_FALSE(gate.enter(*slot, {15, 1}));
  REQUIRE(gate.enter(*slot, {0, 8}));
  gate.leave(*slot);
  REQUIRE(gate.enter(*slot, {16, 100}));
  gate.leave(*slot);
  gate.thaw(mark, [] {});
  REQUIRE(gate.enter(*slot, {0, 9}));
  gate.leave(*slot);
}

TEST_CASE("overlapping freezes take turns, others do not wait", "[range_gate]") {
  range_gate<> gate;
  const unsigned first = gate.freeze({0, 4});
  const unsigned elsewhere = gate.freeze({4, 4});
  std::atomic<bool> second{false};
  std::thread mover([&] {
    const unsigned mark = gate.freeze({3, 1});
    second = true;
    gate.thaw(mark, [] {});
  });
  REQUIRE_FALSE(second);
  gate.thaw(elsewhere, [] {});
  gate.thaw(first, [] {});
  mover.join();
  REQUIRE(second);
}

TEST_CASE("as many freezes as there can be workers leave room for one elsewhere", "[range_gate]") {
  static_assert(range_gate<>::max_marks > range_gate<>::max_workers);
  range_gate<> gate;
  std::vector<unsigned> held;
  for (unsigned i = 0; i < range_gate<>::max_workers; ++i)
    held.push_back(gate.freeze({1000 + 2 * i, 1}));
  std::promise<unsigned> got;
  auto answer = got.get_future();
  std::thread mover([&] { got.set_value(gate.freeze({10, 4})); });
  const bool at_once = answer.wait_for(std::chrono::seconds(20)) == std::future_status::ready;
  // Let go, whatever came: the mover must end.
  auto* slot = gate.acquire_slot();
  unsigned wrong = 0;
  for (unsigned i = 0; i < held.size(); ++i) {
    wrong += gate.enter(*slot, {1000 + 2 * i, 1}) ? 1 : 0; // every one of them is seen
    gate.leave(*slot);
  }
  for (const unsigned mark : held)
    gate.thaw(mark, [] {});
  mover.join();
  REQUIRE(at_once);
  REQUIRE(wrong == 0);
  gate.thaw(answer.get(), [] {});
  REQUIRE(gate.enter(*slot, {0, unit_range::max_count}));
  gate.leave(*slot);
}

TEST_CASE("marks that go in any order leave the others in force", "[range_gate]") {
  constexpr unsigned count = 40;
  range_gate<> gate;
  auto* slot = gate.acquire_slot();
  std::map<std::uint64_t, unsigned> held; // unit to mark
  std::minstd_rand random(1);
  for (unsigned round = 0; round < 4000; ++round) {
    const std::uint64_t unit = random() % count;
    if (const auto at = held.find(unit); at != held.end()) {
      gate.thaw(at->second, [] {});
      held.erase(at);
    } else {
      held[unit] = gate.freeze({unit, 1});
    }
    for (std::uint64_t u = 0; u < count; ++u) {
      const bool entered = gate.enter(*slot, {u, 1});
      if (entered)
        gate.leave(*slot);
      if (entered == held.contains(u))
        FAIL("unit " << u << " in round " << round);
    }
  }
  SUCCEED();
}

TEST_CASE("ranges pack into one word at both ends of what is allowed", "[range_gate]") {
  const unit_range r{(1ull << 48) - 1, unit_range::max_count};
  REQUIRE(unit_range::unpack(r.packed()).first == r.first);
  REQUIRE(unit_range::unpack(r.packed()).count == r.count);
  REQUIRE(unit_range{5, 5}.overlaps({9, 1}));
  REQUIRE_FALSE(unit_range{5, 5}.overlaps({10, 1}));
  REQUIRE_FALSE(unit_range{0, 0}.overlaps({0, 10}));
}
