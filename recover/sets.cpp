// SPDX-License-Identifier: GPL-2.0-or-later
// Grouping spares into sets, and pairing them with a main.
#include "engine/config.h"
#include "engine/host_state.h"
#include "recover/survey.h"

#include <algorithm>
#include <map>
#include <strings.h>
#include <tuple>

namespace dmremap::recover {
namespace {

using views = std::vector<spare_view*>;

bool is_none(const uuid_bytes& u) {
  return u == uuid_bytes{};
}

/// choose_record() wants the metadata in a row.
result<set_record> record_of(const views& spares) {
  std::vector<std::unique_ptr<spare_metadata>> loaded;
  for (spare_view* v : spares)
    loaded.push_back(std::move(v->meta));
  auto record = choose_record(loaded);
  for (std::size_t n = 0; n < spares.size(); ++n)
    spares[n]->meta = std::move(loaded[n]);
  return record;
}

/// Finds the record that all spares follow, leaving out those that are of the set no more.
views settle(set_view& set, views spares) {
  for (;;) {
    auto record = record_of(spares);
    if (record) {
      for (const unsigned n : record->ignored)
        set.outsiders.push_back(spares[n]);
      set.newest = record->newest;
      set.record = std::move(*record);
      return spares;
    }
    const auto blamed = std::find_if(spares.begin(), spares.end(), [&](const spare_view* v) {
      return record.error().id == "foreign-spare" && v->meta->path() == record.error().what;
    });
    if (blamed == spares.end() || spares.size() == 1) {
      set.problem = record.error();
      set.newest =
          (*std::max_element(spares.begin(), spares.end(), [](const spare_view* a, const spare_view* b) {
            return a->super().sequence < b->super().sequence;
          }))->super();
      return spares;
    }
    set.outsiders.push_back(*blamed);
    spares.erase(blamed);
  }
}

void list_spares(set_view& set, const std::map<uuid_bytes, views>& by_uuid, const host_state* seen) {
  for (unsigned i = 0; i < max_spares; ++i) {
    const auto& uuid = set.newest.spare_uuids[i];
    if (is_none(uuid))
      continue;
    spare_row row;
    row.index = i;
    row.uuid = to_text(uuid);
    if (const auto there = by_uuid.find(uuid); there != by_uuid.end())
      row.found.assign(there->second.begin(), there->second.end());
    if (set.record) {
      row.returned = set.record->places[i].returned;
      row.map_on = set.record->places[i].map_from;
    }
    if (seen != nullptr)
      if (const auto at = seen->spares.find(row.uuid); at != seen->spares.end())
        row.last_seen = at->second;
    set.spares.push_back(std::move(row));
  }
}

std::string plain(const std::string& member) {
  auto spec = parse_member(member);
  if (!spec)
    return member;
  spec->dust = false;
  return spec->text();
}

const set_config* configuration_of(const config_list& configured, const std::string& uuid) {
  const auto at = std::find_if(configured.sets.begin(), configured.sets.end(), [&](const set_config& c) {
    return strcasecmp(c.uuid.c_str(), uuid.c_str()) == 0;
  });
  return at == configured.sets.end() ? nullptr : &*at;
}

unsigned rank(const main_candidate& c) {
  const unsigned rating = c.rating == pairing::certain ? 0 : c.rating == pairing::accept ? 2 : 4;
  return rating + (c.match.device == main_match::identity::same ? 0 : 1);
}

std::string words_for(store& io) {
  const auto found = probe_signatures(io);
  if (!found)
    return "";
  std::string text;
  for (const auto& one : *found)
    text += (text.empty() ? "" : ", ") + one.type + (one.detail.empty() ? "" : " " + one.detail);
  return text;
}

void find_mains(set_view& set, const std::vector<possible_main>& mains, const set_config* config) {
  for (const auto& one : mains) {
    if (one.io->size() / sector_bytes != set.newest.main_sectors || looks_like_spare(*one.io))
      continue;
    main_candidate c;
    c.spec = one.spec;
    c.place = one.place;
    c.configured = config != nullptr && plain(config->main) == plain(one.spec.text());
    const auto same = std::find_if(set.mains.begin(), set.mains.end(), [&](const main_candidate& other) {
      return other.place.overlaps(c.place);
    });
    // One storage under two names, a file and a loop device on it: the loop device is the one that is free.
    if (same != set.mains.end() && (same->configured || (!c.configured && !one.io->identity().block_device)))
      continue;
    c.match = match_main(set.newest, *one.io);
    c.rating = rate(c.match.device, content_of(c.match), c.configured);
    c.carries = words_for(*one.io);
    if (same != set.mains.end())
      *same = std::move(c);
    else
      set.mains.push_back(std::move(c));
  }
  std::stable_sort(set.mains.begin(), set.mains.end(),
                   [](const main_candidate& a, const main_candidate& b) { return rank(a) < rank(b); });
}

bool members_match(const set_view& set, const set_config& config) {
  const auto best = set.best_mains();
  if (best.size() != 1 || plain(best.front()->spec.text()) != plain(config.main))
    return false;
  std::vector<std::string> configured;
  for (const auto& member : config.spares)
    configured.push_back(plain(member));
  return std::all_of(set.spares.begin(), set.spares.end(), [&](const spare_row& row) {
    return row.found.size() == 1 &&
           std::count(configured.begin(), configured.end(), plain(row.found.front()->spec.text())) == 1;
  });
}

/// As the engine judges: the record, or one of the spares that hold its session.
bool is_older(const set_view& set, const views& all, std::uint64_t seen) {
  return set.newest.sequence_end < seen || std::any_of(all.begin(), all.end(), [&](const spare_view* v) {
           return v->super().session == set.newest.session && v->super().sequence_end < seen;
         });
}

set_view make_set(const views& all, const std::vector<possible_main>& mains, const config_list& configured) {
  set_view set;
  std::map<uuid_bytes, views> by_uuid;
  for (spare_view* v : all)
    by_uuid[v->super().spare_uuid].push_back(v);
  views newest_of_each;
  for (auto& [uuid, same] : by_uuid) {
    std::stable_sort(same.begin(), same.end(), [](const spare_view* a, const spare_view* b) {
      return a->super().sequence > b->super().sequence;
    });
    newest_of_each.push_back(same.front());
  }
  settle(set, newest_of_each);
  set.image = all.front()->image();
  set.name = set.newest.set_name;
  set.uuid = to_text(set.newest.set_uuid);
  std::string trouble;
  const auto seen = read_host_state(set.uuid, trouble);
  set.older = seen && is_older(set, all, seen->sequence_end);
  list_spares(set, by_uuid, seen ? &*seen : nullptr);
  if (set.image)
    return set;
  const set_config* config = configuration_of(configured, set.uuid);
  find_mains(set, mains, config);
  if (config != nullptr) {
    set.configuration = config->name;
    set.as_configured = members_match(set, *config);
  }
  return set;
}

/// One storage under two names is one spare: the shorter name counts, and the loop device before its file.
void drop_same_storage(std::vector<spare_view>& spares) {
  const auto better = [](const spare_view& a, const spare_view& b) {
    if (a.spec.start.has_value() != b.spec.start.has_value())
      return !a.spec.start;
    return a.io->identity().block_device && !b.io->identity().block_device;
  };
  for (std::size_t i = 0; i < spares.size(); ++i)
    for (std::size_t j = spares.size(); j-- > i + 1;) {
      if (spares[i].super().spare_uuid != spares[j].super().spare_uuid ||
          !spares[i].place.overlaps(spares[j].place))
        continue;
      if (better(spares[j], spares[i]))
        std::swap(spares[i], spares[j]);
      spares.erase(spares.begin() + static_cast<std::ptrdiff_t>(j));
    }
}

} // namespace

bool set_view::ambiguous_spares() const {
  return std::any_of(spares.begin(), spares.end(), [](const spare_row& r) { return r.found.size() > 1; });
}

std::vector<const spare_row*> set_view::missing() const {
  std::vector<const spare_row*> rows;
  for (const auto& row : spares)
    if (row.found.empty())
      rows.push_back(&row);
  return rows;
}

bool set_view::unprotected() const {
  return std::any_of(spares.begin(), spares.end(),
                     [](const spare_row& r) { return r.found.empty() && r.map_on < 0; });
}

bool set_view::damaged() const {
  return std::any_of(spares.begin(), spares.end(), [](const spare_row& r) {
    return std::any_of(r.found.begin(), r.found.end(), [](const spare_view* v) { return v->damaged(); });
  });
}

bool set_view::destroyed() const {
  return std::any_of(spares.begin(), spares.end(), [](const spare_row& r) {
    return std::any_of(r.found.begin(), r.found.end(),
                       [](const spare_view* v) { return v->destroyed_blocks != 0; });
  });
}

std::vector<const main_candidate*> set_view::best_mains() const {
  std::vector<const main_candidate*> best;
  for (const auto& one : mains)
    if (one.rating != pairing::refused && rank(one) / 2 == rank(mains.front()) / 2 &&
        (one.rating == pairing::accept || rank(one) == rank(mains.front())))
      best.push_back(&one);
  return best;
}

void group_sets(survey& s, const std::vector<possible_main>& mains) {
  drop_same_storage(s.spares);
  const auto configured = list_set_configs();
  std::map<std::pair<uuid_bytes, bool>, views> by_set; // images are never mixed with spares
  for (auto& spare : s.spares)
    by_set[{spare.super().set_uuid, spare.image()}].push_back(&spare);
  for (const auto& [which, members] : by_set)
    s.sets.push_back(make_set(members, mains, configured));
  std::sort(s.sets.begin(), s.sets.end(), [](const set_view& a, const set_view& b) {
    return std::tie(a.name, a.uuid, a.image) < std::tie(b.name, b.uuid, b.image);
  });
}

} // namespace dmremap::recover
