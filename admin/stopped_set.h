// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "admin/finding.h"
#include "admin/set_list.h"

#include <vector>

namespace dmremap::admin {

/// Of a set that does not run. One that is configured is opened for reading only, as `attach` would open it:
/// what that says of its members and its metadata. Writes nothing; reads all of the metadata, so it waits for
/// a drive that hangs.
[[nodiscard]] std::vector<finding> findings_of_stopped(const listed_set& set);

} // namespace dmremap::admin
