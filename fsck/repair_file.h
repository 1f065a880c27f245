// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "fsck/plan.h"

#include <string>

/// Plans and undo logs as files: comment lines that say in words what is done, then one JSON object a line.
/// Both have the same form: a plan with what was there before can be taken back.
///
///     # dmremap-fsck: repair of set demo ...
///     {"dmremap_repair":2,"set":..,"uuid":..,"fingerprint":..,"supers":..,"members":[{"uuid":..,"path":..}]}
///     {"member":0,"unit":128,"step":7,"group":0,"reason":..,"old":HEX or null,"new":HEX}
///     {"end":1,"crc32":..}
///
/// HEX leaves off zeros at the end of the 4096 bytes. The checksum is that of all bytes before its line.
namespace dmremap::fsck {

[[nodiscard]] std::string format_plan(const repair_plan& plan);
/// Errors: "bad-repair-file" (`path` is for messages only).
[[nodiscard]] result<repair_plan> parse_plan(const std::string& text, const std::string& path);

/// Reads a file made by format_plan. Errors: "bad-repair-file", "not-found".
[[nodiscard]] result<repair_plan> load_plan(const std::string& path);
/// Durable on return; an existing file is never replaced. Errors: "repair-file-unwritable".
[[nodiscard]] result<void> save_plan(const repair_plan& plan, const std::string& path);

/// A name under the host's state folder that says which set and when, and that no file has.
[[nodiscard]] std::string new_undo_path(const repair_plan& plan);

} // namespace dmremap::fsck
