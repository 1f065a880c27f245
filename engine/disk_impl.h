// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

// Shared by the parts of class disk: disk.cpp (open, close, fast path), disk_slow.cpp (errors, table
// changes), disk_admin.cpp (changes by hand), disk_identity.cpp (what a spare remembers of main). Not for
// programs.

#include "engine/commit_rules.h"
#include "engine/disk.h"
#include "engine/range_gate.h"
#include "engine/record_keeper.h"
#include "engine/remap_set.h"
#include "engine/write_breaker.h"

#include <algorithm>
#include <array>
#include <mutex>
#include <optional>
#include <set>
#include <shared_mutex>
#include <vector>

namespace dmremap {

/// A store and what a flush must know of it.
struct disk_member {
  std::shared_ptr<store> io;
  std::atomic<std::uint64_t> written{0}; ///< writes and zeroes answered so far
  std::atomic<std::uint64_t> zeroed{0};  ///< of these, zeroes: a hole in a file says nothing of the medium
  std::atomic<std::uint64_t> flushed{0}; ///< `written` as it was before the last good flush began
  std::atomic<std::uint64_t> reported{0}; ///< of io->failed_flushes(): those that a caller of flush knows of
  /// Writes during which a flush failed: what became of them is not known, and only a flush that began after
  /// one of them was counted tells its caller so.
  std::atomic<std::uint64_t> crossed{0}, crossed_reported{0};

  /// Where a write last failed because the member's host is full. One that succeeds there shows room.
  static constexpr std::uint64_t nowhere = UINT64_MAX, in_tables = UINT64_MAX - 1,
                                 in_doubt = UINT64_MAX - 2; ///< in a table, and until nothing is in doubt
  std::atomic<std::uint64_t> full_at{nowhere};

  std::atomic<bool> absent{false};     ///< does not answer, or was not there at the open: io may be null
  std::atomic<bool> unwritable{false}; ///< what it holds is read; to the set it is absent
  [[nodiscard]] bool takes_writes() const { return !absent && !unwritable; }

