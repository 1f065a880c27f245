// SPDX-License-Identifier: GPL-2.0-or-later
// Sequences of up to three operations over two neighbouring main units, on one spare and on several, and
// longer ones by seed; after each, every disk state that a crash may leave behind is opened and held against
// the oracle; and of some a copy, when fsck has repaired it.
//
// Session numbers and UUIDs are counted, not drawn: what two sequences leave alike is one image.
//
// DMREMAP_REPLAY says how far it goes.
//   ci       (default) all sequences of one operation, all of two from a fresh set of one spare, and of the
//            others a fixed part, which run_all's callers give; some of 4 to 12 operations by seed
//   three    every sequence of up to three operations, of each the crash states that ci takes of one of two;
//            and for some three hundred of those of three one of 4 to 12 by seed
//   nightly  every sequence of up to three operations and 10000 longer ones from each start, of each many
//   more
//            crash states, and far more crashes during the open after a crash
//   seed     of 4 to 12 operations alone, 10000 from each start, of each the crash states that ci takes
// The last two take weeks: DMREMAP_REPLAY_MINUTES bounds them. Then each start gets an equal share of that
// time, the sequences of one length come in an order of their own for each DMREMAP_REPLAY_SEED, and the
// report says how many of them were reached. The seed also says which longer ones there are.
// DMREMAP_REPLAY_PART=3/8: of the sequences of three and more, the third eighth alone; eight such runs make a
// whole. DMREMAP_REPLAY_ONLY="pool gone | all back | evacuate 0": that sequence alone, as a report names it,
// in all its states.
#include "tests/engine/crash_fsck.h"
#include "tests/support/pool_operations.h"
#include "tests/support/sanitized.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <random>
#include <sstream>
#include <stdexcept>

using namespace dmremap;
using namespace dmremap::test;

namespace {

bool asked_for(const char* reach) {
  const char* const value = std::getenv("DMREMAP_REPLAY");
  return value != nullptr && std::string(value) == reach;
}
bool nightly() {
  return asked_for("nightly");
}
bool all_of_three() {
  return asked_for("three");
}
bool only_by_seed() {
  return asked_for("seed");
}

/// The name of the one sequence that was asked for.
const char* the_only() {
  return std::getenv("DMREMAP_REPLAY_ONLY");
}

std::uint64_t seed() {
  const char* const value = std::getenv("DMREMAP_REPLAY_SEED");
  return value != nullptr ? std::strtoull(value, nullptr, 0) : 1;
}

constexpr std::uint64_t all_cases = 13; ///< starts

/// What each start may take; nothing: all that it needs.
std::optional<std::chrono::duration<double>> time_for_each() {
  const char* const value = std::getenv("DMREMAP_REPLAY_MINUTES");
  if (value == nullptr)
    return std::nullopt;
  return std::chrono::duration<double>(std::strtod(value, nullptr) * 60 / all_cases);
}

/// Which of the sequences of three: those whose number is first modulo second.
std::pair<std::uint64_t, std::uint64_t> part() {
  const char* const value = std::getenv("DMREMAP_REPLAY_PART");
  if (value == nullptr)
    return {0, 1};
  std::uint64_t which = 0, of = 0;
  char slash = 0;
  std::istringstream text(value);
  if (!(text >> which >> slash >> of) || slash != '/' || !text.eof() || which == 0 || which > of)
    throw std::invalid_argument("DMREMAP_REPLAY_PART: PART/PARTS is wanted, such as 3/8");
  return {which - 1, of};
}

/// Somebody names tests, where ctest names this file.
bool single_tests_chosen() {
  const auto& asked = Catch::getCurrentContext().getConfig()->getTestsOrTags();
  return !asked.empty() && asked != std::vector<std::string>{"[#replay_test]"};
}

struct totals {
  std::unordered_set<std::uint64_t> images; ///< hashes
  std::uint64_t cases = 0;
};
totals& found_so_far() {
  static totals all;
  return all;
}

judge_options options_for(std::uint64_t round) {
  const bool deep = nightly() || the_only() != nullptr;
  judge_options options;
  options.images = &found_so_far().images;
  options.limits.seed = seed() * 1000 + round;
  options.limits.exhaustive = deep ? 8 : 6;
  options.limits.combinations = deep ? 1024 : 160;
  options.limits.torn_together = deep ? 32 : 4;
  options.mending_every = deep ? 20 : 300;
  options.repair = check_and_repair;
  options.repair_every = deep ? 7 : 31; // prime: not always with the same of what else depends on the number
  options.reopen_every = deep ? 1 : 8;
  options.after_open = [](crash_run& run, std::uint64_t number) {
    const auto all = operations_on_a();
    all[number % all.size()].run(run);
  };
  return options;
}

judge_options pool_options_for(std::uint64_t round, std::size_t operations) {
  judge_options options = options_for(round);
  const bool deep = nightly() || the_only() != nullptr;
  // Of what there is much, each is told apart by what was written at all; torn writes are for the others.
  const bool many = !deep && (all_of_three() ? operations >= 2 : operations == 2 || operations > 3);
  options.limits.tears = !many || round % 8 == 0;
  options.limits.exhaustive = deep ? 8 : many ? 2 : 4;
  options.limits.samples = deep ? 24 : many ? 1 : 6;
  options.limits.combinations = deep ? 512 : many ? 8 : 24;
  options.limits.torn_together = deep ? 16 : 1;
  options.limits.random_tears = deep ? 2 : 0;
  // A crash after a crash costs some hundred times what the first one does.
  options.mending_every = !deep || operations > 2 ? 1999 : operations == 2 ? 400 : 100;
  options.absent_every = deep ? 1 : all_of_three() && operations > 2 ? 6 : 2;
  options.after_open = [](crash_run& run, std::uint64_t number) {
    const auto all = pool_operations();
    all[number % all.size()].run(run);
  };
  return options;
}

class sequence_test {
public:
  using sequence = std::vector<const operation*>;

