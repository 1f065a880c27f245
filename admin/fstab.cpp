// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/fstab.h"

#include "engine/device_identity.h"
#include "engine/mount_table.h"
#include "engine/unique_fd.h"

#include <blkid/blkid.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <strings.h>
#include <sys/stat.h>

namespace dmremap::admin {
namespace {

/// Main or a partition of it, and what fstab may call it by.
struct shown {
  struct stat facts {};
  std::map<std::string, std::string> tags; ///< UUID, LABEL, PARTUUID, PARTLABEL
  std::string instead;
};

std::map<std::string, std::string> tags_on(const std::string& path) {
  std::map<std::string, std::string> tags;
  const unique_fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  const std::unique_ptr<std::remove_pointer_t<blkid_probe>, decltype(&blkid_free_probe)> probe(
      fd ? blkid_new_probe() : nullptr, blkid_free_probe);
  if (!probe || blkid_probe_set_device(probe.get(), fd.get(), 0, 0) != 0)
    return tags;
  blkid_probe_enable_partitions(probe.get(), 1);
  blkid_probe_set_partitions_flags(probe.get(), BLKID_PARTS_ENTRY_DETAILS);
  static_cast<void>(blkid_do_safeprobe(probe.get())); // what it has found until an error counts
  for (const auto& [tag, name] : {std::pair{"UUID", "UUID"},
                                  {"LABEL", "LABEL"},
                                  {"PARTUUID", "PART_ENTRY_UUID"},
                                  {"PARTLABEL", "PART_ENTRY_NAME"}})
    if (const char* value = nullptr; blkid_probe_lookup_value(probe.get(), name, &value, nullptr) == 0)
      tags[tag] = value;
  return tags;
}

std::vector<shown> shown_by(const member_spec& main, const std::string& set_name) {
  std::vector<shown> all(1);
  all[0].instead = "/dev/dmremap/" + set_name;
  if (::stat(main.path.c_str(), &all[0].facts) != 0)
    return {};
  if (!S_ISBLK(all[0].facts.st_mode)) // nobody looks for file systems in a file
    return all;
  all[0].tags = tags_on(main.path);
  for (const auto& [number, device] : partitions_of(all[0].facts.st_rdev)) {
    const auto node = node_of(device);
    shown part{{}, tags_on(node), fmt::format("{}-part{}", all[0].instead, number)};
    if (::stat(node.c_str(), &part.facts) == 0)
      all.push_back(std::move(part));
  }
  return all;
}

/// Links of udev hold "\x20" for a blank.
std::string decoded(const std::string& link) {
  std::string out;
  for (std::size_t i = 0; i < link.size(); ++i) {
    if (link.compare(i, 2, "\\x") == 0 && i + 3 < link.size()) {
      out += static_cast<char>(std::strtoul(link.substr(i + 2, 2).c_str(), nullptr, 16));
      i += 3;
    } else {
      out += link[i];
    }
  }
  return out;
}

/// "UUID=..." or "/dev/disk/by-uuid/..." as tag and value; no tag: a path.
std::pair<std::string, std::string> taken_apart(const std::string& source) {
  for (const auto& [tag, folder] : {std::pair{"UUID", "/dev/disk/by-uuid/"},
                                    {"LABEL", "/dev/disk/by-label/"},
                                    {"PARTUUID", "/dev/disk/by-partuuid/"},
                                    {"PARTLABEL", "/dev/disk/by-partlabel/"}}) {
    if (source.starts_with(folder))
      return {tag, decoded(source.substr(std::string(folder).size()))};
    if (source.starts_with(std::string(tag) + "=")) {
      auto value = source.substr(source.find('=') + 1);
      if (value.size() >= 2 && value.front() == '"' && value.back() == '"')
        value = value.substr(1, value.size() - 2);
      return {tag, value};
    }
  }
  return {"", source};
}

bool names(const std::string& source, const shown& one) {
  const auto [tag, value] = taken_apart(source);
  if (!tag.empty()) {
    const auto there = one.tags.find(tag);
    if (there == one.tags.end())
      return false;
    return tag.ends_with("UUID") ? strcasecmp(there->second.c_str(), value.c_str()) == 0
                                 : there->second == value;
  }
  struct stat facts {};
  if (value.empty() || value.front() != '/' || ::stat(value.c_str(), &facts) != 0)
    return false;
  return S_ISBLK(facts.st_mode) ? S_ISBLK(one.facts.st_mode) && facts.st_rdev == one.facts.st_rdev
                                : facts.st_dev == one.facts.st_dev && facts.st_ino == one.facts.st_ino;
}

} // namespace

std::string fstab_conflict::text() const {
  return fmt::format(
      "line {} of fstab has {} on {}, which is main itself, past the set; put {} there, with the "
      "option nofail: it is there once the set is attached",
      line, source, point, instead);
}

std::string fstab_path() {
  const char* moved = std::getenv("DMREMAP_FSTAB");
  return moved != nullptr && *moved != '\0' ? moved : "/etc/fstab";
}

std::vector<fstab_conflict> find_fstab_conflicts(const std::string& fstab, const member_spec& main,
                                                 const std::string& set_name) {
  std::vector<fstab_conflict> found;
  if (main.start.value_or(0) != 0)
    return found;
  const auto all = shown_by(main, set_name);
  std::ifstream file(fstab);
  unsigned number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    std::istringstream fields(line);
    std::string source, point;
    if (!(fields >> source >> point) || source.front() == '#')
      continue;
    for (const auto& one : all)
      if (names(unescape_mount_text(source), one)) {
        found.push_back({number, source, point, one.instead});
        break;
      }
  }
  return found;
}

} // namespace dmremap::admin
