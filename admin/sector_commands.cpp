// SPDX-License-Identifier: GPL-2.0-or-later
// remap, unmap, salvage: commands about sectors of a running set; with --dry-run, what they would do.
#include "admin/commands.h"
#include "admin/figures.h"
#include "admin/lookup.h"
#include "admin/reply.h"
#include "admin/table_format.h"
#include "engine/units.h"

#include <algorithm>
#include <bit>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <ostream>

namespace dmremap::admin {
namespace {

using nlohmann::json;

result<table_view> table_of(const std::string& name) {
  const auto set = TRY(need_running(name));
  const auto status = TRY(ask(set, "status", {}));
  const auto table = TRY(ask(set, "table", {}));
  return read_table(part_of(table, "result"), part_of(status, "result"));
}

/// The unit's row, or null.
result<const table_row*> row_of(const table_view& view, const std::string& name, std::uint64_t sector) {
  if (sector >= view.main_sectors)
    return fail("out-of-range", name,
                fmt::format("has sectors 0 to {}, no sector {}", view.main_sectors - 1, sector));
  const auto first = sector / unit_sectors * unit_sectors;
  const auto at = std::find_if(view.rows.begin(), view.rows.end(),
                               [&](const table_row& row) { return row.main_sector == first; });
  return at == view.rows.end() ? nullptr : &*at;
}

exit_code show_plan(const context& c, json plan, const std::string& text) {
  if (c.json) {
    plan["dry_run"] = true;
    plan["text"] = text;
    c.print(std::move(plan));
  } else {
    c.out << text << " (nothing is written now)\n";
  }
  return exit_code::ok;
}

result<exit_code> plan_remap(const context& c, const sector_options& o, std::uint64_t sector) {
  const auto view = TRY(table_of(o.name));
  const auto* row = TRY(row_of(view, o.name, sector));
  const auto first = sector / unit_sectors * unit_sectors;
  return show_plan(
      c, {{"sector", first}, {"remapped", row != nullptr}},
      row == nullptr
          ? fmt::format("the unit of sectors from {} would be moved to a spare, with its data", first)
          : fmt::format("the unit of sectors from {} lies on {} already: nothing would change", first,
                        view.spares[row->spare]));
}

result<exit_code> plan_unmap(const context& c, const sector_options& o, std::uint64_t sector) {
  const auto view = TRY(table_of(o.name));
  const auto* row = TRY(row_of(view, o.name, sector));
  const auto first = sector / unit_sectors * unit_sectors;
  const json plan{{"sector", first},
                  {"remapped", row != nullptr},
                  {"lost_sectors", row == nullptr ? 0 : std::popcount(row->lost)}};
  if (row == nullptr)
    return show_plan(c, plan,
                     fmt::format("the unit of sectors from {} is not remapped: nothing would change", first));
  if (row->lost != 0)
    return show_plan(c, plan,
                     fmt::format("the unit of sectors from {} would not be moved: {} of it {} lost", first,
                                 counted(static_cast<unsigned>(std::popcount(row->lost)), "sector"),
                                 std::popcount(row->lost) == 1 ? "is" : "are"));
  return show_plan(
      c, plan,
      fmt::format("the unit of sectors from {} would be written back to main, read back, and its remap "
                  "forgotten",
                  first));
}

result<exit_code> plan_salvage(const context& c, const salvage_options& o, const json& which) {
  const auto view = TRY(table_of(o.name));
  std::uint64_t lost = 0, may_answer = 0;
  const auto* only = which.is_null() ? nullptr : TRY(row_of(view, o.name, which.get<std::uint64_t>()));
  for (const auto& row : view.rows)
    if (which.is_null() || &row == only) {
      lost += static_cast<unsigned>(std::popcount(row.lost));
      may_answer +=
          static_cast<unsigned>(std::popcount(static_cast<std::uint8_t>(row.lost & row.may_answer)));
    }
  return show_plan(
      c, {{"lost_sectors", lost}, {"may_answer", may_answer}},
      fmt::format("{} lost; main would be asked for {} of them", counted(lost, "sector"), may_answer));
}

} // namespace

result<exit_code> remap(context& c, const sector_options& o) {
  const auto sector = TRY(parse_number(o.sector, "sector"));
  if (o.dry_run)
    return plan_remap(c, o, sector);
  return show_reply(c, TRY(ask(o.name, "remap", {{"sector", sector}})),
                    fmt::format("sector {} is remapped", sector));
}

result<exit_code> unmap(context& c, const sector_options& o) {
  const auto sector = TRY(parse_number(o.sector, "sector"));
  if (o.dry_run)
    return plan_unmap(c, o, sector);
  return show_reply(c, TRY(ask(o.name, "unmap", {{"sector", sector}})),
                    fmt::format("sector {} is back on main", sector));
}

result<exit_code> salvage(context& c, const salvage_options& o) {
  json which = nullptr;
  if (o.sector != "all")
    which = TRY(parse_number(o.sector, "sector (a number, or 'all')"));
  if (o.dry_run)
    return plan_salvage(c, o, which);
  const auto reply = TRY(ask(o.name, "salvage", {{"sector", which}}));
  const auto& figures = part_of(reply, "result");
  return show_reply(
      c, reply,
      fmt::format("{} sectors came back; {} are still lost ({} were tried, {} main may not answer for)",
                  number_in(figures, "recovered"), number_in(figures, "still_lost"),
                  number_in(figures, "tried"), number_in(figures, "not_allowed")));
}

} // namespace dmremap::admin
