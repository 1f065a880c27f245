// SPDX-License-Identifier: GPL-2.0-or-later
// Several spares under threads: I/O and remaps on all units while spares are added, emptied, removed, vanish
// and are forgotten. Under ThreadSanitizer this is also the test of the pool's locking.
//
// DMREMAP_MODEL_OPS sets the number of operations of all threads together, DMREMAP_MODEL_SEED the seed.
#include "tests/support/mortal_store.h"
#include "tests/support/pool_fixture.h"
#include "tests/support/sanitized.h"

#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>

using namespace dmremap;
using namespace dmremap::test;

namespace {

constexpr std::uint64_t main_units = 64;
constexpr unsigned thread_count = 4;

std::uint64_t number_from(const char* variable, std::uint64_t otherwise) {
  const char* const value = std::getenv(variable);
  return value != nullptr ? std::strtoull(value, nullptr, 0) : otherwise;
}

/// One thread's part: every fourth unit is its own. Catch2's macros are not thread-safe: what is wrong is
/// kept.
class worker {
public:
  worker(disk& on, unsigned number, std::uint64_t seed)
      : disk_(on), number_(number), random_(seed * 16 + number), context_(on.make_context()),
        versions_(main_units / thread_count, {0}) {}

  void run(const std::atomic<bool>& stop, std::uint64_t operations) {
    for (std::uint64_t i = 0; i < operations && wrong_.empty() && !stop; ++i)
      step();
  }
  void compare() {
    for (std::uint64_t i = 0; i < versions_.size() && wrong_.empty(); ++i)
      read(i, true);
  }
  [[nodiscard]] const std::string& wrong() const { return wrong_; }
  std::uint64_t failed = 0;

private:
  std::uint64_t unit_of_index(std::uint64_t i) const { return i * thread_count + number_; }
  void step() {
    const std::uint64_t i = random_() % versions_.size();
    switch (random_() % 12) {
    case 0:
      return (void)disk_.remap(sector_number(unit_of_index(i) * unit_sectors));
    case 1:
      return (void)disk_.unmap(sector_number(unit_of_index(i) * unit_sectors));
    case 2:
      return (void)disk_.flush();
    case 3:
    case 4:
    case 5:
    case 6:
      return write(i);
    default:
      return read(i, false);
    }
  }
  void write(std::uint64_t i) {
    std::array<std::uint64_t, unit_bytes / 8> data;
    data.fill(++last_ << 16 | unit_of_index(i));
    const auto done = disk_.write(*context_, std::as_bytes(std::span(data)), unit_of_index(i) * unit_bytes);
    if (done) {
      versions_[i] = {data[0]};
    } else {
      ++failed;
      versions_[i].push_back(data[0]);
    }
  }
  void read(std::uint64_t i, bool must) {
    std::array<std::uint64_t, unit_bytes / 8> data{};
    const auto done =
        disk_.read(*context_, std::as_writable_bytes(std::span(data)), unit_of_index(i) * unit_bytes);
    if (!done) {
      ++failed;
      if (must)
        wrong_ = "unit " + std::to_string(unit_of_index(i)) +
                 " does not read: " + std::string(name_of(done.error()));
      return;
    }
    const bool whole = std::all_of(data.begin(), data.end(), [&](std::uint64_t w) { return w == data[0]; });
    const auto& allowed = versions_[i];
    const bool known = std::find(allowed.begin(), allowed.end(), data[0]) != allowed.end();
    if (!known || (!whole && allowed.size() < 2))
      wrong_ = "unit " + std::to_string(unit_of_index(i)) + " shows " + std::to_string(data[0] >> 16);
  }

  disk& disk_;
  const unsigned number_;
  std::mt19937_64 random_;
  std::unique_ptr<io_context> context_;
  std::vector<std::vector<std::uint64_t>>
      versions_; ///< of each unit: the last one answered, and those that failed since
  std::uint64_t last_ = 0;
  std::string wrong_;
};

std::shared_ptr<mortal_store> mortal(unsigned n) {
  return std::make_shared<mortal_store>(pool_fixture::new_spare(n));
}

/// Adds spares, empties and removes others, lets one vanish and forgets it, until told to stop.
struct spare_changer {
  disk& set;
  std::mt19937_64 random;
  std::vector<std::shared_ptr<mortal_store>> made;
  std::uint64_t changes = 0;

