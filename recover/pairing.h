// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/main_match.h"

#include <string>

/// How sure it is that something is the main of a set: the table of dmremap-reassemble(8), THE MAIN.
namespace dmremap::recover {

enum class pairing { certain, accept, refused };
[[nodiscard]] const char* name_of(pairing p) noexcept; ///< "certain", "needs --accept-main", "refused"

/// What content says: `silent` where the set was not closed cleanly, no sample can be read, or all are zeros.
enum class content { silent, matches, differs };
[[nodiscard]] content content_of(const main_match& m) noexcept;

/// For a main whose size fits. `configured`: this host's configuration of the set names it.
[[nodiscard]] pairing rate(main_match::identity device, content c, bool configured) noexcept;

/// The evidence, in words.
[[nodiscard]] std::string evidence(const main_match& m, bool configured);

} // namespace dmremap::recover
