// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/control_commands.h"

#include "engine/dust_store.h"
#include "engine/set_dump.h"
#include "engine/stats_fields.h"
#include "fusedisk/control_arguments.h"
#include "fusedisk/control_json.h"
#include "fusedisk/messages.h"
#include "fusedisk/replies.h"

#include <array>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace dmremap {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

/// What a command answers: "text" and "result" of the reply.
struct answer {
  std::string text;
  json value = json::object();
};

result<answer> do_ping(control_target&, const json&) {
  return answer{"pong"};
}

result<answer> do_status(control_target& t, const json&) {
  json value = json_of_status(t);
  return answer{value.at("dm").get<std::string>(), std::move(value)};
}

result<answer> do_stats(control_target& t, const json&) {
  const auto stats = t.stats();
  return answer{stats_text(stats), stats_json(stats)};
}

result<answer> do_lost(control_target& t, const json&) {
  json list = json::array();
  std::string text;
  for (const auto& range : t.lost()) {
    list.push_back({{"sector", range.first.value}, {"count", range.count}});
    text += fmt::format("{}{} {}", text.empty() ? "" : "\n", range.first.value, range.count);
  }
  return answer{text, {{"lost", std::move(list)}}};
}

result<answer> do_remap(control_target& t, const json& args) {
  const auto sector = TRY(sector_argument(args, "sector"));
  const auto sectors = is_absent(args, "sectors") ? 1 : TRY(number_argument(args, "sectors"));
  constexpr std::uint64_t most = 65536; // the daemon does not stop in the middle
  if (sectors > most)
    return bad_request("sectors", "at most 65536 in one request");
  const auto reply = TRY(t.remap(sector, sectors));
  return answer{text_of(reply), json_of(reply)};
}

result<answer> do_unmap(control_target& t, const json& args) {
  const auto sector = TRY(sector_argument(args, "sector"));
  CHECK_OK(t.unmap(sector));
  return answer{fmt::format("sector {}: written back to main; its remap is gone", sector.value)};
}

result<spare_status> spare_argument(control_target& t, const json& args) {
  const auto named = TRY(text_argument(args, "spare"));
  return find_spare(t.info(info_patience).info, named);
}

result<answer> do_add_remap(control_target& t, const json& args) {
  const auto dest = TRY(sector_argument(args, "dest"));
  const auto sectors = TRY(number_argument(args, "sectors"));
  std::optional<sector_number> source;
  if (!is_absent(args, "source"))
    source = TRY(sector_argument(args, "source"));
  std::optional<unsigned> spare;
  if (!is_absent(args, "spare"))
    spare = TRY(spare_argument(t, args)).index;
  const auto reply = TRY(add_remap_by_hand(t, dest, source, sectors, spare));
  return answer{text_of(reply), json_of(reply)};
}

result<answer> do_salvage(control_target& t, const json& args) {
  std::optional<sector_number> sector;
  if (!is_absent(args, "sector"))
    sector = TRY(sector_argument(args, "sector"));
  const auto r = TRY(t.salvage(sector));
  return answer{text_of(r),
                {{"tried", r.tried},
                 {"recovered", r.recovered},
                 {"not_allowed", r.not_allowed},
                 {"still_lost", r.still_lost}}};
}

result<answer> do_salvaging(control_target& t, const json&) {
  const auto now = t.salvaging();
  return answer{now.running ? fmt::format("{} of {} units tried", now.done, now.all) : "no salvage runs",
                {{"running", now.running}, {"done", now.done}, {"all", now.all}}};
}

result<answer> do_sync(control_target& t, const json&) {
  CHECK_OK(t.sync());
  return answer{"metadata and data synced"};
}

result<answer> do_save(control_target& t, const json&) {
  CHECK_OK(t.save());
  return answer{"metadata saved"};
}

result<answer> do_clear_stats(control_target& t, const json&) {
  t.clear_stats();
  return answer{"statistics cleared"};
}

result<answer> do_reset_breaker(control_target& t, const json&) {
  t.reset_breaker();
  return answer{"breaker reset; automatic remapping goes on"};
}

tl::unexpected<error> bad_setting(const std::string& key, const std::string& why) {
  return fail("bad-setting", key, why, exit_code::usage);
}