  /// Writes that the member took so far, never too many.
  [[nodiscard]] std::uint64_t taken() const {
    const std::uint64_t all = written.load(); // first: a zero that is counted here is in `zeroed` already
    return all - std::min(all, zeroed.load());
  }
  /// No flush of it is owed to anybody.
  [[nodiscard]] bool all_flushed() const {
    return flushed.load() >= written.load() && crossed_reported.load() == crossed.load();
  }
  /// Writes for somebody who will flush later.
  [[nodiscard]] io_result write(std::span<const std::byte> data, std::uint64_t at) {
    const std::uint64_t failed_before = io->failed_flushes();
    if (auto wrote = io->write(data, at); !wrote) [[unlikely]] {
      if (wrote.error() == io_error::no_space)
        full_at = at;
      return wrote;
    }
    if (const std::uint64_t full = full_at.load(std::memory_order_relaxed); full != nowhere) [[unlikely]]
      if (full >= at && full < at + data.size())
        full_at = nowhere;
    note_written(failed_before);
    return {};
  }
  /// Counts the write first: a flush that fails afterwards sees it, or this here sees that flush. Where both
  /// do, the write's own caller is still to be told.
  void note_written(std::uint64_t failed_before) {
    written.fetch_add(1);
    if (io->failed_flushes() != failed_before) [[unlikely]]
      crossed.fetch_add(1);
  }
  /// Also fails where another flush of the member, be it one for the tables, failed since the last one here;
  /// not so in tests that say it shall not.
  [[nodiscard]] io_result flush_if_written(bool tell_failures = true);
};

/// Counters of one context: one writer, so plain relaxed stores are enough.
struct alignas(64) request_counters {
  std::atomic<std::uint64_t> reads{0}, writes{0}, zeroes{0}, read_bytes{0}, written_bytes{0};
  void add_to(request_counters& sum) const;
  static void bump(std::atomic<std::uint64_t>& c, std::uint64_t by = 1) {
    c.store(c.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
  }
};

struct io_context::impl {
  disk::impl* owner = nullptr;
  range_gate<>::worker_slot* slot = nullptr;
  request_counters counters;
  std::vector<block_bytes>
      bounce; ///< for requests that do not fit a member's blocks; as long as the longest one
};

/// How one attempt on the fast path ended.
enum class attempt_end { done, frozen, doubtful, needs_slow, failed };
struct attempt {
  attempt_end end = attempt_end::done;
  io_error why = io_error::medium; ///< where failed
  bool on_main = false;            ///< where failed: which member said so
  unsigned spare = 0;              ///< where failed and not on main
};

/// What the caller is told of an error that a spare gave.
[[nodiscard]] inline io_error said_by_spare(io_error e) {
  if (e == io_error::read_only) // the disk is not: a write finds another place, or has failed
    return io_error::medium;
  return e == io_error::no_space ? io_error::host_full : e;
}

/// The bytes of one unit and which of its sectors could not be had.
struct unit_image {
  block_bytes data;
  std::uint8_t lost = 0;
};

/// A unit on its way to a spare.
struct moving_unit {
  main_unit main;
  unit_image image;
  std::uint8_t may_answer = 0; ///< lost sectors that main may still be asked for
  slot_kind kind = slot_kind::remap;
  map_entry from{};         ///< present: where it was before, on a spare
  bool retire_from = false; ///< that place is bad
};

struct disk::impl {
  impl() = default;
  disk_member main;
  /// By place in the set's list. An entry that the map names does not change; all others: members_mutex.
  std::array<std::shared_ptr<disk_member>, max_spares> spares;
  mutable std::mutex members_mutex;
  std::atomic<unsigned> spares_absent{0}, spares_unwritable{0};
  std::unique_ptr<remap_set> set;
  range_gate<> gate;
  open_options options;
  /// Tests break the rules of the order of writes, one at a time.
  [[nodiscard]] bool keeps(bool commit_rules::*rule) const {
    return options.rules == nullptr || options.rules->*rule;
  }
  std::uint64_t bytes = 0;
  std::vector<std::string> notices;
  bool closed = false;

  std::atomic<bool> auto_remap{true}, main_gone{false};
  write_breaker breaker;
  std::atomic<unsigned> read_retries{1};
  struct {
    std::atomic<std::uint64_t> main_read_errors{0}, main_write_errors{0}, spare_read_errors{0},
        spare_write_errors{0}, spare_host_full{0};
    std::atomic<std::uint64_t> flush_errors{0}, lost_reads{0}, absent_requests{0}, slow_requests{0},
        flushes{0};
  } counts;
  mutable std::mutex contexts_mutex;
  std::set<const io_context::impl*> contexts;
  request_counters past;     ///< of contexts that are gone
  request_counters baseline; ///< what clear_stats() subtracts

  std::unique_ptr<record_keeper> keeper; ///< of on_record; null: nobody listens
  bool serving = false;                  ///< the open is over

  std::atomic<bool> flush_owed{false}; ///< a spare has left with a failure that no flush has reported

  mutable std::mutex to_retire_mutex;
  std::vector<taken_unit> to_retire; ///< failed a write, taken, not in the table yet

  /// Shared: a unit has a new place that no table names yet, or is shown there and its place before is still
  /// in a table. Taken after admin_mutex and freezes, before the set's own mutexes.
  std::shared_mutex placing;

  std::mutex admin_mutex;            ///< one change by hand at a time
  std::atomic<bool> stopping{false}; ///< asked between units by whatever may take long

