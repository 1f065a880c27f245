// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <iosfwd>

namespace dmremap::admin {

/// The whole program `dmremap`. Returns its exit status (dmremap(8), EXIT STATUS). Reports go to `out`,
/// errors to `err`; with --json an error is an object on `out`, too. Not thread-safe: it starts processes and
/// waits for them.
[[nodiscard]] int run(int argc, const char* const* argv, std::ostream& out, std::ostream& err);

} // namespace dmremap::admin
