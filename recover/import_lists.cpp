// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/import_lists.h"

#include "engine/units.h"

#include <charconv>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace dmremap::recover {
namespace {

using nlohmann::json;

constexpr std::uint64_t most_bytes = std::uint64_t{1} << 62;

tl::unexpected<error> bad_line(const std::string& name, std::uint64_t line, const std::string& why) {
  return fail("bad-list", fmt::format("{}, line {}", name, line), why);
}

/// Words of a line, without what follows a '#', and without a carriage return.
std::vector<std::string_view> words_of(std::string_view line) {
  line = line.substr(0, line.find('#'));
  std::vector<std::string_view> out;
  constexpr std::string_view blanks = " \t\r";
  for (std::size_t at = line.find_first_not_of(blanks); at != std::string_view::npos;
       at = line.find_first_not_of(blanks, at)) {
    const auto end = std::min(line.find_first_of(blanks, at), line.size());
    out.push_back(line.substr(at, end - at));
    at = end;
  }
  return out;
}

/// As C writes it: 0x..., 0..., or decimal.
std::optional<std::uint64_t> c_number(std::string_view text) {
  int base = 10;
  if (text.size() > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
    base = 16;
    text.remove_prefix(2);
  } else if (text.size() > 1 && text[0] == '0') {
    base = 8;
  }
  std::uint64_t value = 0;
  const auto [at, failed] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (text.empty() || failed != std::errc{} || at != text.data() + text.size() || value > most_bytes)
    return std::nullopt;
  return value;
}

std::optional<std::uint64_t> decimal(std::string_view text) {
  std::uint64_t value = 0;
  const auto [at, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || failed != std::errc{} || at != text.data() + text.size())
    return std::nullopt;
  return value;
}

template <class Take>
result<void> each_line(std::string_view text, Take&& take) {
  std::uint64_t number = 0;
  while (!text.empty()) {
    const auto end = std::min(text.find('\n'), text.size());
    ++number;
    if (const auto words = words_of(text.substr(0, end)); !words.empty())
      CHECK_OK(take(number, words));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return {};
}

/// The member of an object; null where there is none.
const json& part(const json& object, const char* key) {
  static const json none;
  if (!object.is_object())
    return none;
  const auto at = object.find(key);
  return at != object.end() ? *at : none;
}

constexpr std::uint64_t bad_place = 0x40 | 0x10; // UNC and IDNF of the ATA error register

/// Self-tests tell the first block that failed; those that did not fail may have a number that means nothing.
bool test_passed(const json& row) {
  const auto& passed = part(part(row, "status"), "passed");
  return passed.is_boolean() && passed.get<bool>();
}

/// Nothing where the row has none, or one that is on no device.
std::optional<byte_range> block_at(const json& lba, std::uint64_t block) {
  if (!lba.is_number_unsigned() || lba.get<std::uint64_t>() >= most_bytes / block)
    return std::nullopt;
  const auto start = lba.get<std::uint64_t>() * block;
  return byte_range{start, start + block};
}

/// The blocks that a log of tests or of errors names.
void take_lbas(const json& table, std::uint64_t block, bad_list& out) {
  if (!table.is_array())
    return;
  for (const auto& row : table) {
    const json& registers = part(row, "completion_registers");
    if (const json& why = part(registers, "error");
        why.is_number_unsigned() && (why.get<std::uint64_t>() & bad_place) == 0)
      continue; // an aborted command, a bad cable
    const json& direct = part(row, "lba");
    const auto place = block_at(direct.is_number_unsigned() ? direct : part(registers, "lba"), block);
    if (place && !test_passed(row))
      out.ranges.push_back(*place);
  }
}

/// Every row of the pending defects is a bad block.
bool take_defects(const json& table, std::uint64_t block, bad_list& out) {
  if (!table.is_array())
    return true;
  for (const auto& row : table) {
    const auto place = block_at(part(row, "lba"), block);
    if (!place)
      return false;
    out.ranges.push_back(*place);
  }
  return true;
}

} // namespace

result<bad_list> parse_ddrescue(std::string_view text, const std::string& name, bool unsure) {
  bad_list out;
  bool header = false;
  std::optional<std::uint64_t> end;
  constexpr std::string_view states = "?*/-+", phases = "?*/-+FG";
  CHECK_OK(each_line(text, [&](std::uint64_t line, const auto& w) -> result<void> {
    if (!header) {
      header = true;
      if (w.size() < 2 || w.size() > 3 || !c_number(w[0]) || w[1].size() != 1 ||
          phases.find(w[1][0]) == std::string_view::npos || (w.size() == 3 && !decimal(w[2])))
        return bad_line(name, line, "is no mapfile of ddrescue: its first line is POSITION STATUS [PASS]");
      return {};
    }
    const auto start = w.size() == 3 ? c_number(w[0]) : std::nullopt;
    const auto size = w.size() == 3 ? c_number(w[1]) : std::nullopt;
    if (!start || !size || w[2].size() != 1 || states.find(w[2][0]) == std::string_view::npos)
      return bad_line(name, line, "is not POSITION SIZE STATUS");
    if (end && *end != *start)
      return bad_line(name, line, "leaves a gap, or overlaps the line before: the mapfile is damaged");
    end = *start + *size;
    const char state = w[2][0];
    if (*size != 0 && (state == '-' || (unsure && (state == '*' || state == '/'))))
      out.ranges.push_back({*start, *end});
    return {};
  }));
  if (!end)
    return fail("bad-list", name, "has no line that tells of a place: it is no mapfile of ddrescue");
  return out;
}

result<bad_list> parse_blocks(std::string_view text, const std::string& name, std::uint64_t block_size,
                              bool counts) {
  bad_list out;
  CHECK_OK(each_line(text, [&](std::uint64_t line, const auto& w) -> result<void> {
    const auto first = decimal(w[0]);
    const auto count = w.size() == 2 && counts ? decimal(w[1]) : std::optional<std::uint64_t>(1);
    if (!first || !count || *count == 0 || w.size() > (counts ? 2u : 1u))
      return bad_line(name, line, counts ? "is not NUMBER or NUMBER COUNT" : "is not the number of a block");
    const auto start = checked_mul(*first, block_size), length = checked_mul(*count, block_size);
    const auto end = start && length ? checked_add(*start, *length) : std::nullopt;
    if (!end || *end > most_bytes)
      return bad_line(name, line, "lies behind the end of any device");
    out.ranges.push_back({*start, *end});
    return {};
  }));
  return out;
}

result<bad_list> parse_smartctl(std::string_view text, const std::string& name,
                                std::optional<std::uint64_t> block_size) {
  const auto doc = json::parse(text, nullptr, false);
  if (!part(doc, "smartctl").is_object())
    return fail("bad-list", name, "is no JSON of `smartctl -j -x`");
  if (const auto& told = part(doc, "logical_block_size"); told.is_number_unsigned())
    block_size = told.get<std::uint64_t>();
  if (!block_size || (*block_size != 512 && *block_size != 4096))
    return fail("block-size-wanted", name,
                "does not tell the drive's logical block size: --block-size 512 or 4096", exit_code::usage);
  if (!part(doc, "ata_pending_defects_log").is_object() &&
      !part(doc, "ata_smart_self_test_log").is_object() && !part(doc, "ata_smart_error_log").is_object())
    return fail("bad-list", name,
                "has none of the logs that name places: those of an ATA drive, by `smartctl -j -x`");
  bad_list out;
  if (!take_defects(part(part(doc, "ata_pending_defects_log"), "table"), *block_size, out))
    return fail("bad-list", name, "has a row of ata_pending_defects_log that names no block of a drive");
  const auto& tests = part(doc, "ata_smart_self_test_log");
  for (const char* kind : {"extended", "standard"})
    take_lbas(part(part(tests, kind), "table"), *block_size, out);
  const auto& errors = part(doc, "ata_smart_error_log");
  for (const char* kind : {"extended", "summary"})
    take_lbas(part(part(errors, kind), "table"), *block_size, out);
  if (const auto& serial = part(doc, "serial_number"); serial.is_string())
    out.serial = serial.get<std::string>();
  if (const auto& bytes = part(part(doc, "user_capacity"), "bytes"); bytes.is_number_unsigned())
    out.capacity = bytes.get<std::uint64_t>();
  return out;
}

} // namespace dmremap::recover
