// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace dmremap::test {

/// What a sector holds, as the tests see it: each write puts a version of its own into each sector it covers,
/// so that bytes that are stale, misplaced or made up are recognised for what they are.
using version = std::uint32_t;
inline constexpr version zeros_version = 0;         ///< 512 bytes of zeros
inline constexpr version lost_version = 0xFFFFFFFF; ///< reading it fails
inline constexpr version garbage_version =
    0xFFFFFFFE; ///< no tag of this sector: torn, somebody else's, made up

/// 512 bytes that say which sector and version they are; every byte depends on both.
void fill_tag(std::span<std::byte> sector_bytes_out, std::uint64_t sector, version v);
/// For a run of sectors.
void fill_tags(std::span<std::byte> bytes, std::uint64_t first_sector, version v);
/// The version that the bytes carry, where they carry one of this sector, all of it.
[[nodiscard]] version read_tag(std::span<const std::byte> sector_bytes_in, std::uint64_t sector);
[[nodiscard]] std::string name_of_version(version v);

/// Which version each sector may show, after a crash or without one. Knows nothing of remaps but what it is
/// told; shares no code with the engine. A value: copies are snapshots. Requests on one sector do not overlap
/// in time.
class oracle {
public:
  /// Every sector durably holds `initial`.
  explicit oracle(std::uint64_t sectors, version initial = zeros_version);

  [[nodiscard]] std::uint64_t sectors() const { return history_.size(); }
  /// A version that was never written.
  [[nodiscard]] version new_version() { return ++last_version_; }

  /// From now on the sectors may show `v`, until it is acknowledged or given up besides what they showed
  /// before. Used for writes, zeroes (zeros_version), losses (lost_version) and salvage.
  void begin(std::uint64_t first, std::uint64_t count, version v);
  /// The newest version of the sectors was acknowledged: without a crash it is what they show; a flush that
  /// begins after this makes it durable.
  void acknowledge(std::uint64_t first, std::uint64_t count);
  /// The request failed: old or new for ever, until something else is acknowledged. (Nothing to do: the
  /// opposite of acknowledge, for the reader of a test.)
  void give_up(std::uint64_t first, std::uint64_t count);
  /// The request failed before it changed anything: the newest version never was.
  void withdraw(std::uint64_t first, std::uint64_t count);
  /// A table change was acknowledged: what the sectors showed last is durable.
  void make_durable(std::uint64_t first, std::uint64_t count);

  /// Returns what end_flush wants.
  [[nodiscard]] std::uint64_t begin_flush();
  void end_flush(std::uint64_t begun);
  /// The flush failed: what was acknowledged before it may be lost for good, and no later flush covers it.
  void fail_flush(std::uint64_t begun);
  /// What holds these sectors is out of reach of the flushes to come: what was acknowledged and not flushed
  /// is covered by none of them.
  void leave_behind(std::uint64_t first, std::uint64_t count);

  /// The medium under the sectors cannot be read (and nothing else holds them): an error is as good as any
  /// value.
  void set_unreadable(std::uint64_t first, std::uint64_t count, bool unreadable);

  /// After a crash: may the sector show this? Nothing: yes; else what is wrong.
  [[nodiscard]] std::optional<std::string> check_after_crash(std::uint64_t sector, version seen) const;
  /// Without a crash.
  [[nodiscard]] std::optional<std::string> check_now(std::uint64_t sector, version seen) const;
  /// The version that the sector shows without a crash (the last acknowledged).
  [[nodiscard]] version current(std::uint64_t sector) const;
  /// After a crash and an open that cannot show the sector: any of what it may hold is as good as another.
  void doubt(std::uint64_t sector);
  /// After a crash and an open: what was seen is what is there, for good.
  void settle(std::uint64_t sector, version seen);

private:
  struct candidate {
    version value = zeros_version;
    std::uint64_t acknowledged = 0; ///< when; 0: not
    bool given_up = false;          ///< by a flush that failed
  };
  struct sector_history {
    std::vector<candidate> candidates; ///< oldest first; the first is durable
    bool unreadable = false;
  };
  [[nodiscard]] std::string expected(const sector_history& history, std::size_t from) const;
  static void forget_before(sector_history& history, std::size_t index);

  std::vector<sector_history> history_;
  std::uint64_t clock_ = 1;
  version last_version_ = 0;
};

} // namespace dmremap::test
