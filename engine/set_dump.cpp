// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/set_dump.h"

#include <algorithm>
#include <fmt/format.h>
#include <set>
#include <type_traits>

namespace dmremap {
namespace {

/// A text for which a superblock has no room, or that holds a zero byte, would be cut.
std::string text_that_is_cut(const superblock& s, const superblock& back) {
  std::vector<const std::string*> texts;
  const auto collect = [&]<class Field>(const char*, const Field& field) {
    if constexpr (std::is_same_v<Field, std::string>)
      texts.push_back(&field);
  };
  each_dump_field(collect, back);
  std::string cut = s.set_name != back.set_name ? "set_name" : "";
  auto kept = texts.begin();
  each_dump_field(
      [&]<class Field>(const char* name, const Field& field) {
        if constexpr (std::is_same_v<Field, std::string>)
          if (*(*kept++) != field && cut.empty())
            cut = name;
      },
      s);
  return cut;
}

/// Good bits of chunks that the table does not have: its geometry is plausible.
bool knows_too_many_chunks(const superblock& s) {
  for (std::uint32_t c = s.places.chunks(); c < chunk_count; ++c)
    for (unsigned r = 0; r < s.good.size(); ++r)
      if (s.is_good(r, c))
        return true;
  return false;
}

/// Only what decoding a superblock, and loading a table, would take.
std::string objection_to_super(const superblock& s) {
  block_bytes bytes;
  encode_superblock(s, 0, spare_unit(0), bytes);
  const auto back = decode_superblock(bytes, 0, spare_unit(0));
  if (!back)
    return "its superblock is impossible";
  if (const auto cut = text_that_is_cut(s, *back); !cut.empty())
    return "a superblock has no room for its " + cut;
  if (std::any_of(s.absent_map.begin(), s.absent_map.end(), [](unsigned m) { return m > max_spares; }))
    return "a map lies on a spare beyond the last";
  if (!plausible(s.places, s.places.units * unit_bytes))
    return "its geometry is impossible";
  if (knows_too_many_chunks(s))
    return "it knows chunks that its table does not have";
  if (s.feature_incompat != 0 || s.feature_ro_compat != 0)
    return "it uses a feature of the format that this version does not know";
  return {};
}

std::string objection_to_slot(const superblock& s, const dumped_slot& one) {
  const std::uint64_t main_units = (s.main_sectors + unit_sectors - 1) / unit_sectors;
  const slot& v = one.value;
  const bool metadata = s.places.is_metadata(spare_unit(one.unit));
  const bool known = v.kind() <= slot_kind::metadata && v.reserved() == 0;
  const bool fits = !v.serves() || (v.main().value < main_units && v.sequence() != 0 &&
                                    (v.main_may_answer() & ~v.lost()) == 0);
  if (known && fits && metadata == (v.kind() == slot_kind::metadata))
    return {};
  return fmt::format("the slot of spare sector {} is impossible", std::uint64_t{one.unit} * unit_sectors);
}

std::string objection_to_table(const dumped_spare& d) {
  const superblock& s = d.super;
  std::uint64_t next = 0;
  for (const auto& run : d.blocks) {
    if (run.first < next || run.count == 0 || std::uint64_t{run.first} + run.count > s.places.table_blocks ||
        run.sequence == 0 || run.sequence >= sequence_limit)
      return fmt::format("its list of blocks is impossible at block {}", run.first);
    next = std::uint64_t{run.first} + run.count;
  }
  auto run = d.blocks.begin();
  std::int64_t before = -1;
  for (const auto& one : d.slots) {
    const std::uint32_t block = geometry::block_of(spare_unit(one.unit));
    while (run != d.blocks.end() && block >= run->first + run->count)
      ++run;
    if (one.unit <= before || run == d.blocks.end() || block < run->first)
      return fmt::format("the slot of spare sector {} is out of order, or in no block of the list",
                         std::uint64_t{one.unit} * unit_sectors);
    if (auto why = objection_to_slot(s, one); !why.empty())
      return why;
    before = one.unit;
  }
  return {};
}

bool meet(std::uint64_t a, std::uint64_t a_end, std::uint64_t b, std::uint64_t b_end) {
  return a < b_end && b < a_end;
}

/// A restore writes the copy of a guest's table to its host: nothing else may lie there.
std::string objection_to_sixth(const dumped_spare& guest, const dumped_spare& host, const set_dump& d) {
  const std::uint64_t start = sixth_on(guest, host), end = start + guest.super.places.table_blocks + 1;
  if (start == 0)
    return {};
  const geometry& g = host.super.places;
  bool free = end <= g.units;
  for (unsigned c = 0; c < fixed_supers; ++c)
    free = free && !meet(start, end, g.super_place(c).value, g.super_place(c).value + 1);
  for (const std::uint64_t own : g.replica_start)
    free = free && !meet(start, end, own, own + g.table_blocks + 1);
  for (const auto& other : d.spares)
    if (const std::uint64_t at = sixth_on(other, host); &other != &guest && at != 0)
      free = free && !meet(start, end, at, at + other.super.places.table_blocks + 1);
  free = free && std::none_of(host.slots.begin(), host.slots.end(), [&](const dumped_slot& one) {
           return one.value.serves() && one.unit >= start && one.unit < end;
         });
  return free ? std::string{}
              : fmt::format("the place of its table on spare {} is not free", host.super.spare_index);
}

} // namespace

std::uint32_t sixth_on(const dumped_spare& guest, const dumped_spare& host) {
  const std::uint32_t start = host.super.hosted_start[guest.super.spare_index];
  const bool relied_on =
      guest.away ? guest.map_on == static_cast<int>(host.super.spare_index)
                 : guest.super.sixth_host == host.super.spare_index && guest.super.sixth_start == start;
  return &guest != &host && relied_on ? start : 0;
}

const superblock& set_dump::newest() const {
  return std::max_element(spares.begin(), spares.end(),
                          [](const auto& a, const auto& b) { return a.super.sequence < b.super.sequence; })
      ->super;
}

const dumped_spare* set_dump::find(const uuid_bytes& spare) const {
  for (const auto& one : spares)
    if (one.super.spare_uuid == spare)
      return &one;
  return nullptr;
}

std::uint64_t highest_sequence(const dumped_spare& spare) {
  std::uint64_t highest = spare.super.sequence;
  for (const auto& run : spare.blocks)
    highest = std::max(highest, run.sequence);
  for (const auto& one : spare.slots)
    highest = std::max(highest, one.value.sequence());
  return highest;
}

slot default_slot(const geometry& places, std::uint32_t unit) {
  return places.is_metadata(spare_unit(unit)) ? slot::make(slot_kind::metadata, main_unit(0), 0, 0, 0)
                                              : slot{};
}

void add_block(dumped_spare& to, std::uint32_t number, std::uint64_t sequence, const table_block* slots) {
  if (!to.blocks.empty() && to.blocks.back().sequence == sequence &&
      to.blocks.back().first + to.blocks.back().count == number)
    ++to.blocks.back().count;
  else
    to.blocks.push_back({number, 1, sequence});
  for (std::uint32_t i = 0; slots != nullptr && i < slots_per_block; ++i) {
    const std::uint64_t unit = std::uint64_t{number} * slots_per_block + i;
    // Places behind the last slot are metadata in every table; no number of 32 bits is theirs.
    if (unit < to.super.places.units &&
        slots->slots[i] != default_slot(to.super.places, static_cast<std::uint32_t>(unit)))
      to.slots.push_back({static_cast<std::uint32_t>(unit), slots->slots[i]});
  }
}

bool dumped_place::empty() const {
  return uuid == uuid_bytes{} && sessions.held == 0 && sessions.given == 0 && hosted_start == 0 &&
         hosted_blocks == 0 && map_on == 0;
}

dumped_place place_at(const superblock& s, unsigned index) {
  return {index,
          s.spare_uuids[index],
          s.sessions[index],
          s.hosted_start[index],
          s.hosted_blocks[index],
          s.absent_map[index]};
}

void set_place(superblock& s, const dumped_place& p) {
  s.spare_uuids[p.index] = p.uuid;
  s.sessions[p.index] = p.sessions;
  s.hosted_start[p.index] = p.hosted_start;
  s.hosted_blocks[p.index] = p.hosted_blocks;
  s.absent_map[p.index] = static_cast<std::uint8_t>(p.map_on);
}

result<void> check_dump(const set_dump& d, const std::string& name) {
  const auto refuse = [&](const std::string& why) { return fail("dump-impossible", name, why); };
  if (d.spares.empty() || d.spares.size() > max_spares)
    return refuse("it has no spare, or more than 16");
  std::set<std::uint32_t> indices;
  for (const auto& one : d.spares) {
    const auto who = fmt::format("spare {}: ", one.super.spare_index);
    if (one.super.set_uuid != d.spares.front().super.set_uuid)
      return refuse(who + "is of another set than the first one");
    if (auto why = objection_to_super(one.super); !why.empty())
      return refuse(who + why);
    if (!indices.insert(one.super.spare_index).second)
      return refuse(who + "is there twice");
    if (auto why = objection_to_table(one); !why.empty())
      return refuse(who + why);
  }
  for (const auto& guest : d.spares)
    for (const auto& host : d.spares)
      if (auto why = objection_to_sixth(guest, host, d); !why.empty())
        return refuse(fmt::format("spare {}: {}", guest.super.spare_index, why));
  return {};
}

} // namespace dmremap
