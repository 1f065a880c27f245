// SPDX-License-Identifier: GPL-2.0-or-later
// Many reads at once that hang in a bad region and then fail hold up nothing elsewhere.
#include "tests/support/set_fixture.h"

#include <catch2/catch.hpp>
#include <chrono>
#include <condition_variable>
#include <future>
#include <map>
#include <mutex>
#include <thread>

using namespace dmremap;
using namespace dmremap::test;

namespace {

constexpr std::uint64_t region = 1000, units = 300; // more than a set of 128 workers has at work elsewhere

/// A main whose region fails every read: the first of each unit at once, all others when they are let go. So
/// who waits here has frozen its unit.
class hanging_region final : public forwarding_store {
public:
  using forwarding_store::forwarding_store;
  [[nodiscard]] io_result read(std::span<std::byte> b, std::uint64_t at) override {
    const std::uint64_t unit = at / unit_bytes;
    if (unit < region || unit >= region + units)
      return inner().read(b, at);
    std::unique_lock lock(mutex_);
    if (++reads_[unit] > 1) {
      ++hanging_;
      changed_.notify_all();
      changed_.wait(lock, [&] { return over_; });
    }
    return io_fail(io_error::medium);
  }
  [[nodiscard]] bool wait_hanging(unsigned n, std::chrono::seconds limit) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, limit, [&] { return hanging_ >= n; });
  }
  void let_go() {
    const std::lock_guard lock(mutex_);
    over_ = true;
    changed_.notify_all();
  }

private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::uint64_t, unsigned> reads_;
  unsigned hanging_ = 0;
  bool over_ = false;
};

} // namespace

TEST_CASE("slow writes elsewhere and a flush go on while many reads hang in a bad region", "[bad_region]") {
  const std::uint32_t block = GENERATE(512u, 4096u);
  set_fixture f(8u << 20, block, block);
  f.main->add_bad({80, 8, direction::read, io_error::medium, always, false});
  REQUIRE(f.read(80 * 512, 4096).error() == io_error::lost);
  f.main->add_bad({160, 8, direction::write, io_error::medium, always, false});
  f.context.reset();
  f.set.reset();
  const auto main = std::make_shared<hanging_region>(f.main);
  auto opened = disk::open(main, {f.spare}, {});
  REQUIRE(opened);
  f.set = std::move(*opened);
  f.context = f.set->make_context();

  std::vector<io_result> answers(units);
  std::vector<std::thread> readers;
  for (std::uint64_t n = 0; n < units; ++n)
    readers.emplace_back([&, n] {
      const auto context = f.set->make_context();
      std::vector<std::byte> buffer(unit_bytes);
      answers[n] = f.set->read(*context, buffer, (region + n) * unit_bytes);
    });
  const bool all_hang = main->wait_hanging(units, std::chrono::seconds(60));
  auto elsewhere = std::async(std::launch::async, [&] {
    return f.write(80 * 512, 4096, std::byte{1})        // sectors that are lost
           && f.write(160 * 512, 4096, std::byte{2})    // main fails
           && f.write(240 * 512 + 10, 20, std::byte{3}) // cuts a block: read, changed, written
           && f.set->flush();
  });
  const bool went_on = elsewhere.wait_for(std::chrono::seconds(60)) == std::future_status::ready;
  main->let_go(); // whatever came: all of them must end
  for (std::thread& t : readers)
    t.join();
  REQUIRE(elsewhere.get());
  CHECK(all_hang);
  CHECK(went_on);
  for (const io_result& r : answers)
    REQUIRE((!r && r.error() == io_error::lost));
  REQUIRE(f.set->stats().lost_sectors == units * 8);
  f.context.reset();
  f.set.reset();
  f.open();
  REQUIRE(f.holds(80 * 512, 4096, std::byte{1}));
  REQUIRE(f.holds(160 * 512, 4096, std::byte{2}));
  REQUIRE(f.holds(240 * 512 + 10, 20, std::byte{3}));
  REQUIRE(f.holds(240 * 512 + 30, 482, f.original(240)));
  REQUIRE(f.read(region * unit_bytes, 512).error() == io_error::lost);
  REQUIRE(f.holds_original((region + units) * 8, 8));
}
