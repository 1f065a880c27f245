// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/candidate.h"

#include "engine/config.h"
#include "engine/control_client.h"
#include "engine/file_store.h"
#include "engine/geometry.h"
#include "engine/paths.h"
#include "engine/storage.h"
#include "engine/units.h"

#include <algorithm>
#include <fmt/format.h>
#include <strings.h>

namespace dmremap {
namespace {

constexpr const char* upstream = "dm-remap-v4";

/// As far as both are there.
bool share_sectors(const member_spec& a, const member_spec& b) {
  auto here = storage_of(a), there = storage_of(b);
  for (auto* one : {&here, &there})
    if (*one && (*one)->block && (*one)->bytes.start == (*one)->bytes.end)
      (*one)->bytes.end = UINT64_MAX; // a drive that has no size any more may have had any
  return here && there && here->overlaps(*there);
}

std::string words_for(const signature& one) {
  return one.type + (one.detail.empty() ? "" : " (" + one.detail + ")");
}

} // namespace

result<void> check_configured(const std::vector<member_spec>& members,
                              const std::vector<std::string>& passed_over) {
  const auto configured = list_set_configs();
  for (const auto& bad : configured.bad)
    if (bad.id != "no-permission") // what is root's, nobody else can take
      return fail(bad.id, bad.what,
                  bad.why + "; it may name " + members.front().text() + ": mend it, or take it away",
                  bad.code);
  for (const auto& config : configured.sets) {
    if (std::any_of(passed_over.begin(), passed_over.end(), [&](const std::string& uuid) {
          return strcasecmp(config.uuid.c_str(), uuid.c_str()) == 0;
        }))
      continue;
    std::vector<std::string> theirs = config.spares;
    theirs.insert(theirs.begin(), config.main);
    for (const auto& text : theirs) {
      const auto spec = parse_member(text);
      for (const auto& member : members) {
        if (spec && share_sectors(member, *spec))
          return fail("members-overlap", member.text(),
                      "shares sectors with " + text + " of the set " + config.name + " (" +
                          set_conf_path(config.name) + "); end that set with `dmremap destroy " +
                          config.name + "`, or use another place");
      }
    }
  }
  return {};
}

std::string find_overlap(const member_spec& member, const std::vector<std::string>& others) {
  for (const auto& text : others)
    if (const auto spec = parse_member(text);
        spec && spec->text() != member.text() && share_sectors(member, *spec))
      return text;
  return {};
}

result<void> check_surroundings(const member_spec& main, const member_spec& spare,
                                const std::vector<std::string>& wipe) {
  if (!spare.start || *spare.start == 0)
    return {}; // a probe of the range itself sees what starts there
  const auto here = find_place(spare), main_place = find_place(main);
  const bool beside_main =
      here && main_place && here->same_thing(*main_place) && main.start && *main.start == 0;
  if (beside_main)
    return {};
  file_store::options how;
  how.read_only = true;
  const auto whole = TRY(file_store::open(spare.path, how));
  for (const auto& one : TRY(probe_signatures(*whole))) {
    const bool ours = one.type == "dmremap"; // one device serves many sets, each in a range of its own
    if (!ours && std::count(wipe.begin(), wipe.end(), one.type) == 0)
      return fail("range-inside-signature", spare.path,
                  "carries " + words_for(one) + " as a whole, which the range " + spare.text() +
                      " may lie in; if it lies outside, or may be overwritten: --wipe=" + one.type);
  }
  return {};
}

result<void> check_gives_up_no_running(const std::string& uuid) {
  if (uuid.empty())
    return {};
  if (const auto set = find_running_set(uuid); set && set->alive)
    return fail("set-running", set->name,
                "is running, so no spare of it is given up; `dmremap detach " + set->name + "` first");
  return {};
}

result<bool> check_spare(store& spare, const std::vector<signature>& found,
                         const std::vector<std::string>& wipe, const std::string& destroy_set) {
  const auto& path = spare.identity().path;
  const auto may_go = [&](const std::string& type) { return std::count(wipe.begin(), wipe.end(), type) > 0; };
  if (spare.size() < min_spare_units * unit_bytes)
    return fail("spare-too-small", path,
                fmt::format("has {} bytes; a spare has 16 MiB (32768 sectors) at least", spare.size()));
  for (const auto& one : found) {
    if (one.type == "dmremap") {
      if (destroy_set.empty() || strcasecmp(one.set_uuid.c_str(), destroy_set.c_str()) != 0)
        return fail("spare-in-set", path,
                    "is a spare of the set " + one.detail +
                        "; `fusedisk` serves that set; to give it up for good: " + "--destroy-set " +
                        one.set_uuid);
    } else if (!may_go(one.type)) {
      if (one.type == upstream)
        return fail("spare-upstream-v4", path,
                    "carries metadata of upstream's dm-remap v4, which remaps of another disk may need; to "
                    "give it up: "
                    "--wipe=dm-remap-v4");
      return fail("spare-has-signature", path,
                  "carries " + words_for(one) + "; if that may be overwritten: --wipe=" + one.type);
    }
  }
  return !found.empty();
}

} // namespace dmremap
