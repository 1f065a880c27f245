// SPDX-License-Identifier: GPL-2.0-or-later
// Table changes that come together go out together.
#include "tests/support/set_fixture.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

using namespace dmremap;
using namespace dmremap::test;

namespace {

constexpr std::uint64_t threads = 32; // each moves a unit; fewer than the breaker's limit

struct cost {
  std::uint64_t flushes = 0, commits = 0;
};

/// What the spare was asked for since `before`.
cost spent(const set_fixture& f, cost before = {}) {
  return {f.spare->counts().flushes - before.flushes, f.set->stats().saves_done - before.commits};
}

} // namespace

TEST_CASE("units that main fails to write at once share their table commits", "[batch]") {
  set_fixture f(8u << 20);
  REQUIRE(f.set->remap(sector_number(0))); // so that the chunk is ready
  f.main->add_bad({80, 8 * (threads + 1), direction::write, io_error::medium, always, false});
  const std::uint64_t first = 11; // unit 10 tells what one costs alone
  cost before = spent(f);
  REQUIRE(f.write(10 * unit_bytes, unit_bytes, std::byte{0xAA}));
  const cost alone = spent(f, before);
  REQUIRE(alone.flushes != 0);
  REQUIRE(alone.commits == 1);

  // All fail together; the first one's commit is held at its first flush until all others have their data on
  // the spare and are on their way to a commit of their own.
  std::mutex mutex;
  std::condition_variable changed;
  std::uint64_t on_spare = 0;
  std::atomic<bool> first_goes_on{false};
  f.spare->on_change([&](std::uint64_t, std::uint64_t length, const std::byte* bytes) {
    if (first_goes_on) // so slow that threads that were held up come together in the next commit
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    if (length == unit_bytes && bytes != nullptr && bytes[0] == std::byte{0xBB}) {
      const std::lock_guard lock(mutex);
      ++on_spare;
      changed.notify_all();
    }
    return true;
  });
  f.spare->close_flush_gate();
  f.main->close_gate(first * 8, threads * 8, direction::write);
  before = spent(f);
  std::vector<io_result> written(threads);
  std::vector<std::thread> writers;
  for (std::uint64_t n = 0; n < threads; ++n)
    writers.emplace_back([&, n] {
      const auto context = f.set->make_context();
      std::vector<std::byte> data(unit_bytes, std::byte(n));
      data[0] = std::byte{0xBB};
      written[n] = f.set->write(*context, data, (first + n) * unit_bytes);
    });
  f.main->wait_for_blocked(threads);
  f.main->open_gate();
  {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return on_spare == threads; });
  }
  f.spare->wait_for_blocked();
  first_goes_on = true;
  f.spare->open_gate();
  for (std::thread& t : writers)
    t.join();
  f.spare->on_change({});

  for (const io_result& r : written)
    REQUIRE(r);
  const cost together = spent(f, before);
  // Two, but for threads that were held up on their way to the queue.
  CHECK(together.commits <= threads / 4);
  CHECK(together.flushes <= alone.flushes * threads / 4);
  REQUIRE(f.set->stats().remapped_units == threads + 2);
  for (const bool reopened : {false, true}) {
    if (reopened)
      f.open(); // as after a crash
    for (std::uint64_t n = 0; n < threads; ++n) {
      REQUIRE(f.holds((first + n) * unit_bytes, 1, std::byte{0xBB}));
      REQUIRE(f.holds((first + n) * unit_bytes + 1, unit_bytes - 1, std::byte(n)));
    }
  }
}
