// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/member.h"
#include "fsck/inspect.h"

#include <memory>
#include <string>
#include <vector>

namespace dmremap::fsck {

struct fsck_members {
  std::vector<spare_input> spares;
  std::shared_ptr<store> main; ///< null: not given, not known
  std::string uuid;            ///< of the set, where it was named and not its spares
  std::vector<std::string> notes;
};

/// Opens and claims the spares of a set, by its configured name or UUID, or as they are named. `writing`: for
/// writing, and nobody else may hold them; else for reading, and nobody may write them. Main, where it is
/// named or configured, is opened for reading only. Spares of a configured set that are not there are left
/// out and noted. Errors: as open_members (a set in use is refused), "no-such-set".
[[nodiscard]] result<fsck_members> open_to_check(const std::vector<std::string>& names,
                                                 const std::string& main, bool writing);

} // namespace dmremap::fsck
