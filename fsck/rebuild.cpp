// SPDX-License-Identifier: GPL-2.0-or-later
// A spare on which no superblock copy is left: what the other spares of its set, and its table, know of it.
#include "engine/uuid.h"
#include "fsck/inspect.h"

#include <algorithm>
#include <fmt/format.h>

namespace dmremap::fsck {
namespace {

bool given_already(const set_findings& f, const uuid_bytes& uuid) {
  return std::any_of(f.spares.begin(), f.spares.end(),
                     [&](const spare_state& s) { return s.super && s.super->spare_uuid == uuid; });
}

/// Another spare has this one's sixth replica: its head is the very superblock that is gone.
std::optional<superblock> from_head(const set_findings& f, const spare_state& lost) {
  std::optional<superblock> best;
  for (const auto& host : f.spares) {
    if (!host.found)
      continue;
    for (unsigned g = 0; g < max_spares; ++g) {
      const spare_unit place(host.super->hosted_start[g]);
      block_bytes bytes;
      if (place.value == 0 || !read_unit(*host.io, place, bytes))
        continue;
      auto head = decode_superblock(bytes, sixth_super_copy, place);
      if (!head || head->set_uuid != host.super->set_uuid || given_already(f, head->spare_uuid) ||
          !plausible(head->places, lost.io->size()) ||
          owner_of_tables(*lost.io, head->places) != low_half(head->spare_uuid))
        continue;
      if (!best || head->sequence > best->sequence)
        best = std::move(*head);
    }
  }
  return best;
}

/// Good bits as the table itself shows them. A chunk in which no block is sound was never initialised: true
/// only where nothing at all lies there; false: it may have been destroyed.
bool bits_from_table(store& io, superblock& s) {
  const std::uint64_t owner = low_half(s.spare_uuid);
  const geometry& g = s.places;
  table_block ignored;
  block_bytes bytes;
  for (std::uint32_t chunk = 0; chunk < g.chunks(); ++chunk) {
    bool any = false, remains = false;
    for (std::uint32_t b = g.chunk_first(chunk); b < g.chunk_end(chunk); ++b)
      for (unsigned r = 0; r < own_replicas; ++r) {
        if (!read_unit(io, g.block_place(r, b), bytes))
          remains = true;
        else if (decode_table_block(bytes, owner, b, g.block_place(r, b), ignored))
          any = true;
        else
          remains = remains || kind_of_block(bytes.bytes.data()) != block_kind::none;
      }
    if (!any && remains)
      return false;
    for (unsigned r = 0; r < own_replicas; ++r)
      s.set_good(r, chunk, any);
  }
  return true;
}

/// The set lists a spare that is not given, and the table here is that spare's.
std::optional<superblock> from_record(const set_findings& f, const spare_state& lost) {
  const spare_state* newest = nullptr;
  for (const auto& s : f.spares)
    if (s.found && (newest == nullptr || s.super->sequence > newest->super->sequence))
      newest = &s;
  const auto g = make_geometry(lost.io->size());
  if (newest == nullptr || !g)
    return std::nullopt;
  const superblock& record = *newest->super;
  const auto owner = owner_of_tables(*lost.io, *g);
  for (unsigned i = 0; i < max_spares && owner; ++i) {
    if (record.spare_uuids[i] == uuid_bytes{} || low_half(record.spare_uuids[i]) != *owner ||
        given_already(f, record.spare_uuids[i]))
      continue;
    superblock s = record;
    s.spare_uuid = record.spare_uuids[i];
    s.spare_index = i;
    s.places = *g;
    s.super_good = (1u << super_copies) - 1;
    s.sixth_host = no_host;
    s.sixth_start = 0;
    s.hosted_start = s.hosted_blocks = {};
    s.hosted_protected = 0;
    s.good = {};
    if (s.sessions[i].given != s.session)
      s.session = s.sessions[i].held;  // it was away: it must not pass for one that was there
    for (const auto& guest : f.spares) // whose maps it holds, as they say
      if (guest.found && guest.super->sixth_host == i) {
        s.hosted_start[guest.super->spare_index] = guest.super->sixth_start;
        s.hosted_blocks[guest.super->spare_index] = guest.super->places.table_blocks;
        s.hosted_protected |= 1u << guest.super->spare_index;
      }
    if (bits_from_table(*lost.io, s))
      return s;
  }
  return std::nullopt;
}

} // namespace

void rebuild_supers(set_findings& f) {
  for (unsigned n = 0; n < f.spares.size(); ++n) {
    spare_state& s = f.spares[n];
    if (s.super || std::any_of(f.found.begin(), f.found.end(), [&](const damage& d) {
          return d.spare == static_cast<int>(n); // why there is none has been said
        }))
      continue;
    std::string how =
        "all 10 superblock copies are gone; another spare of the set has it at the head of its copy "
        "of the table";
    s.super = from_head(f, s);
    if (!s.super) {
      how = "all 10 superblock copies are gone; the set's record and the table tell what it was";
      s.super = from_record(f, s);
    }
    if (s.super) {
      s.highest_sequence = s.super->sequence;
      s.highest_end = s.super->sequence_end;
    }
    f.found.push_back({s.super ? damage_kind::superblock_gone : damage_kind::no_superblock, s.path,
                       static_cast<int>(n), 0, 0,
                       s.super ? how : "no superblock copy is left in any of its 10 places"});
  }
}

} // namespace dmremap::fsck
