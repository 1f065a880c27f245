// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/lookup.h"

#include "engine/config.h"
#include "engine/parse_number.h"

#include <nlohmann/json.hpp>

namespace dmremap::admin {
namespace {

tl::unexpected<error> daemon_died(const running_set& set) {
  return fail("daemon-died", set.name,
              "its daemon died without stopping; `dmremap detach " + set.name +
                  "` clears away what is left, then `dmremap attach " + set.name + "` starts it again");
}

} // namespace

std::optional<running_set> find_served(const std::string& name_or_uuid) {
  auto set = find_running_set(name_or_uuid);
  if (!set)
    if (const auto config = find_set_config(name_or_uuid))
      set = find_running_set(config->uuid);
  return set;
}

result<running_set> need_running(const std::string& name_or_uuid) {
  auto set = find_served(name_or_uuid);
  if (set && set->alive)
    return std::move(*set);
  if (set)
    return daemon_died(*set);
  const auto config = TRY(find_set_config(name_or_uuid));
  return fail("not-running", config.name,
              "is not running; start it with `dmremap attach " + config.name + "`");
}

result<void> need_stopped(const std::string& name_or_uuid) {
  const auto set = find_served(name_or_uuid);
  if (set && set->alive)
    return fail("set-running", set->name,
                "is running; stop it first with `dmremap detach " + set->name + "`");
  if (set)
    return daemon_died(*set);
  return {};
}

result<nlohmann::json> ask(const std::string& name_or_uuid, const std::string& command,
                           const nlohmann::json& args) {
  return ask(TRY(need_running(name_or_uuid)), command, args);
}

result<std::uint64_t> parse_number(const std::string& text, const std::string& what) {
  if (const auto value = dmremap::parse_number(text))
    return *value;
  return fail("bad-number", text, "is no " + what, exit_code::usage);
}

} // namespace dmremap::admin
