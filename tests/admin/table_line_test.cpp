// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/table_line.h"

#include <catch2/catch.hpp>

using namespace dmremap;
using namespace dmremap::admin;

namespace {

const member_measure disk_1000{1000, 512, 512};
const member_measure spare_100000{100000, 512, 512};

result<table_members> applied(const std::string& text, const member_measure& main,
                              const member_measure& spare) {
  const auto line = parse_table_line(text);
  REQUIRE(line);
  return apply_table_line(*line, main, spare);
}

std::string failure(const std::string& text, const member_measure& main = disk_1000,
                    const member_measure& spare = spare_100000) {
  const auto made = applied(text, main, spare);
  return made ? "none" : made.error().id;
}

} // namespace

TEST_CASE("every form of the table line is taken") {
  const auto v3 = parse_table_line("0 204800 remap /dev/sdb /dev/sdc 8 40960");
  REQUIRE(v3);
  CHECK(v3->length == 204800);
  CHECK(v3->main == "/dev/sdb");
  CHECK(v3->spare == "/dev/sdc");
  CHECK(!v3->main_start);
  CHECK(v3->spare_start == 8u);
  CHECK(v3->spare_length == 40960u);

  const auto v5 = parse_table_line("  0 100 remap /m 16 /s 24 32 ");
  REQUIRE(v5);
  CHECK(v5->main_start == 16u);
  CHECK(v5->spare == "/s");
  CHECK(v5->spare_start == 24u);
  CHECK(v5->spare_length == 32u);

  for (const std::string target : {"remap-v4", "dm-remap-v4"}) {
    const auto v4 = parse_table_line("0 100 " + target + " /m /s");
    REQUIRE(v4);
    CHECK(v4->main == "/m");
    CHECK(v4->spare == "/s");
    CHECK(!v4->spare_start);
  }
}

TEST_CASE("what is no table line is a usage error") {
  const std::string bad = GENERATE(values<std::string>(
      {"", "0", "0 8", "8 8 remap-v4 /m /s", "0 x remap-v4 /m /s", "0 -8 remap-v4 /m /s", "0 8 linear /m 0",
       "0 8 remap /m /s", "0 8 remap /m /s 0", "0 8 remap /m /s 0 x", "0 8 remap /m x /s 0 8",
       "0 8 remap /m 0 /s 0 8 9", "0 8 remap-v4 /m", "0 8 remap-v4 /m /s 0 8",
       "0 99999999999999999999 remap-v4 /m /s", "0x0 8 remap-v4 /m /s"}));
  const auto line = parse_table_line(bad);
  REQUIRE(!line);
  CHECK(line.error().id == "bad-table");
  CHECK(line.error().code == exit_code::usage);
}

TEST_CASE("legal values become members as they are, without a range where they cover all") {
  const auto whole = applied("0 1000 remap /m /s 0 100000", disk_1000, spare_100000);
  REQUIRE(whole);
  CHECK(whole->main.text() == "/m");
  CHECK(whole->spare.text() == "/s");
  CHECK(whole->adjustments.empty());

  const auto part = applied("0 800 remap /m 16 /s 80 40000", disk_1000, spare_100000);
  REQUIRE(part);
  CHECK(part->main.text() == "/m@16+800");
  CHECK(part->spare.text() == "/s@80+40000");
  CHECK(part->adjustments.empty());
}

TEST_CASE("an illegal place on the spare is moved inwards, never outwards, and told") {
  const auto moved = applied("0 1000 remap /m /s 3 40000", disk_1000, spare_100000);
  REQUIRE(moved);
  CHECK(moved->spare.text() == "/s@8+39992"); // 3..40003 holds 8..40000
  CHECK(moved->adjustments.size() == 2);

  const auto cut = applied("0 1000 remap /m /s 8 999999", disk_1000, spare_100000);
  REQUIRE(cut);
  CHECK(cut->spare.text() == "/s@8+99992");
  CHECK(cut->adjustments.size() == 1);

  const auto endless = applied("0 1000 remap /m /s 8 18446744073709551615", disk_1000, spare_100000);
  REQUIRE(endless);
  CHECK(endless->spare.text() == "/s@8+99992");

  const member_measure coarse{100000, 512, 16384}; // a physical sector is 32 of ours
  const auto physical = applied("0 1000 remap /m /s 8 40000", disk_1000, coarse);
  REQUIRE(physical);
  CHECK(physical->spare.text() == "/s@32+39968");
  CHECK(physical->adjustments.size() == 2);
}

TEST_CASE("a range of a range counts from the range's start") {
  const auto made = applied("0 1000 remap-v4 /m@800+1000 /s@8+100000", disk_1000, spare_100000);
  REQUIRE(made);
  CHECK(made->main.text() == "/m@800+1000");
  const auto inner = applied("0 800 remap /m@800+1000 16 /s@8+100000 16 40000", disk_1000, spare_100000);
  REQUIRE(inner);
  CHECK(inner->main.text() == "/m@816+800");
  CHECK(inner->spare.text() == "/s@24+40000");
}

TEST_CASE("the length is cut to whole units where it ends inside main, not where it ends main") {
  const auto cut = applied("0 999 remap-v4 /m /s", disk_1000, spare_100000);
  REQUIRE(cut);
  CHECK(cut->main.text() == "/m@0+992");
  CHECK(cut->adjustments.size() == 1);

  const member_measure odd{1003, 512, 512};
  const auto whole = applied("0 1003 remap-v4 /m /s", odd, spare_100000);
  REQUIRE(whole);
  CHECK(whole->main.text() == "/m");
  CHECK(whole->adjustments.empty());
}

TEST_CASE("what would show other data, or lies outside, is refused") {
  CHECK(failure("0 1001 remap-v4 /m /s") == "table-too-long");
  CHECK(failure("0 992 remap /m 16 /s 0 40000") == "table-too-long");
  CHECK(failure("0 8 remap /m 4 /s 0 40000") == "table-misaligned");
  CHECK(failure("0 8 remap /m 1000 /s 0 40000") == "table-outside");
  CHECK(failure("0 8 remap /m /s 100000 8") == "table-outside");
  CHECK(failure("0 8 remap /m /s 3 4") == "table-outside"); // nothing whole is left
  CHECK(failure("0 7 remap-v4 /m /s") == "bad-table");
  CHECK(failure("0 8 remap-v4 /m@1+8 /s") == "misaligned-range");
}
