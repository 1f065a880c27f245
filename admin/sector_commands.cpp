// SPDX-License-Identifier: GPL-2.0-or-later
// remap, unmap, salvage: commands about sectors of a running set; with --dry-run, what they would do.
#include "admin/commands.h"
#include "admin/figures.h"
#include "admin/lookup.h"
#include "admin/reply.h"
#include "admin/spare_status.h"
#include "admin/table_format.h"
#include "engine/progress.h"
#include "engine/units.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <fmt/format.h>
#include <future>
#include <nlohmann/json.hpp>
#include <ostream>

namespace dmremap::admin {
namespace {

using nlohmann::json;

/// What a command of a running set is judged by before it is given. Errors: "read-only", as the command
/// itself would have it.
struct outlook {
  table_view table;
  json status;
};

result<outlook> look_at(const std::string& name, const std::string& what) {
  const auto set = TRY(need_running(name));
  const auto status = TRY(ask(set, "status", {}));
  const auto table = TRY(ask(set, "table", {}));
  const auto& now = part_of(status, "result");
  if (flag_in(now, "read_only"))
    return fail("read-only", what, "the set is open read-only");
  return outlook{TRY(read_table(part_of(table, "result"), now)), now};
}

std::string sector_text(std::uint64_t sector) {
  return fmt::format("sector {}", sector);
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

result<exit_code> plan_remap(const context& c, const sector_options& o, std::uint64_t sector) {
  const auto now = TRY(look_at(o.name, sector_text(sector)));
  const auto* row = TRY(row_of(now.table, o.name, sector));
  const auto first = sector / unit_sectors * unit_sectors;
  if (row == nullptr && free_units(now.status, nullptr) == 0)
    return fail("no-spare-capacity", sector_text(sector), "No spare capacity available");
  return show_plan(
      c, {{"sector", first}, {"remapped", row != nullptr}},
      row == nullptr
          ? fmt::format("the unit of sectors from {} would be moved to a spare, with its data", first)
          : fmt::format("the unit of sectors from {} lies on {} already: nothing would change", first,
                        now.table.spares[row->spare]));
}

result<exit_code> plan_unmap(const context& c, const sector_options& o, std::uint64_t sector) {
  const auto now = TRY(look_at(o.name, sector_text(sector)));
  const auto* row = TRY(row_of(now.table, o.name, sector));
  const auto first = sector / unit_sectors * unit_sectors;
  if (row == nullptr)
    return fail("not-remapped", sector_text(sector), "is not remapped");
  if (!flag_in(part_of(now.status, "spares")[row->spare], "present", true))
    return fail("spare-absent", sector_text(sector),
                "its unit is on a spare that is absent, or takes no writes");
  if (row->lost != 0)
    return fail("lost-sectors", sector_text(sector),
                "its unit has lost sectors; salvage them or write them first, then remove the remap");
  return show_plan(
      c, {{"sector", first}, {"remapped", true}, {"lost_sectors", 0}},
      fmt::format("the unit of sectors from {} would be written back to main, read back, and its remap "
                  "forgotten",
                  first));
}

result<exit_code> plan_salvage(const context& c, const salvage_options& o, const json& which) {
  const auto now = TRY(look_at(o.name, "salvage"));
  const auto& view = now.table;
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

namespace {

/// Asks for it and, while the daemon works, how far it is.
result<json> salvage_and_show(const context& c, const salvage_options& o, const json& which) {
  constexpr std::chrono::milliseconds look{250};
  const auto set = TRY(need_running(o.name));
  progress bar(c.err, "reading main again", o.progress);
  auto reply = std::async(std::launch::async, [&] { return ask(set, "salvage", {{"sector", which}}); });
  while (reply.wait_for(look) != std::future_status::ready)
    if (const auto said = ask(set, "salvaging", {}))
      if (const auto& now = part_of(*said, "result"); flag_in(now, "running"))
        bar.show(number_in(now, "done"), number_in(now, "all"));
  auto done = reply.get();
  if (done && o.progress >= 0)
    if (const auto said = ask(set, "salvaging", {})) {
      const auto all = number_in(part_of(*said, "result"), "all");
      bar.show(all, all);
    }
  return done;
}

} // namespace

result<exit_code> salvage(context& c, const salvage_options& o) {
  json which = nullptr;
  if (o.sector != "all")
    which = TRY(parse_number(o.sector, "sector (a number, or 'all')"));
  if (o.dry_run)
    return plan_salvage(c, o, which);
  const auto reply = TRY(salvage_and_show(c, o, which));
  const auto& figures = part_of(reply, "result");
  return show_reply(c, reply,
                    fmt::format("{} came back, {} still lost (tried: {}; main may not answer for: {})",
                                counted(number_in(figures, "recovered"), "sector"),
                                number_in(figures, "still_lost"), number_in(figures, "tried"),
                                number_in(figures, "not_allowed")));
}

} // namespace dmremap::admin