result<answer> do_set(control_target& t, const json& args) {
  const auto key = TRY(text_argument(args, "key"));
  const auto value = TRY(text_argument(args, "value"));
  const bool dry_run = TRY(flag_argument(args, "dry_run"));
  if (key == "auto_remap") {
    if (value != "0" && value != "1")
      return bad_setting(key, "it takes 0 or 1");
    if (!dry_run)
      t.set_auto_remap(value == "1");
  } else if (key == "read_retries") {
    if (value.empty() || value.size() > 3 || value.find_first_not_of("0123456789") != std::string::npos ||
        std::stoul(value) > 100)
      return bad_setting(key, "it takes a number from 0 to 100");
    if (!dry_run)
      t.set_read_retries(static_cast<unsigned>(std::stoul(value)));
  } else if (key == "log_level") {
    const auto level = parse_log_level(value);
    if (!level)
      return bad_setting(key, level.error().why);
    if (!dry_run)
      t.set_logging(*level);
  } else {
    return bad_setting(key, "there is no such setting; there are: auto_remap, read_retries, log_level");
  }
  return answer{key + "=" + value};
}

result<answer> do_get(control_target& t, const json& args) {
  const json all = {{"auto_remap", t.stats().auto_remap ? "1" : "0"},
                    {"read_retries", std::to_string(t.read_retries())},
                    {"log_level", name_of(t.logging())}};
  json chosen = all;
  if (!is_absent(args, "key")) {
    const auto key = TRY(text_argument(args, "key"));
    if (!all.contains(key))
      return bad_setting(key, "there is no such setting; there are: auto_remap, read_retries, log_level");
    chosen = {{key, all.at(key)}};
  }
  std::string text;
  for (const auto& [key, value] : chosen.items())
    text += (text.empty() ? "" : "\n") + key + "=" + value.get<std::string>();
  return answer{text, std::move(chosen)};
}

result<answer> do_rename(control_target& t, const json& args) {
  const auto name = TRY(text_argument(args, "name"));
  CHECK_OK(t.rename(name));
  return answer{"the set is now called " + name};
}

result<answer> do_dust(control_target& t, const json& args) {
  const auto store = TRY(text_argument(args, "store"));
  const auto control = TRY(t.dust(store));
  std::vector<std::string> words = {TRY(text_argument(args, "op"))};
  for (const char* key : {"sector", "mode", "count"})
    if (const auto it = args.find(key); it != args.end() && !it->is_null())
      words.push_back(it->is_string() ? it->get<std::string>() : it->dump());
  return answer{TRY(control->command(words))};
}

result<answer> do_message(control_target& t, const json& args) {
  if (is_absent(args, "words"))
    return bad_request("words", "a list of texts is wanted");
  const auto words = TRY(list_argument(args, "words"));
  const std::uint64_t sector = is_absent(args, "sector") ? 0 : TRY(number_argument(args, "sector"));
  return answer{TRY(run_message(t, words, sector))};
}

result<answer> do_spare_add(control_target& t, const json& args) {
  spare_add_request request;
  request.member = TRY(text_argument(args, "member"));
  request.wipe = TRY(list_argument(args, "wipe"));
  if (!is_absent(args, "destroy_set"))
    request.destroy_set = TRY(text_argument(args, "destroy_set"));
  request.sparse = TRY(flag_argument(args, "sparse"));
  request.dry_run = TRY(flag_argument(args, "dry_run"));
  const auto r = TRY(t.spare_add(request));
  return answer{text_of(r),
                {{"member", r.member},
                 {"uuid", r.uuid.empty() ? json(nullptr) : json(r.uuid)},
                 {"index", request.dry_run ? json(nullptr) : json(r.index)},
                 {"dry_run", request.dry_run},
                 {"usable_units", r.units},
                 {"wiped", r.wiped},
                 {"configuration_problem", r.configuration.empty() ? json(nullptr) : json(r.configuration)}}};
}

result<answer> do_spare_remove(control_target& t, const json& args) {
  const auto spare = TRY(spare_argument(t, args));
  const bool dry_run = TRY(flag_argument(args, "dry_run"));
  const auto r = TRY(t.spare_remove(spare.uuid, dry_run));
  return answer{dry_run ? "spare " + r.uuid + " would be removed: it serves nothing" : text_of(r),
                {{"member", r.member},
                 {"uuid", r.uuid},
                 {"dry_run", dry_run},
                 {"erased", !dry_run && r.erased},
                 {"configuration_problem", r.configuration.empty() ? json(nullptr) : json(r.configuration)}}};
}

