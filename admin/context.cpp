// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/context.h"

#include <nlohmann/json.hpp>
#include <ostream>

namespace dmremap::admin {

void context::print(nlohmann::json value) const {
  nlohmann::ordered_json ordered;
  ordered["schema"] = json_schema;
  for (auto& [key, item] : value.items())
    if (key != "schema")
      ordered[key] = item;
  // Paths need not be UTF-8: what is not is shown replaced rather than not at all.
  out << ordered.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << '\n';
}

int context::report(const error& failure) const {
  if (json)
    print({{"error", {{"id", failure.id}, {"what", failure.what}, {"why", failure.why}}}});
  err << "dmremap: " << failure.text() << '\n';
  return static_cast<int>(failure.code);
}

void context::note(const std::string& text) const {
  err << "dmremap: " << text << '\n';
}

} // namespace dmremap::admin
