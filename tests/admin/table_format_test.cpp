// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/table_format.h"

#include <catch2/catch.hpp>

using namespace dmremap::admin;

namespace {

table_view sample() {
  table_view t;
  t.main = "/dev/sdb";
  t.main_sectors = 1000;
  t.spares = {"/dev/sdc"};
  t.rows = {{80, 16384, 8, 5, 0, 0x08, 0x08, false},
            {88, 16392, 8, 6, 0, 0, 0, false},
            {400, 20000, 8, 7, 0, 0, 0, true}};
  return t;
}

} // namespace

TEST_CASE("neighbours are one range, also for other tools", "[table_format]") {
  const auto ranges = remapped_ranges(sample());
  REQUIRE(ranges.size() == 2);
  REQUIRE(ranges[0].first == 80);
  REQUIRE(ranges[0].count == 16);
  REQUIRE(ranges[1].first == 400);
}

TEST_CASE("a ddrescue mapfile is contiguous and covers the disk", "[table_format]") {
  const auto map = ddrescue_map({{80, 16}, {400, 8}}, 1000);
  std::vector<std::string> lines;
  for (std::size_t at = 0; at < map.size();) {
    const auto end = map.find('\n', at);
    if (const auto line = map.substr(at, end - at); !line.empty() && line[0] != '#')
      lines.push_back(line);
    at = end + 1;
  }
  REQUIRE(lines.size() == 6); // the position line and five blocks
  std::uint64_t expected = 0;
  std::string statuses;
  for (std::size_t i = 1; i < lines.size(); ++i) {
    std::uint64_t position = 0, size = 0;
    char status = 0;
    REQUIRE(std::sscanf(lines[i].c_str(), "%li %li %c", reinterpret_cast<long*>(&position),
                        reinterpret_cast<long*>(&size), &status) == 3);
    REQUIRE(position == expected);
    expected += size;
    statuses += status;
  }
  REQUIRE(expected == 1000 * 512);
  REQUIRE(statuses == "+-+-+");
}

TEST_CASE("badblocks counts blocks of the size asked for, each once", "[table_format]") {
  REQUIRE(badblocks_list({{80, 16}}, 4096) == "10\n11\n");
  REQUIRE(badblocks_list({{81, 1}, {83, 1}}, 1024) == "40\n41\n");
  REQUIRE(badblocks_list({{81, 1}, {82, 1}}, 4096) == "10\n");
  REQUIRE(badblocks_list({{3, 2}}, 512) == "3\n4\n");
}

TEST_CASE("the dm table covers main without a gap, names each remap's place, and lost sectors fail", "[table_format]") {
  const auto table = table_dmsetup(sample());
  REQUIRE(table);
  REQUIRE(*table == "0 80 linear /dev/sdb 0\n"
                    "80 3 linear /dev/sdc 16384\n"
                    "83 1 error\n"
                    "84 12 linear /dev/sdc 16388\n"
                    "96 304 linear /dev/sdb 96\n"
                    "400 8 linear /dev/sdc 20000\n"
                    "408 592 linear /dev/sdb 408\n");
}
