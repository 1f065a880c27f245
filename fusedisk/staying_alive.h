// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "fusedisk/log.h"

namespace dmremap {

/// Keeps the kernel from making this process wait for the very disk that it serves: memory is locked,
/// allocations do not write dirty pages back, the out-of-memory killer looks elsewhere. What is refused is
/// logged and done without. malloc is told to keep little of what is freed. Call before any thread starts:
/// threads inherit it.
void stay_alive(event_log& log);

} // namespace dmremap
