// SPDX-License-Identifier: GPL-2.0-or-later
// Superblock copies: which one counts, and what is wrong with the others.
#include "engine/member.h"
#include "engine/set_dump.h"
#include "engine/uuid.h"
#include "fsck/spare.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <fmt/format.h>
#include <map>

namespace dmremap::fsck {
namespace {

struct sound_copy {
  unsigned copy = 0;
  superblock super;
};

struct search {
  std::vector<sound_copy> found;
  unsigned unreadable = 0;
  bool letters = false; ///< something that was a superblock once
};

/// Checksum of all behind the first field, in the byte order of that field.
std::uint32_t little_crc(const block_bytes& b) {
  const std::uint32_t crc = crc32_of(b.span().subspan(4));
  return std::endian::native == std::endian::little ? crc : __builtin_bswap32(crc);
}

/// What all copies of one version have in common.
block_bytes body_of(const superblock& s) {
  block_bytes out;
  encode_superblock(s, 0, spare_unit(0), out);
  return out;
}

void look(store& io, unsigned copy, spare_unit place, search& s) {
  block_bytes bytes;
  if (!read_unit(io, place, bytes)) {
    ++s.unreadable;
    return;
  }
  s.letters = s.letters || kind_of_block(bytes.bytes.data()) == block_kind::super;
  if (auto one = decode_superblock(bytes, copy, place))
    s.found.push_back({copy, std::move(*one)});
}

const superblock& newest_of(const std::vector<sound_copy>& copies) {
  return std::max_element(
             copies.begin(), copies.end(),
             [](const sound_copy& a, const sound_copy& b) { return a.super.sequence < b.super.sequence; })
      ->super;
}

/// The copies of the spare that most of them name; where two are named equally often, the one whose table is
/// there. Nothing: neither is told by the table.
std::optional<std::vector<sound_copy>> of_one_spare(store& io, const std::vector<sound_copy>& found) {
  std::map<uuid_bytes, std::vector<sound_copy>> groups;
  for (const auto& c : found)
    groups[c.super.spare_uuid].push_back(c);
  std::size_t most = 0;
  for (const auto& [uuid, group] : groups)
    most = std::max(most, group.size());
  std::vector<const std::vector<sound_copy>*> best;
  for (const auto& [uuid, group] : groups)
    if (group.size() == most)
      best.push_back(&group);
  if (best.size() == 1)
    return *best.front();
  std::vector<const std::vector<sound_copy>*> told;
  for (const auto* group : best) {
    const superblock& s = newest_of(*group);
    if (plausible(s.places, io.size()) && owner_of_tables(io, s.places) == low_half(s.spare_uuid))
      told.push_back(group);
  }
  if (told.size() == 1)
    return *told.front();
  return std::nullopt;
}

/// Heads of the spare's replicas that are where `g` puts them.
unsigned heads_at(store& io, const geometry& g, const uuid_bytes& spare) {
  unsigned heads = 0;
  for (unsigned copy = fixed_supers; copy < super_copies; ++copy) {
    block_bytes bytes;
    if (!read_unit(io, g.super_place(copy), bytes))
      continue;
    const auto one = decode_superblock(bytes, copy, g.super_place(copy));
    heads += one && one->spare_uuid == spare ? 1u : 0u;
  }
  return heads;
}

/// Places by the rules of the format for a spare of `units`, where that many fit.
std::optional<geometry> places_for(store& io, std::uint64_t units) {
  const std::uint64_t room = io.size() / unit_bytes;
  const auto g = make_geometry((units != 0 && units <= room ? units : room) * unit_bytes);
  return g ? std::optional(*g) : std::nullopt;
}

} // namespace

bool same_places(const geometry& a, const geometry& b) {
  return a.units == b.units && a.table_blocks == b.table_blocks && a.chunk_blocks == b.chunk_blocks &&
         a.replica_start == b.replica_start;
}

namespace {

/// Where the tables really are: where most heads lie, by the superblock or by the rules of the format. False:
/// that cannot be told. A wrong place must not be taken for a damaged replica: writing that anew would
/// overwrite data.
bool settle_places(spare_state& s) {
  superblock& super = *s.super;
  const geometry recorded = super.places;
  const bool possible = plausible(recorded, s.io->size());
  const unsigned heads = possible ? heads_at(*s.io, recorded, super.spare_uuid) : 0;
  unsigned most = heads;
  bool doubtful = !possible;
  for (const std::uint64_t units : {recorded.units, s.io->size() / unit_bytes}) {
    const auto g = places_for(*s.io, units);
    if (!g || same_places(*g, recorded))
      continue;
    const unsigned there = heads_at(*s.io, *g, super.spare_uuid);
    if (there > most) {
      most = there;
      super.places = *g;
    }
    doubtful = doubtful || (g->units == recorded.units && there == heads);
  }
  return most > heads || !doubtful;
}

/// Of the copies of one spare: the newest that is possible. Equal ones that differ are a conflict.
void choose(spare_state& s, const std::vector<sound_copy>& copies) {
  const std::uint64_t sequence = newest_of(copies).sequence;
  std::vector<const superblock*> top, possible;
  for (const auto& c : copies) {
    s.highest_sequence = std::max(s.highest_sequence, c.super.sequence);
    s.highest_end = std::max(s.highest_end, c.super.sequence_end);
    if (c.super.sequence != sequence)
      continue;
    top.push_back(&c.super);
    if (plausible(c.super.places, s.io->size()))
      possible.push_back(&c.super);
  }
  const auto& from = possible.empty() ? top : possible;
  s.super = s.found = *from.front(); // copies are in the order of their numbers
  s.conflict = std::any_of(from.begin(), from.end(), [&](const superblock* other) {
    return body_of(*other).bytes != body_of(*from.front()).bytes;
  });
}

super_copy judge(store& io, unsigned copy, spare_unit place, const superblock& newest, std::uint64_t& marks) {
  super_copy c{copy, place, copy_state::unreadable, 0};
  block_bytes bytes;
  if (!read_unit(io, place, bytes)) {
    marks += mark_of(place, nullptr);
    return c;
  }
  marks += mark_of(place, &bytes);
  const auto one = decode_superblock(bytes, copy, place);
  if (!one) {
    c.state = state_of(one.error());
    return c;
  }
  c.sequence = one->sequence;
  if (one->spare_uuid != newest.spare_uuid)
    c.state = copy_state::foreign;
  else if (one->sequence < newest.sequence)
    c.state = copy_state::old;
  else if (one->sequence == newest.sequence && body_of(*one).bytes == body_of(newest).bytes)
    c.state = copy_state::valid;
  else
    c.state = plausible(one->places, io.size()) ? copy_state::differs : copy_state::impossible;
  return c;
}

} // namespace

const char* text_of(copy_state s) {
  switch (s) {
  case copy_state::valid:
    return "valid";
  case copy_state::old:
    return "older than the newest copy";
  case copy_state::torn:
    return "torn or damaged (checksum wrong)";
  case copy_state::unreadable:
    return "unreadable: the medium fails";
  case copy_state::nothing:
    return "overwritten: no metadata there";
  case copy_state::version:
    return "of a version of the format that this program does not know";
  case copy_state::foreign:
    return "of another spare";
  case copy_state::misplaced:
    return "a block that belongs elsewhere";
  case copy_state::impossible:
    return "impossible content under a right checksum";
  case copy_state::differs:
    return "as new as the newest copy, with other content";
  }
  return "";
}

copy_state state_of(block_fault f) {
  switch (f) {
  case block_fault::unreadable:
    return copy_state::unreadable;
  case block_fault::no_magic:
    return copy_state::nothing;
  case block_fault::version:
    return copy_state::version;
  case block_fault::checksum:
    return copy_state::torn;
  case block_fault::foreign:
    return copy_state::foreign;
  case block_fault::misplaced:
    return copy_state::misplaced;
  case block_fault::impossible:
    return copy_state::impossible;
  }
  return copy_state::nothing;
}

std::uint64_t mark_of(spare_unit place, const block_bytes* bytes, bool sound) {
  std::uint64_t h = place.value * 0x9E3779B97F4A7C15ull;
  if (bytes != nullptr) { // the first field is the checksum of the rest, where it is right
    std::uint32_t first;
    std::memcpy(&first, bytes->bytes.data(), sizeof first);
    const std::uint32_t crc = sound ? first : little_crc(*bytes);
    h ^= std::uint64_t{crc} << 32 | first;
  }
  h ^= h >> 30;
  h *= 0xBF58476D1CE4E5B9ull;
  h ^= h >> 27;
  h *= 0x94D049BB133111EBull;
  return h ^ h >> 31;
}

std::optional<std::uint64_t> owner_of_tables(store& io, const geometry& g) {
  std::map<std::uint64_t, unsigned> owners;
  for (unsigned r = 0; r < own_replicas; ++r)
    for (std::uint32_t chunk = 0; chunk < g.chunks(); chunk += std::max(1u, g.chunks() / 16)) {
      const std::uint32_t b = g.chunk_first(chunk);
      block_bytes bytes;
      if (!read_unit(io, g.block_place(r, b), bytes) ||
          kind_of_block(bytes.bytes.data()) != block_kind::table)
        continue;
      const std::uint64_t owner = stated_place_of(bytes, block_kind::table).owner_low;
      table_block ignored;
      if (decode_table_block(bytes, owner, b, g.block_place(r, b), ignored))
        ++owners[owner];
    }
  const auto most = std::max_element(owners.begin(), owners.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  return most == owners.end() ? std::nullopt : std::optional(most->first);
}

result<void> read_supers(spare_state& s, int number, std::vector<damage>& found) {
  const auto say = [&](damage_kind kind, std::string text) {
    found.push_back({kind, s.path, number, 0, 0, std::move(text)});
  };
  search seen;
  for (unsigned copy = 0; copy < fixed_supers; ++copy)
    look(*s.io, copy, geometry{}.super_place(copy), seen);
  const auto computed = places_for(*s.io, 0);
  std::vector<geometry> heads;
  if (!seen.found.empty() && plausible(newest_of(seen.found).places, s.io->size()))
    heads.push_back(newest_of(seen.found).places);
  if (computed &&
      std::none_of(heads.begin(), heads.end(), [&](const geometry& g) { return same_places(g, *computed); }))
    heads.push_back(*computed);
  for (const geometry& g : heads)
    for (unsigned copy = fixed_supers; copy < super_copies; ++copy)
      look(*s.io, copy, g.super_place(copy), seen);

  if (seen.found.empty()) {
    const bool tables = computed && owner_of_tables(*s.io, *computed).has_value();
    if (!tables && !upstream_v4_copies(*s.io).empty())
      return fail("upstream-v4", s.path,
                  "carries metadata of the earlier dm-remap 4, which this program does not check");
    if (!tables && !seen.letters && seen.unreadable == 0)
      return fail("not-a-spare", s.path,
                  "carries nothing of a dmremap set; dmremap-scan shows what is where");
    if (seen.unreadable >= super_copies && !tables)
      say(damage_kind::spare_gone, "no superblock copy can be read");
    return {}; // the rest of the set may know it
  }
  const auto group = of_one_spare(*s.io, seen.found);
  if (!group) {
    say(damage_kind::mixed_superblocks, "superblocks of two spares, as many of one as of the other");
    return {};
  }
  choose(s, *group);
  if ((s.super->feature_incompat & restoring_incompat) != 0)
    return fail("restore-unfinished", s.path,
                "dmremap-restore did not come to its end on it; run the same command again");
  // Who may only read a set cannot tell what is wrong with it either.
  if ((s.super->feature_incompat & ~(known_incompat | image_incompat)) != 0 ||
      (s.super->feature_ro_compat & ~known_ro_compat) != 0)
    return fail("unsupported-feature", s.path,
                "uses a feature of the format that this version does not know; use a newer version");
  if (!settle_places(s)) {
    say(damage_kind::wrong_size,
        fmt::format("the superblock tells of {} units of 4096 bytes, there are {}; its table is not found",
                    s.super->places.units, s.io->size() / unit_bytes));
    s.super.reset();
  }
  return {};
}

void judge_supers(spare_state& s, const spare_state* host) {
  const superblock& newest = s.found ? *s.found : *s.super;
  s.supers.clear();
  for (unsigned copy = 0; copy < super_copies; ++copy)
    s.supers.push_back(judge(*s.io, copy, s.places().super_place(copy), newest, s.fingerprint));
  s.head.reset();
  if (host != nullptr)
    s.head = judge(*host->io, sixth_super_copy, spare_unit(s.sixth_start), newest, s.fingerprint);
  const auto differs = [](const super_copy& c) { return c.state == copy_state::differs; };
  s.conflict =
      s.conflict || std::any_of(s.supers.begin(), s.supers.end(), differs); // a head has no say in it
}

} // namespace dmremap::fsck
