// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/worker_pool.h"

#include <catch2/catch.hpp>
#include <deque>
#include <set>

using namespace dmremap;

namespace {

/// The queue that a FUSE device would be. A request is a number; some hang until they are let go.
class test_queue {
public:
  enum class manner {
    quick,
    announced,
    silent
  }; ///< silent: hangs without leave(), so that only ticks find it

  void put(int request, manner how) {
    const std::lock_guard lock(mutex_);
    waiting_.push_back({request, how});
    changed_.notify_all();
  }
  void end() {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    changed_.notify_all();
  }
  void let_go(int request) {
    const std::lock_guard lock(mutex_);
    let_go_.insert(request);
    changed_.notify_all();
  }
  /// All three return false after ten seconds.
  bool wait_done(std::size_t count) {
    return wait([&] { return done_.size() >= count; });
  }
  bool wait_hanging(unsigned count) {
    return wait([&] { return hanging_ == count; });
  }
  bool wait_receiving(unsigned count) {
    return wait([&] { return receiving_ == count; });
  }
  std::set<int> done() {
    const std::lock_guard lock(mutex_);
    return done_;
  }
  unsigned most_receiving() {
    const std::lock_guard lock(mutex_);
    return most_receiving_;
  }

  void rest(bool ahead) { ++(ahead ? rests_of_ahead_ : rests_); }
  unsigned rests() const { return rests_; }
  unsigned rests_of_ahead() const { return rests_of_ahead_; }

  struct item {
    int request;
    manner how;
  };
  bool receive(item& into) {
    std::unique_lock lock(mutex_);
    most_receiving_ = std::max(most_receiving_, ++receiving_);
    changed_.notify_all();
    changed_.wait(lock, [&] { return ended_ || !waiting_.empty(); });
    --receiving_;
    if (ended_)
      return false;
    into = waiting_.front();
    waiting_.pop_front();
    return true;
  }
  void process(const item& i, worker_pool::place& place) {
    if (i.how == manner::announced) {
      place.leave();
      place.leave(); // a request that leaves twice is away once
    }
    std::unique_lock lock(mutex_);
    if (i.how != manner::quick) {
      ++hanging_;
      changed_.notify_all();
      changed_.wait(lock, [&] { return let_go_.count(i.request) != 0; });
      --hanging_;
    }
    done_.insert(i.request);
    changed_.notify_all();
  }

private:
  template <class Condition>
  bool wait(Condition condition) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(10), condition);
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<item> waiting_;
  std::set<int> done_, let_go_;
  unsigned hanging_ = 0, receiving_ = 0, most_receiving_ = 0;
  std::atomic<unsigned> rests_{0}, rests_of_ahead_{0};
  bool ended_ = false;
};

class test_source final : public request_source {
public:
  test_source(test_queue& queue, worker_pool::place& place, bool ahead)
      : queue_(queue), place_(place), ahead_(ahead) {}
  bool receive() override { return queue_.receive(item_); }
  void process() override { queue_.process(item_, place_); }
  void rest() override { queue_.rest(ahead_); }

private:
  test_queue& queue_;
  worker_pool::place& place_;
  const bool ahead_;
  test_queue::item item_{};
};

worker_pool::source_factory sources_of(test_queue& queue) {
  return [&queue](worker_pool::place& place, bool ahead) {
    return std::make_unique<test_source>(queue, place, ahead);
  };
}

using manner = test_queue::manner;

/// A worker comes back a moment after its request is answered.
bool all_come_back(const worker_pool& pool) {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  const auto settled = [](const worker_pool::load& l) {
    return l.away == 0 && l.parked + l.in_place == l.threads;
  };
  while (!settled(pool.now()) && std::chrono::steady_clock::now() < limit)
    std::this_thread::yield();
  return settled(pool.now());
}

} // namespace

TEST_CASE("as many receive as were asked for, and all is answered") {
  const unsigned receivers = GENERATE(1U, 2U, 4U);
  test_queue queue;
  worker_pool pool({receivers, 32, 8}, sources_of(queue));
  REQUIRE(pool.start());
  CHECK(queue.wait_receiving(receivers));
  for (int i = 0; i < 1000; ++i)
    queue.put(i, manner::quick);
  CHECK(queue.wait_done(1000));
  CHECK(queue.wait_receiving(receivers));
  CHECK(queue.most_receiving() <= receivers);
  CHECK(pool.now().in_place == receivers);
  CHECK(pool.now().away == 0);
  queue.end();
  pool.wait();
  CHECK(pool.now().threads == 0);
}

TEST_CASE("requests that say that they hang never hold up the others") {
  const unsigned receivers = GENERATE(1U, 2U, 4U);
  test_queue queue;
  worker_pool pool({receivers, 100, 2}, sources_of(queue));
  REQUIRE(pool.start());
  for (int i = 0; i < 50; ++i)
    queue.put(i, manner::announced);
  CHECK(queue.wait_hanging(50));
  CHECK(queue.wait_receiving(receivers));
  CHECK(pool.now().away == 50);
  for (int i = 100; i < 1100; ++i)
    queue.put(i, manner::quick);
  CHECK(queue.wait_done(1000));
  CHECK(*queue.done().begin() == 100);
  for (int i = 0; i < 50; ++i)
    queue.let_go(i);
  CHECK(queue.wait_done(1050));
  CHECK(all_come_back(pool));
  CHECK(queue.wait_receiving(receivers)); // the others parked
  CHECK(queue.most_receiving() <= receivers);
  CHECK(pool.now().parked >= 48);
  CHECK(queue.rests() + std::max(2U, receivers) >= pool.now().parked); // those gave back their memory
  CHECK(queue.rests_of_ahead() == 0);
  for (int i = 2000; i < 2020; ++i) // the parked ones are used again: no more threads than before
    queue.put(i, manner::announced);
  CHECK(queue.wait_hanging(20));
  CHECK(pool.now().threads <= 50 + receivers);
  for (int i = 2000; i < 2020; ++i)
    queue.let_go(i);
  CHECK(queue.wait_done(1070));
  queue.end();
  pool.wait();
}

