// SPDX-License-Identifier: GPL-2.0-or-later
// Who keeps session records outside may be slow, or wait for the very disk that tells it: I/O goes on.
#include "engine/record_keeper.h"
#include "tests/support/pool_fixture.h"

#include <condition_variable>
#include <future>
#include <thread>

using namespace dmremap;
using namespace dmremap::test;
using namespace std::chrono_literals;

namespace {

constexpr auto long_enough = 60s; // for anything that does not hang

/// A hook that blocks when it is told to, until it is let go.
class blocking_hook {
public:
  void block() { set(true); }
  void let_go() { set(false); }
  void operator()(std::uint64_t end) {
    std::unique_lock lock(mutex_);
    entered_ = true;
    changed_.notify_all();
    changed_.wait(lock, [&] { return !blocked_; });
    kept_ = end;
    changed_.notify_all();
  }
  [[nodiscard]] bool wait_entered() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, long_enough, [&] { return entered_; });
  }
  [[nodiscard]] bool wait_kept(std::uint64_t end) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, long_enough, [&] { return kept_ >= end; });
  }

private:
  void set(bool blocked) {
    const std::lock_guard lock(mutex_);
    blocked_ = blocked;
    entered_ = false;
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  bool blocked_ = false, entered_ = false;
  std::uint64_t kept_ = 0;
};

/// The hook has said that it is done before the keeper knows.
template <typename condition> bool becomes(const condition& so) {
  const auto until = std::chrono::steady_clock::now() + long_enough;
  while (!so() && std::chrono::steady_clock::now() < until)
    std::this_thread::yield();
  return so();
}

bool has_notice(const disk& of, const std::string& words) {
  const auto info = const_cast<disk&>(of).info();
  return std::any_of(info->notices.begin(), info->notices.end(),
                     [&](const std::string& n) { return n.find(words) != std::string::npos; });
}

} // namespace

TEST_CASE("reads and writes go on while a session record cannot be kept") {
  const auto shared = std::make_shared<blocking_hook>(); // its thread may end last
  blocking_hook& hook = *shared;
  pool_fixture f(3);
  open_options options;
  options.on_record = [shared](std::uint64_t end) { (*shared)(end); };
  options.record_wait = 50ms;
  REQUIRE(f.try_open(options));
  put_on(f, 4, 1, one);
  put_on(f, 5, 1, one);
  REQUIRE(f.set->flush());
  hook.block();
  f.break_spare(1);
  auto gone = std::async(std::launch::async, [&] { return f.shows(4); });
  REQUIRE(hook.wait_entered());
  // Another request meanwhile: on main, and one that needs a table change.
  auto others = std::async(std::launch::async, [&] {
    const auto context = f.set->make_context();
    const std::vector<std::byte> data(unit_bytes, two);
    std::vector<std::byte> back(unit_bytes);
    return f.set->write(*context, data, 9 * unit_bytes) && f.set->read(*context, back, 9 * unit_bytes) &&
           back == data && f.set->write(*context, data, 5 * unit_bytes) && f.set->flush();
  });
  const bool ended = others.wait_for(long_enough) == std::future_status::ready &&
                     gone.wait_for(long_enough) == std::future_status::ready;
  const bool told = !ended || has_notice(*f.set, "not kept in time");
  hook.let_go();
  REQUIRE(ended);
  CHECK(told);
  CHECK(gone.get() == "its spare is absent");
  (void)others.get(); // the flush may be the one that tells of the spare's going
  CHECK(f.shows(5) == "byte 102");
  REQUIRE(hook.wait_kept(f.set->info()->sequence_end));
  f.remap(11);
  CHECK(becomes([&] { return !has_notice(*f.set, "not kept in time"); }));
}

TEST_CASE("who keeps a session record may write to the disk that tells of it") {
  pool_fixture f(3);
  std::atomic<disk*> writes_to{nullptr};
  std::promise<bool> written;
  open_options options;
  options.record_wait = 50ms;
  options.on_record = [&](std::uint64_t) {
    if (disk* const to = writes_to.exchange(nullptr)) {
      auto context = to->make_context();
      const std::vector<std::byte> data(unit_bytes, three);
      const bool done = to->write(*context, data, 5 * unit_bytes).has_value();
      context.reset();
      written.set_value(done);
    }
  };
  REQUIRE(f.try_open(options));
  put_on(f, 4, 1, one);
  put_on(f, 5, 1, one);
  REQUIRE(f.set->flush());
  f.break_spare(1);
  writes_to = f.set.get();
  auto ended = written.get_future();
  REQUIRE(f.shows(4) == "its spare is absent");
  REQUIRE(ended.wait_for(long_enough) == std::future_status::ready);
  REQUIRE(ended.get()); // a table change
  REQUIRE(f.shows(5) == "byte 103");
}

TEST_CASE("nothing is written under a session record before it is kept") {
  pool_fixture f(3);
  std::atomic<std::uint64_t> changes{0};
  std::atomic<bool> in_hook{false}, changed_in_hook{false};
  open_options options;
  options.record_wait = long_enough;
  const auto shared = std::make_shared<blocking_hook>(); // its thread may end last
  blocking_hook& hook = *shared;
  options.on_record = [&](std::uint64_t end) {
    in_hook = true;
    hook(end);
    in_hook = false;
  };
  REQUIRE(f.try_open(options));
  put_on(f, 4, 1, one);
  put_on(f, 5, 1, one);
  for (const auto& s : f.spares)
    s->on_change([&](std::uint64_t, std::uint64_t, const std::byte*) {
      ++changes;
      changed_in_hook = changed_in_hook || in_hook;
      return true;
    });
  hook.block();
  f.break_spare(1);
  auto moved = std::async(std::launch::async, [&] { return f.write(5, two).has_value(); });
  REQUIRE(hook.wait_entered());
  const std::uint64_t before = changes;
  CHECK(moved.wait_for(100ms) == std::future_status::timeout); // it has to wait
  CHECK(changes == before);
  hook.let_go();
  CHECK(moved.get());
  CHECK_FALSE(changed_in_hook);
  CHECK(changes > before);
  for (const auto& s : f.spares)
    s->on_change({});
}

TEST_CASE("a hook that is late is told the highest number, and not waited for again") {
  const auto shared = std::make_shared<blocking_hook>(); // its thread may end last
  blocking_hook& hook = *shared;
  const auto told = std::make_shared<std::pair<std::atomic<std::uint64_t>, std::atomic<std::uint64_t>>>();
  auto& [last, calls] = *told;
  record_keeper keeper([shared, told](std::uint64_t end) {
    ++told->second;
    (*shared)(end);
    told->first = end;
  });
  REQUIRE(keeper.keep(1, long_enough));
  REQUIRE(last == 1);
  hook.block();
  REQUIRE_FALSE(keeper.keep(2, 1ms));
  REQUIRE(keeper.late());
  REQUIRE_FALSE(keeper.keep(3, long_enough));
  REQUIRE_FALSE(keeper.keep(4, long_enough));
  hook.let_go();
  REQUIRE(hook.wait_kept(4));
  REQUIRE(becomes([&] { return !keeper.late(); }));
  REQUIRE(keeper.keep(5, long_enough));
  REQUIRE_FALSE(keeper.late());
  REQUIRE(last == 5);
  REQUIRE(calls <= 4);
}
