// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "tests/support/memory_store.h"

#include <atomic>
#include <memory>

namespace dmremap::test {

/// Passes requests on until it dies: from then on every request finds the device gone, or, as dead paths
/// often do, fails as a bad place would. Thread-safe.
class mortal_store final : public store {
public:
  explicit mortal_store(std::shared_ptr<memory_store> inner) : inner_(std::move(inner)) {}

  /// So many requests are still served.
  void die_after(std::uint64_t requests, io_error how = io_error::gone) {
    how_ = how;
    left_ = static_cast<std::int64_t>(requests);
  }
  void revive() { left_ = immortal; }
  /// It will not die any more; false where it is dead already.
  bool outlive() {
    std::int64_t left = left_.load();
    while (left > 0 && !left_.compare_exchange_weak(left, immortal)) {
    }
    return left > 0;
  }
  [[nodiscard]] bool dead() const { return left_.load() <= 0; }
  [[nodiscard]] memory_store& inner() { return *inner_; }

  [[nodiscard]] std::uint64_t size() const override { return inner_->size(); }
  [[nodiscard]] std::uint32_t block_size() const override { return inner_->block_size(); }
  [[nodiscard]] io_result read(std::span<std::byte> b, std::uint64_t at) override {
    return alive() ? inner_->read(b, at) : io_fail(how_);
  }
  [[nodiscard]] io_result write(std::span<const std::byte> b, std::uint64_t at) override {
    return alive() ? inner_->write(b, at) : io_fail(how_);
  }
  [[nodiscard]] io_result flush() override {
    if (alive())
      return inner_->flush();
    ++failed_flushes_;
    return io_fail(how_);
  }
  [[nodiscard]] std::uint64_t failed_flushes() const override {
    return failed_flushes_ + inner_->failed_flushes();
  }
  [[nodiscard]] io_result zero(std::uint64_t at, std::uint64_t n) override {
    return alive() ? inner_->zero(at, n) : io_fail(how_);
  }
  [[nodiscard]] const store_identity& identity() const override { return inner_->identity(); }

private:
  static constexpr std::int64_t immortal = INT64_MAX;
  bool alive() { return left_.load() == immortal || left_.fetch_sub(1) > 0; }

  std::shared_ptr<memory_store> inner_;
  std::atomic<std::int64_t> left_{immortal};
  std::atomic<io_error> how_{io_error::gone};
  std::atomic<std::uint64_t> failed_flushes_{0};
};

} // namespace dmremap::test