  // disk.cpp: fast path
  void note_what_was_found();
  void sum_counters(request_counters& sum) const;
  [[nodiscard]] attempt try_read(io_context::impl& c, std::span<std::byte> buffer, std::uint64_t offset);
  [[nodiscard]] attempt try_write(io_context::impl& c, std::span<const std::byte> data, std::uint64_t offset);
  [[nodiscard]] io_result read_member(io_context::impl& c, store& io, std::span<std::byte> buffer,
                                      std::uint64_t at);
  [[nodiscard]] attempt zero_units(io_context::impl& c, unit_range r, std::vector<unit_range>& by_writing,
                                   bool& changed);
  [[nodiscard]] io_result read_once(io_context&, std::span<std::byte> buffer, std::uint64_t offset);
  [[nodiscard]] io_result write_once(io_context&, std::span<const std::byte> data, std::uint64_t offset);
  void note_error(const attempt& a, bool writing);
  [[nodiscard]] disk_member& member_of(map_entry e) { return *spares[e.spare()]; }
  [[nodiscard]] std::uint64_t valid_sectors(main_unit u) const; ///< 8, fewer in a partial last unit

  // disk_slow.cpp
  [[nodiscard]] bool settle(unit_range r);
  [[nodiscard]] io_result resolve_read(io_context::impl& c, std::span<std::byte> buffer, std::uint64_t offset,
                                       attempt last);
  [[nodiscard]] io_result resolve_write(io_context::impl& c, std::span<const std::byte> data,
                                        std::uint64_t offset, attempt last);
  [[nodiscard]] io_result rescue_read(io_context::impl& c, std::span<std::byte> buffer, std::uint64_t offset,
                                      bool& again);
  [[nodiscard]] io_result write_frozen(std::span<const std::byte> data, std::uint64_t offset, bool& again);
  /// `by_hand`: ends with io_error::transient between two blocks once `stopping` is set.
  [[nodiscard]] io_result read_image_from_main(main_unit u, unit_image& image, std::uint8_t wanted = 0xFF,
                                               bool by_hand = false);
  [[nodiscard]] io_result write_main_piece(main_unit u, std::uint64_t offset,
                                           std::span<const std::byte> piece, std::vector<moving_unit>& moves);
  [[nodiscard]] io_result write_spare_piece(map_entry e, main_unit u, std::uint64_t offset,
                                            std::span<const std::byte> piece,
                                            std::vector<slot_change>& changes,
                                            std::vector<moving_unit>& moves);
  [[nodiscard]] io_result rehome_changes_of_absent(std::span<const std::byte> data, std::uint64_t offset,
                                                   std::vector<slot_change>& changes,
                                                   std::vector<moving_unit>& moves);
  [[nodiscard]] io_result may_spend(std::span<const moving_unit> moves);
  [[nodiscard]] bool main_answers_elsewhere(main_unit u);
  [[nodiscard]] commit_reply place(std::span<const moving_unit> units, std::vector<slot_change>& changes,
                                   flush_marks data_since, unsigned not_on = 0);
  [[nodiscard]] io_result allocate_and_write(const moving_unit& unit, std::vector<slot_change>& changes,
                                             unsigned not_on);
  void abandon(std::span<const slot_change> changes);
  void give_back_failed(unsigned spare);
  [[nodiscard]] commit_reply commit_placed(std::span<const slot_change> changes,
                                           const flush_marks& data_since);
  void show_moved(std::span<const slot_change> placed, std::span<const moving_unit> units);
  [[nodiscard]] result<bool> take_out(unsigned spare);
  void report(std::span<const moving_unit> moved, std::span<const slot_change> changes, bool writing) const;
  [[nodiscard]] bool spare_answers(unsigned spare);
  void check_spare(unsigned spare, io_error why);
  [[nodiscard]] io_result read_image_from_spare(map_entry e, unit_image& image, std::uint8_t wanted);
  [[nodiscard]] io_result rescue_from_spare(std::span<std::byte> buffer, std::uint64_t offset, bool& again);
  [[nodiscard]] io_result rehome_piece(map_entry e, main_unit u, std::uint64_t offset,
                                       std::span<const std::byte> piece, const unit_image& had,
                                       std::vector<moving_unit>& moves);
  [[nodiscard]] std::vector<std::shared_ptr<disk_member>> members() const;    ///< main's not
  [[nodiscard]] std::shared_ptr<disk_member> member_at(unsigned spare) const; ///< null: removed
  void set_member(unsigned spare, std::shared_ptr<store> io);
  void drop_member(unsigned spare);
  void settle_member(unsigned spare);
  void lose_member(unsigned spare, bool readable);
  [[nodiscard]] bool is_absent(unsigned spare) const; ///< or takes no writes, or removed
  [[nodiscard]] bool gone_or_removed(unsigned spare) const;
  [[nodiscard]] bool
  host_full(std::optional<unsigned> spare = std::nullopt) const; ///< of that one, or of any
  [[nodiscard]] io_result patch(disk_member& m, std::uint64_t at, std::span<const std::byte> data,
                                unit_image& had);

