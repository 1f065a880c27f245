// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/stats_segment.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

using namespace dmremap;

namespace {

struct temporary_file {
  temporary_file() {
    char name[] = "/tmp/dmremap-test.XXXXXX";
    ::close(::mkstemp(name));
    path = name;
    ::unlink(name);
  }
  ~temporary_file() { ::unlink(path.c_str()); }
  std::string path;
};

/// Every figure says the same number, so that a mixture of two snapshots shows.
stats_snapshot of(std::uint64_t n) {
  stats_snapshot s;
  s.heartbeat_ns = s.pid = s.requests_away = s.oldest_request_ns = n;
  s.stats.reads = s.stats.saves_done = s.stats.lost_sectors = s.stats.main_read_errors = n;
  s.name = std::to_string(n);
  s.dm_line = std::to_string(n) + std::string(400, static_cast<char>('a' + n % 26));
  return s;
}

/// Made ahead, so that a writer does little but publish.
std::vector<stats_snapshot> many() {
  std::vector<stats_snapshot> out;
  for (std::uint64_t n = 1; n <= 64; ++n)
    out.push_back(of(n));
  return out;
}

bool is_whole(const stats_snapshot& s) {
  const stats_snapshot e = of(s.heartbeat_ns);
  return s.pid == e.pid && s.requests_away == e.pid && s.oldest_request_ns == e.pid &&
         s.stats.reads == e.pid && s.stats.saves_done == e.pid && s.stats.lost_sectors == e.pid &&
         s.stats.main_read_errors == e.pid && s.name == e.name && s.dm_line == e.dm_line;
}

} // namespace

TEST_CASE("what is published is what is read") {
  temporary_file file;
  auto segment = stats_segment::create(file.path);
  REQUIRE(segment);
  struct stat st {};
  REQUIRE(::stat(file.path.c_str(), &st) == 0);
  CHECK((st.st_mode & 0777) == 0600);
  CHECK(read_stats_segment(file.path).error().id == "bad-stats"); // nothing yet

  stats_snapshot s;
  s.heartbeat_ns = 123;
  s.pid = 4711;
  s.name = "set";
  s.uuid = "11111111-2222-3333-4444-555555555555";
  s.read_only = true;
  s.requests_away = 3;
  s.oldest_request_ns = 99;
  s.dm_line = "0 204800 remap v5.0 ...";
  std::uint64_t n = 1000;
  for (auto* counter : {&s.stats.reads,
                        &s.stats.writes,
                        &s.stats.flushes,
                        &s.stats.zeroes,
                        &s.stats.read_bytes,
                        &s.stats.written_bytes,
                        &s.stats.main_read_errors,
                        &s.stats.main_write_errors,
                        &s.stats.spare_read_errors,
                        &s.stats.spare_write_errors,
                        &s.stats.spare_host_full_errors,
                        &s.stats.flush_errors,
                        &s.stats.lost_reads,
                        &s.stats.slow_requests,
                        &s.stats.remapped_units,
                        &s.stats.auto_remapped_units,
                        &s.stats.manual_remapped_units,
                        &s.stats.auto_remaps,
                        &s.stats.manual_remaps,
                        &s.stats.lifetime_allocations,
                        &s.stats.lost_sectors,
                        &s.stats.saves_tried,
                        &s.stats.saves_done})
    *counter = n++;
  s.stats.auto_remap = false;
  s.stats.breaker_open = true;
  s.stats.main_gone = true;
  s.stats.state = "main does not answer";
  (*segment)->publish(s);

  const auto r = read_stats_segment(file.path);
  REQUIRE(r);
  CHECK(r->heartbeat_ns == 123);
  CHECK(r->pid == 4711);
  CHECK(r->name == s.name);
  CHECK(r->uuid == s.uuid);
  CHECK(r->read_only);
  CHECK(r->requests_away == 3);
  CHECK(r->oldest_request_ns == 99);
  CHECK(r->dm_line == s.dm_line);
  n = 1000;
  for (const auto* counter : {&r->stats.reads,
                              &r->stats.writes,
                              &r->stats.flushes,
                              &r->stats.zeroes,
                              &r->stats.read_bytes,
                              &r->stats.written_bytes,
                              &r->stats.main_read_errors,
                              &r->stats.main_write_errors,
                              &r->stats.spare_read_errors,
                              &r->stats.spare_write_errors,
                              &r->stats.spare_host_full_errors,
                              &r->stats.flush_errors,
                              &r->stats.lost_reads,
                              &r->stats.slow_requests,
                              &r->stats.remapped_units,
                              &r->stats.auto_remapped_units,
                              &r->stats.manual_remapped_units,
                              &r->stats.auto_remaps,
                              &r->stats.manual_remaps,
                              &r->stats.lifetime_allocations,
                              &r->stats.lost_sectors,
                              &r->stats.saves_tried,
                              &r->stats.saves_done})
    CHECK(*counter == n++);
  CHECK_FALSE(r->stats.auto_remap);
  CHECK(r->stats.breaker_open);
  CHECK(r->stats.main_gone);
  CHECK(r->stats.state == "main does not answer");
}

