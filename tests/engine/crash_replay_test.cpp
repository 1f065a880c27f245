// SPDX-License-Identifier: GPL-2.0-or-later
// The judge judged: what the replay enumerates, counted by hand; and a journal small enough to see through,
// right and with each of its flushes removed.
#include "tests/support/crash_replay.h"

#include "tests/support/oracle.h"

#include <catch2/catch.hpp>

#include <chrono>
#include <cstring>
#include <set>

using namespace dmremap;
using namespace dmremap::test;

namespace {

using page_bytes_array = std::array<std::byte, page_bytes>;

page_bytes_array filled(std::uint64_t seed) {
  page_bytes_array bytes;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    bytes[i] = static_cast<std::byte>(seed >> 56);
  }
  return bytes;
}

struct rig {
  std::shared_ptr<crash_log> log = std::make_shared<crash_log>();
  std::vector<std::shared_ptr<crash_store>> drives;
  explicit rig(unsigned count) {
    for (unsigned i = 0; i < count; ++i)
      drives.push_back(std::make_shared<crash_store>(log, std::make_shared<memory_store>(1 << 20)));
  }
  void write(unsigned drive, std::uint64_t page_number, std::uint64_t seed, std::size_t bytes = page_bytes) {
    const page_bytes_array content = filled(seed);
    REQUIRE(drives[drive]->write(std::span(content).first(bytes), page_number * page_bytes).has_value());
  }
};

replay_counts count_states(const rig& of, replay_limits limits) {
  crash_replay replay(*of.log, limits);
  REQUIRE(replay.run([](const crash_state&) { return true; }));
  return replay.counts();
}

/// Two copies of one number: write the first, flush, write the second, flush; read the first valid one.
class toy_journal {
public:
  explicit toy_journal(store& on, bool flush_between, bool flush_at_end)
      : on_(on), flush_between_(flush_between), flush_at_end_(flush_at_end) {}

  void put(std::uint64_t value) {
    write_copy(0, value);
    if (flush_between_)
      (void)on_.flush();
    write_copy(1, value);
    if (flush_at_end_)
      (void)on_.flush();
  }

  /// 0: neither copy is valid.
  static std::uint64_t get(const page_image& from) {
    std::uint64_t best = 0;
    for (std::uint64_t copy = 0; copy < 2; ++copy) {
      page_bytes_array held;
      from.read(held, copy * page_bytes);
      std::uint64_t value = 0;
      std::memcpy(&value, held.data(), sizeof value);
      if (held == block(value))
        best = std::max(best, value);
    }
    return best;
  }

private:
  static page_bytes_array block(std::uint64_t value) {
    page_bytes_array bytes = filled(value);
    std::memcpy(bytes.data(), &value, sizeof value);
    return bytes;
  }
  void write_copy(std::uint64_t copy, std::uint64_t value) {
    (void)on_.write(block(value), copy * page_bytes);
  }

  store& on_;
  bool flush_between_, flush_at_end_;
};

struct journal_verdict {
  bool lost_acknowledged = false, unreadable = false;
};

journal_verdict judge_journal(bool flush_between, bool flush_at_end) {
  rig r(1);
  toy_journal journal(*r.drives[0], flush_between, flush_at_end);
  std::vector<std::uint64_t> acknowledged{0}; // by epoch
  for (std::uint64_t value = 1; value <= 3; ++value) {
    journal.put(value);
    r.log->add_marker("put " + std::to_string(value));
    acknowledged.push_back(value);
  }
  journal_verdict said;
  crash_replay replay(*r.log, {});
  replay.run([&](const crash_state& state) {
    const std::uint64_t got = toy_journal::get(state.devices[0]->content);
    said.unreadable = said.unreadable || (got == 0 && acknowledged[state.epoch] != 0);
    said.lost_acknowledged = said.lost_acknowledged || (got != 0 && got < acknowledged[state.epoch]);
    return true;
  });
  return said;
}

} // namespace

