// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "tests/support/temp_dir.h"

#include <string>
#include <sys/types.h>

namespace dmremap::test {

/// Whether the thread of this process sleeps: it waits for a lock.
inline bool is_asleep(pid_t thread) {
  const std::string text = slurp("/proc/self/task/" + std::to_string(thread) + "/stat");
  const auto name_end = text.rfind(") ");
  return name_end != std::string::npos && text[name_end + 2] == 'S';
}

} // namespace dmremap::test
