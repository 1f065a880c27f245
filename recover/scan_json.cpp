// SPDX-License-Identifier: GPL-2.0-or-later
// The JSON of dmremap-scan: its schema is in dmremap-scan(8).
#include "recover/scan_report.h"

#include <nlohmann/json.hpp>

namespace dmremap::recover {
namespace {

using nlohmann::json;

json or_null(const std::string& text) {
  return text.empty() ? json(nullptr) : json(text);
}

json error_json(const error& e) {
  return {{"id", e.id}, {"what", e.what}, {"why", e.why}};
}

json super_json(const super_view& v) {
  return {{"copy", v.copy},
          {"sector", v.place.value * unit_sectors},
          {"state", name_of(v.state)},
          {"expected", v.expected},
          {"sequence", v.sequence}};
}

json replica_json(const replica_view& v) {
  json value{{"replica", v.replica}, {"on", v.on}, {"blocks", v.all()}};
  for (std::size_t state = 0; state < copy_states; ++state)
    value[name_of(static_cast<copy_state>(state))] = v.blocks[state];
  return value;
}

json member_json(const spare_view& v) {
  json supers = json::array(), tables = json::array();
  for (const auto& one : v.supers)
    supers.push_back(super_json(one));
  for (const auto& one : v.tables)
    tables.push_back(replica_json(one));
  return {{"member", v.spec.text()},
          {"sequence", v.super().sequence},
          {"clean", v.super().clean},
          {"deep", v.deep},
          {"damaged", v.damaged()},
          {"behind", v.behind()},
          {"destroyed_blocks", v.destroyed_blocks},
          {"superblocks", std::move(supers)},
          {"tables", std::move(tables)}};
}

json spare_json(const set_view& set, const spare_row& row) {
  json members = json::array();
  for (const auto* v : row.found)
    members.push_back(member_json(*v));
  const char* state = row.found.empty()      ? "missing"
                      : row.found.size() > 1 ? "copies"
                      : row.returned         ? "was-away"
                                             : "present";
  return {{"index", row.index},
          {"uuid", row.uuid},
          {"state", state},
          {"protected_by", row.map_on < 0 ? json(nullptr) : json(row.map_on)},
          {"must_be_present", row.found.empty() && set.record && row.map_on < 0},
          {"last_seen", or_null(row.last_seen)},
          {"members", std::move(members)}};
}

json main_json(const main_candidate& c) {
  return {{"member", c.spec.text()},
          {"verdict", name_of(c.rating)},
          {"evidence", evidence(c.match, c.configured)},
          {"configured", c.configured},
          {"carries", or_null(c.carries)}};
}

json set_json(const set_view& set, const std::vector<std::string>& paths) {
  json spares = json::array(), mains = json::array(), foreign = json::array();
  for (const auto& row : set.spares)
    spares.push_back(spare_json(set, row));
  for (const auto& one : set.mains)
    mains.push_back(main_json(one));
  for (const auto* v : set.outsiders)
    foreign.push_back(v->spec.text());
  const auto best = set.best_mains();
  json value{{"name", set.name},
             {"uuid", set.uuid},
             {"state", state_of(set)},
             {"main", best.size() == 1 ? json(best.front()->spec.text()) : json(nullptr)},
             {"main_sectors", set.spares.empty() ? json(nullptr) : json(set.newest.main_sectors)},
             {"main_candidates", std::move(mains)},
             {"spares", std::move(spares)},
             {"foreign", std::move(foreign)},
             {"configuration", or_null(set.configuration)},
             {"troubles", troubles(set)},
             {"problem", set.problem ? error_json(*set.problem) : json(nullptr)},
             {"next", or_null(next_command(set, paths))}};
  if (set.running)
    value["running"] = {{"alive", set.running->alive},
                        {"main", set.running->main},
                        {"spares", set.running->spares},
                        {"image", set.running->image}};
  return value;
}

json passed_json(const passed_find& p) {
  json value{{"path", p.path},
             {"start_sector", p.find.start / static_cast<std::int64_t>(sector_bytes)},
             {"table_blocks", p.find.table_blocks},
             {"spare", nullptr},
             {"set", nullptr},
             {"why", p.why}};
  if (!p.find.set_name.empty()) {
    value["spare"] = to_text(p.find.spare);
    value["set"] = {{"name", p.find.set_name}, {"uuid", to_text(p.find.set)}};
  }
  return value;
}

} // namespace

json survey_json(const survey& s, const survey_options& options) {
  json sets = json::array(), upstream = json::array(), passed = json::array(), damaged = json::array(),
       failed = json::array();
  for (const auto& set : s.sets)
    sets.push_back(set_json(set, options.paths));
  for (const auto& one : s.upstream)
    upstream.push_back({{"member", one.member}, {"sectors", one.sectors}});
  for (const auto& one : s.passed)
    passed.push_back(passed_json(one));
  for (const auto& one : s.damaged)
    damaged.push_back(error_json(one));
  for (const auto& one : s.failed)
    failed.push_back(error_json(one));
  json value{{"sets", std::move(sets)},
             {"upstream_v4", std::move(upstream)},
             {"damaged", std::move(damaged)},
             {"failed", std::move(failed)},
             {"not_permitted", s.unread}};
  if (options.deep)
    value["search"] = {{"bytes", s.searched},
                       {"earlier_bytes", s.searched_earlier},
                       {"unreadable_bytes", s.unreadable},
                       {"stopped", s.stopped},
                       {"passed_over", std::move(passed)}};
  return value;
}

} // namespace dmremap::recover
