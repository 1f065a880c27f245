// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/codec.h"
#include "engine/store.h"

namespace dmremap {

/// Reads a unit; false where it cannot be read or lies behind the end. Then `into` means nothing.
[[nodiscard]] inline bool read_unit(store& io, spare_unit place, block_bytes& into) {
  return byte_of(place) + unit_bytes <= io.size() && io.read(into.span(), byte_of(place)).has_value();
}

} // namespace dmremap
