// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/store.h"
#include "tests/support/page_image.h"

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <limits>
#include <mutex>
#include <optional>
#include <vector>

namespace dmremap::test {

enum class direction : std::uint8_t { read, write, both };

inline constexpr std::uint64_t always = std::numeric_limits<std::uint64_t>::max();

/// Sectors that fail. A request fails where it touches one of them.
struct bad_range {
  std::uint64_t first = 0; ///< sector (512 bytes)
  std::uint64_t count = 1;
  direction when = direction::both;
  io_error error = io_error::medium;
  std::uint64_t times = always; ///< this many requests fail, then the range is good
  bool write_heals = false;     ///< a successful write makes the sectors that it covers readable again
};

/// Everything that is wrong with a device. A value: a crash state carries the faults of its moment.
struct fault_table {
  std::vector<bad_range> bad;
  std::optional<io_error> all;      ///< every request fails so ("gone"),
  std::uint64_t all_after_writes = 0; ///< once so many writes have succeeded
  std::uint64_t good_flushes = 0;   ///< first so many flushes succeed,
  std::uint64_t flush_failures = 0; ///< then that many fail
  io_error flush_error = io_error::medium;
  bool zero_unsupported = false;
};

/// A write of the sectors succeeded: those that a write heals are good again.
void heal_written(fault_table& faults, std::uint64_t first, std::uint64_t sectors);

/// Counts of requests that reached the store, failed ones included.
struct store_counts {
  std::uint64_t reads = 0, writes = 0, flushes = 0, zeroes = 0;
};

/// A device in memory with faults on command. Thread-safe. Writes are visible and, here, durable at once;
/// crash_store adds the volatile cache.
///
/// A write that meets a bad sector still changes the sectors before it, as a drive does: callers may rely on
/// nothing.
class memory_store final : public store {
public:
  explicit memory_store(std::uint64_t size, std::uint32_t block_size = 512);
  explicit memory_store(page_image content, std::uint32_t block_size = 512, fault_table faults = {});

  [[nodiscard]] std::uint64_t size() const override { return size_; }
  [[nodiscard]] std::uint32_t block_size() const override { return block_size_; }
  [[nodiscard]] io_result read(std::span<std::byte> buffer, std::uint64_t offset) override;
  [[nodiscard]] io_result write(std::span<const std::byte> buffer, std::uint64_t offset) override;
  [[nodiscard]] io_result flush() override;
  [[nodiscard]] std::uint64_t failed_flushes() const override { return failed_flushes_.load(); }
  [[nodiscard]] io_result zero(std::uint64_t offset, std::uint64_t length) override;
  [[nodiscard]] const store_identity& identity() const override { return identity_; }

  void set_identity(store_identity identity) { identity_ = std::move(identity); }

  [[nodiscard]] page_image image() const; ///< a cheap copy of the content now
  void set_image(page_image content);

  [[nodiscard]] fault_table faults() const;
  void set_faults(fault_table faults);
  void add_bad(bad_range range);
  /// Makes the sectors good again in `when`.
  void clear_bad(std::uint64_t first, std::uint64_t count, direction when = direction::both);
  void clear_faults();
  void fail_flushes(std::uint64_t times, io_error error = io_error::medium, std::uint64_t good_before = 0);

  [[nodiscard]] store_counts counts() const;
  /// Requests of the direction that touched the sector, failed ones included. Counted only after watch().
  [[nodiscard]] std::uint64_t touched(std::uint64_t sector, direction when) const;
  void watch(std::uint64_t sector);

  /// Requests that touch the sectors wait from now on, before they do anything, until open_gate().
  void close_gate(std::uint64_t first, std::uint64_t count, direction when = direction::both);
  /// As close_gate, for flushes.
  void close_flush_gate();
  void open_gate();
  /// Returns once at least `requests` requests wait at the gate.
  void wait_for_blocked(unsigned requests = 1);

  /// Called under the store's lock with the bytes that a write or zero is about to change (null: zeros), in
  /// the order in which they change. Returns false to drop the change silently.
  using change_hook = std::function<bool(std::uint64_t offset, std::uint64_t length, const std::byte* bytes)>;
  void on_change(change_hook hook);

private:
  struct gate {
    std::uint64_t first = 0, count = 0;
    direction when = direction::both;
    bool flush = false, closed = false;
    unsigned waiting = 0;
  };
  struct watched {
    std::uint64_t sector = 0, reads = 0, writes = 0;
  };
  enum class purpose : std::uint8_t { read, write, zero };
  /// How much of a request is carried out: the bytes before the first block that fails, and with which error
  /// it ends.
  struct verdict {
    std::uint64_t good_bytes = 0;
    std::optional<io_error> error;
  };

  [[nodiscard]] bool valid(std::uint64_t offset, std::uint64_t length) const;
  void pass_gate(std::unique_lock<std::mutex>& lock, std::uint64_t offset, std::uint64_t length,
                 purpose what);
  void count(std::uint64_t offset, std::uint64_t length, purpose what);
  [[nodiscard]] verdict judge(std::uint64_t offset, std::uint64_t length, purpose what);
  void change(std::uint64_t offset, std::uint64_t length, const std::byte* bytes);

  const std::uint64_t size_;
  const std::uint32_t block_size_;
  store_identity identity_;
  mutable std::mutex mutex_;
  std::condition_variable gate_changed_;
  page_image content_;
  fault_table faults_;
  store_counts counts_;
  std::atomic<std::uint64_t> failed_flushes_{0};
  gate gate_;
  std::vector<watched> watched_;
  change_hook hook_;
};

} // namespace dmremap::test
