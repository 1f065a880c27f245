// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/set_dump.h"

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

/// The JSON form of a dump; see dmremap-dump(8), JSON.
namespace dmremap::recover {

[[nodiscard]] nlohmann::json dump_json(const set_dump& d);
/// Errors: those of parse_dump_text().
[[nodiscard]] result<set_dump> parse_dump_json(const nlohmann::json& doc, const std::string& name,
                                               bool any_checksum);
/// Text or JSON, whichever it is. Errors: those of parse_dump_text().
[[nodiscard]] result<set_dump> parse_dump(std::string_view text, const std::string& name, bool any_checksum);
/// What parse_dump() makes of the file; "-" is standard input. Further errors: "not-a-file",
/// "dump-unreadable".
[[nodiscard]] result<set_dump> read_dump(const std::string& path, bool any_checksum);

} // namespace dmremap::recover