result<answer> do_spare_forget(control_target& t, const json& args) {
  const auto spare = TRY(spare_argument(t, args));
  const bool dry_run = TRY(flag_argument(args, "dry_run"));
  const auto r = TRY(t.spare_forget(spare.uuid, dry_run));
  json told = json_of(r);
  told["dry_run"] = dry_run;
  return answer{fmt::format("{} unit{} with {} sector{} {} lost", r.units, r.units == 1 ? "" : "s",
                            r.lost_sectors, r.lost_sectors == 1 ? "" : "s",
                            dry_run ? "would become" : "became"),
                std::move(told)};
}

result<answer> do_spare_evacuate(control_target& t, const json& args) {
  const auto spare = TRY(spare_argument(t, args));
  const bool dry_run = TRY(flag_argument(args, "dry_run"));
  const bool partial = TRY(flag_argument(args, "partial"));
  const auto now = TRY(t.spare_evacuate(spare.uuid, dry_run, partial));
  return answer{dry_run ? fmt::format("{} units would move to the other spares", now.all)
                        : "evacuating spare " + now.path,
                json_of(now)};
}

result<answer> do_evacuation(control_target& t, const json&) {
  const auto now = t.evacuation();
  return answer{now.running ? fmt::format("{} of {} units moved", now.done, now.all) : "no evacuation runs",
                json_of(now)};
}

result<answer> do_stop_evacuation(control_target& t, const json&) {
  CHECK_OK(t.stop_evacuation());
  return answer{"the evacuation is stopped; what was moved stays moved", json_of(t.evacuation())};
}

result<answer> do_spare_refill(control_target& t, const json& args) {
  const auto spare = TRY(spare_argument(t, args));
  CHECK_OK(t.spare_refill(spare.uuid));
  return answer{"the spare takes new data again"};
}

result<answer> do_stop(control_target& t, const json&) {
  CHECK_OK(t.stop());
  return answer{"stopping"};
}

struct command {
  std::string_view name;
  bool slow; ///< may wait for a drive without a limit
  result<answer> (*run)(control_target&, const json&);
};

/// `table` and `dump` are not here: their replies are sent in pieces.
constexpr std::array commands = {
    command{"ping", false, do_ping},
    command{"status", false, do_status},
    command{"stats", false, do_stats},
    command{"lost", false, do_lost},
    command{"remap", true, do_remap},
    command{"unmap", true, do_unmap},
    command{"add_remap", true, do_add_remap},
    command{"salvage", true, do_salvage},
    command{"salvaging", false, do_salvaging},
    command{"sync", true, do_sync},
    command{"save", true, do_save},
    command{"clear_stats", false, do_clear_stats},
    command{"reset_breaker", false, do_reset_breaker},
    command{"set", false, do_set},
    command{"get", false, do_get},
    command{"rename", true, do_rename},
    command{"dust", false, do_dust},
    command{"message", false, do_message}, // see request_waits_for_drives
    command{"spare_add", true, do_spare_add},
    command{"spare_remove", true, do_spare_remove},
    command{"spare_forget", true, do_spare_forget},
    command{"spare_evacuate", true, do_spare_evacuate}, // begins; the work has a thread of its own
    command{"evacuation", false, do_evacuation},
    command{"stop_evacuation", true, do_stop_evacuation},
    command{"spare_refill", true, do_spare_refill},
    command{"stop", true, do_stop},
};

