// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/named_dump.h"

#include "engine/config.h"
#include "engine/control_client.h"
#include "recover/targets.h"

#include <nlohmann/json.hpp>

namespace dmremap::recover {
namespace {

result<set_dump> live_dump(const running_set& set) {
  const auto reply = TRY(control_request(set.dir, "dump", nullptr, std::nullopt));
  const auto& text = reply.at("result").at("dump").get_ref<const std::string&>();
  return parse_dump_text(text, set.name, false);
}

} // namespace

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
  return load_dump(TRY(named_spares(name)), how);
}

} // namespace dmremap::recover
