// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/store.h"

#include <memory>

namespace dmremap {

/// A part of another store, from `start` on. Thread-safe as the store below.
class range_store final : public store {
public:
  /// START and LENGTH in sectors. Errors: too-small-range (length 0), misaligned-range (not in whole units of
  /// 8 sectors, or not in blocks of `below`), range-beyond-end.
  [[nodiscard]] static result<std::shared_ptr<range_store>> make(std::shared_ptr<store> below,
                                                                 std::uint64_t start, std::uint64_t length);

  [[nodiscard]] std::uint64_t size() const override { return length_; }
  [[nodiscard]] std::uint32_t block_size() const override { return block_size_; }
  [[nodiscard]] io_result read(std::span<std::byte> buffer, std::uint64_t offset) override;
  [[nodiscard]] io_result write(std::span<const std::byte> buffer, std::uint64_t offset) override;
  [[nodiscard]] io_result flush() override { return below_->flush(); }
  [[nodiscard]] std::uint64_t failed_flushes() const override { return below_->failed_flushes(); }
  [[nodiscard]] io_result zero(std::uint64_t offset, std::uint64_t length) override;
  [[nodiscard]] const store_identity& identity() const override { return identity_; }

private:
  range_store(std::shared_ptr<store> below, std::uint64_t start, std::uint64_t length);
  [[nodiscard]] io_result check(std::uint64_t length, std::uint64_t offset) const;

  std::shared_ptr<store> below_;
  std::uint64_t start_;  // bytes
  std::uint64_t length_; // bytes
  std::uint32_t block_size_;
  store_identity identity_;
};

} // namespace dmremap
