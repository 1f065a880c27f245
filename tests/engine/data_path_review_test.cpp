// SPDX-License-Identifier: GPL-2.0-or-later
// Requests some part of which fails after another part has changed something.
#include "engine/geometry.h"
#include "tests/support/forwarding_store.h"
#include "tests/support/pool_fixture.h"
#include "tests/support/set_fixture.h"

using namespace dmremap;
using namespace dmremap::test;

namespace {

/// A write that fails leaves the block that it hit unreadable, as drives do with a physical sector.
class scarring_store final : public forwarding_store {
public:
  explicit scarring_store(std::shared_ptr<memory_store> m) : forwarding_store(m), memory_(std::move(m)) {}
  [[nodiscard]] io_result write(std::span<const std::byte> b, std::uint64_t at) override {
    auto wrote = inner().write(b, at);
    if (!wrote)
      memory_->add_bad({at / sector_bytes, b.size() / sector_bytes, direction::read});
    return wrote;
  }

private:
  std::shared_ptr<memory_store> memory_;
};

void open_with(set_fixture& f, std::shared_ptr<store> main, std::shared_ptr<store> spare) {
  f.context.reset();
  f.set.reset();
  auto opened = disk::open(std::move(main), {std::move(spare)}, {});
  REQUIRE(opened);
  f.set = std::move(*opened);
  f.context = f.set->make_context();
}

/// Zeroes half of the first range, which then fails, and says of all others that it cannot do such a thing.
class odd_zero final : public forwarding_store {
public:
  using forwarding_store::forwarding_store;
  [[nodiscard]] io_result zero(std::uint64_t at, std::uint64_t length) override {
    if (calls_++ != 0)
      return io_fail(io_error::unsupported);
    REQUIRE(inner().zero(at, length / 2));
    return io_fail(io_error::medium);
  }

private:
  int calls_ = 0;
};

} // namespace

TEST_CASE("a block that was read to be changed is not lost where its write fails") {
  const bool on_main = GENERATE(true, false);
  CAPTURE(on_main);
  set_fixture f(1u << 20, on_main ? 4096 : 512, on_main ? 512 : 4096);
  if (on_main) {
    open_with(f, std::make_shared<scarring_store>(f.main), f.spare);
    f.main->add_bad({24, 8, direction::write});
  } else {
    REQUIRE(f.set->remap(sector_number(24)));
    std::uint64_t unit = 0;
    f.set->for_each_remap([&](const remap_entry& e) { unit = e.spare.value; });
    open_with(f, f.main, std::make_shared<scarring_store>(f.spare));
    f.spare->add_bad({unit * unit_sectors, unit_sectors, direction::write});
  }
  REQUIRE(f.holds_original(24, 8));
  REQUIRE(f.write(24 * sector_bytes, sector_bytes, std::byte{0xAA}));
  CHECK(f.holds(24 * sector_bytes, sector_bytes, std::byte{0xAA}));
  CHECK(f.set->stats().lost_sectors == 0);
  CHECK(f.holds_original(25, 7));
}

TEST_CASE("what was lost of such a block stays lost") {
  set_fixture f(1u << 20, 512, 4096);
  f.main->add_bad({26, 1, direction::read});
  REQUIRE(f.set->remap(sector_number(24)));
  std::uint64_t unit = 0;
  f.set->for_each_remap([&](const remap_entry& e) { unit = e.spare.value; });
  open_with(f, f.main, std::make_shared<scarring_store>(f.spare));
  f.spare->add_bad({unit * unit_sectors, unit_sectors, direction::write});
  REQUIRE(f.write(24 * sector_bytes, sector_bytes, std::byte{0xAA}));
  CHECK(f.holds(24 * sector_bytes, sector_bytes, std::byte{0xAA}));
  CHECK(f.read(26 * sector_bytes, sector_bytes).error() == io_error::lost);
  CHECK(f.set->stats().lost_sectors == 1);
  CHECK(f.holds_original(27, 5));
}

TEST_CASE("a write in the middle of which a spare goes is done elsewhere, with what it overwrites of lost "
          "sectors") {
  pool_fixture f(2);
  put_on(f, 0, 0, one);
  put_on(f, 1, 0, one);
  f.spares[0]->add_bad({f.entry(0)->spare.value * unit_sectors + 2, 1, direction::read});
  REQUIRE(f.shows(0) == "lost sector");
  REQUIRE(f.entry(0)->spare_index == 0);
  REQUIRE(f.set->flush());
  fault_table dies;
  dies.all = io_error::gone;
  dies.all_after_writes = 1;
  f.spares[0]->set_faults(dies);
  SECTION("units that it covers whole") {
    REQUIRE(f.set->write(*f.context, std::vector<std::byte>(2 * unit_bytes, two), 0));
    CHECK(f.shows(0) == "byte 102");
    CHECK(f.entry(0)->spare_index == 1);
  }
  SECTION("a unit of which the spare had more") {
    const auto half = unit_bytes - 2 * sector_bytes;
    CHECK(
        f.set->write(*f.context, std::vector<std::byte>(half + unit_bytes, two), 2 * sector_bytes).error() ==
        io_error::absent);
    CHECK(f.shows_sector(0) == "its spare is absent");
  }
  CHECK(f.shows(1) == "byte 102");
  CHECK(f.entry(1)->spare_index == 1);
}

TEST_CASE("zero is not called unsupported once a part has failed, which may have changed") {
  set_fixture f;
  open_with(f, std::make_shared<odd_zero>(f.main), f.spare);
  REQUIRE(f.set->remap(sector_number(64))); // parts the range in two
  REQUIRE(f.set->zero(*f.context, 0, 128 * sector_bytes));
  CHECK(f.holds(0, 128 * sector_bytes, std::byte{0}));
  CHECK(f.holds_original(128, 8));
}
