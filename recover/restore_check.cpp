// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/restore_check.h"

#include "engine/candidate.h"
#include "engine/member.h"
#include "engine/set_record.h"
#include "recover/restore_write.h"

#include <algorithm>
#include <fmt/format.h>
#include <strings.h>

namespace dmremap::recover {
namespace {

constexpr std::uint32_t piece_blocks = 256; // 1 MiB a read
constexpr std::size_t sampled_chunks = 64;  // of each spare of the dump, to find out which it is

void look_at_supers(store& io, const dumped_spare& d, found_metadata& out,
                    std::optional<superblock>& newest) {
  for (unsigned c = 0; c < super_copies; ++c) {
    const spare_unit place = d.super.places.super_place(c);
    block_bytes bytes;
    if (byte_of(place) + unit_bytes > io.size() || !io.read(bytes.span(), byte_of(place)))
      continue;
    const auto s = decode_superblock(bytes, c, place);
    out.image = out.image || (s && (s->feature_incompat & image_incompat) != 0);
    if (!s || s->set_uuid != d.super.set_uuid)
      continue;
    if (s->spare_uuid != d.super.spare_uuid) {
      out.other_spare = to_text(s->spare_uuid);
      continue;
    }
    out.super_sequence = std::max(out.super_sequence, s->sequence);
    out.sequence_end = std::max(out.sequence_end, s->sequence_end);
    if ((s->feature_incompat & restoring_incompat) != 0) {
      out.cut_off = *s;
      continue;
    }
    ++out.supers;
    out.highest = std::max(out.highest, s->sequence);
    if (!newest || s->sequence > newest->sequence)
      newest = *s;
  }
}

/// The copy of a block in replica `r`.
bool read_copy(store& io, const dumped_spare& d, unsigned r, std::uint32_t number, table_block& t) {
  block_bytes bytes;
  const spare_unit place = d.super.places.block_place(r, number);
  return byte_of(place) + unit_bytes <= io.size() && io.read(bytes.span(), byte_of(place)) &&
         decode_table_block(bytes, low_half(d.super.spare_uuid), number, place, t);
}

bool first_block_is_there(store& io, const dumped_spare& d, std::uint32_t chunk) {
  table_block t;
  for (unsigned r = 0; r < own_replicas; ++r)
    if (read_copy(io, d, r, d.super.places.chunk_first(chunk), t))
      return true;
  return false;
}

/// One block's copies: whether one is sound.
class table_looker {
public:
  table_looker(store& io, const dumped_spare& d, found_metadata& out) : io_(io), d_(d), out_(out) {}

  bool chunk(std::uint32_t number) {
    const geometry& g = d_.super.places;
    bool whole = true;
    for (std::uint32_t b = g.chunk_first(number); b < g.chunk_end(number); b += piece_blocks)
      whole = piece(b, std::min(piece_blocks, g.chunk_end(number) - b)) && whole;
    return whole;
  }

private:
  bool piece(std::uint32_t first, std::uint32_t count) {
    std::vector<bool> sound(count, false);
    std::vector<block_bytes> buffer(count);
    table_block t;
    for (unsigned r = 0; r < own_replicas; ++r) {
      const std::uint64_t at = byte_of(d_.super.places.block_place(r, first));
      const std::span<std::byte> all(buffer.front().bytes.data(), count * unit_bytes);
      const bool whole = at + all.size() <= io_.size() && io_.read(all, at);
      for (std::uint32_t i = 0; i < count; ++i) {
        const spare_unit place = d_.super.places.block_place(r, first + i);
        if (!whole &&
            (byte_of(place) + unit_bytes > io_.size() || !io_.read(buffer[i].span(), byte_of(place))))
          continue;
        if (!decode_table_block(buffer[i], low_half(d_.super.spare_uuid), first + i, place, t))
          continue;
        sound[i] = true;
        ++out_.tables;
        out_.highest = std::max(out_.highest, t.sequence);
        out_.sequence_end = std::max(out_.sequence_end, t.sequence + 1);
        for (const slot& s : t.slots) {
          out_.sequence_end = std::max(out_.sequence_end, s.sequence() + 1);
          out_.data = out_.data || (s.serves() && !all_lost(s));
        }
      }
    }
    return std::all_of(sound.begin(), sound.end(), [](bool b) { return b; });
  }

  [[nodiscard]] bool all_lost(const slot& s) const {
    const std::uint64_t first = first_sector(s.main()).value, end = d_.super.main_sectors;
    const std::uint64_t valid = first < end ? std::min(unit_sectors, end - first) : 0;
    return ((s.lost() | (0xFFu << valid)) & 0xFFu) == 0xFFu;
  }

