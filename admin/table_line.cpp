// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/table_line.h"

#include "admin/lookup.h"
#include "engine/units.h"

#include <algorithm>
#include <fmt/format.h>
#include <numeric>
#include <sstream>

namespace dmremap::admin {
namespace {

tl::unexpected<error> bad_table(const std::string& what, const std::string& why) {
  return fail("bad-table", what, why, exit_code::usage);
}

result<std::uint64_t> number(const std::string& word, const char* what) {
  if (word.find_first_not_of("0123456789") != std::string::npos)
    return bad_table(word, std::string("is no ") + what + " in sectors");
  auto value = parse_number(word, what);
  if (!value)
    return bad_table(word, std::string("is no ") + what + " in sectors");
  return value;
}

bool is_number(const std::string& word) {
  return word.find_first_not_of("0123456789") == std::string::npos;
}

result<void> parse_v3(table_line& line, const std::vector<std::string>& words) {
  if (words.size() == 7) { // MAIN SPARE START LEN
    line.main = words[3];
    line.spare = words[4];
    line.spare_start = TRY(number(words[5], "START"));
    line.spare_length = TRY(number(words[6], "LEN"));
    return {};
  }
  if (words.size() != 8)
    return bad_table("remap", "takes MAIN SPARE START LEN, or MAIN MSTART SPARE SSTART SLEN");
  line.main = words[3];
  line.main_start = TRY(number(words[4], "MSTART"));
  line.spare = words[5];
  line.spare_start = TRY(number(words[6], "SSTART"));
  line.spare_length = TRY(number(words[7], "SLEN"));
  return {};
}

/// Sectors that a place on this member should be a multiple of.
std::uint64_t grain_of(const member_measure& member) {
  const std::uint64_t physical = std::max<std::uint64_t>(member.physical_bytes / sector_bytes, 1);
  return std::lcm(unit_sectors, physical);
}

/// The range as a member, or the whole member where it covers all.
void set_range(member_spec& spec, std::uint64_t start, std::uint64_t length, std::uint64_t whole) {
  if (start == 0 && length == whole)
    return;
  spec.start = spec.start.value_or(0) + start;
  spec.length = length;
}

result<void> apply_main(table_members& made, const table_line& line, const member_measure& main) {
  const auto start = line.main_start.value_or(0);
  if (start % unit_sectors != 0)
    return fail(
        "table-misaligned", std::to_string(start),
        fmt::format(
            "MSTART is not a multiple of 8 sectors; moving it would show other data (the nearest are {} "
            "and {})",
            align_down(start, unit_sectors), align_up(start, unit_sectors)));
  if (start >= main.sectors)
    return fail("table-outside", line.main,
                fmt::format("has {} sectors only; MSTART {} lies behind its end", main.sectors, start));
  if (line.length > main.sectors - start)
    return fail("table-too-long", line.main,
                fmt::format("has {} sectors{}; a table of {} does not fit", main.sectors - start,
                            start != 0 ? " from MSTART on" : "", line.length));
  auto length = line.length;
  if (start + length != main.sectors && length % unit_sectors != 0) {
    length = align_down(length, unit_sectors);
    made.adjustments.push_back(
        fmt::format("length of the disk: {} -> {} sectors (whole units of 8)", line.length, length));
  }
  if (length == 0)
    return bad_table(std::to_string(line.length), "is too short for a disk");
  set_range(made.main, start, length, main.sectors);
  return {};
}

result<void> apply_spare(table_members& made, const table_line& line, const member_measure& spare) {
  if (!line.spare_start)
    return {};
  const auto grain = grain_of(spare);
  if (*line.spare_start >= spare.sectors)
    return fail("table-outside", line.spare,
                fmt::format("has {} sectors only; the start {} lies behind its end", spare.sectors,
                            *line.spare_start));
  const auto start = align_up(*line.spare_start, grain);
  if (start != *line.spare_start)
    made.adjustments.push_back(fmt::format("start on the spare: {} -> {} (a multiple of {} sectors)",
                                           *line.spare_start, start, grain));
  const auto wanted = checked_add(*line.spare_start, *line.spare_length).value_or(UINT64_MAX);
  const auto end = align_down(std::min(wanted, spare.sectors), grain);
  if (end <= start)
    return fail("table-outside", line.spare,
                "nothing of the range is left on whole physical sectors of the device");
  const auto length = end - start;
  if (length != *line.spare_length)
    made.adjustments.push_back(
        fmt::format("length on the spare: {} -> {} sectors ({})", *line.spare_length, length,
                    wanted > spare.sectors ? "the device ends there" : "whole units and sectors"));
  set_range(made.spare, start, length, spare.sectors);
  return {};
}

} // namespace

result<table_line> parse_table_line(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;)
    words.push_back(word);
  if (words.size() < 3)
    return bad_table(text,
                     "is no table line: 0 LEN remap MAIN SPARE START LEN, or 0 LEN remap-v4 MAIN SPARE");
  if (!is_number(words[0]) || TRY(number(words[0], "start")) != 0)
    return bad_table(words[0], "the line starts at sector 0 of the disk: one line is the whole of it");
  table_line line;
  line.length = TRY(number(words[1], "length"));
  if (words[2] == "remap") {
    CHECK_OK(parse_v3(line, words));
    return line;
  }
  if (words[2] != "remap-v4" && words[2] != "dm-remap-v4")
    return bad_table(words[2], "is none of the targets remap, remap-v4, dm-remap-v4");
  if (words.size() != 5)
    return bad_table(words[2], "takes MAIN SPARE");
  line.main = words[3];
  line.spare = words[4];
  return line;
}

result<table_members> apply_table_line(const table_line& line, const member_measure& main,
                                       const member_measure& spare) {
  table_members made;
  made.main = TRY(parse_member(line.main));
  made.spare = TRY(parse_member(line.spare));
  CHECK_OK(apply_main(made, line, main));
  CHECK_OK(apply_spare(made, line, spare));
  return made;
}

} // namespace dmremap::admin
