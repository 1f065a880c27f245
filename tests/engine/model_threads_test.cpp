// SPDX-License-Identifier: GPL-2.0-or-later
// The model with several threads: each owns every fourth sector, so that all share every unit; each knows
// what its own sectors hold. Under ThreadSanitizer this is also the test of the engine's locking.
//
// DMREMAP_MODEL_OPS sets the number of operations of all threads together, DMREMAP_MODEL_SEED the seed.
#include "engine/disk.h"
#include "engine/units.h"
#include "tests/support/memory_store.h"
#include "tests/support/spare_check.h"

#include <catch2/catch.hpp>

#include <array>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>

using namespace dmremap;
using namespace dmremap::test;

namespace {

constexpr std::uint64_t main_units = 64, sectors = main_units * unit_sectors;
constexpr unsigned thread_count = 4;

constexpr bool keep_well(std::uint64_t unit) {
  return unit == 0 || unit == 21;
} // see model_test.cpp

std::uint64_t number_from(const char* variable, std::uint64_t otherwise) {
  const char* const value = std::getenv(variable);
  return value != nullptr ? std::strtoull(value, nullptr, 0) : otherwise;
}

/// One thread's part. Catch2's macros are not thread-safe: what is wrong is kept for the main thread.
class worker {
public:
  worker(disk& on, memory_store& main, unsigned number, std::uint64_t seed)
      : disk_(on), main_(main), number_(number), random_(seed * thread_count + number),
        context_(on.make_context()), held_(sectors / thread_count) {}

  void run(std::uint64_t operations) {
    for (std::uint64_t i = 0; i < operations && wrong_.empty(); ++i)
      step();
  }
  /// Once all threads have ended and main is well again.
  void compare() {
    for (std::uint64_t i = 0; i < held_.size() && wrong_.empty(); ++i)
      read_own(i, 0, sector_bytes);
  }
  [[nodiscard]] const std::string& wrong() const { return wrong_; }

private:
  using content = std::array<std::byte, sector_bytes>;
  struct own_sector {
    content bytes{};
    bool breaks = false;     ///< main cannot read it
    bool maybe_lost = false; ///< somebody may have moved its unit meanwhile
  };

  std::uint64_t pick(std::uint64_t below) { return random_() % below; }
  [[nodiscard]] std::uint64_t sector_of(std::uint64_t index) const { return index * thread_count + number_; }
  void fail(const std::string& what, std::uint64_t sector) {
    wrong_ = "thread " + std::to_string(number_) + ", sector " + std::to_string(sector) + ": " + what;
  }

  void step() {
    const std::uint64_t index = pick(held_.size());
    const std::uint64_t unit = sector_of(index) / unit_sectors;
    switch (pick(32)) {
    case 0:
      return keep_well(unit) ? void() : set_breaking(index, true);
    case 1:
      return set_breaking(index, false);
    case 2:
      return keep_well(unit) ? void() : void(disk_.remap(sector_number(sector_of(index))));
    case 3:
    case 4:
      return void(disk_.unmap(sector_number(sector_of(index))));
    case 5:
      if (!disk_.flush())
        fail("a flush fails", 0);
      return;
    case 6:
      return pick(10) == 0 ? void(disk_.salvage(std::nullopt)) : void();
    case 7: // main cannot write the unit: the next write of anybody moves it
      if (!keep_well(unit))
        main_.add_bad({unit * unit_sectors + pick(8), 1, direction::write, io_error::medium, 1 + pick(2)});
      return;
    case 8:
      return read_wide(index);
    case 9:
    case 10:
      return write_part(index);
    case 11:
      return write_own(index, true);
    default:
      if (pick(2) == 0)
        return write_own(index, false);
      const std::uint64_t from = pick(sector_bytes);
      return read_own(index, from, 1 + pick(sector_bytes - from));
    }
  }

  void set_breaking(std::uint64_t index, bool breaks) {
    own_sector& own = held_[index];
    if (own.breaks == breaks)
      return;
    if (breaks) {
      own.maybe_lost = true;
      main_.add_bad({sector_of(index), 1, direction::read, io_error::medium, always, false});
    } else {
      main_.clear_bad(sector_of(index), 1, direction::read);
    }
    own.breaks = breaks;
  }

