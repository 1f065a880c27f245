// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/commands.h"
#include "admin/scan_sets.h"
#include "admin/set_list.h"
#include "admin/stopped_set.h"
#include "engine/config.h"
#include "engine/control_client.h"
#include "engine/loop_control.h"

#include <algorithm>
#include <boost/filesystem.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <optional>
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

void add_configured(std::vector<listed_set>& rows) {
  const auto configured = list_set_configs();
  for (const auto& set : configured.sets)
    if (!listed(rows, set.uuid))
      rows.push_back({set.name, set.uuid, "configured", "", "", set.main, set.spares, {}, set.options});
  for (const auto& bad : configured.bad) { // the file NAME.conf, or the folder
    const boost::filesystem::path path(bad.what);
    const auto name = path.extension() == ".conf" ? path.stem().string() : bad.what;
    rows.push_back({name, "", "unreadable", "", "", "", {}, {}, {}, bad});
  }
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

/// A row with what keeps the set from being started.
struct judged_set {
  listed_set set;
  std::optional<finding> problem;
};

/// What runs, died or was found somewhere speaks for itself.
judged_set judge(listed_set set) {
  judged_set one{std::move(set), {}};
  if (one.set.state != "configured" && one.set.state != "unreadable")
    return one;
  const auto found = findings_of_stopped(one.set);
  one.set.next = found.front().next.empty() ? "dmremap attach " + one.set.name : found.front().next.front();
  if (found.front().problem)
    one.problem = found.front();
  return one;
}

json text_or_null(const std::string& text) {
  return text.empty() ? json(nullptr) : json(text);
}

json as_json(const judged_set& one) {
  const auto& set = one.set;
  json problem = nullptr;
  if (one.problem)
    problem = {
        {"id", one.problem->id}, {"text", one.problem->text}, {"error", text_or_null(one.problem->error)}};
  return {{"name", set.name},
          {"uuid", text_or_null(set.uuid)},
          {"state", set.state},
          {"running", set.state == "running"},
          {"spares", set.spares},
          {"loop", set.loops},
          {"main", text_or_null(set.main)},
          {"image", text_or_null(set.image)},
          {"next", text_or_null(set.next)},
          {"problem", std::move(problem)}};
}

void print_row(std::ostream& out, const judged_set& one) {
  const auto& set = one.set;
  out << fmt::format("{}  {}  {}{}{}{}\n", set.name, set.uuid.empty() ? "-" : set.uuid, set.state,
                     set.image.empty() ? "" : "  " + set.image,
                     set.loops.empty() ? "" : fmt::format("  {}", fmt::join(set.loops, " ")),
                     set.next.empty() ? "" : "  next: " + set.next);
  if (one.problem)
    out << fmt::format("  ! {}: {}\n", one.problem->id, one.problem->text);
}

} // namespace

std::vector<listed_set> list_sets(bool all) {
  std::vector<listed_set> rows;
  add_running(rows);
  if (all) {
    add_configured(rows);
    add_found(rows);
  }
  return rows;
}

result<exit_code> list(context& c, const list_options& options) {
  auto worst = exit_code::ok;
  json sets = json::array();
  for (auto& row : list_sets(options.all)) {
    const auto one = judge(std::move(row));
    if (one.problem)
      worst = std::max(worst, one.set.state == "unreadable" ? exit_code::failed : exit_code::damaged);
    if (c.json)
      sets.push_back(as_json(one));
    else
      print_row(c.out, one);
  }
  if (c.json)
    c.print({{"sets", sets}});
  return worst;
}

} // namespace dmremap::admin
