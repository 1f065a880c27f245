// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/member.h"
#include "recover/deep_search.h"

#include <string>
#include <vector>

namespace dmremap::recover {

/// Metadata that a search met and that no member is made of, and why.
struct passed_find {
  std::string path;
  deep_find find;
  std::string why;
};

/// What a search of one device comes to.
struct deep_members {
  std::vector<member_spec> members; ///< spares, as ranges; the whole device where it begins there
  std::vector<passed_find> passed;
};

/// Tells spares from blocks that merely lie there: those of a backup image in a data area or in a file
/// system, and what moved to a spare unit by unit. A spare begins where its blocks say, fits on the device,
/// and lies in no other. Behind the beginning of the device it shows two superblock copies at least, and lies
/// in nothing that libblkid knows, unless `known` (ranges that somebody named) has it. `carries`: the type of
/// file system or the like that the whole device is; empty for none.
[[nodiscard]] deep_members members_among(const std::string& path, std::uint64_t bytes,
                                         const deep_state& state, const std::string& carries,
                                         const std::vector<byte_range>& known);

} // namespace dmremap::recover
