// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"
#include "engine/units.h"

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

/// The arguments of a request on the control socket. Errors: "bad-request", naming the argument.
namespace dmremap {

[[nodiscard]] tl::unexpected<error> bad_request(const std::string& what, const std::string& why);
[[nodiscard]] result<std::string> text_argument(const nlohmann::json& args, const char* key);
[[nodiscard]] result<std::uint64_t> number_argument(const nlohmann::json& args, const char* key);
[[nodiscard]] bool is_absent(const nlohmann::json& args, const char* key);
[[nodiscard]] result<sector_number> sector_argument(const nlohmann::json& args, const char* key);
/// False where it is absent.
[[nodiscard]] result<bool> flag_argument(const nlohmann::json& args, const char* key);
/// Empty where it is absent.
[[nodiscard]] result<std::vector<std::string>> list_argument(const nlohmann::json& args, const char* key);

} // namespace dmremap
