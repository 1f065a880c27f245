// SPDX-License-Identifier: GPL-2.0-or-later
// Commands that are one request to the daemon.
#include "admin/commands.h"
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

result<exit_code> sync(context& c, const std::string& name) {
  return carry_out(c, name, "sync", {}, "synced");
}

result<exit_code> set(context& c, const std::string& name, const std::string& setting) {
  const auto equals = setting.find('=');
  if (equals == std::string::npos || equals == 0)
    return fail("bad-setting", setting, "is not KEY=VALUE; `dmremap get NAME` shows the keys",
                exit_code::usage);
  const auto key = setting.substr(0, equals), value = setting.substr(equals + 1);
  return carry_out(c, name, "set", {{"key", key}, {"value", value}}, "");
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
