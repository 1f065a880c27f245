// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

/// The spares in a daemon's reply to `status`, for what is judged before it is asked for.
namespace dmremap::admin {

/// The one that `word` names: its number, its UUID or its member, as the daemon has it. Errors:
/// "no-such-spare".
[[nodiscard]] result<nlohmann::json> find_spare(const nlohmann::json& status, const std::string& word);

/// Units of one spare that a remap can be given: what is free in its head, for add_remap by hand, is not
/// counted, and nothing is where it takes no new data.
[[nodiscard]] std::uint64_t free_units(const nlohmann::json& spare);
/// The same of all spares of a status; `but` (null: none) is left out.
[[nodiscard]] std::uint64_t free_units(const nlohmann::json& status, const nlohmann::json& but);

} // namespace dmremap::admin
