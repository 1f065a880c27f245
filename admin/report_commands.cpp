// SPDX-License-Identifier: GPL-2.0-or-later
// status, stats, table, lost: reports on one running set.
#include "admin/commands.h"
#include "admin/figures.h"
#include "admin/live_status.h"
#include "admin/lookup.h"
#include "admin/lost_files.h"
#include "admin/status_format.h"
#include "admin/table_format.h"

#include <nlohmann/json.hpp>
#include <ostream>

namespace dmremap::admin {
namespace {

using nlohmann::json;

bool wants_json(const context& c, const report_options& options) {
  return c.json || options.format == "json";
}

/// The table with the members' names, from the daemon: the segment does not hold it.
struct table_reply {
  json table, status;
};

result<table_reply> fetch(const report_options& options, const char* command) {
  const auto set = TRY(need_running(options.name));
  auto status = TRY(ask(set, "status", {}));
  auto table = TRY(ask(set, command, {}));
  return table_reply{part_of(table, "result"), part_of(status, "result")};
}

} // namespace

result<exit_code> status(context& c, const report_options& options) {
  const auto set = TRY(need_running(options.name));
  const auto now = TRY(live_status(set));
  if (wants_json(c, options)) {
    c.print(now);
  } else if (options.format == "dm") {
    const auto line = status_dm(now);
    if (line.empty())
      return fail("no-answer", set.name, "does not answer, and left no status line");
    c.out << line;
  } else if (options.format == "prometheus") {
    c.out << status_prometheus(now);
  } else {
    c.out << status_text(now);
  }
  return status_exit(now);
}

result<exit_code> stats(context& c, const report_options& options) {
  const auto set = TRY(need_running(options.name));
  const auto now = TRY(live_status(set));
  if (options.format == "prometheus") {
    c.out << status_prometheus(now);
    return exit_code::ok;
  }
  const auto& figures = part_of(now, "stats");
  if (wants_json(c, options)) {
    json value = figures.is_object() ? figures : json::object();
    value["name"] = text_in(now, "name");
    value["answers"] = flag_in(now, "answers");
    value["age_seconds"] = real_in(now, "age_seconds");
    value["spares"] = part_of(now, "spares");
    c.print(std::move(value));
    return exit_code::ok;
  }
  if (!flag_in(now, "answers"))
    c.note(text_in(now, "name") + ": does not answer; these figures are old");
  c.out << stats_text(figures, part_of(now, "spares"));
  return exit_code::ok;
}

result<exit_code> table(context& c, const report_options& options) {
  const auto reply = TRY(fetch(options, "table"));
  if (wants_json(c, options)) {
    json value = reply.table.is_object() ? reply.table : json::object();
    value["name"] = text_in(reply.status, "name");
    value["uuid"] = text_in(reply.status, "uuid");
    value["main"] = part_of(reply.status, "main");
    c.print(std::move(value));
    return exit_code::ok;
  }
  const auto view = TRY(read_table(reply.table, reply.status));
  if (options.format == "dmsetup")
    c.out << TRY(table_dmsetup(view));
  else if (options.format == "ddrescue")
    c.out << ddrescue_map(remapped_ranges(view), view.main_sectors);
  else if (options.format == "badblocks")
    c.out << badblocks_list(remapped_ranges(view), options.block_size);
  else
    c.out << table_text(view);
  return exit_code::ok;
}

result<exit_code> lost(context& c, const report_options& options) {
  const bool for_rsync = options.format == "rsync";
  if (options.files && (options.format == "ddrescue" || options.format == "badblocks"))
    return fail("bad-usage", "lost", "--files goes with --format text, json and rsync", exit_code::usage);
  const auto reply = TRY(fetch(options, "lost"));
  if (options.files || for_rsync)
    return lost_files(c, {text_in(reply.status, "name"), text_in(reply.status, "image"),
                          read_lost(reply.table), for_rsync, options.progress});
  if (wants_json(c, options)) {
    json value = reply.table.is_object() ? reply.table : json::object();
    value["name"] = text_in(reply.status, "name");
    c.print(std::move(value));
    return exit_code::ok;
  }
  const auto ranges = read_lost(reply.table);
  if (options.format == "ddrescue")
    c.out << ddrescue_map(ranges, number_in(part_of(reply.status, "main"), "sectors"));
  else if (options.format == "badblocks")
    c.out << badblocks_list(ranges, options.block_size);
  else
    c.out << lost_text(ranges);
  return exit_code::ok;
}

} // namespace dmremap::admin