TEST_CASE("the replay enumerates every subset of unflushed writes once") {
  rig r(1);
  for (std::uint64_t i = 0; i < 5; ++i)
    r.write(0, i, i + 1);
  replay_limits limits;
  limits.tears = false;
  REQUIRE(count_states(r, limits).distinct_images == 32);
  REQUIRE(count_states(r, limits).sampled_points == 0);
  REQUIRE(r.drives[0]->flush().has_value());
  r.write(0, 0, 99);
  REQUIRE(count_states(r, limits).distinct_images == 33);
  limits.first_event = 6; // after the flush
  REQUIRE(count_states(r, limits).distinct_images == 2);
}

TEST_CASE("writes over each other: any of them, or none") {
  rig r(1);
  for (std::uint64_t i = 0; i < 5; ++i)
    r.write(0, 7, i + 1);
  replay_limits limits;
  limits.tears = false;
  REQUIRE(count_states(r, limits).distinct_images == 6);
}

TEST_CASE("devices lose their writes independently") {
  rig r(2);
  r.write(0, 1, 1);
  r.write(1, 1, 1);
  r.write(0, 2, 2);
  replay_limits limits;
  limits.tears = false;
  REQUIRE(count_states(r, limits).distinct_images == 8);
  REQUIRE(r.drives[0]->flush().has_value()); // says nothing of the other
  limits.first_event = 4;
  REQUIRE(count_states(r, limits).distinct_images == 2);
}

TEST_CASE("a write may be torn at each 512-byte boundary, from either side") {
  rig r(1);
  r.write(0, 1, 1);
  replay_limits limits;
  limits.random_tears = 0;
  limits.torn_together = 0;
  REQUIRE(count_states(r, limits).distinct_images == 2 + 7 + 7);
  limits.random_tears = 50;
  REQUIRE(count_states(r, limits).distinct_images > 40);
  // Sectors that do not change cannot be torn.
  rig same(1);
  page_bytes_array content{};
  content[5000 % page_bytes] = std::byte{1}; // one sector differs from what is there
  REQUIRE(same.drives[0]->write(content, 0).has_value());
  REQUIRE(count_states(same, limits).distinct_images == 2);
}

TEST_CASE("all copies may be torn together") {
  rig r(1);
  for (std::uint64_t i = 0; i < 4; ++i)
    r.write(0, i, i + 1);
  bool all_torn = false;
  crash_replay replay(*r.log, {});
  replay.run([&](const crash_state& state) {
    bool each = true;
    for (std::uint64_t i = 0; i < 4; ++i) {
      const page* held = state.devices[0]->content.at(i);
      each = each && held != nullptr && held->data != filled(i + 1);
    }
    all_torn = all_torn || each;
    return true;
  });
  REQUIRE(all_torn);
}

TEST_CASE("beyond the bound the replay still tries the extremes") {
  rig r(1);
  for (std::uint64_t i = 0; i < 12; ++i)
    r.write(0, i, i + 1);
  replay_limits limits;
  limits.tears = false;
  limits.samples = 0;
  limits.first_event = 12;
  const replay_counts counts = count_states(r, limits);
  REQUIRE(counts.sampled_points == 1);
  REQUIRE(counts.distinct_images ==
          13 + 11 + 11); // prefixes; only one, all but one: less those that are prefixes
}

TEST_CASE("a checker is asked again where only the oracle has changed") {
  rig r(1);
  r.write(0, 1, 1, 512);
  r.log->add_marker("a");
  r.log->add_marker("b");
  crash_replay replay(*r.log, {});
  std::set<std::size_t> epochs;
  unsigned fresh = 0;
  replay.run([&](const crash_state& state) {
    epochs.insert(state.epoch);
    fresh += state.fresh ? 1 : 0;
    return true;
  });
  REQUIRE(epochs == std::set<std::size_t>{0, 1, 2});
  REQUIRE(replay.counts().checks == 6);
  REQUIRE(replay.counts().distinct_images == 2);
  REQUIRE(fresh == 2);
}

