// SPDX-License-Identifier: GPL-2.0-or-later
// What superblocks say of themselves and of each other.
#include "fsck/inspect.h"

#include <algorithm>
#include <bit>
#include <fmt/format.h>

namespace dmremap::fsck {
namespace {

constexpr std::uint64_t session_room = (1u << 20) + 64; // what the next open reserves, and some

void tell_copies(set_findings& f, unsigned n) {
  spare_state& s = f.spares[n];
  const auto who = static_cast<int>(n);
  std::vector<super_copy> all = s.supers;
  if (s.head)
    all.push_back(*s.head);
  std::uint32_t unmarked = 0;
  for (const auto& c : all) {
    const bool head = c.copy == sixth_super_copy;
    const bool marked = head || (s.super->super_good >> c.copy & 1) != 0;
    if (c.state == copy_state::valid) {
      unmarked |= marked ? 0u : 1u << c.copy;
      continue;
    }
    const int holder = head ? s.sixth_host : who;
    const auto text =
        (head ? "head of the copy of the table of " + s.path : fmt::format("superblock copy {}", c.copy)) +
        ": " + text_of(c.state);
    const auto kind = s.conflict && c.state == copy_state::differs ? damage_kind::superblock_conflict
                      : !marked                                    ? damage_kind::copy_unused
                      : c.state == copy_state::old                 ? damage_kind::superblock_old
                                                                   : damage_kind::superblock_copy;
    f.found.push_back(
        {kind, f.spares[static_cast<std::size_t>(holder)].path, holder, c.place.value, 1, text});
  }
  if (unmarked == 0 || s.conflict)
    return;
  f.found.push_back({damage_kind::superblock_mask, s.path, who, 0, 0,
                     fmt::format("{} good superblock copies are marked as bad", std::popcount(unmarked))});
  f.fixes.push_back(
      {damage_kind::superblock_mask, who, [unmarked](superblock& one) { one.super_good |= unmarked; }});
}

void check_places(set_findings& f, unsigned n) {
  const spare_state& s = f.spares[n];
  if (!s.found || same_places(s.found->places, s.super->places))
    return;
  f.found.push_back({damage_kind::geometry, s.path, static_cast<int>(n), 0, 0,
                     "the places of the table in the superblock are wrong; its heads were found elsewhere"});
  f.fixes.push_back({damage_kind::geometry, static_cast<int>(n),
                     [places = s.super->places](superblock& one) { one.places = places; }});
}

void check_sequences(set_findings& f) {
  // Only the newest copies say what is reserved: an older one that says more will be written over. What comes
  // next is above all of them.
  std::uint64_t end = 0, any_end = 0, highest = f.highest; // of tables so far
  for (const auto& s : f.spares) {
    if (!s.super)
      continue;
    highest = std::max(highest, s.highest_sequence);
    end = std::max(end, s.super->sequence_end);
    any_end = std::max(any_end, s.highest_end);
  }
  f.highest = std::max({highest, end, any_end});
  if (highest >= end && end != 0) {
    f.found.push_back(
        {damage_kind::sequence_range, "", -1, 0, 0,
         fmt::format("sequence {} is in use, but the reserved range ends at {}", highest, end)});
    f.fixes.push_back({damage_kind::sequence_range, -1, [](superblock&) {}}); // every repair raises it
  }
  if (f.highest + session_room >= sequence_limit)
    f.found.push_back({damage_kind::sequence_overflow, "", -1, 0, 0,
                       fmt::format("sequence {} is in use: the set has used up its numbers", f.highest)});
}

void check_set_fields(set_findings& f) {
  const superblock& r = f.record->newest;
  std::uint32_t count = 0;
  for (unsigned i = 0; i < max_spares; ++i)
    count = r.spare_uuids[i] == uuid_bytes{} ? count : i + 1;
  if (r.spare_count != count) {
    f.found.push_back(
        {damage_kind::spare_list, "", -1, 0, 0,
         fmt::format("the set has {} spares by its number, {} by its list", r.spare_count, count)});
    f.fixes.push_back({damage_kind::spare_list, -1, [count](superblock& one) { one.spare_count = count; }});
  }
  if (r.saves_done > r.saves_tried) {
    f.found.push_back({damage_kind::counters, "", -1, 0, 0,
                       fmt::format("{} commits done of {} tried", r.saves_done, r.saves_tried)});
    f.fixes.push_back({damage_kind::counters, -1, [](superblock& one) { one.saves_tried = one.saves_done; }});
  }
  for (unsigned i = 0; i < max_spares; ++i) {
    const auto& p = f.record->places[i];
    if (r.absent_map[i] == 0 || (p.listed && (p.given < 0 || p.returned)))
      continue; // of one that is away it says where its map is
    f.found.push_back({damage_kind::absent_map, "", -1, 0, 0,
                       fmt::format("says where the map of spare {} is, which {}", i,
                                   p.listed ? "is there" : "the set does not have")});
    f.fixes.push_back({damage_kind::absent_map, -1, [i](superblock& one) { one.absent_map[i] = 0; }});
  }
}

} // namespace

void check_supers(set_findings& f) {
  for (unsigned n = 0; n < f.spares.size(); ++n) {
    spare_state& s = f.spares[n];
    if (!s.super || s.removed)
      continue;
    judge_supers(s, s.sixth_host >= 0 ? &f.spares[static_cast<std::size_t>(s.sixth_host)] : nullptr);
    if (s.found) // else all of them are gone, which was said
      tell_copies(f, n);
    check_places(f, n);
  }
  check_sequences(f);
  if (f.record)
    check_set_fields(f);
}

} // namespace dmremap::fsck