  // disk_identity.cpp
  [[nodiscard]] static result<void> check_not_spare(store& main, const open_options& options);
  [[nodiscard]] static result<void> check_age(std::span<const std::unique_ptr<spare_metadata>> spares,
                                              const set_record& record, const open_options& options);
  [[nodiscard]] static result<void> check_main(const superblock& s, store& main, const open_options& options,
                                               std::vector<std::string>& notices);
  void describe_main(superblock& s);
};

/// The units that [offset, offset + length) touches; length is at least 1 and at most 255 MiB.
[[nodiscard]] inline unit_range range_of(std::uint64_t offset, std::uint64_t length) {
  const std::uint64_t first = offset / unit_bytes;
  return {first, (offset + length - 1) / unit_bytes - first + 1};
}

/// Which sectors of `unit` the bytes [offset, offset + length) touch.
[[nodiscard]] inline std::uint8_t touched_sectors(main_unit u, std::uint64_t offset, std::uint64_t length) {
  const std::uint64_t start = std::max(offset, byte_of(u)),
                      end = std::min(offset + length, byte_of(u.plus(1)));
  const std::uint64_t first = (start - byte_of(u)) / sector_bytes,
                      last = (end - 1 - byte_of(u)) / sector_bytes;
  return static_cast<std::uint8_t>((0xFFu >> (7 - (last - first))) << first);
}

/// Bits of `count` sectors from `first` of a unit.
[[nodiscard]] inline std::uint8_t sector_mask(std::uint64_t first, std::uint64_t count) {
  return static_cast<std::uint8_t>(((1u << count) - 1) << first);
}

/// Sectors of `u` that [offset, offset + length) covers from end to end.
[[nodiscard]] inline std::uint8_t covered_sectors(main_unit u, std::uint64_t offset, std::uint64_t length) {
  const std::uint64_t first = align_up(offset, sector_bytes), end = align_down(offset + length, sector_bytes);
  if (first >= end)
    return 0;
  return sector_mask((first - byte_of(u)) / sector_bytes, (end - first) / sector_bytes);
}

[[nodiscard]] inline bool fits_blocks(const store& io, std::uint64_t at, std::uint64_t length) {
  return (at | length) % io.block_size() == 0;
}

[[nodiscard]] inline std::string sector_text(sector_number s) {
  return "sector " + std::to_string(s.value);
}
[[nodiscard]] inline std::string sector_text(main_unit u) {
  return sector_text(first_sector(u));
}
/// What a change by hand says where its commit was not done.
[[nodiscard]] tl::unexpected<error> not_committed(const std::string& what, const commit_reply& reply);

/// What a change by hand says that ends because of `stopping`; `done`: how far it came, in words.
[[nodiscard]] tl::unexpected<error> stopped(const std::string& what, const std::string& done = "");

/// Fills what a superblock remembers of main: size, identity, samples of its content. `skip` says which units
/// of main hold bytes that mean nothing (remapped ones).
void record_main(superblock& s, store& main, const std::function<bool(main_unit)>& skip);

} // namespace dmremap
