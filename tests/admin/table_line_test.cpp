// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/table_line.h"

#include <catch2/catch.hpp>

using namespace dmremap;
using namespace dmremap::admin;

TEST_CASE("the table lines that scripts have are read", "[table_line]") {
  const auto v3 = parse_table_line("0 204800 remap /dev/sdb /dev/sdc 0 20480");
  REQUIRE(v3);
  REQUIRE(v3->length == 204800);
  REQUIRE(v3->main == "/dev/sdb");
  REQUIRE(v3->spare == "/dev/sdc");
  REQUIRE_FALSE(v3->main_start);
  REQUIRE(v3->spare_start == 0);
  REQUIRE(v3->spare_length == 20480);

  const auto both = parse_table_line("0 204800 remap /dev/sdb 2048 /dev/sdc 4096 40960");
  REQUIRE(both);
  REQUIRE(both->main_start == 2048);
  REQUIRE(both->spare_start == 4096);
  REQUIRE(both->spare_length == 40960);

  for (const char* name : {"remap-v4", "dm-remap-v4"}) {
    const auto v4 = parse_table_line(std::string("0 204800 ") + name + " /dev/sdb /dev/sdc");
    REQUIRE(v4);
    REQUIRE(v4->spare == "/dev/sdc");
    REQUIRE_FALSE(v4->spare_start);
  }
}

TEST_CASE("a line that is none is a usage error", "[table_line]") {
  for (const char* line :
       {"", "0", "0 204800", "0 204800 linear /dev/sdb 0", "8 204800 remap-v4 /dev/sdb /dev/sdc",
        "0 x remap-v4 /dev/sdb /dev/sdc", "0 204800 remap /dev/sdb /dev/sdc 0",
        "0 204800 remap /dev/sdb /dev/sdc 0 -8", "0 204800 remap-v4 /dev/sdb",
        "0 204800 remap-v4 /dev/sdb /dev/sdc more", "0 18446744073709551616 remap-v4 /a /b"}) {
    INFO(line);
    const auto parsed = parse_table_line(line);
    REQUIRE_FALSE(parsed);
    REQUIRE(parsed.error().code == exit_code::usage);
  }
}

TEST_CASE("values that are not legal are adjusted, and each adjustment is said", "[table_line]") {
  const member_measure main{204800, 512, 512}, spare{204800, 512, 4096};
  const auto legal = apply_table_line(*parse_table_line("0 204800 remap /m /s 0 204800"), main, spare);
  REQUIRE(legal);
  REQUIRE(legal->adjustments.empty());

  const auto odd = apply_table_line(*parse_table_line("0 204800 remap /m /s 3 65541"), main, spare);
  REQUIRE(odd);
  REQUIRE_FALSE(odd->adjustments.empty());
  REQUIRE(odd->spare.start);
  REQUIRE(*odd->spare.start % 8 == 0);
  REQUIRE(*odd->spare.length % 8 == 0);
  REQUIRE(*odd->spare.start >= 3); // never onto what the line left alone
  REQUIRE(*odd->spare.start + *odd->spare.length <= 3 + 65541);
}

TEST_CASE("a disk longer than main is refused", "[table_line]") {
  const member_measure main{1000, 512, 512}, spare{204800, 512, 512};
  REQUIRE_FALSE(apply_table_line(*parse_table_line("0 204800 remap-v4 /m /s"), main, spare));
}
