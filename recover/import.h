// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <iosfwd>

namespace dmremap::recover {

/// The whole of dmremap-import(8). Returns the exit status.
[[nodiscard]] int run_import(int argc, const char* const* argv, std::ostream& out, std::ostream& err);

} // namespace dmremap::recover
