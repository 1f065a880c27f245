// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/lost_files.h"

#include "admin/figures.h"
#include "engine/progress.h"
#include "engine/units.h"

#include <algorithm>
#include <endian.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <ostream>
#include <set>
#include <unistd.h>

namespace dmremap::admin {
namespace {

using nlohmann::json;

bool tells_files(const std::string& type) {
  return type == "ext2" || type == "ext3" || type == "ext4" || type == "xfs" || type == "btrfs";
}

/// Of the disk format of btrfs: the superblock at 64 KiB, and the number of its device in that.
result<std::uint64_t> btrfs_device_id(const std::string& image, std::uint64_t offset) {
  constexpr std::uint64_t super = 64 << 10, device_id = 201;
  const unique_fd file(::open(image.c_str(), O_RDONLY | O_CLOEXEC));
  std::uint64_t id = 0;
  if (!file ||
      ::pread(file.get(), &id, sizeof id, static_cast<off_t>(offset + super + device_id)) != sizeof id)
    return fail("image-failed", image, "the superblock of its btrfs cannot be read");
  return le64toh(id);
}

/// The lost places within an area, from its first byte.
std::vector<place> places_in(const image_area& area, const std::vector<sector_range>& lost) {
  std::vector<place> places;
  for (const auto& range : lost) {
    const auto from = std::max(range.first * sector_bytes, area.offset),
               to = std::min((range.first + range.count) * sector_bytes, area.offset + area.length);
    if (from < to)
      places.push_back({from - area.offset, to - from});
  }
  return places;
}

void look_into(const std::string& image, const std::vector<place>& places, const show_progress& show,
               lost_area& out) {
  const auto& area = *out.area;
  const auto owners_in = [&](int top) -> result<owners> {
    if (area.type != "btrfs")
      return owners_by_extents(top, places, show);
    const auto device_id = TRY(btrfs_device_id(image, area.offset));
    return owners_on_btrfs(top, device_id, places, show);
  };
  const auto look = [&]() -> result<owners> {
    auto files = TRY(make_visible(image, area));
    out.mounted = files.mounted;
    auto found = TRY(owners_in(files.top.get()));
    if (!files.mounted)
      found.notes.emplace_back("not mounted: what its journal holds was not replayed");
    for (auto& file : found.files)
      file.path = files.path_of(file.path);
    return found;
  };
  auto found = look();
  if (found)
    out.found = std::move(*found);
  else
    out.problem = found.error().text();
}

/// The lost places that no area covers.
std::vector<place> places_outside(const std::vector<image_area>& areas,
                                  const std::vector<sector_range>& lost) {
  std::vector<place> outside;
  for (const auto& range : lost) {
    std::uint64_t at = range.first * sector_bytes;
    const std::uint64_t end = at + range.count * sector_bytes;
    for (const auto& area : areas) {
      const auto from = std::clamp(area.offset, at, end), to = std::clamp(area.offset + area.length, at, end);
      if (from >= to)
        continue;
      if (at < from)
        outside.push_back({at, from - at});
      at = to;
    }
    if (at < end)
      outside.push_back({at, end - at});
  }
  return outside;
}

std::uint64_t bytes_of(const std::vector<place>& places) {
  std::uint64_t all = 0;
  for (const auto& one : places)
    all += one.length;
  return all;
}

/// A name in a line of text: what is not printable stands as \ooo.
std::string printable(const std::string& name) {
  std::string text;
  for (const char c : name) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f || c == '\\')
      text += fmt::format("\\{:03o}", byte);
    else
      text += c;
  }
  return text;
}

std::string area_text(const lost_area& one) {
  if (!one.area)
    return one.problem.empty() ? "outside of all partitions" : "the whole disk";
  const auto& a = *one.area;
  return fmt::format("{} on {} sectors from {}{}", a.type.empty() ? "nothing that is known" : a.type,
                     a.length / sector_bytes, a.offset / sector_bytes,
                     a.device.empty() ? "" : ", " + a.device);
}

std::uint64_t image_sector(const lost_area& one, const place& where) {
  return (where.at + (one.area ? one.area->offset : 0)) / sector_bytes;
}

std::string sectors_text(const lost_area& one, const place& where) {
  return fmt::format("sector {}, {}", image_sector(one, where),
                     counted(where.length / sector_bytes, "sector"));
}

} // namespace

