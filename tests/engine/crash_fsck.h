// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "tests/support/crash_judge.h"

namespace dmremap::test {

/// For judge_options::repair: dmremap-fsck on what a crash left behind, as with -n, -y and -n again, of all
/// spares but those absent.
[[nodiscard]] std::string check_and_repair(set_state& state, const absent_spares& absent);

} // namespace dmremap::test
