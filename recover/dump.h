// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <iosfwd>

namespace dmremap::recover {

/// The whole of dmremap-dump(8). Returns the exit status.
[[nodiscard]] int run_dump(int argc, const char* const* argv, std::ostream& out, std::ostream& err);

} // namespace dmremap::recover
