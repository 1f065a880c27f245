// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/set_record.h"

#include <algorithm>
#include <map>

namespace dmremap {
namespace {

using loaded_spares = std::span<const spare_testimony>;

result<void> check_same_set(loaded_spares loaded) {
  std::map<uuid_bytes, const spare_testimony*> seen;
  for (const auto& m : loaded) {
    if (m.super->set_uuid != loaded.front().super->set_uuid)
      return fail("foreign-spare", m.path,
                  "belongs to set " + m.super->set_name + " (" + to_text(m.super->set_uuid) + "), " +
                      loaded.front().path + " to set " + loaded.front().super->set_name + " (" +
                      to_text(loaded.front().super->set_uuid) + "); nothing was written");
    const auto [at, fresh] = seen.try_emplace(m.super->spare_uuid, &m);
    if (!fresh)
      return fail("duplicate-spare", m.path,
                  "is a copy of " + at->second->path + ": both are spare " + to_text(m.super->spare_uuid) +
                      "; name the one that was in use last. Nothing was written");
  }
  return {};
}

bool is_none(const uuid_bytes& u) {
  return u == uuid_bytes{};
}

bool fits(std::uint64_t session, const session_pair& pair) {
  return session == pair.held || session == pair.given;
}

/// The spare holds a session that was still being given out when it was written: nothing had been changed
/// under it anywhere, so the session that the spare held before says as much.
bool unconfirmed(const superblock& spare) {
  if (spare.spare_index >= max_spares || spare.sessions[spare.spare_index].given != spare.session ||
      spare.sessions[spare.spare_index].held == spare.session)
    return false;
  for (unsigned i = 0; i < max_spares; ++i) // where it was alone, nothing was confirmed before changes
    if (i != spare.spare_index && !is_none(spare.spare_uuids[i]) &&
        spare.sessions[i].given == spare.session && spare.sessions[i].held != spare.session)
      return true;
  return false;
}

bool follows(const superblock& record, const superblock& spare) {
  const session_pair& pair = record.sessions[spare.spare_index];
  return fits(spare.session, pair) ||
         (unconfirmed(spare) && fits(spare.sessions[spare.spare_index].held, pair));
}

bool lists(const superblock& record, const superblock& spare) {
  return spare.spare_index < max_spares && record.spare_uuids[spare.spare_index] == spare.spare_uuid;
}

/// A spare that was removed and has not been in use since, or that was never taken in.
bool left_quietly(const superblock& record, const superblock& spare) {
  return spare.spare_index < max_spares && is_none(record.spare_uuids[spare.spare_index]) &&
         (follows(record, spare) || (unconfirmed(spare) && spare.sessions[spare.spare_index].held == 0));
}

/// A spare that the record does not list, and that may have been in use since: it holds a session that the
/// record does not know. Where its place was given to another one by now, or was to be, the record knows
/// nothing of it: its age decides.
bool used_since(const superblock& record, const superblock& spare) {
  if (spare.spare_index >= max_spares)
    return true;
  if (!is_none(record.spare_uuids[spare.spare_index]) || record.sessions[spare.spare_index].held == 0)
    return spare.sequence > record.sequence;
  return !left_quietly(record, spare);
}

bool all_follow(const superblock& record, loaded_spares loaded) {
  return std::all_of(loaded.begin(), loaded.end(), [&](const auto& m) {
    const superblock& s = *m.super;
    if (&s == &record)
      return lists(record, s);
    return (lists(record, s) && follows(record, s)) || left_quietly(record, s);
  });
}

/// All of those that the record lists follow it.
bool listed_follow(const superblock& record, loaded_spares loaded) {
  return std::all_of(loaded.begin(), loaded.end(), [&](const auto& m) {
    return m.super == &record || !lists(record, *m.super) || follows(record, *m.super);
  });
}

error no_common_record(loaded_spares loaded) {
  const superblock* record = nullptr;
  for (const auto& m : loaded)
    if (listed_follow(*m.super, loaded) && (record == nullptr || m.super->sequence > record->sequence))
      record = m.super;
  for (const auto& m : loaded)
    if (record != nullptr && !lists(*record, *m.super) && used_since(*record, *m.super))
      return {"forked-set", m.path,
              "is not a spare of set " + record->set_name +
                  " any more by what the others say, and holds a session that they do not know of: it was in "
                  "use without them. Where it was forgotten on purpose, leave it out; else choose one side "
                  "and open that with -o degraded and the other left out. Nothing was written",
              exit_code::damaged};
  for (const auto& m : loaded)
    if (record != nullptr && !lists(*record, *m.super))
      return {"foreign-spare", m.path,
              "is not a spare of set " + record->set_name +
                  " any more: it was removed or forgotten, or never taken in; leave it out. Nothing was "
                  "written",
              exit_code::damaged};
  std::string sides;
  for (const auto& m : loaded)
    sides += (sides.empty() ? "" : ", ") + m.path;
  return {
      "forked-set", loaded.front().super->set_name,
      "its spares were in use without each other (" + sides +
          "): each side has changes that the other lacks. Choose one side, open it with -o degraded and the "
          "other left out, and forget the other with `dmremap spare forget`. Nothing was written",
      exit_code::damaged};
}

/// The session that a spare counts as holding from now on: the one in its superblock, or, where that one was
/// still being given out and nobody can have confirmed it, the one before. Records of spares that are not
/// there now were made from either; one that is given the next session must still fit them.
std::uint64_t session_held(const superblock& newest, const superblock& spare, loaded_spares loaded) {
  if (!unconfirmed(spare))
    return spare.session;
  const unsigned own = spare.spare_index;
  if (newest.sessions[own].held == spare.session)
    return spare.session; // all have it: others may have confirmed it
  const session_pair& pair = spare.sessions[own];
  const auto known = [&](unsigned i) {
    return std::find_if(loaded.begin(), loaded.end(), [&](const auto& m) {
      return m.super->spare_index == i && m.super->spare_uuid == spare.spare_uuids[i];
    });
  };
  bool first = true;
  for (unsigned i = 0; i < max_spares; ++i) {
    if (is_none(spare.spare_uuids[i]) || spare.sessions[i].given != pair.given)
      continue;
    const auto at = known(i);
    // The first one confirms first: where it is there and has not, none has. Where another has not got it
    // yet, none could.
    if (at != loaded.end() && (first || at->super->session == spare.sessions[i].held))
      return pair.held;
    first = false;
  }
  return pair.given;
}

/// Where the map of a spare that is away can be read: the record says so where it was away before, else any
/// spare in use lists a full copy.
int find_map(const set_record& r, unsigned index, loaded_spares loaded) {
  if (const unsigned from = r.newest.absent_map[index]; from != 0)
    return r.newest.sessions[index].given != r.newest.session && from <= max_spares &&
                   r.places[from - 1].given >= 0
               ? static_cast<int>(from - 1)
               : -1;
  if (r.newest.sessions[index].given != r.newest.session)
    return -1; // its own copies are its map
  for (unsigned host = 0; host < max_spares; ++host) {
    const auto& p = r.places[host];
    if (p.given < 0 || p.returned || host == index)
      continue;
    const superblock& s = *loaded[static_cast<std::size_t>(p.given)].super;
    if (s.hosted_start[index] != 0 && (s.hosted_protected >> index & 1) != 0)
      return static_cast<int>(host);
  }
  return -1;
}

} // namespace

bool set_record::whole() const {
  return std::all_of(places.begin(), places.end(), [](const place& p) { return !p.listed || p.given >= 0; });
}

result<set_record> choose_record(loaded_spares loaded) {
  CHECK_OK(check_same_set(loaded));
  const spare_testimony* best = nullptr;
  for (const auto& m : loaded)
    if (all_follow(*m.super, loaded) && (best == nullptr || m.super->sequence > best->super->sequence))
      best = &m;
  if (best == nullptr)
    return tl::make_unexpected(no_common_record(loaded));
  set_record r;
  r.newest = *best->super;
  for (unsigned i = 0; i < max_spares; ++i)
    r.places[i].listed = !is_none(r.newest.spare_uuids[i]);
  for (unsigned n = 0; n < loaded.size(); ++n) {
    const superblock& s = *loaded[n].super;
    if (!lists(r.newest, s)) {
      r.ignored.push_back(n);
      continue;
    }
    auto& p = r.places[s.spare_index];
    p.given = static_cast<int>(n);
    p.held = session_held(r.newest, s, loaded);
    p.returned = r.newest.sessions[s.spare_index].given != r.newest.session;
  }
  for (unsigned i = 0; i < max_spares; ++i)
    if (auto& p = r.places[i]; p.listed && (p.given < 0 || p.returned))
      p.map_from = find_map(r, i, loaded);
  return r;
}

result<set_record> choose_record(std::span<const std::unique_ptr<spare_metadata>> loaded) {
  std::vector<spare_testimony> said;
  for (const auto& m : loaded)
    said.push_back({&m->super, m->path()});
  return choose_record(std::span<const spare_testimony>(said));
}

void copy_set_fields(const superblock& from, superblock& to) {
  superblock mine = to;
  to = from;
  to.sequence = mine.sequence;
  to.spare_uuid = mine.spare_uuid;
  to.spare_index = mine.spare_index;
  to.places = mine.places;
  to.super_good = mine.super_good;
  to.sixth_host = mine.sixth_host;
  to.sixth_start = mine.sixth_start;
  to.hosted_start = mine.hosted_start;
  to.hosted_blocks = mine.hosted_blocks;
  to.hosted_protected = mine.hosted_protected;
  to.good = mine.good;
}

} // namespace dmremap
