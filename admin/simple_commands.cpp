// SPDX-License-Identifier: GPL-2.0-or-later
// Commands that are one request to the daemon.
#include "admin/commands.h"
#include "admin/figures.h"
#include "admin/lookup.h"
#include "admin/reply.h"

#include <algorithm>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <ostream>

namespace dmremap::admin {
namespace {

using nlohmann::json;

result<exit_code> carry_out(const context& c, const std::string& name, const std::string& command,
                            const json& args, const std::string& otherwise) {
  return show_reply(c, TRY(ask(name, command, args)), otherwise);
}

} // namespace

result<exit_code> sync(context& c, const sync_options& o) {
  if (!o.dry_run)
    return carry_out(c, o.name, "sync", {}, "synced");
  const auto reply = TRY(ask(o.name, "status", {}));
  const auto& now = part_of(reply, "result");
  const auto& spares = part_of(now, "spares");
  const auto present = static_cast<std::uint64_t>(std::count_if(
      spares.begin(), spares.end(), [](const json& spare) { return flag_in(spare, "present", true); }));
  const bool only_read = flag_in(now, "read_only");
  return show_plan(c, {{"members", present + 1}, {"metadata", !only_read}},
                   fmt::format("{}main and {} would be flushed",
                               only_read ? "the set is open read-only: " : "a superblock would be written; ",
                               counted(present, "spare")));
}

result<exit_code> set(context& c, const set_options& o) {
  const auto equals = o.setting.find('=');
  if (equals == std::string::npos || equals == 0)
    return fail("bad-setting", o.setting, "is not KEY=VALUE; `dmremap get NAME` shows the keys",
                exit_code::usage);
  const auto key = o.setting.substr(0, equals), value = o.setting.substr(equals + 1);
  json args{{"key", key}, {"value", value}};
  if (!o.dry_run)
    return carry_out(c, o.name, "set", args, "");
  args["dry_run"] = true;
  static_cast<void>(TRY(ask(o.name, "set", args))); // what is wrong with it, as the daemon says
  const auto reply = TRY(ask(o.name, "get", {{"key", key}}));
  const auto now = text_in(part_of(reply, "result"), key.c_str());
  return show_plan(c, {{"key", key}, {"value", value}, {"now", now}},
                   now == value ? fmt::format("{} is {} already: nothing would change", key, value)
                                : fmt::format("{} would be {}; it is {}", key, value, now));
}

result<exit_code> get(context& c, const std::string& name, const std::string& key) {
  const auto reply = TRY(ask(name, "get", {{"key", key.empty() ? json(nullptr) : json(key)}}));
  if (c.json)
    return show_reply(c, reply, "");
  const auto values = reply.value("result", json::object());
  for (const auto& [one, value] : values.items()) {
    const auto text = value.is_string() ? value.get<std::string>() : value.dump();
    c.out << (key.empty() ? one + "=" : "") << text << '\n';
  }
  return exit_code::ok;
}

result<exit_code> message(context& c, const std::string& name, const std::string& sector,
                          const std::vector<std::string>& words) {
  if (TRY(parse_number(sector, "sector")) != 0)
    return fail("bad-message-sector", sector,
                "the sector of a message is 0: the set is one target from its start", exit_code::usage);
  // The daemon takes one argument apart at blanks; several stay as they are, so that a path may hold blanks.
  if (words.empty() || words.front().find_first_not_of(" \t\n") == std::string::npos)
    return fail("no-message", name, "there is no message; `dmremap message " + name + " 0 help` lists them",
                exit_code::usage);
  return carry_out(c, name, "message", {{"words", words}, {"sector", 0}}, "");
}

result<exit_code> dust(context& c, const std::string& name, const std::string& store,
                       const std::vector<std::string>& words) {
  static const std::vector<std::string> plain{"countbadblocks", "listbadblocks", "clearbadblocks", "enable",
                                              "disable"};
  static const std::vector<std::string> modes{"read", "write", "both"};
  const auto usage = [&](const std::string& why) {
    return fail("bad-dust", words.front(), why, exit_code::usage);
  };
  const std::string& op = words.front();
  json args{{"store", store}, {"op", op}};
  const bool changes = op == "addbadblock" || op == "removebadblock";
  std::size_t next = 1;
  if (changes || op == "queryblock") {
    if (next >= words.size())
      return usage("needs a sector");
    args["sector"] = TRY(parse_number(words[next++], "sector"));
  } else if (std::count(plain.begin(), plain.end(), op) == 0) {
    return usage(
        "is none of addbadblock, removebadblock, queryblock, countbadblocks, listbadblocks, clearbadblocks, "
        "enable, disable");
  }
  if (changes) {
    const bool has_mode = next < words.size() && std::count(modes.begin(), modes.end(), words[next]) > 0;
    args["mode"] = has_mode ? words[next++] : "both";
    args["count"] = 1;
    if (next < words.size())
      args["count"] = TRY(parse_number(words[next++], "count of sectors, nor read, write or both"));
  }
  if (next < words.size())
    return usage("does not take '" + words[next] + "'");
  return carry_out(c, name, "dust", args, "");
}

} // namespace dmremap::admin