  store& io_;
  const dumped_spare& d_;
  found_metadata& out_;
};

std::string who(const dumped_spare& d) {
  return fmt::format("spare {} ({}) of the set {}", d.super.spare_index, to_text(d.super.spare_uuid),
                     d.super.set_name);
}

/// Signatures that are not of this set.
std::vector<signature> others(std::vector<signature> found, const dumped_spare& d) {
  std::erase_if(found, [&](const signature& s) {
    return s.type == "dmremap" && strcasecmp(s.set_uuid.c_str(), to_text(d.super.set_uuid).c_str()) == 0;
  });
  return found;
}

/// The restore that was cut off was of this very dump: what was allowed then is allowed still.
bool resumes(const found_metadata& there, const dumped_spare& d) {
  if (!there.cut_off)
    return false;
  superblock then = *there.cut_off, now = d.super;
  then.feature_incompat &= ~restoring_incompat;
  then.sequence = now.sequence;
  then.sequence_next = now.sequence_next;
  then.sequence_end = now.sequence_end;
  then.super_good = now.super_good;
  then.good = now.good;
  then.hosted_protected = now.hosted_protected;
  block_bytes a, b;
  encode_superblock(then, 0, spare_unit(0), a);
  encode_superblock(now, 0, spare_unit(0), b);
  return a.bytes == b.bytes;
}

result<void> check_age(const std::string& path, const set_dump& dump, const dumped_spare& d,
                       const found_metadata& there, std::optional<std::uint64_t> last_seen) {
  const std::uint64_t end = dump.newest().sequence_end;
  const bool newer_there = there.highest > highest_sequence(d) || there.newer_guest;
  if (newer_there || (last_seen && *last_seen > end))
    return fail("dump-older", path,
                fmt::format("the dump is older than {}: units that moved since would show main's old bytes; "
                            "dmremap-fsck repairs what is there; if the dump is to count: --accept-older",
                            newer_there ? "what lies there" : "what this host saw of the set"));
  const bool closed_then = d.super.clean && !dump.live && last_seen && *last_seen == end;
  if (!there.whole && !closed_then)
    return fail("dump-maybe-older", path,
                "nothing shows that the set was not in use after the dump was made: units that moved since "
                "would show main's old bytes; if you know that it was not: --accept-older");
  return {};
}

} // namespace

bool shows(store& io, const dumped_spare& d) {
  found_metadata out;
  std::optional<superblock> newest;
  look_at_supers(io, d, out, newest);
  if (out.any())
    return true;
  const geometry& g = d.super.places;
  std::vector<std::uint32_t> in_use;
  for (std::uint32_t c = 0; c < g.chunks(); ++c)
    if (d.super.good_replicas(c) != 0)
      in_use.push_back(c);
  const std::size_t step = in_use.size() / sampled_chunks + 1;
  for (std::size_t n = 0; n < in_use.size(); n += step)
    if (first_block_is_there(io, d, in_use[n]))
      return true;
  return false;
}

found_metadata look_for(store& io, const dumped_spare& d, const set_dump& dump, const looking& on_progress) {
  found_metadata out;
  std::optional<superblock> newest;
  look_at_supers(io, d, out, newest);
  const superblock& used = newest ? *newest : d.super; // chunks that were in use since, too
  table_looker tables(io, d, out);
  const geometry& g = d.super.places;
  bool whole = true;
  for (std::uint32_t c = 0; c < g.chunks(); ++c) {
    const bool in_use = used.good_replicas(c) != 0, in_dump = d.super.good_replicas(c) != 0;
    const std::uint64_t before = out.tables;
    if (in_use || in_dump || first_block_is_there(io, d, c))
      whole = (tables.chunk(c) || !in_use) && whole;
    if (!in_dump && out.tables != before)
      out.extra.push_back(c);
    if (on_progress)
      on_progress(std::uint64_t{g.chunk_end(c)} * own_replicas, std::uint64_t{g.table_blocks} * own_replicas);
  }
  out.whole = newest.has_value() && whole;
  for (const auto& guest : dump.spares) // the map of an absent spare is nowhere else
    if (const std::uint32_t start = sixth_on(guest, d); guest.away && start != 0) {
      const auto sixth = look_for_sixth(io, guest, start);
      out.whole = out.whole && sixth.whole;
      out.newer_guest = out.newer_guest || sixth.newer;
    }
  return out;
}

result<bool> check_target(store& io, const set_dump& dump, const dumped_spare& d, const found_metadata& there,
                          std::optional<std::uint64_t> last_seen, const restore_consent& told) {
  const std::string& path = io.identity().path;
  if (io.size() < d.super.places.units * unit_bytes)
    return fail("spare-too-small", path,
                fmt::format("has {} sectors; {} has {}", io.size() / sector_bytes, who(d),
                            d.super.places.units * unit_sectors));
  if (there.image)
    return fail("metadata-image", path, holds_no_data);
  if (!there.other_spare.empty())
    return fail(
        "other-spare", path,
        fmt::format("is spare {} of the same set, not {}; name the right one", there.other_spare, who(d)));
  const auto carried = TRY(probe_signatures(io));
  CHECK_OK(check_gives_up_no_running(told.destroy_set));
  static_cast<void>(TRY(check_spare(io, others(carried, d), told.wipe, told.destroy_set)));
  if (!there.any() && !told.data_in_place)
    return fail(
        "spare-unknown", path,
        fmt::format("nothing on it shows that it is {}, so the units that moved there may not be on it; "
                    "if they are (it is a copy of the spare, or was overwritten in part): "
                    "--data-in-place; if they are gone: --data-lost",
                    who(d)));
  const bool goes_on = resumes(there, d);
  if (told.data_lost && (there.data || (there.any() && !goes_on)))
    return fail("data-is-there", path,
                fmt::format("carries metadata of {}: what moved there lies on it, and --data-lost would make "
                            "every sector of it lost; restore it without --data-lost, or, if its data is "
                            "gone all the same, overwrite the metadata on it first (blkdiscard, or zeros)",
                            who(d)));
  if (goes_on)
    return false;
  const auto age = check_age(path, dump, d, there, last_seen);
  if (!age && !told.accept_older)
    return tl::make_unexpected(age.error());
  return !age;
}

result<void> check_together(const set_dump& dump, const std::vector<const dumped_spare*>& restored,
                            bool older) {
  std::string others;
  std::vector<spare_testimony> said;
  for (const auto& d : dump.spares) {
    if (d.away)
      continue;
    said.push_back({&d.super, who(d)});
    if (std::find(restored.begin(), restored.end(), &d) == restored.end())
      others += fmt::format("{}spare {} ({}{})", others.empty() ? "" : ", ", d.super.spare_index,
                            d.member.empty() ? "" : d.member + ", ", to_text(d.super.spare_uuid));
  }
  if (older && !others.empty())
    return fail(
        "restore-all", dump.newest().set_name,
        "an older dump is restored to all spares at once: one of then and another of now would not be "
        "a set, or one that never was; name these, too: " +
            others);
  static_cast<void>(TRY(choose_record(said)));
  return {};
}

std::vector<restore_target> make_targets(const std::vector<examined_spare>& spares) {
  std::uint64_t ahead = 0, end = 0;
  for (const auto& one : spares) {
    const std::uint64_t then = one.spare->super.sequence;
    ahead = std::max(ahead, std::max(one.there.super_sequence, then) - then);
    end = std::max(end, one.there.sequence_end);
  }
  std::vector<restore_target> targets;
  for (const auto& one : spares)
    targets.push_back({one.spare, one.io, one.spare->super.sequence + ahead, end, one.there.extra});
  return targets;
}

result<void> check_whole(const set_dump& dump, const std::string& name) {
  const auto refuse = [&](const std::string& why) {
    return fail("dump-incomplete", name, why + "; nothing can be restored from it", exit_code::damaged);
  };
  if (!dump.complete)
    return refuse("was made of a damaged set");
  for (const auto& d : dump.spares) {
    const geometry& g = d.super.places;
    auto run = d.blocks.begin();
    for (std::uint32_t c = 0; c < g.chunks(); ++c) {
      if (d.super.good_replicas(c) == 0 && !d.super.is_good(sixth_replica, c))
        continue;
      for (std::uint32_t b = g.chunk_first(c); b < g.chunk_end(c); ++b) {
        while (run != d.blocks.end() && run->first + run->count <= b)
          ++run;
        if (run == d.blocks.end() || b < run->first)
          return refuse(fmt::format("lacks block {} of spare {}", b, d.super.spare_index));
      }
    }
    for (const auto& guest : dump.spares) {
      const std::uint64_t start = sixth_on(guest, d);
      if (start == 0)
        continue;
      for (std::uint64_t u = start; u <= start + guest.super.places.table_blocks; ++u)
        if (d.super.places.is_metadata(spare_unit(u)))
          return refuse(fmt::format("has the table of spare {} over the metadata of spare {}",
                                    guest.super.spare_index, d.super.spare_index));
    }
    for (const auto& one : d.slots)
      for (const auto& guest : dump.spares)
        if (const std::uint64_t start = sixth_on(guest, d);
            start != 0 && one.value.serves() && one.unit >= start &&
            one.unit <= start + guest.super.places.table_blocks)
          return refuse(fmt::format("has the table of spare {} over units of spare {}",
                                    guest.super.spare_index, d.super.spare_index));
  }
  return {};
}

} // namespace dmremap::recover
