// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/store.h"
#include "tests/support/page_image.h"

#include <memory>
#include <random>
#include <vector>

namespace dmremap::test {

/// The power of a machine with several devices: it fails at one write or flush, counted over all of them.
struct power {
  std::uint64_t left = UINT64_MAX; ///< requests that succeed
  bool off = false;
};

/// A device with a volatile cache. When the power fails, sectors that were not flushed are there or not, by
/// chance. Not thread-safe.
class cut_store final : public store {
public:
  cut_store(const page_image& content, std::string path, std::shared_ptr<power> supply)
      : durable_(content), visible_(content), supply_(std::move(supply)) {
    identity_.path = std::move(path);
  }
  [[nodiscard]] std::uint64_t size() const override { return durable_.size(); }
  [[nodiscard]] std::uint32_t block_size() const override { return 512; }
  [[nodiscard]] io_result read(std::span<std::byte> buffer, std::uint64_t offset) override {
    if (supply_->off)
      return io_fail(io_error::gone);
    visible_.read(buffer, offset);
    return {};
  }
  [[nodiscard]] io_result write(std::span<const std::byte> buffer, std::uint64_t offset) override {
    if (supply_->off)
      return io_fail(io_error::gone);
    visible_.write(buffer, offset);
    pending_.push_back({offset, {buffer.begin(), buffer.end()}});
    return tick();
  }
  [[nodiscard]] io_result flush() override {
    if (supply_->off)
      return io_fail(io_error::gone);
    CHECK_OK(tick());
    durable_ = visible_;
    pending_.clear();
    return {};
  }
  [[nodiscard]] std::uint64_t failed_flushes() const override { return 0; }
  [[nodiscard]] io_result zero(std::uint64_t, std::uint64_t) override {
    return io_fail(io_error::unsupported);
  }
  [[nodiscard]] const store_identity& identity() const override { return identity_; }

  /// What is on the medium after the cut.
  [[nodiscard]] page_image after_cut(std::minstd_rand& random) const {
    page_image out = durable_;
    for (const auto& w : pending_)
      for (std::size_t at = 0; at < w.bytes.size(); at += 512)
        if ((random() >> 8 & 1) != 0)
          out.write(std::span(w.bytes).subspan(at, 512), w.offset + at);
    return out;
  }
  [[nodiscard]] const page_image& visible() const { return visible_; }

private:
  struct pending_write {
    std::uint64_t offset;
    std::vector<std::byte> bytes;
  };
  io_result tick() {
    if (supply_->left == 0) {
      supply_->off = true;
      return io_fail(io_error::gone);
    }
    --supply_->left;
    return {};
  }

  page_image durable_, visible_;
  std::vector<pending_write> pending_;
  std::shared_ptr<power> supply_;
  store_identity identity_;
};

} // namespace dmremap::test
