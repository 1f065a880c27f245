// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/disk.h"
#include "engine/error.h"
#include "engine/set_dump.h"

#include <string>

namespace dmremap {

/// state_dir()/backup/UUID.dump: the text of dmremap-dump(8), of a set as it was when it was made, or closed
/// last. The one before it is beside it as UUID.dump.1.
[[nodiscard]] std::string backup_path(const std::string& uuid);
/// Larger tables are passed over: closing a set must not take minutes. Some 150 MB of text.
inline constexpr std::size_t most_backup_slots = 2'000'000;

/// Keeps a dump there; durable on return, and the one before it stays whatever fails. Whether it was kept:
/// not with more than most_backup_slots. Errors: "backup-unwritable", never a reason to stop.
[[nodiscard]] result<bool> keep_backup(const set_dump& d);

/// The same of a set that is closed, or open read-only. Why there is no backup of it as it is now, for a
/// person; empty: it was kept.
[[nodiscard]] std::string backup_or_why(disk& set);

} // namespace dmremap