result<std::vector<lost_area>> look_for_files(const std::string& image, const std::vector<sector_range>& lost,
                                              const show_progress& show) {
  std::vector<lost_area> out;
  const auto areas = TRY(areas_of_image(image));
  for (const auto& area : areas) {
    const auto places = places_in(area, lost);
    if (places.empty())
      continue;
    auto& one = out.emplace_back();
    one.area = area;
    one.lost_sectors = bytes_of(places) / sector_bytes;
    if (tells_files(area.type))
      look_into(image, places, show, one);
    else
      one.problem = area.type.empty()
                        ? "no file system that is known"
                        : area.type + " is not looked into: find out by hand what lies on these sectors";
    if (!one.problem.empty())
      for (const auto& where : places)
        one.found.others.push_back({"unknown", where});
  }
  if (const auto outside = places_outside(areas, lost); !outside.empty()) {
    auto& one = out.emplace_back();
    one.lost_sectors = bytes_of(outside) / sector_bytes;
    if (areas.empty())
      one.problem = "no file system and no partition table that is known";
    for (const auto& where : outside)
      one.found.others.push_back({"unknown", where});
  }
  return out;
}

std::string lost_files_text(const std::vector<lost_area>& areas) {
  std::string text;
  const auto add = std::back_inserter(text);
  for (const auto& one : areas) {
    fmt::format_to(add, "# {}: {} lost\n", area_text(one), counted(one.lost_sectors, "sector"));
    for (const auto& file : one.found.files)
      fmt::format_to(add, "{}: {}bytes {} to {} ({})\n", file.path.empty() ? "/" : printable(file.path),
                     file.kind == "data" ? "" : file.kind + ": ", file.offset,
                     file.offset + file.where.length - 1, sectors_text(one, file.where));
    for (const auto& other : one.found.others)
      fmt::format_to(add, "# no file: {}: {}\n", other.kind, sectors_text(one, other.where));
    if (!one.problem.empty())
      fmt::format_to(add, "# {}\n", one.problem);
    for (const auto& note : one.found.notes)
      fmt::format_to(add, "# {}\n", printable(note));
  }
  return text;
}

json lost_files_json(const std::vector<lost_area>& areas) {
  json list = json::array();
  for (const auto& one : areas) {
    json value{{"lost_sectors", one.lost_sectors}, {"mounted", one.mounted}, {"notes", one.found.notes}};
    value["first_sector"] = one.area ? json(one.area->offset / sector_bytes) : json();
    value["sectors"] = one.area ? json(one.area->length / sector_bytes) : json();
    value["type"] = one.area && !one.area->type.empty() ? json(one.area->type) : json();
    value["device"] = one.area && !one.area->device.empty() ? json(one.area->device) : json();
    value["problem"] = one.problem.empty() ? json() : json(one.problem);
    value["files"] = json::array();
    for (const auto& file : one.found.files)
      value["files"].push_back({{"path", file.path},
                                {"kind", file.kind},
                                {"offset", file.offset},
                                {"length", file.where.length},
                                {"sector", image_sector(one, file.where)},
                                {"count", file.where.length / sector_bytes}});
    value["others"] = json::array();
    for (const auto& other : one.found.others)
      value["others"].push_back({{"kind", other.kind},
                                 {"sector", image_sector(one, other.where)},
                                 {"count", other.where.length / sector_bytes}});
    list.push_back(std::move(value));
  }
  return list;
}

result<std::string> rsync_list(const std::vector<lost_area>& areas) {
  const auto with_files =
      std::count_if(areas.begin(), areas.end(), [](const auto& one) { return !one.found.files.empty(); });
  std::string text;
  for (const auto& one : areas) {
    if (with_files > 1 && !one.found.files.empty() && !one.mounted)
      return fail("not-mounted", area_text(one),
                  "lost sectors belong to files of more than one file system: mount this one, so that its "
                  "files have names of their own");
    std::set<std::string> paths;
    for (const auto& file : one.found.files)
      if (file.kind != "folder" && paths.insert(file.path).second)
        text += file.path + '\0';
  }
  return text;
}

result<exit_code> lost_files(context& c, const lost_files_task& task) {
  progress bar(c.err, "looking for the files", task.progress, "files");
  auto areas = TRY(look_for_files(task.image, task.lost,
                                  [&](std::uint64_t done, std::uint64_t all) { bar.show(done, all); }));
  if (c.json)
    c.print({{"name", task.name}, {"areas", lost_files_json(areas)}});
  else if (task.for_rsync)
    c.out << TRY(rsync_list(areas));
  else
    c.out << lost_files_text(areas);
  const bool whole =
      std::all_of(areas.begin(), areas.end(), [](const auto& one) { return one.problem.empty(); });
  if (task.for_rsync && !whole)
    c.note("not all places could be looked into; `dmremap lost " + task.name + " --files` says which");
  return whole ? exit_code::ok : exit_code::damaged;
}

} // namespace dmremap::admin
