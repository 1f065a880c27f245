// SPDX-License-Identifier: GPL-2.0-or-later
// The far end of the largest mains: 2^48 units, the last one cut or whole.
#include "engine/disk.h"
#include "tests/support/memory_store.h"

#include <catch2/catch.hpp>

#include <cstring>

using namespace dmremap;
using namespace dmremap::test;

namespace {

/// Each sector holds its own number; writes to the last MiB are kept, others are an error of the test.
class huge_store final : public store {
public:
  [[nodiscard]] std::uint64_t size() const override { return bytes; }
  [[nodiscard]] std::uint32_t block_size() const override { return 512; }
  [[nodiscard]] io_result read(std::span<std::byte> to, std::uint64_t at) override {
    if (at >= kept)
      return tail_->read(to, at - kept);
    for (std::uint64_t done = 0; done < to.size(); done += 512) {
      const std::uint64_t number = (at + done) / 512;
      std::memset(to.data() + done, 0, 512);
      std::memcpy(to.data() + done, &number, sizeof number);
    }
    return {};
  }
  [[nodiscard]] io_result write(std::span<const std::byte> from, std::uint64_t at) override {
    REQUIRE(at >= kept);
    return tail_->write(from, at - kept);
  }
  [[nodiscard]] io_result flush() override { return {}; }
  [[nodiscard]] std::uint64_t failed_flushes() const override { return 0; }
  [[nodiscard]] io_result zero(std::uint64_t at, std::uint64_t length) override {
    REQUIRE(at >= kept);
    return tail_->zero(at - kept, length);
  }
  [[nodiscard]] const store_identity& identity() const override { return tail_->identity(); }
  [[nodiscard]] memory_store& tail() { return *tail_; }

  static constexpr std::uint64_t bytes = ((1ull << 48) - 1) * 4096 + 512;
  static constexpr std::uint64_t kept = bytes - (1u << 20) - 512;

private:
  std::unique_ptr<memory_store> tail_ = std::make_unique<memory_store>((1u << 20) + 512);
};

} // namespace

TEST_CASE("a main of 1 EiB is the largest", "[disk]") {
  class sized final : public store {
  public:
    explicit sized(std::uint64_t bytes) : bytes_(bytes) {}
    [[nodiscard]] std::uint64_t size() const override { return bytes_; }
    [[nodiscard]] std::uint32_t block_size() const override { return 512; }
    [[nodiscard]] io_result read(std::span<std::byte> to, std::uint64_t) override {
      std::memset(to.data(), 0, to.size());
      return {};
    }
    [[nodiscard]] io_result write(std::span<const std::byte>, std::uint64_t) override { return {}; }
    [[nodiscard]] io_result flush() override { return {}; }
    [[nodiscard]] std::uint64_t failed_flushes() const override { return 0; }
    [[nodiscard]] io_result zero(std::uint64_t, std::uint64_t) override { return {}; }
    [[nodiscard]] const store_identity& identity() const override { return identity_; }

  private:
    const std::uint64_t bytes_;
    store_identity identity_;
  };
  constexpr std::uint64_t exbibyte = 1ull << 60;
  const auto spare = std::make_shared<memory_store>(16u << 20);
  store* spares[] = {spare.get()};
  format_options options;
  options.name = "huge";
  sized too_large(exbibyte + 512);
  const auto refused = disk::format(too_large, spares, options);
  REQUIRE_FALSE(refused.has_value());
  REQUIRE(refused.error().id == "main-too-large");
  const auto main = std::make_shared<sized>(exbibyte);
  REQUIRE(disk::format(*main, spares, options).has_value());
  for (int opens = 0; opens < 2; ++opens) {
    auto set = disk::open(main, {spare}, {});
    REQUIRE(set.has_value());
    const sector_number last((exbibyte / sector_bytes) - 1);
    const auto made = (*set)->remap(last);
    REQUIRE(made.has_value());
    REQUIRE(made->units + made->already == 1);
    auto context = (*set)->make_context();
    const std::vector<std::byte> value(sector_bytes, std::byte{7});
    std::vector<std::byte> got(sector_bytes);
    REQUIRE((*set)->write(*context, value, last.value * sector_bytes));
    REQUIRE((*set)->read(*context, got, last.value * sector_bytes));
    REQUIRE(got == value);
  }
}

TEST_CASE("the last sector of the largest main is served, moved and moved back", "[disk]") {
  const auto main = std::make_shared<huge_store>();
  const auto spare = std::make_shared<memory_store>(16u << 20);
  store* spares[] = {spare.get()};
  format_options options;
  options.name = "huge";
  REQUIRE(disk::format(*main, spares, options));
  auto set = disk::open(main, {spare}, {});
  REQUIRE(set);
  auto context = (*set)->make_context();
  const std::uint64_t last = huge_store::bytes - 512;
  const auto holds = [&](std::uint64_t at, std::size_t length, std::byte value) {
    std::vector<std::byte> got(length);
    return (*set)->read(*context, got, at) && got == std::vector<std::byte>(length, value);
  };
  const auto put = [&](std::uint64_t at, std::size_t length, std::byte value) {
    return (*set)->write(*context, std::vector<std::byte>(length, value), at).has_value();
  };
  REQUIRE(put(last - 8192, 8192 + 512, std::byte{7}));
  REQUIRE(holds(last - 8192, 8192 + 512, std::byte{7}));
  std::vector<std::byte> over(1024);
  REQUIRE((*set)->read(*context, over, last).error() == io_error::invalid);
  REQUIRE((*set)->remap(sector_number(last / 512)));
  REQUIRE(put(last - 4096, 4096 + 512, std::byte{8}));
  REQUIRE(holds(last - 4096, 4096 + 512, std::byte{8}));
  REQUIRE((*set)->zero(*context, last - 4096, 4096 + 512));
  REQUIRE(holds(last - 4096, 4096 + 512, std::byte{0}));
  REQUIRE(put(last, 512, std::byte{9}));
  REQUIRE((*set)->unmap(sector_number(last / 512)));
  REQUIRE(holds(last, 512, std::byte{9}));

  main->tail().add_bad(
      {(last - huge_store::kept) / 512, 1, direction::both, io_error::medium, always, false});
  REQUIRE(put(last - 4096, 4096 + 512, std::byte{10}));
  context.reset();
  set->reset();
  set = disk::open(main, {spare}, {});
  REQUIRE(set);
  context = (*set)->make_context();
  REQUIRE(holds(last - 4096, 4096 + 512, std::byte{10}));
  // More than any spare holds: refused at once, not tried in memory first.
  const std::uint64_t sectors = huge_store::bytes / 512;
  REQUIRE((*set)->add_remap(sector_number(0), std::nullopt, sectors).error().id == "no-spare-capacity");
  REQUIRE((*set)->add_remap(sector_number(0), sector_number(0), sectors).error().id == "no-spare-capacity");
  context.reset();
  REQUIRE((*set)->close());
}