  void run(const std::atomic<bool>& stop) {
    while (!stop) {
      const auto info = set.info();
      if (!info)
        return;
      std::vector<unsigned> present;
      for (const spare_status& s : info->spares)
        if (s.present)
          present.push_back(s.index);
      if (present.size() < 3) {
        made.push_back(mortal(static_cast<unsigned>(made.size() % 2)));
        changes += set.add_spare(made.back()) ? 1 : 0;
      } else if (random() % 4 == 0) {
        const unsigned victim = present[random() % present.size()];
        (void)set.evacuate_spare(victim); // so that nobody's data goes with it
        if (!set.remove_spare(victim))
          set.refill_spare(victim);
        ++changes;
      } else {
        const unsigned victim = present[random() % present.size()];
        (void)set.evacuate_spare(victim, [&](std::uint64_t, std::uint64_t) { return !stop; });
        set.refill_spare(victim);
        ++changes;
      }
    }
  }
};

/// The number of changes of spares that were made meanwhile.
std::uint64_t run_round(std::uint64_t seed, std::uint64_t operations, bool vanishing) {
  const auto main = std::make_shared<memory_store>(main_units * unit_bytes);
  std::vector<std::shared_ptr<mortal_store>> first{mortal(0), mortal(1), mortal(0)};
  std::vector<store*> plain;
  for (const auto& s : first)
    plain.push_back(s.get());
  format_options naming;
  naming.name = "threads";
  REQUIRE(disk::format(*main, plain, naming).has_value());
  auto opened = disk::open(main, {first.begin(), first.end()}, {});
  REQUIRE(opened.has_value());
  disk& set = **opened;
  INFO("DMREMAP_MODEL_SEED=" << seed);
  std::uint64_t changes = 0;
  {
    std::vector<std::unique_ptr<worker>> workers;
    for (unsigned i = 0; i < thread_count; ++i)
      workers.push_back(std::make_unique<worker>(set, i, seed));
    std::atomic<bool> stop_changes{false}, stop_work{false};
    spare_changer changer{set, std::mt19937_64(seed), {}, 0};
    std::thread changing([&] {
      if (vanishing)
        first[seed % 3]->die_after(2000 + seed % 1000, seed % 2 == 0 ? io_error::gone : io_error::medium);
      else
        changer.run(stop_changes);
    });
    std::vector<std::thread> threads;
    for (auto& each : workers)
      threads.emplace_back([&] { each->run(stop_work, operations / thread_count); });
    for (std::thread& each : threads)
      each.join();
    stop_changes = true;
    changing.join();
    for (auto& each : workers) {
      if (!vanishing) {
        each->compare();
        CHECK(each->failed == 0);
      }
      CHECK(each->wrong() == "");
    }
    changes = changer.changes;
  }
  if (!vanishing)
    REQUIRE(set.close().has_value());
  return changes;
}

} // namespace

TEST_CASE("threads find their own bytes while spares come and go") {
  const std::uint64_t all = number_from("DMREMAP_MODEL_OPS", sanitized ? 20000 : 100000), each = 10000;
  const std::uint64_t seed = number_from("DMREMAP_MODEL_SEED", 1);
  std::uint64_t changes = 0; // in one round alone a busy machine may not come to any
  for (std::uint64_t round = 0; round * each < all; ++round)
    changes += run_round(seed + round, each, false);
  CHECK(changes > 0);
}

TEST_CASE("threads never see other bytes while a spare vanishes") {
  const std::uint64_t all = number_from("DMREMAP_MODEL_OPS", sanitized ? 20000 : 100000), each = 10000;
  const std::uint64_t seed = number_from("DMREMAP_MODEL_SEED", 1);
  for (std::uint64_t round = 0; round * each < all; ++round)
    (void)run_round(seed + round, each, true);
}
