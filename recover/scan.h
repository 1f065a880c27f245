// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <iosfwd>

namespace dmremap::recover {

/// The whole of dmremap-scan(8). Returns the exit status. Not thread-safe: it watches for SIGINT and SIGTERM
/// while it searches.
[[nodiscard]] int run_scan(int argc, const char* const* argv, std::ostream& out, std::ostream& err);

} // namespace dmremap::recover