TEST_CASE("texts that are too long are cut, not written beyond their place") {
  temporary_file file;
  auto segment = stats_segment::create(file.path);
  REQUIRE(segment);
  stats_snapshot s;
  s.name = std::string(1000, 'n');
  s.dm_line = std::string(5000, 'd');
  s.heartbeat_ns = 7;
  (*segment)->publish(s);
  const auto r = read_stats_segment(file.path);
  REQUIRE(r);
  CHECK(r->heartbeat_ns == 7);
  CHECK(r->name == std::string(63, 'n'));
  CHECK(r->dm_line == std::string(511, 'd'));
}

TEST_CASE("what is no segment is refused") {
  temporary_file file;
  CHECK(read_stats_segment(file.path).error().id == "not-running");
  std::ofstream(file.path) << "short";
  CHECK(read_stats_segment(file.path).error().id == "bad-stats");
  std::ofstream(file.path) << std::string(100'000, '\x5a');
  CHECK(read_stats_segment(file.path).error().id == "bad-stats");
  CHECK(read_stats_segment("/").error().id == "bad-stats");
}

TEST_CASE("readers see whole snapshots while the writer writes") {
  temporary_file file;
  auto segment = stats_segment::create(file.path);
  REQUIRE(segment);
  const auto snapshots = many();
  (*segment)->publish(snapshots[0]);
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    for (std::size_t n = 0; !stop; ++n)
      (*segment)->publish(snapshots[n % snapshots.size()]);
  });
  unsigned good = 0;
  bool whole = true;
  while (good < 20'000) {
    const auto r = read_stats_segment(file.path);
    if (!r)
      continue; // a writer without a pause may outrun a reader
    whole = whole && is_whole(*r);
    ++good;
  }
  stop = true;
  writer.join();
  CHECK(whole);
}

TEST_CASE("what was published last is what is read, however often") {
  temporary_file file;
  auto segment = stats_segment::create(file.path);
  REQUIRE(segment);
  for (const auto& snapshot : many()) {
    (*segment)->publish(snapshot);
    CHECK(read_stats_segment(file.path)->heartbeat_ns == snapshot.heartbeat_ns);
  }
}

TEST_CASE("a writer that is stopped at any moment leaves the last snapshot readable") {
  temporary_file file;
  auto segment = stats_segment::create(file.path);
  REQUIRE(segment);
  const auto snapshots = many();
  (*segment)->publish(snapshots[0]);
  const pid_t child = ::fork();
  if (child == 0) {
    for (std::size_t n = 1;; ++n) // it shares the mapping
      (*segment)->publish(snapshots[n % snapshots.size()]);
  }
  REQUIRE(child > 0);
  unsigned good = 0;
  std::uint64_t last = 1;
  for (int round = 0; round < 300; ++round) {
    for (auto r = read_stats_segment(file.path); !r || r->heartbeat_ns == last;)
      r = read_stats_segment(file.path); // until it runs: a writer that is stopped never begins anything
    ::kill(child, SIGSTOP);
    int status = 0;
    ::waitpid(child, &status, WUNTRACED);
    const auto r = read_stats_segment(file.path); // must neither wait nor fail
    good += r && is_whole(*r) ? 1 : 0;
    last = r ? r->heartbeat_ns : 0;
    ::kill(child, SIGCONT);
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  CHECK(good == 300);
}
