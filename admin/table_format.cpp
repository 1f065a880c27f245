// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/table_format.h"

#include "admin/figures.h"
#include "engine/member.h"
#include "engine/units.h"

#include <algorithm>
#include <fmt/format.h>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>

namespace dmremap::admin {
namespace {

using nlohmann::json;

/// By index, UUID or path.
std::optional<unsigned> spare_index(const json& named, const json& spares) {
  for (unsigned i = 0; spares.is_array() && i < spares.size(); ++i)
    if ((named.is_number_unsigned() && named.get<std::uint64_t>() == i) ||
        (named.is_string() && !named.get<std::string>().empty() &&
         (text_in(spares[i], "uuid") == named || text_in(spares[i], "path") == named)))
      return i;
  return std::nullopt;
}

std::string lost_sectors_of(const table_row& row) {
  std::string text;
  for (unsigned i = 0; i < unit_sectors; ++i)
    if ((row.lost >> i & 1U) != 0)
      text += (text.empty() ? "" : ",") + std::to_string(row.main_sector + i);
  return text.empty() ? "-" : text;
}

/// A member as a target of device-mapper names it: a device and the sector where it starts.
struct dm_device {
  std::string path;
  std::uint64_t start = 0;
};

result<dm_device> dm_device_of(const std::string& member) {
  const auto spec = TRY(parse_member(member));
  if (spec.path.find_first_of(" \t\n") != std::string::npos)
    return fail("bad-member", member, "has a blank in its path, which a table of dmsetup cannot hold");
  return dm_device{spec.path, spec.start.value_or(0)};
}

/// Joins pieces that continue each other into lines.
class dm_lines {
public:
  void linear(std::uint64_t at, std::uint64_t count, const dm_device& device, std::uint64_t sector) {
    add({at, count, &device, device.start + sector});
  }
  void error(std::uint64_t at, std::uint64_t count) { add({at, count, nullptr, 0}); }
  [[nodiscard]] std::string take() {
    write();
    return std::move(text_);
  }

private:
  struct piece {
    std::uint64_t at = 0, count = 0;
    const dm_device* device = nullptr;
    std::uint64_t sector = 0;
  };
  void add(const piece& next) {
    if (next.count == 0)
      return;
    const bool joins = last_.count != 0 && next.device == last_.device &&
                       (next.device == nullptr || next.sector == last_.sector + last_.count);
    if (joins) {
      last_.count += next.count;
      return;
    }
    write();
    last_ = next;
  }
  void write() {
    if (last_.count == 0)
      return;
    if (last_.device == nullptr)
      fmt::format_to(std::back_inserter(text_), "{} {} error\n", last_.at, last_.count);
    else
      fmt::format_to(std::back_inserter(text_), "{} {} linear {} {}\n", last_.at, last_.count,
                     last_.device->path, last_.sector);
    last_ = {};
  }
  piece last_;
  std::string text_;
};

} // namespace

namespace {

/// The forms below count on rows of one unit each, in order and apart.
result<void> check_rows(const std::vector<table_row>& rows, const std::string& name) {
  constexpr std::uint64_t most = std::uint64_t{1} << 54U; // 2^63 bytes
  std::uint64_t end = 0;
  for (const auto& row : rows) {
    if (row.sectors == 0 || row.sectors > unit_sectors || row.main_sector < end || row.main_sector > most ||
        row.spare_sector > most)
      return fail("bad-reply", name, fmt::format("the remap of sector {} cannot be", row.main_sector));
    end = row.main_sector + row.sectors;
  }
  return {};
}

} // namespace

result<table_view> read_table(const json& table, const json& status) {
  table_view view;
  view.main = text_in(part_of(status, "main"), "path");
  view.main_sectors = number_in(part_of(status, "main"), "sectors");
  const auto& spares = part_of(status, "spares");
  if (spares.is_array())
    for (const auto& spare : spares) {
      view.spares.push_back(text_in(spare, "path"));
      view.absent.push_back(text_in(spare, "state") == "absent");
    }
  const auto& remaps = part_of(table, "remaps");
  if (!remaps.is_array())
    return fail("bad-reply", text_in(status, "name"), "the daemon's table is not understood");
  view.rows.reserve(remaps.size());
  for (const auto& remap : remaps) {
    table_row row;
    row.main_sector = number_in(remap, "main_sector");
    row.spare_sector = number_in(remap, "spare_sector");
    row.sectors = number_in(remap, "sectors", unit_sectors);
    row.sequence = number_in(remap, "sequence");
    row.lost = static_cast<std::uint8_t>(number_in(remap, "lost_mask"));
    row.may_answer = static_cast<std::uint8_t>(number_in(remap, "may_answer_mask"));
    row.explicit_remap = text_in(remap, "kind") == "explicit";
    const auto index = spare_index(part_of(remap, "spare"), spares);
    if (!index)
      return fail("bad-reply", text_in(status, "name"),
                  fmt::format("the remap of sector {} names no spare of the set", row.main_sector));
    row.spare = *index;
    view.rows.push_back(row);
  }
  std::sort(view.rows.begin(), view.rows.end(),
            [](const auto& a, const auto& b) { return a.main_sector < b.main_sector; });
  CHECK_OK(check_rows(view.rows, text_in(status, "name")));
  return view;
}

std::vector<sector_range> read_lost(const json& lost) {
  std::vector<sector_range> ranges;
  const auto& list = part_of(lost, "lost");
  if (list.is_array())
    for (const auto& one : list)
      ranges.push_back({number_in(one, "sector"), number_in(one, "count")});
  return ranges;
}

std::vector<sector_range> remapped_ranges(const table_view& table) {
  std::vector<sector_range> ranges;
  for (const auto& row : table.rows) {
    if (!ranges.empty() && ranges.back().first + ranges.back().count == row.main_sector)
      ranges.back().count += row.sectors;
    else
      ranges.push_back({row.main_sector, row.sectors});
  }
  return ranges;
}

std::string table_text(const table_view& table) {
  std::string text = fmt::format("# main {}, {} sectors\n", table.main, table.main_sectors);
  for (std::size_t i = 0; i < table.spares.size(); ++i)
    fmt::format_to(std::back_inserter(text), "# spare {} {}\n", i, table.spares[i]);
  text += "# main-sector sectors spare spare-sector kind lost-sectors\n";
  for (const auto& row : table.rows)
    fmt::format_to(std::back_inserter(text), "{} {} {} {} {} {}\n", row.main_sector, row.sectors, row.spare,
                   row.spare_sector, row.explicit_remap ? "explicit" : "remap", lost_sectors_of(row));
  return text;
}

result<std::string> table_dmsetup(const table_view& table) {
  const auto main = TRY(dm_device_of(table.main));
  std::vector<dm_device> spares;
  for (std::size_t i = 0; i < table.spares.size();
       ++i) // where an absent one was, another device may be by now
    spares.push_back(table.absent[i] ? dm_device{} : TRY(dm_device_of(table.spares[i])));
  dm_lines lines;
  std::uint64_t at = 0;
  for (const auto& row : table.rows) {
    lines.linear(at, row.main_sector - at, main, at);
    for (std::uint64_t i = 0; i < row.sectors; ++i) {
      if ((row.lost >> i & 1U) != 0 || table.absent[row.spare])
        lines.error(row.main_sector + i, 1);
      else
        lines.linear(row.main_sector + i, 1, spares[row.spare], row.spare_sector + i);
    }
    at = row.main_sector + row.sectors;
  }
  lines.linear(at, table.main_sectors - std::min(at, table.main_sectors), main, at);
  return lines.take();
}

std::string lost_text(const std::vector<sector_range>& ranges) {
  std::string text;
  for (const auto& range : ranges)
    fmt::format_to(std::back_inserter(text), "{} {}\n", range.first, range.count);
  return text;
}

std::string ddrescue_map(const std::vector<sector_range>& ranges, std::uint64_t sectors) {
  std::string text =
      "# Mapfile. Created by dmremap " DMREMAP_VERSION "\n# current_pos  current_status  current_pass\n"
      "0x00000000     +               1\n#      pos        size  status\n";
  const auto line = [&](std::uint64_t first, std::uint64_t count, char status) {
    if (count != 0)
      fmt::format_to(std::back_inserter(text), "0x{:08X}  0x{:08X}  {}\n", first * sector_bytes,
                     count * sector_bytes, status);
  };
  std::uint64_t at = 0;
  for (const auto& range : ranges) {
    line(at, range.first - at, '+');
    line(range.first, range.count, '-');
    at = range.first + range.count;
  }
  line(at, sectors - std::min(at, sectors), '+');
  return text;
}

std::string badblocks_list(const std::vector<sector_range>& ranges, std::uint64_t block_size) {
  std::string text;
  std::uint64_t next = 0; // the first block not written yet
  for (const auto& range : ranges) {
    const auto first = range.first * sector_bytes / block_size;
    const auto end = align_up((range.first + range.count) * sector_bytes, block_size) / block_size;
    for (auto block = std::max(first, next); block < end; ++block)
      fmt::format_to(std::back_inserter(text), "{}\n", block);
    next = std::max(next, end);
  }
  return text;
}

} // namespace dmremap::admin
