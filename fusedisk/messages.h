// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"
#include "fusedisk/control_target.h"

#include <cstdint>
#include <string>
#include <vector>

namespace dmremap {

/// Carries out one message of dmremap(8), MESSAGES, and returns the text that answers it. `words` may come as
/// several arguments or as one with blanks. `sector` is what dmsetup(8) would have; it must be 0. Errors:
/// "bad-message" (usage), "unknown-message" (usage; names all messages), and those of the engine. May wait
/// for a drive; see waits_for_drives().
[[nodiscard]] result<std::string> run_message(control_target& target, const std::vector<std::string>& words,
                                              std::uint64_t sector);

/// False: run_message with these words answers at once, whatever the drives do.
[[nodiscard]] bool waits_for_drives(const std::vector<std::string>& words);

/// The spare that a person names by UUID, path or index. Errors: "no-such-spare".
[[nodiscard]] result<spare_status> find_spare(const disk_info& info, const std::string& text);

/// add_remap, from the spare that is named. Where none is: the first on which enough free units lie next to
/// each other, or, with a `source`, the one that choose_spare() finds.
[[nodiscard]] result<remap_reply> add_remap_by_hand(control_target& target, sector_number dest,
                                                    std::optional<sector_number> source,
                                                    std::uint64_t sectors, std::optional<unsigned> spare);
/// The first spare that has room for `sectors`, its head included, else the first that is present.
[[nodiscard]] unsigned choose_spare(const disk_info& info, std::uint64_t sectors);

/// What a person reads after remap and add_remap.
[[nodiscard]] std::string text_of(const remap_reply& reply);
[[nodiscard]] std::string text_of(const salvage_reply& reply);
[[nodiscard]] std::string text_of(const spare_add_reply& reply);
[[nodiscard]] std::string text_of(const spare_change_reply& reply);

} // namespace dmremap