  void read_own(std::uint64_t index, std::uint64_t from, std::uint64_t length) {
    const own_sector& own = held_[index];
    content got;
    const io_result done =
        disk_.read(*context_, std::span(got).first(length), sector_of(index) * sector_bytes + from);
    if (!done && !own.maybe_lost)
      fail("a read fails: " + std::string(name_of(done.error())), sector_of(index));
    if (done && std::memcmp(got.data(), own.bytes.data() + from, length) != 0)
      fail("other bytes", sector_of(index));
  }

  /// Several units; only what is ours is known.
  void read_wide(std::uint64_t index) {
    const std::uint64_t count = std::min<std::uint64_t>(held_.size() - index, 1 + pick(8));
    const std::uint64_t first = sector_of(index), length = ((count - 1) * thread_count + 1) * sector_bytes;
    std::vector<std::byte> got(length);
    if (!disk_.read(*context_, got, first * sector_bytes))
      return; // perhaps somebody else's sector is lost
    for (std::uint64_t i = 0; i < count; ++i)
      if (std::memcmp(got.data() + i * thread_count * sector_bytes, held_[index + i].bytes.data(),
                      sector_bytes) != 0)
        fail("other bytes in a wide read", sector_of(index + i));
  }

  void write_own(std::uint64_t index, bool zeros) {
    own_sector& own = held_[index];
    content fresh{};
    for (std::byte& b : fresh)
      b = zeros ? std::byte{0} : static_cast<std::byte>(random_());
    const std::uint64_t offset = sector_of(index) * sector_bytes;
    const io_result done =
        zeros ? disk_.zero(*context_, offset, sector_bytes) : disk_.write(*context_, fresh, offset);
    if (!done)
      return fail("a write fails: " + std::string(name_of(done.error())), sector_of(index));
    own.bytes = fresh;
    own.maybe_lost = own.breaks;
  }

  void write_part(std::uint64_t index) {
    own_sector& own = held_[index];
    const std::uint64_t from = pick(sector_bytes), length = 1 + pick(sector_bytes - from);
    content fresh;
    for (std::byte& b : fresh)
      b = static_cast<std::byte>(random_());
    const io_result done =
        disk_.write(*context_, std::span(fresh).first(length), sector_of(index) * sector_bytes + from);
    if (!done && !own.maybe_lost)
      return fail("a write of a part fails: " + std::string(name_of(done.error())), sector_of(index));
    if (done)
      std::memcpy(own.bytes.data() + from, fresh.data(), length);
    else
      write_own(index, false); // old or new: make it known
  }

  disk& disk_;
  memory_store& main_;
  const unsigned number_;
  std::mt19937_64 random_;
  std::unique_ptr<io_context> context_;
  std::vector<own_sector> held_;
  std::string wrong_;
};

void run_round(std::uint64_t seed, std::uint32_t spare_block, std::uint64_t operations) {
  const auto main = std::make_shared<memory_store>(main_units * unit_bytes);
  const auto spare = std::make_shared<memory_store>(16u << 20, spare_block);
  store* const spares[] = {spare.get()};
  format_options naming;
  naming.name = "threads";
  REQUIRE(disk::format(*main, spares, naming).has_value());
  auto opened = disk::open(main, {spare}, {});
  REQUIRE(opened.has_value());
  disk& set = **opened;
  {
    std::vector<std::unique_ptr<worker>> workers;
    for (unsigned i = 0; i < thread_count; ++i)
      workers.push_back(std::make_unique<worker>(set, *main, i, seed));
    std::vector<std::thread> threads;
    for (auto& each : workers)
      threads.emplace_back([&each, operations] { each->run(operations / thread_count); });
    for (std::thread& each : threads)
      each.join();
    main->clear_faults();
    for (auto& each : workers)
      each->compare();
    INFO("DMREMAP_MODEL_SEED=" << seed);
    for (const auto& each : workers)
      CHECK(each->wrong() == "");
  }
  REQUIRE(set.close().has_value());
  spare_checker checker;
  const spare_report report = checker.check(spare->image());
  CHECK(report.damage == std::vector<std::string>{});
  CHECK(report.slots.size() == set.stats().remapped_units);
}

} // namespace

TEST_CASE("threads that share units each find their own bytes") {
  const std::uint64_t all = number_from("DMREMAP_MODEL_OPS", 1000000), each = 20000;
  const std::uint64_t seed = number_from("DMREMAP_MODEL_SEED", 1);
  for (std::uint64_t round = 0; round * each < all; ++round)
    run_round(seed + round, round % 2 == 0 ? 512 : 4096, each);
}
