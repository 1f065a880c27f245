// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/codec.h"
#include "engine/store.h"

#include <cstdint>
#include <optional>
#include <string>

namespace dmremap {

/// What a spare remembers of its main, held against something that may be it (promise 7). Facts, no
/// judgement.
struct main_match {
  enum class identity {
    unknown, ///< nothing that both sides know: a file, a device without serial number
    same,    ///< at least one of serial number, WWN, partition UUID is the same, and none differs
    differs
  };
  bool size_fits = false;
  identity device = identity::unknown;
  std::string difference;     ///< which of them differs, and how, in words
  bool samples_valid = false; ///< the set was closed cleanly: content proves something
  unsigned taken = 0;         ///< content samples that could be compared
  unsigned wrong = 0;         ///< of these: differ
  unsigned telling = 0;       ///< of these: same, and not just zeros
};

/// Reads up to 16 units of `main`; none where the size does not fit or samples are not valid.
[[nodiscard]] main_match match_main(const superblock& record, store& main);

/// CRC32 of one of the 16 sampled units of main; nothing where it cannot be read.
[[nodiscard]] std::optional<std::uint32_t> take_sample(store& main, std::uint64_t main_sectors,
                                                       unsigned index);

/// Superblocks of a spare at the front of what should be main: the two were swapped, or it is some set's
/// spare.
[[nodiscard]] bool looks_like_spare(store& main);

} // namespace dmremap
