// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <iosfwd>

namespace dmremap {

/// The program fusedisk(8): returns what it exits with. In the background mode the daemon itself never
/// returns.
[[nodiscard]] int run_fusedisk(int argc, const char* const* argv, std::ostream& out, std::ostream& err);

} // namespace dmremap
