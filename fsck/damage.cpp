// SPDX-License-Identifier: GPL-2.0-or-later
#include "fsck/damage.h"

#include <algorithm>
#include <array>
#include <tuple>

namespace dmremap::fsck {
namespace {

constexpr auto fatal = severity::fatal, logic = severity::logic, copy = severity::copy,
               notice = severity::notice;
constexpr auto none = remedy::none, safe = remedy::safe, decide = remedy::decide,
               impossible = remedy::impossible;

constexpr std::array<kind_facts, damage_kinds> all_facts{{
    {"no-superblock", fatal, impossible,
     "check that this is the spare, and the whole of it; dmremap-scan --deep finds metadata elsewhere on it; "
     "name the other spares of the set, too: they may know it"},
    {"mixed-superblocks", fatal, impossible,
     "superblocks of two spares are there in equal number: see with dmremap-scan which set each belongs to"},
    {"superblock-conflict", fatal, impossible,
     "an open takes the copy with the lowest number; keep a copy of the spare before that"},
    {"wrong-size", fatal, impossible,
     "give the whole device or range that the spare was made on; where that is so, the superblock is wrong, "
     "and "
     "dmremap-scan --deep shows what lies where"},
    {"session-record", fatal, impossible, "see dmremap-recovery(7)"},
    {"spare-missing", fatal, impossible, "name this spare, too; without it only a part can be checked"},
    {"map-missing", fatal, impossible, "the set cannot do without this spare: find it"},
    {"block-destroyed", fatal, impossible,
     "an older image or a dump of the spare may have it; the set cannot know what was moved to these units, "
     "and opening it without them would show old data"},
    {"table-conflict", fatal, impossible,
     "an open takes the replica with the lowest number; keep a copy of the spare before that"},
    {"impossible-slot", fatal, impossible,
     "what it stood for cannot be known; an older image or a dump of the spare may have it"},
    {"slot-conflict", fatal, impossible,
     "both could be true; an open takes the spare with the lower place, then the lower unit"},
    {"sequence-overflow", fatal, impossible, "make a new set and copy the data"},
    {"main-differs", fatal, impossible, "find the main that belongs to this set with dmremap-scan"},
    {"older-than-seen", fatal, impossible,
     "this is an old copy of a spare; find the newer one, or open with -o accept_older"},
    {"spare-unreadable", fatal, impossible,
     "the device does not answer; check its cable, then run this again"},
    {"superblock-gone", logic, decide, "rebuild the superblock from what the rest of the set knows"},
    {"geometry-wrong", logic, decide, "set the places of the table to where the superblocks really are"},
    {"spare-list", logic, safe, "set the number of spares to what the list has"},
    {"sixth-listing", logic, safe, "take the listing away; the next open protects the spare anew"},
    {"absent-map", logic, safe, "clear it: the spare is there"},
    {"counters", logic, safe, "set the counter to what is possible"},
    {"sequence-range", logic, safe, "raise the reserved range, so that the next session starts above it"},
    {"chunk-unmarked", logic, decide, "mark the copies of the chunk as good"},
    {"chunk-old", logic, impossible,
     "the superblocks are newer, and what was written since may lie elsewhere: to take the entries in would "
     "show older data; a dump of the set says whether they count"},
    {"table-block-known", logic, safe, "write it anew: nothing but metadata can be in it"},
    {"slot-wrong", logic, decide, "correct the slot, everywhere, under a new sequence"},
    {"slot-superseded", logic, safe, "release the older slot"},
    {"superblock-mask", logic, safe, "mark the copy as good"},
    {"superblock-copy", copy, safe, "write the newest superblock over it"},
    {"superblock-old", copy, safe, "write the newest superblock over it"},
    {"table-copy", copy, safe, "write the newest copy's content over it"},
    {"table-old", copy, safe, "write the newest copy's content over it"},
    {"spare-returned", notice, none, "the next open brings it up to date"},
    {"returned-slots", notice, none, "the next open releases them"},
    {"spare-removed", notice, none, "leave it out"},
    {"copy-unused", notice, none, "it could not be written once; the others are in use"},
    {"last-copy", notice, none,
     "nothing in it can be changed; evacuate the spare with dmremap spare evacuate"},
    {"slot-stays", notice, none,
     "its block of the table has one good copy, which is not changed any more; the newer slot counts at each "
     "open"},
    {"unprotected", notice, none, "the next open protects it, if another spare has room"},
    {"metadata-image", notice, none, "nothing serves it; a repair of it repairs nothing of the spare"},
}};

} // namespace

const kind_facts& facts_of(damage_kind kind) {
  return all_facts[static_cast<std::size_t>(kind)];
}

const char* name_of(severity level) {
  switch (level) {
  case fatal:
    return "fatal";
  case logic:
    return "wrong";
  case copy:
    return "copy";
  case notice:
    return "notice";
  }
  return "";
}

const char* name_of(remedy fix) {
  switch (fix) {
  case none:
    return "none";
  case safe:
    return "safe";
  case decide:
    return "decide";
  case impossible:
    return "impossible";
  }
  return "";
}

std::vector<damage> in_order(std::vector<damage> all) {
  const auto key = [](const damage& d) {
    return std::tuple(facts_of(d.kind).level, d.kind, d.spare, std::string_view(d.member), d.first_unit,
                      std::string_view(d.text));
  };
  std::stable_sort(all.begin(), all.end(), [&](const damage& a, const damage& b) { return key(a) < key(b); });
  std::vector<damage> merged;
  for (auto& d : all) {
    if (!merged.empty()) {
      damage& last = merged.back();
      const bool follows = d.units != 0 && last.first_unit + last.units == d.first_unit;
      if (follows && last.kind == d.kind && last.spare == d.spare && last.member == d.member &&
          last.text == d.text) {
        last.units += d.units;
        continue;
      }
    }
    merged.push_back(std::move(d));
  }
  return merged;
}

} // namespace dmremap::fsck
