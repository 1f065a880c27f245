// SPDX-License-Identifier: GPL-2.0-or-later
// Boost.Interprocess throws; what it throws ends in this file.
#include "engine/stats_segment.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/interprocess/file_mapping.hpp>
#include <boost/interprocess/mapped_region.hpp>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <type_traits>
#include <unistd.h>

namespace dmremap {
namespace {

namespace ipc = boost::interprocess;

constexpr std::uint64_t segment_magic = 0x31737461'74736d64; // "dmstats1"
constexpr std::uint32_t segment_version = 1;

/// A snapshot without pointers. Every field at its natural place, so that it is a whole number of 64-bit
/// words.
struct plain_snapshot {
  std::uint64_t heartbeat_ns, pid, requests_away, oldest_request_ns;
  std::uint64_t reads, writes, flushes, zeroes, read_bytes, written_bytes;
  std::uint64_t main_read_errors, main_write_errors, spare_read_errors, spare_write_errors,
      spare_host_full_errors;
  std::uint64_t flush_errors, lost_reads, slow_requests;
  std::uint64_t remapped_units, auto_remapped_units, manual_remapped_units;
  std::uint64_t auto_remaps, manual_remaps, lifetime_allocations, lost_sectors, saves_tried, saves_done;
  std::uint64_t flags; ///< bit 0 auto_remap, 1 breaker_open, 2 main_gone, 3 read_only
  char name[64], uuid[40], state[88], dm_line[512];
};
static_assert(std::is_trivially_copyable_v<plain_snapshot> && sizeof(plain_snapshot) % 8 == 0);
constexpr std::size_t snapshot_words = sizeof(plain_snapshot) / 8;
using word_array = std::array<std::uint64_t, snapshot_words>;

/// One of two places for a snapshot; `sequence` is odd while it is being written.
struct slot {
  std::atomic<std::uint64_t> sequence;
  std::array<std::atomic<std::uint64_t>, snapshot_words> words;
};

/// What the file holds. Two slots, because a writer that is stopped within one must not leave readers without
/// any.
struct segment {
  std::uint64_t magic;
  std::uint32_t version, size;
  std::atomic<std::uint64_t> newest; ///< 1 or 2: the slot published last; 0: nothing yet
  slot slots[2];
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "atomics in shared memory must not use locks");
static_assert(std::is_standard_layout_v<segment>);

template <std::size_t N>
void put_text(char (&to)[N], const std::string& from) noexcept {
  const std::size_t length = std::min(from.size(), N - 1);
  std::memcpy(to, from.data(), length);
  std::memset(to + length, 0, N - length);
}

template <std::size_t N>
std::string get_text(const char (&from)[N]) {
  return {from, ::strnlen(from, N)};
}

/// The counters, in one place for both directions.
template <class Plain, class Stats, class Copy>
void for_each_counter(Plain& plain, Stats& stats, Copy copy) {
  copy(plain.reads, stats.reads);
  copy(plain.writes, stats.writes);
  copy(plain.flushes, stats.flushes);
  copy(plain.zeroes, stats.zeroes);
  copy(plain.read_bytes, stats.read_bytes);
  copy(plain.written_bytes, stats.written_bytes);
  copy(plain.main_read_errors, stats.main_read_errors);
  copy(plain.main_write_errors, stats.main_write_errors);
  copy(plain.spare_read_errors, stats.spare_read_errors);
  copy(plain.spare_write_errors, stats.spare_write_errors);
  copy(plain.spare_host_full_errors, stats.spare_host_full_errors);
  copy(plain.flush_errors, stats.flush_errors);
  copy(plain.lost_reads, stats.lost_reads);
  copy(plain.slow_requests, stats.slow_requests);
  copy(plain.remapped_units, stats.remapped_units);
  copy(plain.auto_remapped_units, stats.auto_remapped_units);
  copy(plain.manual_remapped_units, stats.manual_remapped_units);
  copy(plain.auto_remaps, stats.auto_remaps);
  copy(plain.manual_remaps, stats.manual_remaps);
  copy(plain.lifetime_allocations, stats.lifetime_allocations);
  copy(plain.lost_sectors, stats.lost_sectors);
  copy(plain.saves_tried, stats.saves_tried);
  copy(plain.saves_done, stats.saves_done);
}

plain_snapshot flatten(const stats_snapshot& from) noexcept {
  plain_snapshot to{};
  to.heartbeat_ns = from.heartbeat_ns;
  to.pid = from.pid;
  to.requests_away = from.requests_away;
  to.oldest_request_ns = from.oldest_request_ns;
  for_each_counter(to, from.stats, [](std::uint64_t& plain, const std::uint64_t& value) { plain = value; });
  to.flags = std::uint64_t{from.stats.auto_remap} | std::uint64_t{from.stats.breaker_open} << 1U |
             std::uint64_t{from.stats.main_gone} << 2U | std::uint64_t{from.read_only} << 3U;
  put_text(to.name, from.name);
  put_text(to.uuid, from.uuid);
  put_text(to.state, from.stats.state);
  put_text(to.dm_line, from.dm_line);
  return to;
}

stats_snapshot unflatten(const plain_snapshot& from) {
  stats_snapshot to;
  to.heartbeat_ns = from.heartbeat_ns;
  to.pid = from.pid;
  to.requests_away = from.requests_away;
  to.oldest_request_ns = from.oldest_request_ns;
  for_each_counter(from, to.stats, [](const std::uint64_t& plain, std::uint64_t& value) { value = plain; });
  to.stats.auto_remap = (from.flags & 1U) != 0;
  to.stats.breaker_open = (from.flags & 2U) != 0;
  to.stats.main_gone = (from.flags & 4U) != 0;
  to.read_only = (from.flags & 8U) != 0;
  to.name = get_text(from.name);
  to.uuid = get_text(from.uuid);
  to.stats.state = get_text(from.state);
  to.dm_line = get_text(from.dm_line);
  return to;
}

/// True: `into` is what the slot held at one instant.
bool read_slot(const slot& from, word_array& into) {
  const std::uint64_t before = from.sequence.load(std::memory_order_acquire);
  if (before % 2 != 0)
    return false;
  for (std::size_t i = 0; i < snapshot_words; ++i) // acquire: the sequence is read again after all of them
    into[i] = from.words[i].load(std::memory_order_acquire);
  return from.sequence.load(std::memory_order_relaxed) == before;
}

class mapped_segment final : public stats_segment {
public:
  explicit mapped_segment(ipc::mapped_region region)
      : region_(std::move(region)), at_(static_cast<segment*>(region_.get_address())) {}

