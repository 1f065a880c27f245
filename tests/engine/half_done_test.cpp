// SPDX-License-Identifier: GPL-2.0-or-later
// Requests that fail when a part of them is done: the answer must be true.
#include "engine/geometry.h"
#include "tests/support/forwarding_store.h"
#include "tests/support/set_fixture.h"

using namespace dmremap;
using namespace dmremap::test;

namespace {

/// Can zero for so many requests, then not any more.
class limited_zero final : public forwarding_store {
public:
  using forwarding_store::forwarding_store;
  [[nodiscard]] io_result zero(std::uint64_t at, std::uint64_t n) override {
    return left-- > 0 ? inner().zero(at, n) : io_fail(io_error::unsupported);
  }
  int left = 0;
};

} // namespace

TEST_CASE("zeroing that main gives up half way is finished by writing") {
  set_fixture f;
  const auto main = std::make_shared<limited_zero>(f.main);
  f.context.reset();
  f.set.reset();
  auto opened = disk::open(main, {f.spare}, {});
  REQUIRE(opened.has_value());
  f.set = std::move(*opened);
  f.context = f.set->make_context();
  REQUIRE(f.set->remap(sector_number(64)).has_value()); // parts the range in two
  SECTION("it cannot at all") {
    REQUIRE(f.set->zero(*f.context, 0, 128 * 512) == io_fail(io_error::unsupported));
    REQUIRE(f.holds_original(0, 128));
  }
  SECTION("it can once") {
    main->left = 1;
    REQUIRE(f.set->zero(*f.context, 0, 128 * 512).has_value());
    REQUIRE(f.holds(0, 128 * 512, std::byte{0}));
    REQUIRE(f.holds_original(128, 8));
  }
}

TEST_CASE("an add_remap of which a part is done says how much") {
  set_fixture f(32u << 20, 512, 512, 64u << 20);
  constexpr std::uint64_t units = 2000, first_group = 1024;
  const auto places = make_geometry(f.spare->size());
  const std::uint64_t source =
      (places->block_place(1, places->table_blocks - 1).value + 1) * unit_sectors; // all data from there on
  // Of the second group's units the table cannot be written.
  const std::uint32_t block = geometry::block_of(spare_unit(source / 8 + units - 1));
  REQUIRE(block > geometry::block_of(spare_unit(source / 8 + first_group)));
  for (unsigned r = 0; r < own_replicas; ++r)
    f.spare->add_bad({byte_of(places->block_place(r, block)) / 512, 8, direction::write});
  const auto done = f.set->add_remap(sector_number(0), sector_number(source), units * 8);
  REQUIRE_FALSE(done.has_value());
  INFO(done.error().text());
  REQUIRE(f.set->stats().manual_remapped_units >= first_group);
  REQUIRE(done.error().why.find("nothing changed") == std::string::npos);
  REQUIRE(done.error().why.find("sectors 0 to 8191 are remapped and stay so") != std::string::npos);
  REQUIRE(done.error().why.find("main sector 8192, spare sector " + std::to_string(source + 8192)) !=
          std::string::npos);
  // What was not done can be done as it says.
  f.spare->clear_faults();
  f.open();
  const auto rest =
      f.set->add_remap(sector_number(8192), sector_number(source + 8192), (units - first_group) * 8);
  REQUIRE(rest.has_value());
  REQUIRE(rest->units + rest->already == units - first_group);
}
