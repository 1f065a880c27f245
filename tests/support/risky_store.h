// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/units.h"
#include "tests/support/memory_store.h"
#include "tests/support/mortal_store.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <memory>
#include <span>
#include <thread>
#include <vector>

namespace dmremap::test {

/// Data whose every word says what it is: the sector of the disk that it belongs to, and which write it was.
struct tag {
  static constexpr std::uint64_t magic = 0xD15C, sector_bits = 16;
  static std::uint64_t make(std::uint64_t sector, std::uint64_t version) {
    return magic << 48 | (version & 0xFFFFFFFF) << sector_bits | sector;
  }
  static bool is_one(std::uint64_t word) { return word >> 48 == magic; }
  static std::uint64_t sector_of(std::uint64_t word) { return word & ((1u << sector_bits) - 1); }
};

/// Which sectors of the disk some named cause has put at risk since they were last written or read well. A
/// mark has a number, so that whoever saw a sector well takes back only marks from before it looked.
/// Thread-safe.
class risks {
public:
  explicit risks(std::uint64_t sectors) : marks_(sectors) {}
  void mark(std::uint64_t sector) {
    if (sector < marks_.size())
      marks_[sector] = ++clock_;
  }
  [[nodiscard]] std::uint64_t now() const { return clock_; }
  [[nodiscard]] bool at_risk(std::uint64_t sector) const { return marks_[sector] != 0; }
  /// A request that began at `since` found the sector well.
  void well(std::uint64_t sector, std::uint64_t since) {
    std::uint64_t mark = marks_[sector];
    if (mark != 0 && mark <= since)
      marks_[sector].compare_exchange_strong(mark, 0);
  }

private:
  std::atomic<std::uint64_t> clock_{1};
  std::vector<std::atomic<std::uint64_t>> marks_;
};

/// A member with bad sectors and an end of its life. Where a read fails it tells `risks` which sectors of the
/// disk it withheld: on main by their place, on a spare by the tags of what lies there. Thread-safe.
class risky_store final : public store {
public:
  risky_store(std::shared_ptr<memory_store> inner, std::shared_ptr<risks> tell, bool is_main)
      : memory_(inner), mortal_(std::move(inner)), risks_(std::move(tell)), is_main_(is_main),
        bad_(memory_->size() / sector_bytes) {}

  static constexpr std::uint8_t reads_fail = 1, writes_fail = 2;
  void make_bad(std::uint64_t sector, std::uint8_t how) { bad_[sector] = how; }
  [[nodiscard]] bool is_bad(std::uint64_t sector) const { return bad_[sector] != 0; }
  void make_all_good() {
    for (auto& each : bad_)
      each = 0;
    mortal_.revive();
  }
  [[nodiscard]] mortal_store& mortal() { return mortal_; }
  /// Sectors of the disk whose data lies here, or did once, dead or alive.
  [[nodiscard]] std::vector<std::uint64_t> sectors_found() const {
    std::vector<std::uint64_t> found;
    std::vector<std::uint64_t> words(bytes_at_once / 8);
    for (std::uint64_t at = 0; at < memory_->size(); at += bytes_at_once) {
      if (!memory_->read(std::as_writable_bytes(std::span(words)), at))
        continue;
      for (std::uint64_t n = 0; n < words.size(); n += sector_bytes / 8)
        if (tag::is_one(words[n]))
          found.push_back(tag::sector_of(words[n]));
    }
    return found;
  }
  [[nodiscard]] bool dead() const { return mortal_.dead(); }

  [[nodiscard]] std::uint64_t size() const override { return memory_->size(); }
  [[nodiscard]] std::uint32_t block_size() const override { return memory_->block_size(); }
  [[nodiscard]] io_result read(std::span<std::byte> b, std::uint64_t at) override {
    if (const auto bad = first_bad(at, b.size(), reads_fail); bad < b.size() && !dead()) {
      for (std::uint64_t n = 0; n < b.size(); n += sector_bytes)
        if ((bad_[(at + n) / sector_bytes] & reads_fail) != 0)
          withhold(at + n);
      return io_fail(io_error::medium);
    }
    return mortal_.read(b, at);
  }
  /// The sectors before a bad one are written, as a drive does.
  [[nodiscard]] io_result write(std::span<const std::byte> b, std::uint64_t at) override {
    if (std::uint64_t word = 0; !is_main_ && std::memcpy(&word, b.data(), sizeof word) && tag::is_one(word))
      for (int n = 0; n < 10; ++n)
        std::this_thread::yield(); // while a unit is on its way its spare may leave
    const auto good = first_bad(at, b.size(), writes_fail);
    if (good >= b.size())
      return mortal_.write(b, at);
    if (const auto whole = align_down(good, block_size()); whole != 0)
      if (auto written = mortal_.write(b.first(whole), at); !written)
        return written;
    return io_fail(io_error::medium);
  }
  [[nodiscard]] io_result flush() override { return mortal_.flush(); }
  [[nodiscard]] std::uint64_t failed_flushes() const override { return mortal_.failed_flushes(); }
  [[nodiscard]] io_result zero(std::uint64_t at, std::uint64_t n) override {
    return first_bad(at, n, writes_fail) < n ? io_fail(io_error::medium) : mortal_.zero(at, n);
  }
  [[nodiscard]] const store_identity& identity() const override { return memory_->identity(); }

private:
  static constexpr std::uint64_t bytes_at_once = 1u << 20;

  [[nodiscard]] std::uint64_t first_bad(std::uint64_t at, std::uint64_t length, std::uint8_t how) const {
    std::uint64_t n = 0;
    while (n < length && (bad_[(at + n) / sector_bytes] & how) == 0)
      n += sector_bytes;
    return n;
  }
  /// A block of 4096 bytes is withheld as a whole.
  void withhold(std::uint64_t at) {
    const std::uint64_t start = align_down(at, block_size());
    if (is_main_) {
      for (std::uint64_t n = 0; n < block_size(); n += sector_bytes)
        risks_->mark((start + n) / sector_bytes);
      return;
    }
    std::array<std::uint64_t, unit_bytes / 8> words{};
    const auto block = std::as_writable_bytes(std::span(words)).first(block_size());
    if (!memory_->read(block, start))
      return;
    for (std::uint64_t n = 0; n < block_size(); n += sector_bytes)
      if (const std::uint64_t word = words[n / 8]; tag::is_one(word))
        risks_->mark(tag::sector_of(word));
  }

  std::shared_ptr<memory_store> memory_;
  mortal_store mortal_;
  std::shared_ptr<risks> risks_;
  const bool is_main_;
  std::vector<std::atomic<std::uint8_t>> bad_;
};

} // namespace dmremap::test