  sequence_test(std::string name, set_state start) : name_(std::move(name)), start_(std::move(start)) {}

  /// The crashes of the operations before the last belong to shorter sequences; of long ones, those of the
  /// first three.
  void run(const sequence& operations) {
    crash_run run(start_, {});
    std::string name = name_;
    std::size_t from = 0, done = 0;
    if (run.open())
      for (const operation* each : operations) {
        from = done++ <= 3 ? run.position() : from;
        each->run(run);
        name += std::string(" | ") + each->name;
      }
    run.finish();
    ++rounds_;
    crash_judge judge(start_.pool() ? pool_options_for(rounds_, operations.size()) : options_for(rounds_));
    judge.judge(run, name, from);
    counts_ += judge.counts();
    for (const std::string& what : judge.violations())
      UNSCOPED_INFO(what);
    CHECK(judge.violations().empty());
  }

  /// Of the sequences of two, one in `keep`; of those of three, one in `keep_three`; 0: none. And so many by
  /// seed, of 4 to 12 operations of `any`.
  void run_all(const std::vector<const operation*>& firsts, const std::vector<const operation*>& all,
               unsigned keep, unsigned keep_three, const std::vector<const operation*>& any,
               unsigned by_seed) {
    if (the_only() != nullptr)
      return run_only(firsts, any);
    if (sanitized) {
      keep *= sanitized_threads ? 397 : 101;
      keep_three *= sanitized_threads ? 397 : 101;
      by_seed = sanitized_threads ? 0 : 1;
    }
    std::vector<sequence> none{{}}, one, two, three, longer;
    std::uint64_t number = seed(), single = 0, of_three = 0;
    const auto [mine, parts] = part();
    for (const operation* each : all)
      if (!sanitized || single++ % (sanitized_threads ? 64 : 8) == 0)
        one.push_back({each});
    for (const operation* first : firsts)
      for (const operation* second : all)
        if (number++ % keep == 0)
          two.push_back({first, second});
    for (const operation* first : firsts)
      for (const operation* second : all)
        for (const operation* third : all)
          if (keep_three != 0 && number++ % keep_three == 0 && of_three++ % parts == mine)
            three.push_back({first, second, third});
    std::uint64_t stream = seed(); // each start has sequences of its own
    for (const char c : name_)
      stream = stream * 131 + static_cast<unsigned char>(c);
    std::mt19937_64 random(stream);
    for (unsigned n = 0; n < by_seed; ++n) {
      sequence made(4 + random() % 9);
      for (const operation*& each : made)
        each = any[random() % any.size()];
      if (n % parts == mine)
        longer.push_back(std::move(made));
    }
    run_some("of 0", std::move(none), 1);
    if (!only_by_seed()) {
      run_some("of 1", std::move(one), 0.25);
      run_some("of 2", std::move(two), 0.5);
      run_some("of 3", std::move(three), 0.75);
    }
    run_some("of 4 to 12", std::move(longer), 1);
  }

