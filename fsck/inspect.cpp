// SPDX-License-Identifier: GPL-2.0-or-later
#include "fsck/inspect.h"

#include "engine/main_match.h"
#include "engine/uuid.h"

#include <algorithm>
#include <fmt/format.h>

namespace dmremap::fsck {
namespace {

/// Images are looked at among themselves: a repair copies superblocks from one member to another.
result<void> tell_images(set_findings& f) {
  const spare_state *image = nullptr, *real = nullptr;
  for (unsigned n = 0; n < f.spares.size(); ++n) {
    const spare_state& s = f.spares[n];
    if (s.image())
      f.found.push_back({damage_kind::metadata_image, s.path, static_cast<int>(n), 0, 0,
                         "is a metadata image: it holds no data"});
    if (s.super)
      (s.image() ? image : real) = &s;
  }
  if (image != nullptr && real != nullptr)
    return fail("metadata-image", image->path,
                "is a metadata image and holds no data, " + real->path +
                    " is a spare; look at images and spares each for themselves");
  return {};
}

void find_record(set_findings& f) {
  std::vector<spare_testimony> said;
  std::vector<unsigned> who;
  for (unsigned n = 0; n < f.spares.size(); ++n)
    if (f.spares[n].super) {
      said.push_back({&*f.spares[n].super, f.spares[n].path});
      who.push_back(n);
    }
  if (said.empty())
    return;
  auto record = choose_record(std::span<const spare_testimony>(said));
  if (!record) {
    f.found.push_back({damage_kind::record, record.error().what, -1, 0, 0, record.error().why});
    for (const unsigned n : who)
      f.spares[n].in_use = true; // so that at least its copies are looked at
    return;
  }
  for (unsigned n : record->ignored) {
    f.spares[who[n]].removed = true;
    f.found.push_back({damage_kind::spare_removed, f.spares[who[n]].path, static_cast<int>(who[n]), 0, 0,
                       "was removed from the set and does not belong to it any more"});
    std::erase_if(f.found, [&](const damage& d) { // they were erased: there is nothing to rebuild
      return d.kind == damage_kind::superblock_gone && d.spare == static_cast<int>(who[n]);
    });
  }
  for (auto& p : record->places)
    if (p.given >= 0)
      p.given = static_cast<int>(who[static_cast<std::size_t>(p.given)]);
  f.record = std::move(*record);
}

void place_spares(set_findings& f) {
  const set_record& r = *f.record;
  f.complete = true;
  for (unsigned i = 0; i < max_spares; ++i) {
    const auto& p = r.places[i];
    if (!p.listed)
      continue;
    if (p.given < 0) {
      f.complete = false;
      f.found.push_back({damage_kind::spare_missing, "", -1, 0, 0,
                         fmt::format("spare {} ({}) of the set is not among those given{}", i,
                                     to_text(r.newest.spare_uuids[i]),
                                     p.map_from >= 0 ? "; another spare has its map" : "")});
      if (p.map_from < 0 && r.newest.sessions[i].given != r.newest.session)
        f.found.push_back({damage_kind::map_missing, "", -1, 0, 0,
                           fmt::format("the map of spare {} is on no spare that is there", i)});
      continue;
    }
    spare_state& s = f.spares[static_cast<std::size_t>(p.given)];
    s.in_use = !p.returned;
    s.returned = p.returned;
    if (!p.returned)
      continue;
    if (p.map_from >= 0)
      s.map_from = r.places[static_cast<std::size_t>(p.map_from)].given;
    f.found.push_back({damage_kind::spare_returned, s.path, p.given, 0, 0,
                       "was away while the set was in use: what it holds is old"});
    if (s.map_from < 0 && r.newest.absent_map[i] != 0) {
      f.complete = false;
      f.found.push_back({damage_kind::map_missing, s.path, p.given, 0, 0,
                         "its newest map is on a spare that is not there"});
    }
  }
}

void check_main(set_findings& f, store& main) {
  const auto say = [&](std::string text) {
    f.found.push_back({damage_kind::main_differs, main.identity().path, -1, 0, 0, std::move(text)});
  };
  const superblock& record = f.record->newest;
  const auto m = match_main(record, main);
  if (looks_like_spare(main))
    say("is a spare, not a main: the two were swapped");
  else if (!m.size_fits)
    say(fmt::format("has {} sectors, the set's main has {}", main.size() / sector_bytes,
                    record.main_sectors));
  else if (m.device == main_match::identity::differs)
    say("is another device: " + m.difference);
  else if (m.device != main_match::identity::same && m.taken != 0 && m.wrong * 2 > m.taken)
    say(fmt::format("{} of {} content samples differ from what the set remembers", m.wrong, m.taken));
}

void check_age(set_findings& f, const inspect_options& options) {
  if (!options.last_seen)
    return;
  const superblock& record = f.record->newest;
  const auto seen = options.last_seen(to_text(record.set_uuid));
  if (seen && record.sequence_end < *seen)
    f.found.push_back(
        {damage_kind::older_than_seen, "", -1, 0, 0,
         fmt::format("the metadata is older (sequences to {}) than what this host last saw ({})",
                     record.sequence_end, *seen)});
}

} // namespace

std::string set_findings::set_name() const {
  if (record)
    return record->newest.set_name;
  for (const auto& s : spares)
    if (s.super)
      return s.super->set_name;
  return "";
}

std::string set_findings::set_uuid() const {
  for (const auto& s : spares)
    if (s.super)
      return to_text(s.super->set_uuid);
  return "";
}

bool set_findings::clean() const {
  return std::all_of(found.begin(), found.end(),
                     [](const damage& d) { return facts_of(d.kind).level == severity::notice; });
}

std::vector<table_source> sources_of(const set_findings& f, unsigned spare, bool to_write) {
  const spare_state& s = f.spares[spare];
  std::vector<table_source> sources;
  if (s.own_tables())
    for (unsigned r = 0; r < own_replicas; ++r)
      sources.push_back({s.io.get(), std::uint64_t{s.places().replica_start[r]} + 1, r});
  if (s.sixth_host >= 0 && !(to_write && s.sixth_doubtful))
    sources.push_back({f.spares[static_cast<std::size_t>(s.sixth_host)].io.get(),
                       std::uint64_t{s.sixth_start} + 1, sixth_replica});
  return sources;
}

result<set_findings> inspect(const std::vector<spare_input>& spares, const inspect_options& options) {
  set_findings f;
  for (const auto& one : spares) {
    spare_state s;
    s.path = one.path;
    s.io = one.io;
    CHECK_OK(read_supers(s, static_cast<int>(f.spares.size()), f.found));
    f.spares.push_back(std::move(s));
  }
  CHECK_OK(tell_images(f));
  rebuild_supers(f);
  find_record(f);
  if (f.record) {
    place_spares(f);
    attach_sixths(f);
    check_age(f, options);
  }
  check_tables(f, options);
  if (f.record)
    check_sixths(f);
  check_supers(f);
  if (f.record && options.main)
    check_main(f, *options.main);
  for (const auto& s : f.spares)
    f.complete = f.complete && (s.super || s.removed);
  f.found = in_order(std::move(f.found));
  return f;
}

} // namespace dmremap::fsck