  void publish(const stats_snapshot& snapshot) noexcept override {
    const plain_snapshot plain = flatten(snapshot);
    word_array words;
    std::memcpy(words.data(), &plain, sizeof plain);
    const std::uint64_t next = at_->newest.load(std::memory_order_relaxed) == 1 ? 2 : 1;
    slot& to = at_->slots[next - 1];
    const std::uint64_t sequence = to.sequence.load(std::memory_order_relaxed);
    to.sequence.store(sequence + 1, std::memory_order_relaxed);
    // Release on every word: a reader that sees any of them sees the odd sequence, too. (A fence would do,
    // but ThreadSanitizer does not understand fences.)
    for (std::size_t i = 0; i < snapshot_words; ++i)
      to.words[i].store(words[i], std::memory_order_release);
    to.sequence.store(sequence + 2, std::memory_order_release);
    at_->newest.store(next, std::memory_order_release);
  }

private:
  ipc::mapped_region region_;
  segment* at_;
};

tl::unexpected<error> system_failure(const std::string& path, int why) {
  return fail(why == ENOENT   ? "not-running"
              : why == EACCES ? "no-permission"
                              : "stats-segment",
              path, std::strerror(why));
}

/// A file of the right size under a name of its own, then renamed: no reader ever maps one that is cut short.
result<void> make_file(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0)
    return system_failure(path, errno);
  const int why = ::posix_fallocate(fd, 0, sizeof(segment));
  ::close(fd);
  if (why != 0)
    return system_failure(path, why);
  return {};
}

result<ipc::mapped_region> map(const std::string& path, ipc::mode_t mode) {
  try {
    const ipc::file_mapping file(path.c_str(), mode);
    return ipc::mapped_region(file, mode, 0, sizeof(segment));
  } catch (const ipc::interprocess_exception& e) {
    return fail("stats-segment", path, e.what());
  }
}

} // namespace

result<std::unique_ptr<stats_segment>> stats_segment::create(const std::string& path) {
  const std::string fresh = path + ".new";
  CHECK_OK(make_file(fresh));
  auto region = map(fresh, ipc::read_write);
  if (!region) {
    ::unlink(fresh.c_str());
    return tl::make_unexpected(std::move(region).error());
  }
  auto* at = static_cast<segment*>(region->get_address()); // all zero: what its atomics start as
  at->magic = segment_magic;
  at->version = segment_version;
  at->size = sizeof(segment);
  if (::rename(fresh.c_str(), path.c_str()) != 0) {
    auto failed = system_failure(path, errno);
    ::unlink(fresh.c_str());
    return failed;
  }
  return std::make_unique<mapped_segment>(std::move(*region));
}

result<stats_snapshot> read_stats_segment(const std::string& path) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0)
    return system_failure(path, errno);
  if (!S_ISREG(st.st_mode) || static_cast<std::uint64_t>(st.st_size) < sizeof(segment))
    return fail("bad-stats", path, "not a statistics segment of this version");
  const auto region = TRY(map(path, ipc::read_only));
  const auto* at = static_cast<const segment*>(region.get_address());
  if (at->magic != segment_magic || at->version != segment_version || at->size != sizeof(segment))
    return fail("bad-stats", path, "not a statistics segment of this version");
  word_array words;
  for (int attempt = 0; attempt < 1000; ++attempt) { // the writer must publish twice to spoil one reading
    const std::uint64_t newest = at->newest.load(std::memory_order_acquire);
    if (newest != 1 && newest != 2)
      return fail("bad-stats", path, "the daemon has published nothing yet");
    if (!read_slot(at->slots[newest - 1], words))
      continue;
    plain_snapshot plain;
    std::memcpy(&plain, words.data(), sizeof plain);
    return unflatten(plain);
  }
  return fail("bad-stats", path, "the segment changes faster than it can be read");
}

} // namespace dmremap
