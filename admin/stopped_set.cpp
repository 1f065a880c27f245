// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/stopped_set.h"

#include "admin/figures.h"
#include "admin/open_set.h"
#include "engine/config.h"
#include "engine/member.h"
#include "engine/shell_word.h"

#include <algorithm>
#include <fmt/format.h>
#include <unistd.h>

namespace dmremap::admin {
namespace {

bool is_there(const std::string& member) {
  const auto spec = parse_member(member);
  return spec && ::access(spec->path.c_str(), F_OK) == 0;
}

std::string shell_words(const std::vector<std::string>& words) {
  std::string line;
  for (const auto& word : words)
    line += (line.empty() ? "" : " ") + shell_word(word);
  return line;
}

std::string missing_members(const listed_set& set) {
  std::string missing = is_there(set.main) ? "" : set.main;
  for (const auto& spare : set.spares)
    if (!is_there(spare))
      missing += (missing.empty() ? "" : ", ") + spare;
  return missing;
}

bool is_one_of(const std::string& id, const std::vector<std::string>& ids) {
  return std::count(ids.begin(), ids.end(), id) != 0;
}

/// Nothing is wrong with the set that could be told from here.
finding not_looked_at(const error& e) {
  finding f{"not-looked-at",
            false,
            "the set does not run; whether it would start is not known: " + e.text(),
            {},
            e.id};
  return f;
}

finding does_not_open(const listed_set& set, const error& e) {
  finding f{"does-not-open", true, "the set does not run, and would not start: " + e.text(), {}, e.id};
  if (is_one_of(e.id, {"in-use", "mounted", "swap", "loop-backed", "members-overlap"})) {
    f.next = {"lsblk", "losetup -a"};
    return f;
  }
  const auto look = "dmremap-fsck -n " + shell_words(set.spares);
  if (is_one_of(e.id, {"wrong-set", "main-is-spare", "main-wrong-size", "main-mismatch", "spare-missing"}))
    f.next = {"dmremap-scan", "dmremap-reassemble -n " + set.name, look};
  else
    f.next = {look, "dmremap-scan " + shell_words(set.spares)};
  return f;
}

void add_spare(std::vector<finding>& found, const listed_set& set, const spare_status& spare) {
  const auto supers = spare.super_copies_valid, weakest = spare.weakest_block_copies;
  if (!spare.present || (supers >= 5 && weakest >= 5))
    return;
  const bool few = supers < 2 || weakest < 2;
  found.push_back(
      {few ? "copies-few" : "copies-missing",
       few,
       fmt::format("{} of 5 superblocks of spare {} are good, and every block of its table is there "
                   "at least {}. What can be written again is written at the next start",
                   supers, spare.path, weakest == 1 ? "once" : fmt::format("{} times", weakest)),
       {"dmremap-fsck -n " + shell_words(set.spares), "dmremap attach " + set.name}});
}

std::vector<finding> look_inside(const listed_set& set) {
  std::vector<finding> found;
  std::vector<std::string> notices;
  const auto opened = open_to_look({set.name, set.uuid, set.main, set.spares, set.options}, {}, notices);
  if (!opened && is_one_of(opened.error().id, {"no-permission", "claim-failed", "claims-read-only"}))
    return {not_looked_at(opened.error())};
  if (!opened)
    return {does_not_open(set, opened.error())};
  if (const auto info = opened->set->info(); !info)
    return {does_not_open(set, info.error())};
  else
    for (const auto& spare : info->spares)
      add_spare(found, set, spare);
  if (const auto lost = opened->set->stats().lost_sectors; lost != 0)
    found.push_back({"lost-sectors",
                     true,
                     counted(lost, "sector") +
                         " could not be read from anywhere and will answer EIO. Reading "
                         "them from main once more may help; else restore the files "
                         "that they belong to",
                     {"dmremap attach " + set.name, "dmremap salvage " + set.name + " all",
                      "dmremap lost " + set.name + " --files"}});
  for (const auto& notice : notices)
    found.push_back({"notice", false, notice, {}});
  found.push_back({"not-running",
                   false,
                   "the set does not run; its members are there, and its metadata can be opened",
                   {"dmremap attach " + set.name}});
  std::stable_sort(found.begin(), found.end(),
                   [](const auto& a, const auto& b) { return a.problem && !b.problem; });
  return found;
}

} // namespace

std::vector<finding> findings_of_stopped(const listed_set& set) {
  if (set.state == "unreadable")
    return {{"bad-config",
             true,
             "the set is not known: " + set.trouble.text() + ". It will not be attached until that is mended",
             {"cat " + shell_word(set.trouble.what), "dmremap-scan"},
             set.trouble.id}};
  if (set.state == "died")
    return {{"daemon-died",
             true,
             "the process that served the set is gone; what was flushed is safe. Take away what it left, and "
             "start it "
             "again: metadata is mended by itself",
             {"dmremap detach " + set.name, "dmremap attach " + set.name}}};
  if (set.state == "found")
    return {{"not-configured",
             true,
             "a spare of this set was found on a device, but no configuration here names the set: it was "
             "made on another "
             "host, or the configuration is gone",
             {"dmremap-scan", "dmremap-reassemble -n " + set.name, "dmremap-reassemble " + set.name}}};
  if (const auto missing = missing_members(set); !missing.empty())
    return {{"members-elsewhere",
             true,
             "the set does not run, and what its configuration names is not there: " + missing +
                 ". Devices often get other names after a reboot; look for them by what is on them",
             {"dmremap-scan", "dmremap-reassemble -n " + set.name, "dmremap-reassemble " + set.name}}};
  return look_inside(set);
}

} // namespace dmremap::admin
