// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"
#include "fusedisk/daemon.h"

#include <iosfwd>

namespace dmremap {

/// Opens the set for reading only, says on `out` what serve() would serve, as text or as one JSON object, and
/// closes it again. Writes nothing, mounts nothing and takes no mount away. `err` gets what the open has to
/// tell. Errors: those of serve(), as far as they come from what is read.
[[nodiscard]] result<void> show_what_would_be_served(const daemon_settings& settings, bool json,
                                                     std::ostream& out, std::ostream& err);

} // namespace dmremap
