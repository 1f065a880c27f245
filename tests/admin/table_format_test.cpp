// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/table_format.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

using namespace dmremap;
using namespace dmremap::admin;
using nlohmann::json;

namespace {

table_row row(std::uint64_t main, std::uint64_t spare, std::uint8_t lost = 0) {
  table_row one;
  one.main_sector = main;
  one.spare_sector = spare;
  one.sectors = 8;
  one.lost = lost;
  return one;
}

table_view view(std::vector<table_row> rows) {
  return {"/dev/main", 100, {"/dev/spare@1000+40000"}, {false}, std::move(rows)};
}

} // namespace

TEST_CASE("the daemon's table is read, in order, with the spare by UUID, path or index") {
  const json status{{"main", {{"path", "/m"}, {"sectors", 100}}},
                    {"spares", {{{"uuid", "u0"}, {"path", "/s"}}}}};
  const json spare = GENERATE(json("u0"), json("/s"), json(0u));
  const json table{
      {"remaps",
       {{{"main_sector", 96}, {"spare", spare}, {"spare_sector", 80}, {"sectors", 4}, {"kind", "explicit"}},
        {{"main_sector", 8}, {"spare", spare}, {"spare_sector", 800}, {"sectors", 8}, {"lost_mask", 5}}}}};
  const auto read = read_table(table, status);
  REQUIRE(read);
  REQUIRE(read->rows.size() == 2);
  CHECK(table_text(*read) ==
        "# main /m, 100 sectors\n# spare 0 /s\n# main-sector sectors spare spare-sector kind "
        "lost-sectors\n8 8 0 800 remap 8,10\n96 4 0 80 explicit -\n");
}

TEST_CASE("a table that names no spare of the set is not shown as if it did") {
  const json status{{"spares", {{{"uuid", "u0"}, {"path", "/s"}}}}};
  const json named = GENERATE(json("u1"), json(1u), json(nullptr), json(""));
  const auto read = read_table({{"remaps", {{{"main_sector", 8}, {"spare", named}}}}}, status);
  REQUIRE(!read);
  CHECK(read.error().id == "bad-reply");
  CHECK(!read_table(json::object(), status));
}

TEST_CASE("the dmsetup table covers all of main once, joins neighbours, and fails lost sectors") {
  CHECK(*table_dmsetup(view({})) == "0 100 linear /dev/main 0\n");
  // Two neighbours that are neighbours on the spare, too; one with lost sectors 1 and 7; the last, short
  // unit.
  auto last = row(96, 320);
  last.sectors = 4;
  CHECK(*table_dmsetup(view({row(8, 80), row(16, 88), row(32, 160, 0x82), last})) ==
        "0 8 linear /dev/main 0\n"
        "8 16 linear /dev/spare 1080\n"
        "24 8 linear /dev/main 24\n"
        "32 1 linear /dev/spare 1160\n"
        "33 1 error\n"
        "34 5 linear /dev/spare 1162\n"
        "39 1 error\n"
        "40 56 linear /dev/main 40\n"
        "96 4 linear /dev/spare 1320\n");
  auto without = view({row(8, 80), row(16, 88)});
  without.spares.front() = ""; // not known, or by now another device
  without.absent.front() = true;
  CHECK(*table_dmsetup(without) == "0 8 linear /dev/main 0\n"
                                   "8 16 error\n"
                                   "24 76 linear /dev/main 24\n");
  auto dusty = view({});
  dusty.main = "dust:/dev/main@8+104";
  dusty.main_sectors = 104;
  CHECK(*table_dmsetup(dusty) == "0 104 linear /dev/main 8\n");
  dusty.main = "/dev/with blank";
  CHECK(table_dmsetup(dusty).error().id == "bad-member");
}

TEST_CASE("a ddrescue mapfile covers the disk without a gap") {
  const auto map = ddrescue_map({{8, 16}, {90, 10}}, 100);
  CHECK(map.substr(map.find("0x00000000  0x")) == "0x00000000  0x00001000  +\n"
                                                  "0x00001000  0x00002000  -\n"
                                                  "0x00003000  0x00008400  +\n"
                                                  "0x0000B400  0x00001400  -\n");
  CHECK(ddrescue_map({}, 2).find("0x00000000  0x00000400  +\n") != std::string::npos);
}

TEST_CASE("a badblocks list names each block once") {
  CHECK(badblocks_list({{8, 8}, {20, 1}, {22, 1}}, 4096) == "1\n2\n");
  CHECK(badblocks_list({{8, 2}, {21, 1}}, 1024) == "4\n10\n");
  CHECK(badblocks_list({{8, 2}}, 512) == "8\n9\n");
}

TEST_CASE("neighbouring units are one range") {
  const auto ranges = remapped_ranges(view({row(8, 80), row(16, 800), row(32, 160)}));
  REQUIRE(ranges.size() == 2);
  CHECK(ranges[0].first == 8);
  CHECK(ranges[0].count == 16);
  CHECK(ranges[1].first == 32);
  CHECK(lost_text(ranges) == "8 16\n32 8\n");
}
