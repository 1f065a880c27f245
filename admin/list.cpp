// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/commands.h"
#include "admin/scan_sets.h"
#include "admin/set_list.h"
#include "engine/config.h"
#include "engine/control_client.h"
#include "engine/loop_control.h"

#include <algorithm>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <ostream>
#include <strings.h>

namespace dmremap::admin {
namespace {

using nlohmann::json;

bool listed(const std::vector<listed_set>& rows, const std::string& uuid) {
  return std::any_of(rows.begin(), rows.end(),
                     [&](const listed_set& one) { return strcasecmp(one.uuid.c_str(), uuid.c_str()) == 0; });
}

void add_running(std::vector<listed_set>& rows) {
  for (const auto& set : list_running_sets()) {
    listed_set one{set.name,   set.uuid, set.alive ? "running" : "died", set.image, "", set.main,
                   set.spares, {}};
    one.loops = loops_on(set.image);
    if (!set.alive)
      one.next = "dmremap detach " + set.name;
    rows.push_back(std::move(one));
  }
}

void add_configured(std::vector<listed_set>& rows, const context& c) {
  const auto configured = list_set_configs();
  for (const auto& set : configured.sets)
    if (!listed(rows, set.uuid))
      rows.push_back(
          {set.name, set.uuid, "configured", "", "dmremap attach " + set.name, set.main, set.spares, {}});
  for (const auto& bad : configured.bad)
    c.note(bad.text());
}

void add_found(std::vector<listed_set>& rows) {
  std::vector<std::string> ours;
  for (const auto& one : rows)
    ours.insert(ours.end(), one.loops.begin(), one.loops.end());
  const std::size_t known = rows.size();
  for (const auto& set : scan_for_sets(ours)) {
    const auto at = std::find_if(rows.begin(), rows.end(), [&](const listed_set& one) {
      return strcasecmp(one.uuid.c_str(), set.uuid.c_str()) == 0;
    });
    if (at == rows.end())
      rows.push_back({set.name, set.uuid, "found", "", "", "", {set.spare}, {}});
    else if (at >= rows.begin() + static_cast<std::ptrdiff_t>(known)) // another spare of one that was found
      at->spares.push_back(set.spare);
  }
  for (std::size_t n = known; n < rows.size(); ++n)
    rows[n].next = "dmremap-reassemble " + rows[n].name;
}

json as_json(const listed_set& one) {
  json value{{"name", one.name},     {"uuid", one.uuid},
             {"state", one.state},   {"running", one.state == "running"},
             {"spares", one.spares}, {"loop", one.loops}};
  value["main"] = one.main.empty() ? json(nullptr) : json(one.main);
  value["image"] = one.image.empty() ? json(nullptr) : json(one.image);
  value["next"] = one.next.empty() ? json(nullptr) : json(one.next);
  return value;
}

} // namespace

std::vector<listed_set> list_sets(const context& c, bool all) {
  std::vector<listed_set> rows;
  add_running(rows);
  if (all) {
    add_configured(rows, c);
    add_found(rows);
  }
  return rows;
}

result<exit_code> list(context& c, const list_options& options) {
  const auto rows = list_sets(c, options.all);
  if (c.json) {
    json sets = json::array();
    for (const auto& one : rows)
      sets.push_back(as_json(one));
    c.print({{"sets", sets}});
    return exit_code::ok;
  }
  for (const auto& one : rows)
    c.out << fmt::format("{}  {}  {}{}{}{}\n", one.name, one.uuid, one.state,
                         one.image.empty() ? "" : "  " + one.image,
                         one.loops.empty() ? "" : fmt::format("  {}", fmt::join(one.loops, " ")),
                         one.next.empty() ? "" : "  next: " + one.next);
  return exit_code::ok;
}

} // namespace dmremap::admin
