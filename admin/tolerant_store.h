// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/store.h"

#include <cstring>

namespace dmremap::admin {

/// Shows another store read-only, with zeros for the blocks that cannot be read: for looking at a failing
/// drive, never for its data. A device that does not answer at all stays an error. Thread-safe as the store
/// below.
class tolerant_store final : public store {
public:
  explicit tolerant_store(store& below) : below_(below) {}

  [[nodiscard]] std::uint64_t size() const override { return below_.size(); }
  [[nodiscard]] std::uint32_t block_size() const override { return below_.block_size(); }
  [[nodiscard]] io_result read(std::span<std::byte> buffer, std::uint64_t offset) override {
    const auto whole = below_.read(buffer, offset);
    if (whole || whole.error() != io_error::medium)
      return whole;
    for (std::size_t at = 0; at < buffer.size(); at += block_size()) {
      const auto piece = buffer.subspan(at, block_size());
      const auto part = below_.read(piece, offset + at);
      if (!part && part.error() != io_error::medium)
        return part;
      if (!part)
        std::memset(piece.data(), 0, piece.size());
    }
    return {};
  }
  [[nodiscard]] io_result write(std::span<const std::byte>, std::uint64_t) override {
    return io_fail(io_error::read_only);
  }
  [[nodiscard]] io_result flush() override { return {}; }
  [[nodiscard]] std::uint64_t failed_flushes() const override { return below_.failed_flushes(); }
  [[nodiscard]] io_result zero(std::uint64_t, std::uint64_t) override { return io_fail(io_error::read_only); }
  [[nodiscard]] const store_identity& identity() const override { return below_.identity(); }

private:
  store& below_;
};

} // namespace dmremap::admin
