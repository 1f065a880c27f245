// SPDX-License-Identifier: GPL-2.0-or-later
// What an answered flush promises, and what becomes of a flush that failed.
#include "tests/support/crash_replay.h"
#include "tests/support/set_fixture.h"

#include <catch2/catch.hpp>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

using namespace dmremap;
using namespace dmremap::test;

namespace {

/// A point of a store where a thread is held until the test lets it go.
class stop {
public:
  void reach() {
    std::unique_lock lock(mutex_);
    reached_ = true;
    changed_.notify_all();
    changed_.wait(lock, [&] { return open_; });
  }
  void wait_reached() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return reached_; });
  }
  void go() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool reached_ = false, open_ = false;
};

/// Holds the thread that sets `held` when its write is done, and when it then asks whether a flush has
/// failed; holds the first flush of whoever sets `held_flush`, before it does anything.
class stepped_store final : public forwarding_store {
public:
  using forwarding_store::forwarding_store;
  inline static thread_local bool held = false, held_flush = false;
  mutable stop wrote, asks, flushes;

  [[nodiscard]] io_result write(std::span<const std::byte> b, std::uint64_t at) override {
    auto done = inner().write(b, at);
    if (held) {
      wrote.reach();
      asked_next_ = true;
    }
    return done;
  }
  [[nodiscard]] std::uint64_t failed_flushes() const override {
    if (held && std::exchange(asked_next_, false))
      asks.reach();
    return inner().failed_flushes();
  }
  [[nodiscard]] io_result flush() override {
    if (std::exchange(held_flush, false))
      flushes.reach();
    return inner().flush();
  }

private:
  inline static thread_local bool asked_next_ = false;
};

/// A set whose main is such a store, with one write under way that a failed flush, told to its own caller,
/// has crossed: it is done below and counted, and does not know of the failure yet.
struct crossed_write {
  set_fixture f;
  std::shared_ptr<stepped_store> main = std::make_shared<stepped_store>(f.main);
  std::thread writer;
  io_result answer = io_fail(io_error::invalid);

  crossed_write() {
    f.close();
    auto opened = disk::open(main, {f.spare}, {});
    REQUIRE(opened);
    f.set = std::move(*opened);
    f.context = f.set->make_context();
    writer = std::thread([this] {
      const auto context = f.set->make_context();
      stepped_store::held = true;
      answer = f.set->write(*context, std::vector<std::byte>(4096, std::byte{7}), 8192);
    });
    main->wrote.wait_reached();
    f.main->fail_flushes(1);
    const bool failed = !f.set->flush();
    main->wrote.go();
    main->asks.wait_reached();
    CHECK(failed);
  }
  void answered() {
    main->asks.go();
    writer.join();
    REQUIRE(answer);
  }
};

/// A set whose main may lose power.
struct volatile_main {
  set_fixture f;
  std::shared_ptr<crash_log> log = std::make_shared<crash_log>();
  std::shared_ptr<crash_store> main;
  std::unique_ptr<disk> set;
  std::unique_ptr<io_context> context;

  volatile_main() {
    f.close();
    main = std::make_shared<crash_store>(log, f.main);
    open();
  }
  ~volatile_main() { kill(); }
  void kill() {
    context.reset();
    set.reset();
  }
  void open() {
    auto opened = disk::open(main, {f.spare}, {});
    if (!opened)
      FAIL(opened.error().text());
    set = std::move(*opened);
    context = set->make_context();
  }
  [[nodiscard]] bool written(std::uint64_t offset, std::byte value) {
    return set->write(*context, std::vector<std::byte>(512, value), offset).has_value();
  }
  /// Whether main shows `value` there after every power cut that is possible now.
  [[nodiscard]] bool survives(std::uint64_t offset, std::byte value) {
    replay_limits limits;
    limits.first_event = log->size();
    crash_replay replay(*log, limits);
    return replay.run([&](const crash_state& state) {
      std::vector<std::byte> held(512);
      state.devices[0]->content.read(held, offset);
      return held == std::vector<std::byte>(512, value);
    });
  }
};

} // namespace

TEST_CASE("the first flush covers what a killed session had answered", "[flush]") {
  volatile_main v;
  REQUIRE(v.written(8192, std::byte{7}));
  REQUIRE_FALSE(v.survives(8192, std::byte{7}));
  v.kill();
  v.open();
  REQUIRE(v.set->flush());
  REQUIRE(v.survives(8192, std::byte{7}));
}

TEST_CASE("a flush that failed is told once, to a caller of flush", "[flush]") {
  set_fixture f;
  REQUIRE(f.write(8192, 512, std::byte{7}));
  f.main->fail_flushes(1);
  REQUIRE_FALSE(f.set->flush());
  REQUIRE(f.set->flush());
  REQUIRE(f.set->stats().flush_errors == 1);
}

TEST_CASE("a flush that failed for a table change may have given up other writes: the next flush says so",
          "[flush]") {
  set_fixture f;
  REQUIRE(f.set->remap(sector_number(0)));
  f.main->add_bad({40, 8, direction::write, io_error::medium, always, false});
  SECTION("a write to the spare was answered before") {
    REQUIRE(f.write(0, 4096, std::byte{7}));
    f.spare->fail_flushes(1);
    REQUIRE(f.write(40 * 512, 4096, std::byte{8})); // moved at the second try, data and all
    REQUIRE_FALSE(f.set->flush());
    REQUIRE(f.set->flush());
  }
  SECTION("nothing waited for a flush") {
    f.spare->fail_flushes(1);
    REQUIRE(f.write(40 * 512, 4096, std::byte{8}));
    REQUIRE(f.set->flush());
  }
}

TEST_CASE("a lost sector's new bytes are not answered where their flush failed", "[flush]") {
  set_fixture f;
  f.main->add_bad({83, 1, direction::read, io_error::medium, always, false});
  REQUIRE_FALSE(f.read(80 * 512, 4096));
  f.spare->fail_flushes(1);
  REQUIRE_FALSE(f.write(83 * 512, 512, std::byte{9}));
  REQUIRE(f.read(83 * 512, 512).error() == io_error::lost);
  REQUIRE(f.write(83 * 512, 512, std::byte{9}));
  REQUIRE(f.holds(83 * 512, 512, std::byte{9}));
}

TEST_CASE("a write that a failed flush crossed is told of to a flush that began after its answer",
          "[flush]") {
  crossed_write w;
  SECTION("no flush between") {
    w.answered();
  }
  SECTION("a flush before the answer, which it does not cover, succeeded") {
    CHECK(w.f.set->flush());
    w.answered();
  }
  SECTION("a flush that began before the answer ends after it") {
    std::thread other([&] {
      stepped_store::held_flush = true;
      (void)w.f.set->flush(); // either is true: the write was not answered when it began
    });
    w.main->flushes.wait_reached();
    w.answered();
    w.main->flushes.go();
    other.join();
  }
  CHECK_FALSE(w.f.set->flush());
  CHECK(w.f.set->flush());
  CHECK(w.f.holds(8192, 4096, std::byte{7}));
}
