// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/program_context.h"

namespace dmremap::admin {

using context = program_context;

} // namespace dmremap::admin
