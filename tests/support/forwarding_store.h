// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/store.h"

#include <memory>

namespace dmremap::test {

/// Passes everything on to another store; what derives from it does one thing otherwise. Thread-safe as the
/// inner one is.
class forwarding_store : public store {
public:
  explicit forwarding_store(std::shared_ptr<store> inner) : inner_(std::move(inner)) {}
  [[nodiscard]] std::uint64_t size() const override { return inner_->size(); }
  [[nodiscard]] std::uint32_t block_size() const override { return inner_->block_size(); }
  [[nodiscard]] io_result read(std::span<std::byte> b, std::uint64_t at) override {
    return inner_->read(b, at);
  }
  [[nodiscard]] io_result write(std::span<const std::byte> b, std::uint64_t at) override {
    return inner_->write(b, at);
  }
  [[nodiscard]] io_result flush() override { return inner_->flush(); }
  [[nodiscard]] std::uint64_t failed_flushes() const override { return inner_->failed_flushes(); }
  [[nodiscard]] io_result zero(std::uint64_t at, std::uint64_t n) override { return inner_->zero(at, n); }
  [[nodiscard]] const store_identity& identity() const override { return inner_->identity(); }

protected:
  [[nodiscard]] store& inner() const { return *inner_; }

private:
  std::shared_ptr<store> inner_;
};

} // namespace dmremap::test
