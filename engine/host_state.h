// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace dmremap {

/// What this host saw last of a set, kept in state_dir()/sets/UUID.json. It tells a spare that was restored
/// from an old copy, and where an absent spare used to be.
struct host_state {
  std::string uuid, name;
  std::uint64_t sequence_end = 0;            ///< disk_info::sequence_end
  std::map<std::string, std::string> spares; ///< UUID: the member as it was given
};

/// What the file of this set says; nothing where it is damaged, or is another set's.
[[nodiscard]] std::optional<host_state> parse_host_state(std::string_view text, const std::string& uuid);
[[nodiscard]] std::string host_state_text(const host_state& state);
/// Nothing where this host has not seen the set, or cannot tell: `trouble` then says why, in words.
[[nodiscard]] std::optional<host_state> read_host_state(const std::string& uuid, std::string& trouble);
/// Replaces what is kept; durable on return. Errors: "state-unwritable".
[[nodiscard]] result<void> write_host_state(const host_state& state);
/// For a set that ends. Best effort.
void remove_host_state(const std::string& uuid);

} // namespace dmremap