TEST_CASE("requests that hang without a word are found by the ticks") {
  const unsigned receivers = GENERATE(1U, 2U, 4U);
  test_queue queue;
  worker_pool pool({receivers, 100, 2}, sources_of(queue));
  REQUIRE(pool.start());
  const int hangs = 24;
  for (int i = 0; i < hangs; ++i)
    queue.put(i, manner::silent);
  CHECK(queue.wait_hanging(receivers));
  CHECK(pool.now().away == 0); // no tick yet: nobody has noticed
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (pool.now().away < static_cast<unsigned>(hangs) && std::chrono::steady_clock::now() < limit) {
    pool.tick();
    std::this_thread::yield();
  }
  CHECK(pool.now().away == static_cast<unsigned>(hangs));
  CHECK(pool.now().oldest_ns > 0);
  queue.put(1000, manner::quick);
  CHECK(queue.wait_done(1));
  for (int i = 0; i < hangs; ++i)
    queue.let_go(i);
  CHECK(queue.wait_done(hangs + 1));
  CHECK(all_come_back(pool));
  CHECK(queue.wait_receiving(receivers));
  queue.end();
  pool.wait();
}

TEST_CASE("a request is left alone for two ticks") {
  test_queue queue;
  worker_pool pool({1, 10, 1}, sources_of(queue));
  REQUIRE(pool.start());
  queue.put(1, manner::silent);
  REQUIRE(queue.wait_hanging(1));
  pool.tick();
  pool.tick();
  CHECK(pool.now().away == 0);
  pool.tick();
  CHECK(pool.now().away == 1);
  queue.let_go(1);
  CHECK(queue.wait_done(1));
  queue.end();
  pool.wait();
}

TEST_CASE("at the limit of threads the rest waits, and goes on when one comes back") {
  test_queue queue;
  worker_pool pool({2, 5, 2}, sources_of(queue));
  REQUIRE(pool.start());
  for (int i = 0; i < 8; ++i)
    queue.put(i, manner::announced);
  CHECK(queue.wait_hanging(5));
  CHECK(pool.now().threads == 5);
  CHECK(pool.now().in_place == 0);
  for (int i = 0; i < 8; ++i)
    queue.let_go(i);
  CHECK(queue.wait_done(8));
  CHECK(queue.wait_receiving(2));
  queue.end();
  pool.wait();
}

TEST_CASE("without memory for a single source there is no pool; without it for some there is a smaller one") {
  test_queue queue;
  {
    worker_pool pool({4, 10, 4}, [](worker_pool::place&, bool) { return nullptr; });
    const auto started = pool.start();
    REQUIRE_FALSE(started);
    CHECK(started.error().id == "no-memory");
    pool.wait();
  }
  std::atomic<int> made{0};
  worker_pool pool({4, 10, 4}, [&](worker_pool::place& place, bool ahead) -> std::unique_ptr<request_source> {
    return ++made <= 2 ? std::make_unique<test_source>(queue, place, ahead) : nullptr;
  });
  REQUIRE(pool.start());
  queue.put(1, manner::quick);
  CHECK(queue.wait_done(1));
  queue.end();
  pool.wait();
}

TEST_CASE("the end reaches those that are away, parked and receiving") {
  test_queue queue;
  worker_pool pool({2, 20, 8}, sources_of(queue));
  REQUIRE(pool.start());
  queue.put(1, manner::announced);
  queue.put(2, manner::silent);
  REQUIRE(queue.wait_hanging(2));
  queue.end();
  queue.let_go(1);
  queue.let_go(2);
  pool.wait();
  CHECK(queue.done() == std::set<int>{1, 2});
}

TEST_CASE("quick, announced and silent requests mixed, under ticks") {
  test_queue queue;
  worker_pool pool({3, 40, 4}, sources_of(queue));
  REQUIRE(pool.start());
  std::atomic<bool> stop{false};
  std::thread ticker([&] {
    while (!stop) {
      pool.tick();
      std::this_thread::yield();
    }
  });
  const int count = 3000;
  for (int i = 0; i < count; ++i) {
    queue.put(i, i % 7 == 0 ? manner::announced : i % 11 == 0 ? manner::silent : manner::quick);
    if (i >= 20)
      queue.let_go(i - 20);
  }
  for (int i = count - 20; i < count; ++i)
    queue.let_go(i);
  CHECK(queue.wait_done(count));
  CHECK(queue.wait_receiving(3)); // ticks go on: whoever is in the middle of something may be away
  stop = true;
  ticker.join();
  CHECK(all_come_back(pool));
  queue.end();
  pool.wait();
}
