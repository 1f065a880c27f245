// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/named_dump.h"

#include "engine/config.h"
#include "engine/control_client.h"
#include "recover/targets.h"

#include <nlohmann/json.hpp>

namespace dmremap::recover {
namespace {

result<set_dump> live_dump(const running_set& set) {
  return dump_in_reply(TRY(control_request(set.dir, "dump", nullptr, std::nullopt)), set.name);
}

} // namespace

result<set_dump> dump_in_reply(const nlohmann::json& reply, const std::string& name) {
  const nlohmann::json::json_pointer place("/result/dump");
  if (!reply.contains(place) || !reply.at(place).is_string())
    return fail("bad-reply", name, "the reply of the daemon is not understood");
  return parse_dump_text(reply.at(place).get_ref<const std::string&>(), name, false);
}

result<std::vector<member_spec>> named_spares(const std::string& name) {
  const auto config = TRY(find_set_config(name));
  std::vector<member_spec> found;
  std::string absent;
  for (const auto& text : config.spares) {
    const auto spec = TRY(parse_member(text));
    if (storage_of(spec))
      found.push_back(spec);
    else
      absent += (absent.empty() ? "" : ", ") + text;
  }
  if (found.empty())
    return fail("not-found", absent,
                "the spares of " + config.name + " are not there; dmremap-scan looks for them");
  return found;
}

result<set_dump> dump_named(const std::string& name, const dump_options& how) {
  if (const auto set = find_running_set(name); set && set->alive)
    return live_dump(*set);
  const auto config = TRY(find_set_config(name));
  const auto spares = TRY(named_spares(name));
  auto dump = TRY(load_dump(spares, how));
  if (const auto uuid = to_text(dump.newest().set_uuid); uuid != config.uuid)
    return fail("wrong-set", name,
                "is the set " + config.uuid +
                    " by its configuration, but what lies on the spares named there is the set " +
                    dump.newest().set_name + " (" + uuid +
                    "): the devices have other names now; dmremap-scan finds them");
  return dump;
}

} // namespace dmremap::recover
