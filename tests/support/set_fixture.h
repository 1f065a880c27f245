// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/disk.h"
#include "tests/support/forwarding_store.h"
#include "tests/support/memory_store.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <memory>
#include <vector>

namespace dmremap::test {

/// Fails flushes while a flag says so.
class flush_switch final : public forwarding_store {
public:
  flush_switch(std::shared_ptr<store> inner, const bool* fails)
      : forwarding_store(std::move(inner)), fails_(fails) {}
  [[nodiscard]] io_result flush() override {
    if (!*fails_)
      return inner().flush();
    ++failed_flushes_;
    return io_fail(io_error::medium);
  }
  [[nodiscard]] std::uint64_t failed_flushes() const override {
    return failed_flushes_ + inner().failed_flushes();
  }

private:
  const bool* fails_;
  std::atomic<std::uint64_t> failed_flushes_{0};
};

/// A set in memory: format once, open and reopen at will. Sector s of main begins filled with the byte s %
/// 251 + 1.
struct set_fixture {
  explicit set_fixture(std::uint64_t main_bytes = 1u << 20, std::uint32_t main_block = 512,
                       std::uint32_t spare_block = 512, std::uint64_t spare_bytes = 16u << 20)
      : main(std::make_shared<memory_store>(main_bytes, main_block)),
        spare(std::make_shared<memory_store>(spare_bytes, spare_block)) {
    std::vector<std::byte> content(main_bytes);
    for (std::uint64_t i = 0; i < main_bytes; ++i)
      content[i] = original(i / sector_bytes);
    REQUIRE(main->write(content, 0));
    store* spares[] = {spare.get()};
    format_options options;
    options.name = "test";
    const auto made = disk::format(*main, spares, options);
    if (!made)
      FAIL(made.error().text());
    open();
  }
  ~set_fixture() { context.reset(); }

  static std::byte original(std::uint64_t sector) { return std::byte(sector % 251 + 1); }

  result<void> try_open(const open_options& options = {}) {
    context.reset();
    set.reset();
    std::shared_ptr<store> second = spare;
    if (spare_flush_fails != nullptr)
      second = std::make_shared<flush_switch>(spare, spare_flush_fails);
    auto opened = disk::open(main, {second}, options);
    if (!opened)
      return tl::make_unexpected(opened.error());
    set = std::move(*opened);
    context = set->make_context();
    return {};
  }
  void open(const open_options& options = {}) {
    const auto opened = try_open(options);
    if (!opened)
      FAIL(opened.error().text());
  }
  void close() {
    context.reset();
    const auto closed = set->close();
    if (!closed)
      FAIL(closed.error().text());
    set.reset();
  }
  io_result write(std::uint64_t offset, std::uint64_t length, std::byte value) {
    return set->write(*context, std::vector<std::byte>(length, value), offset);
  }
  tl::expected<std::vector<std::byte>, io_error> read(std::uint64_t offset, std::uint64_t length) {
    std::vector<std::byte> buffer(length, std::byte{0xEE});
    if (auto r = set->read(*context, buffer, offset); !r)
      return tl::make_unexpected(r.error());
    return buffer;
  }
  /// True where [offset, offset + length) reads as `value` throughout.
  bool holds(std::uint64_t offset, std::uint64_t length, std::byte value) {
    const auto got = read(offset, length);
    return got && *got == std::vector<std::byte>(length, value);
  }
  bool holds_original(std::uint64_t sector, std::uint64_t count) {
    for (std::uint64_t s = sector; s < sector + count; ++s)
      if (!holds(s * sector_bytes, sector_bytes, original(s)))
        return false;
    return true;
  }

  std::shared_ptr<memory_store> main, spare;
  const bool* spare_flush_fails = nullptr; ///< looked at from the next open on
  std::unique_ptr<disk> set;
  std::unique_ptr<io_context> context;
};

} // namespace dmremap::test