TEST_CASE("a journal with both flushes survives everything") {
  const journal_verdict said = judge_journal(true, true);
  REQUIRE_FALSE(said.unreadable);
  REQUIRE_FALSE(said.lost_acknowledged);
}

TEST_CASE("a journal without the flush between its copies tears both") {
  REQUIRE(judge_journal(false, true).unreadable);
}

TEST_CASE("a journal without the last flush loses a value when the next one is torn") {
  // One value alone would survive: the flush between the copies makes the first durable. It takes two to see
  // it.
  REQUIRE(judge_journal(true, false).lost_acknowledged);
}

TEST_CASE("a journal without any flush loses what it acknowledged") {
  REQUIRE(judge_journal(false, false).lost_acknowledged);
}

TEST_CASE("replay speed", "[!benchmark]") {
  rig r(2);
  for (std::uint64_t round = 0; round < 200; ++round) {
    for (std::uint64_t i = 0; i < 6; ++i)
      r.write(0, i * 37, round * 10 + i);
    r.write(1, round % 5, round);
    REQUIRE(r.drives[0]->flush().has_value());
    REQUIRE(r.drives[1]->flush().has_value());
  }
  const auto start = std::chrono::steady_clock::now();
  const replay_counts counts = count_states(r, {});
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  WARN(counts.distinct_images << " distinct of " << counts.generated << " in " << took.count() << " s: "
                              << static_cast<double>(counts.distinct_images) / took.count() << " a second");
}

TEST_CASE("the oracle: acknowledged, flushed, in flight, given up") {
  oracle o(8, 1);
  o.begin(0, 1, 2);
  REQUIRE_FALSE(o.check_after_crash(0, 1));
  REQUIRE_FALSE(o.check_after_crash(0, 2));
  REQUIRE(o.check_after_crash(0, 3));
  REQUIRE(o.check_after_crash(0, lost_version));
  REQUIRE(o.check_after_crash(1, 2));
  o.acknowledge(0, 1);
  REQUIRE_FALSE(o.check_now(0, 2));
  REQUIRE(o.check_now(0, 1));
  REQUIRE_FALSE(o.check_after_crash(0, 1));
  const auto flush = o.begin_flush();
  o.begin(0, 1, 3);
  o.acknowledge(0, 1); // after the flush began
  o.end_flush(flush);
  REQUIRE(o.check_after_crash(0, 1));
  REQUIRE_FALSE(o.check_after_crash(0, 2));
  REQUIRE_FALSE(o.check_after_crash(0, 3));
  o.begin(0, 1, 4);
  o.give_up(0, 1);
  o.end_flush(o.begin_flush());
  REQUIRE(o.check_after_crash(0, 2));
  REQUIRE_FALSE(o.check_after_crash(0, 3));
  REQUIRE_FALSE(o.check_after_crash(0, 4));
  REQUIRE_FALSE(o.check_now(0, 4));
  o.begin(0, 1, 5);
  o.acknowledge(0, 1);
  o.make_durable(0, 1);
  REQUIRE(o.check_after_crash(0, 3));
  REQUIRE(o.check_after_crash(0, 4));
  REQUIRE_FALSE(o.check_after_crash(0, 5));
  o.set_unreadable(0, 1, true);
  REQUIRE_FALSE(o.check_after_crash(0, lost_version));
  o.settle(0, lost_version);
  o.set_unreadable(0, 1, false);
  REQUIRE(o.check_after_crash(0, 5));
  REQUIRE(o.current(0) == lost_version);
}

TEST_CASE("tags tell stale, misplaced and torn bytes apart") {
  std::array<std::byte, 512> bytes;
  fill_tag(bytes, 7, 3);
  REQUIRE(read_tag(bytes, 7) == 3);
  REQUIRE(read_tag(bytes, 8) == garbage_version);
  bytes[300] ^= std::byte{1};
  REQUIRE(read_tag(bytes, 7) == garbage_version);
  fill_tag(bytes, 7, zeros_version);
  REQUIRE(read_tag(bytes, 7) == zeros_version);
}
