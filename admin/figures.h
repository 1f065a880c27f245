// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/counted.h"

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

/// Reading the daemon's figures: what is absent or of another kind is the default, so that a newer or older
/// daemon costs a figure and not the whole report.
namespace dmremap::admin {

[[nodiscard]] std::uint64_t number_in(const nlohmann::json& object, const char* key,
                                      std::uint64_t otherwise = 0);
[[nodiscard]] std::string text_in(const nlohmann::json& object, const char* key,
                                  const std::string& otherwise = "");
[[nodiscard]] bool flag_in(const nlohmann::json& object, const char* key, bool otherwise = false);
[[nodiscard]] double real_in(const nlohmann::json& object, const char* key, double otherwise = 0);
/// The member, or null.
[[nodiscard]] const nlohmann::json& part_of(const nlohmann::json& object, const char* key);

/// "12.5 GiB", exact below 10 KiB: "4096 bytes".
[[nodiscard]] std::string size_text(std::uint64_t bytes);
using dmremap::counted;

} // namespace dmremap::admin