std::string finish(json reply) {
  reply["v"] = 1;
  // Paths may hold bytes that are not UTF-8: shown as such, not a reason to throw.
  return reply.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

std::string failure_reply(const error& e) {
  return finish(
      {{"ok", false},
       {"error", {{"id", e.id}, {"what", e.what}, {"why", e.why}, {"code", static_cast<int>(e.code)}}}});
}

struct request {
  std::string command;
  json args;
};

/// Copying and printing JSON is a recursion: a megabyte of brackets must not reach it. No request has more
/// than three levels.
constexpr int deepest_level = 8;

result<request> parse(const std::string& text) {
  bool too_deep = false;
  const auto keep = [&](int depth, json::parse_event_t, json&) {
    too_deep = too_deep || depth > deepest_level;
    return depth <= deepest_level;
  };
  json doc = json::parse(text, keep, false);
  if (too_deep)
    return bad_request("request", "it is nested too deeply");
  if (!doc.is_object())
    return bad_request("request", "it is not a JSON object");
  if (!doc.contains("v") || doc["v"] != 1)
    return fail("bad-version", "request", "this daemon speaks version 1 of the control protocol");
  request out;
  out.command = TRY(text_argument(doc, "cmd"));
  out.args = is_absent(doc, "args") ? json::object() : doc["args"];
  if (!out.args.is_object())
    return bad_request("args", "an object is wanted");
  return out;
}

/// A table may have millions of rows: it is never held as a whole.
void send_table(control_target& t, const reply_sink& send) {
  const disk_info info = t.info(milliseconds{0}).info;
  std::string piece = R"({"v":1,"ok":true,"text":"","result":{"remaps":[)";
  bool first = true, alive = true;
  t.for_each_remap([&](const remap_entry& e) {
    if (!alive)
      return;
    const auto* where = spare_at(info, e.spare_index);
    const std::string spare = where != nullptr ? where->uuid : "";
    piece += fmt::format(R"({}{{"main_sector":{},"spare":"{}","spare_sector":{},"sectors":{},"lost_mask":{},)"
                         R"("may_answer_mask":{},"kind":"{}","sequence":{}}})",
                         first ? "" : ",", first_sector(e.main).value, spare, e.spare.value * unit_sectors,
                         sectors_of(e.main, info.main_sectors), unsigned{e.lost}, unsigned{e.main_may_answer},
                         e.by_hand ? "explicit" : "remap", e.sequence);
    first = false;
    if (piece.size() >= 64 * 1024) {
      alive = send(piece);
      piece.clear();
    }
  });
  piece += "]}}\n";
  if (alive)
    send(piece);
}

/// So is a dump: its text, escaped as a JSON string, which its quotes and line breaks need only.
void send_dump(control_target& t, const reply_sink& send) {
  const auto d = t.dump();
  bool alive = send(R"({"v":1,"ok":true,"text":"","result":{"dump":")");
  write_dump_text(*d, [&](std::string_view text) {
    std::string piece;
    for (const char c : text)
      if (c == '\n')
        piece += "\\n";
      else if (c == '"' || c == '\\')
        (piece += '\\') += c;
      else
        piece += c;
    alive = alive && send(piece);
  });
  if (alive)
    send("\"}}\n");
}

} // namespace

void answer_request(control_target& target, const std::string& text, const reply_sink& send) {
  const auto asked = parse(text);
  if (!asked) {
    send(failure_reply(asked.error()));
    return;
  }
  if (asked->command == "table")
    return send_table(target, send);
  if (asked->command == "dump")
    return send_dump(target, send);
  for (const auto& c : commands) {
    if (c.name != asked->command)
      continue;
    auto answered = c.run(target, asked->args);
    send(answered ? finish({{"ok", true}, {"text", answered->text}, {"result", std::move(answered->value)}})
                  : failure_reply(answered.error()));
    return;
  }
  send(failure_reply(
      error{"unknown-command", asked->command, "this daemon knows no such command", exit_code::usage}));
}

bool request_waits_for_drives(const std::string& text) {
  const auto asked = parse(text);
  if (!asked)
    return false;
  if (asked->command == "table" || asked->command == "dump")
    return true; // not for a drive, but for a reader that takes its time
  if (asked->command == "message") {
    std::vector<std::string> words;
    if (const auto it = asked->args.find("words"); it != asked->args.end() && it->is_array())
      for (const auto& word : *it)
        words.push_back(word.is_string() ? word.get<std::string>() : std::string{});
    return waits_for_drives(words);
  }
  for (const auto& c : commands)
    if (c.name == asked->command)
      return c.slow;
  return false;
}

std::string status_json(control_target& target) {
  return json_of_status(target).dump(2, ' ', false, json::error_handler_t::replace);
}

} // namespace dmremap
