// SPDX-License-Identifier: GPL-2.0-or-later
// Every sequence of up to two operations over two neighbouring main units on one spare; after each, every
// disk state that a crash may leave behind is opened and held against the oracle.
//
// DMREMAP_REPLAY=nightly goes further than the default, "ci"; DMREMAP_REPLAY_SEED varies what is sampled.
#include "tests/support/crash_judge.h"
#include "tests/support/crash_operations.h"

#include <catch2/catch.hpp>

#include <chrono>
#include <cstdlib>

using namespace dmremap;
using namespace dmremap::test;

namespace {

bool nightly() {
  const char* const value = std::getenv("DMREMAP_REPLAY");
  return value != nullptr && std::string(value) == "nightly";
}

std::uint64_t seed() {
  const char* const value = std::getenv("DMREMAP_REPLAY_SEED");
  return value != nullptr ? std::strtoull(value, nullptr, 0) : 1;
}

judge_options options_for(std::uint64_t round) {
  judge_options options;
  options.limits.seed = seed() * 1000 + round;
  options.limits.exhaustive = nightly() ? 8 : 6;
  options.limits.combinations = nightly() ? 1024 : 160;
  options.limits.torn_together = nightly() ? 32 : 4;
  options.mending_every = nightly() ? 20 : 100;
  options.reopen_every = nightly() ? 1 : 8;
  options.after_open = [](crash_run& run, std::uint64_t number) {
    const auto all = operations_on_a();
    all[number % all.size()].run(run);
  };
  return options;
}

class sequence_test {
public:
  explicit sequence_test(const std::string& start, std::uint32_t main_block = 512,
                         std::uint32_t spare_block = 512)
      : name_(start), start_(starting_state(start, main_block, spare_block)) {}

  /// The crashes of the operations before the last belong to shorter sequences.
  void run(const std::vector<const operation*>& sequence) {
    crash_run run(start_, {});
    std::string name = name_;
    std::size_t from = 0;
    if (run.open())
      for (const operation* each : sequence) {
        from = run.position();
        each->run(run);
        name += std::string(" | ") + each->name;
      }
    run.finish();
    crash_judge judge(options_for(++rounds_));
    judge.judge(run, name, from);
    counts_.distinct_images += judge.counts().distinct_images;
    counts_.mending_images += judge.counts().mending_images;
    counts_.checks += judge.counts().checks;
    counts_.points += judge.counts().points;
    counts_.sampled_points += judge.counts().sampled_points;
    for (const std::string& what : judge.violations())
      UNSCOPED_INFO(what);
    CHECK(judge.violations().empty());
  }

  /// Of the sequences of two, one in `keep`.
  void run_all(unsigned keep) {
    run({});
    std::vector<const operation*> all;
    for (const operation& each : operations_on_a())
      all.push_back(&each);
    for (const operation& each : operations_on_b())
      all.push_back(&each);
    for (const operation* each : all)
      run({each});
    std::uint64_t number = seed();
    for (const operation& first : operations_on_a())
      for (const operation* second : all)
        if (number++ % keep == 0)
          run({&first, second});
  }

  ~sequence_test() {
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun_;
    WARN(name_ << ": " << rounds_ << " sequences, " << counts_.points << " crash points ("
               << counts_.sampled_points << " of them sampled), " << counts_.distinct_images
               << " distinct images, " << counts_.checks << " checks, " << counts_.mending_images
               << " images of crashes after a crash, " << took.count() << " s");
  }

private:
  std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
  std::string name_;
  set_state start_;
  std::uint64_t rounds_ = 0;
  judge_counts counts_;
};

} // namespace

TEST_CASE("crashes in sequences from a fresh set") {
  sequence_test("fresh").run_all(1);
}

TEST_CASE("crashes in sequences from a set with both units remapped") {
  sequence_test("mapped").run_all(nightly() ? 1 : 3);
}

TEST_CASE("crashes in sequences from a set with a lost sector that was not closed") {
  sequence_test("lost").run_all(nightly() ? 1 : 3);
}

TEST_CASE("crashes in sequences on a main that cannot write") {
  sequence_test("broken").run_all(nightly() ? 1 : 5);
}

TEST_CASE("crashes in sequences on members with 4096-byte blocks") {
  SECTION("both") {
    sequence_test("fresh", 4096, 4096).run_all(nightly() ? 1 : 17);
  }
  SECTION("main") {
    sequence_test("lost", 4096, 512).run_all(nightly() ? 1 : 17);
  }
  SECTION("spare") {
    sequence_test("mapped", 512, 4096).run_all(nightly() ? 1 : 17);
  }
}
