// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/reply.h"

#include <nlohmann/json.hpp>
#include <ostream>

namespace dmremap::admin {

using nlohmann::json;

exit_code show_reply(const context& c, const json& reply, const std::string& otherwise) {
  if (c.json) {
    auto value = reply.value("result", json::object());
    if (!value.is_object())
      value = {{"result", value}};
    if (reply.contains("text"))
      value["text"] = reply["text"];
    c.print(std::move(value));
    return exit_code::ok;
  }
  std::string text =
      reply.contains("text") && reply["text"].is_string() ? reply["text"].get<std::string>() : "";
  if (text.empty())
    text = otherwise;
  if (!text.empty())
    c.out << text << (text.back() == '\n' ? "" : "\n");
  return exit_code::ok;
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

} // namespace dmremap::admin