  ~sequence_test() {
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun_;
    ++found_so_far().cases;
    WARN(name_ << ": " << reached_ << counts_.points << " crash points (" << counts_.sampled_points
               << " of them sampled), " << counts_.distinct_images << " images, " << counts_.checks
               << " checks, " << counts_.mending_images << " images of crashes after a crash, "
               << counts_.degraded_opens << " opened without a spare, " << counts_.refused_opens
               << " refused so, " << counts_.repairs << " checked and repaired, " << took.count() << " s");
  }

private:
  /// The sequence that was asked for, where it is one from this start.
  void run_only(const std::vector<const operation*>& firsts, const std::vector<const operation*>& any) {
    std::vector<const operation*> known = firsts;
    known.insert(known.end(), any.begin(), any.end());
    const std::string name = the_only(), mark = " | ";
    std::size_t at = std::min(name.find(mark), name.size());
    if (name.substr(0, at) != name_)
      return;
    sequence wanted;
    while (at < name.size()) {
      const std::size_t from = at + mark.size();
      at = std::min(name.find(mark, from), name.size());
      const std::string word = name.substr(from, at - from);
      const auto found =
          std::find_if(known.begin(), known.end(), [&](const operation* each) { return word == each->name; });
      if (found == known.end())
        throw std::invalid_argument("DMREMAP_REPLAY_ONLY: there is no operation " + word);
      wanted.push_back(*found);
    }
    run_some("as asked", {wanted}, 1);
  }

  /// All of them, or as many as fit until so much of the start's time is over.
  void run_some(const char* lengths, std::vector<sequence> chosen, double until) {
    if (chosen.empty())
      return;
    const auto limit = time_for_each();
    if (limit) {
      std::mt19937_64 random(seed());
      std::shuffle(chosen.begin(), chosen.end(), random);
    }
    const std::uint64_t before = rounds_;
    for (const sequence& each : chosen) {
      if (limit && std::chrono::steady_clock::now() - begun_ > *limit * until && !each.empty())
        break;
      run(each);
    }
    reached_ += std::to_string(rounds_ - before) + " of " + std::to_string(chosen.size()) + " sequences " +
                lengths + ", ";
  }

