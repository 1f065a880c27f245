// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/spare_status.h"

#include "admin/figures.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <strings.h>

namespace dmremap::admin {

using nlohmann::json;

result<json> find_spare(const json& status, const std::string& word) {
  const bool dust = word.rfind("dust:", 0) == 0;
  const auto is_it = [&](const json& one) {
    const auto path = text_in(one, "path");
    return strcasecmp(word.c_str(), text_in(one, "uuid").c_str()) == 0 ||
           word == std::to_string(number_in(one, "index", UINT64_MAX)) ||
           (!path.empty() && (word == path || "dust:" + word == path || (dust && word.substr(5) == path)));
  };
  for (const auto& one : part_of(status, "spares"))
    if (is_it(one))
      return one;
  return fail("no-such-spare", word, "the set has no such spare; `dmremap spare list` names them");
}

std::uint64_t free_units(const json& spare) {
  if (spare.is_object() && spare.contains("free_units"))
    return number_in(spare, "free_units");
  if (!flag_in(spare, "present", true) || flag_in(spare, "draining")) // a daemon that does not tell it
    return 0;
  const auto usable = number_in(spare, "usable_units");
  return usable - std::min(usable, number_in(spare, "allocated_units"));
}

std::uint64_t free_units(const json& status, const json& but) {
  std::uint64_t all = 0;
  for (const auto& one : part_of(status, "spares"))
    if (but.is_null() || text_in(one, "uuid") != text_in(but, "uuid"))
      all += free_units(one);
  return all;
}

} // namespace dmremap::admin
