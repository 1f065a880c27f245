// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "tests/support/memory_store.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace dmremap::test {

/// The part of a write that falls into one page.
struct write_piece {
  std::uint64_t page_number = 0;
  unsigned mask = 0; ///< bit i: sector i of the page is written
  page_ptr content;  ///< the sectors at their place in the page; null: zeros
};

/// One thing that happened, in the total order of the log.
struct log_event {
  enum class kind : std::uint8_t { write, flush, marker };
  kind what = kind::marker;
  unsigned device = 0;
  // write and zero
  std::uint64_t offset = 0, length = 0;
  std::vector<write_piece> pieces;
  bool forgotten = false; ///< the drive lies: readable until power is lost, never durable
  // flush, logged when it returns
  std::size_t flush_started = 0; ///< events before this one had happened when it was called
  bool flush_ok = false;
  bool flush_loses = false; ///< a failed flush: what it should have covered is covered by no later one
  // marker
  std::string label;
};

/// What several devices did, in one order, from a known content on. Thread-safe.
class crash_log {
public:
  /// Devices are numbered from 0 in the order of these calls.
  unsigned add_device(page_image initial);
  void add_write(unsigned device, std::uint64_t offset, std::uint64_t length, const std::byte* bytes,
                 bool forgotten);
  void add_flush(unsigned device, std::size_t started, bool ok, bool loses);
  /// Notes something that the oracle wants to know ("operation 2 acknowledged"). Returns the number of
  /// markers before it: the epoch that ends here.
  std::size_t add_marker(std::string label);

  [[nodiscard]] std::size_t size() const;
  /// Only while no device works on the log.
  [[nodiscard]] const std::vector<log_event>& events() const { return events_; }
  [[nodiscard]] const std::vector<page_image>& initial() const { return initial_; }

private:
  mutable std::mutex mutex_;
  std::vector<page_image> initial_;
  std::vector<log_event> events_;
  std::size_t markers_ = 0;
};

/// What a drive does with a write that it acknowledges.
enum class write_fate : std::uint8_t {
  kept,      ///< in the volatile cache, durable with the next flush
  dropped,   ///< never happened: a read shows the old content at once
  forgotten, ///< a read shows the new content until power is lost; no flush makes it durable
};

/// A device with a volatile write cache over a memory store, whose faults it shares. A write is durable once
/// a flush that was called after the write had returned has succeeded. Thread-safe.
class crash_store final : public store {
public:
  crash_store(std::shared_ptr<crash_log> log, std::shared_ptr<memory_store> inner);
  ~crash_store() override;

  [[nodiscard]] std::uint64_t size() const override { return inner_->size(); }
  [[nodiscard]] std::uint32_t block_size() const override { return inner_->block_size(); }
  [[nodiscard]] io_result read(std::span<std::byte> buffer, std::uint64_t offset) override;
  [[nodiscard]] io_result write(std::span<const std::byte> buffer, std::uint64_t offset) override;
  [[nodiscard]] io_result flush() override;
  [[nodiscard]] std::uint64_t failed_flushes() const override;
  [[nodiscard]] io_result zero(std::uint64_t offset, std::uint64_t length) override;
  [[nodiscard]] const store_identity& identity() const override { return inner_->identity(); }

  [[nodiscard]] memory_store& inner() { return *inner_; }
  [[nodiscard]] unsigned device() const { return device_; }

  /// Decides the fate of each write from now on; `index` counts the writes of this device from 0. Called
  /// under the store's lock.
  using fate_rule =
      std::function<write_fate(std::uint64_t index, std::uint64_t offset, std::uint64_t length)>;
  void set_fate(fate_rule rule);
  /// What a failed flush leaves behind: by default what it should have covered may be lost for good, as with
  /// Linux's page cache.
  void failed_flush_loses(bool yes) { flush_loses_ = yes; }
  /// Somebody else's flush fails just before failed_flushes() answers for the `asked`-th time from now on.
  void fail_flush_between(std::uint64_t asked);
  [[nodiscard]] bool has_failed_between() const {
    return questions_left_.load() == 0;
  } ///< it has come to that
  [[nodiscard]] std::uint64_t writes_seen() const;

private:
  std::shared_ptr<crash_log> log_;
  std::shared_ptr<memory_store> inner_;
  unsigned device_;
  mutable std::mutex mutex_;
  fate_rule rule_;
  std::uint64_t writes_ = 0;
  std::atomic<bool> flush_loses_{true};
  mutable std::atomic<std::uint64_t> questions_left_{0};
  std::function<void()> between_;
};

} // namespace dmremap::test