  std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
  std::string reached_; ///< "1 of 1 sequences of 0, 23 of 23 sequences of 1, "
  std::string name_;
  set_state start_;
  std::uint64_t rounds_ = 0;
  judge_counts counts_;
};

std::vector<const operation*> list(std::initializer_list<std::span<const operation>> spans) {
  std::vector<const operation*> all;
  for (const auto span : spans)
    for (const operation& each : span)
      all.push_back(&each);
  return all;
}

/// Sequences by seed: in CI; with every sequence of three, one in some three hundred; in the nightly form
/// more than there is time for, or ten thousand.
unsigned by_seed(unsigned ci, unsigned threes) {
  return nightly() || only_by_seed() ? 10000 : all_of_three() ? threes / 300 : ci;
}

void one_spare(const std::string& start, unsigned keep, std::uint32_t main_block = 512,
               std::uint32_t spare_block = 512) {
  constexpr unsigned keep_three = 797;
  const auto firsts = list({operations_on_a()}), all = list({operations_on_a(), operations_on_b()});
  const auto threes = static_cast<unsigned>(firsts.size() * all.size() * all.size());
  sequence_test(start, starting_state(start, main_block, spare_block))
      .run_all(firsts, all, nightly() || all_of_three() ? 1 : keep,
               nightly() || all_of_three() ? 1 : keep_three, all, by_seed(4, threes));
}

void several_spares(const std::string& start, unsigned keep, unsigned keep_three) {
  const auto all = list({pool_operations()}), any = list({pool_operations(), more_pool_operations()});
  const auto threes = static_cast<unsigned>(all.size() * all.size() * all.size());
  sequence_test("pool " + start, pool_start(start))
      .run_all(all, all, nightly() || all_of_three() ? 1 : keep, nightly() || all_of_three() ? 1 : keep_three,
               any, by_seed(8, threes));
}

} // namespace

TEST_CASE(
    "the same operations from the same start leave the same images") { // else none is counted as seen before
  const auto image_after = [](const char* last) {
    crash_run run(pool_start("spread"), {});
    REQUIRE(run.open());
    for (const char* each : {"add", "vanish 1", "write B whole", last})
      find_pool_operation(each).run(run);
    run.finish();
    const set_state left = run.state();
    std::vector<std::uint64_t> hashes{left.main.hash()};
    for (const spare_part& p : left.spares)
      hashes.push_back(p.content.hash());
    return hashes;
  };
  CHECK(image_after("flush") == image_after("flush"));
  CHECK(image_after("flush") != image_after("close"));
  CHECK(random_u64() != random_u64()); // nothing counts any more
  std::uint64_t next = 7;
  const counted_numbers numbers(next);
  CHECK(random_u64() != random_u64());
  CHECK(next == 9);
}

TEST_CASE("crashes in sequences from a fresh set") {
  one_spare("fresh", 1);
}

TEST_CASE("crashes in sequences from a set with both units remapped") {
  one_spare("mapped", 3);
}

TEST_CASE("crashes in sequences from a set with a lost sector that was not closed") {
  one_spare("lost", 3);
}

TEST_CASE("crashes in sequences on a main that cannot write") {
  one_spare("broken", 4);
}

TEST_CASE("crashes in sequences on members with 4096-byte blocks") {
  one_spare("fresh", 17, 4096, 4096);
  one_spare("lost", 17, 4096, 512);
  one_spare("mapped", 17, 512, 4096);
}

TEST_CASE("crashes in sequences on a fresh set of two spares") {
  several_spares("fresh", 17, 3989);
}

TEST_CASE("crashes in sequences on two spares that both serve units") {
  several_spares("spread", 7, 15991);
}

TEST_CASE("crashes in sequences on two spares and a lost sector, not closed") {
  several_spares("killed", 17, 7993);
}

TEST_CASE("crashes in sequences on two spares of which one has gone") {
  several_spares("gone", 17, 7993);
}

TEST_CASE("crashes in sequences on one spare that gets a second") {
  several_spares("one", 23, 7993);
}

TEST_CASE("crashes in sequences on three spares") {
  several_spares("three", 41, 15991);
}

TEST_CASE("the crashes were enough") {
  const totals& found = found_so_far();
  WARN(found.images.size() << " distinct images in all, from " << found.cases << " of " << all_cases
                           << " starts");
  if (single_tests_chosen())
    return;
  CHECK(found.cases == all_cases);
  const bool whole = part().second == 1 && !time_for_each() && the_only() == nullptr;
  if (whole && !only_by_seed() && !sanitized) // else only some were asked for
    CHECK(found.images.size() >= 100000);
}
