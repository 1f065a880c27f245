// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/member.h"

#include <cstdint>
#include <functional>
#include <string>

namespace dmremap::recover {

struct metadata_image {
  std::string path;
  std::uint64_t bytes = 0;      ///< copied
  std::uint64_t unreadable = 0; ///< units of metadata; they are zeros in the file
};

/// Copies the metadata of a spare, sound or not, to the same places of a new sparse file of the spare's size
/// in `folder`, which is made where it is not there: superblocks, the tables, and the tables of other spares
/// that lie there. No data: every sound superblock in it gets image_incompat, so that nothing serves it. The
/// file is `number`.img. `show` is called with the bytes that were looked at, and all that are to be. Durable
/// on return. Errors: "in-use", "output-failed", those of open_to_read; "spare-too-small".
[[nodiscard]] result<metadata_image>
write_metadata_image(const member_spec& spare, const std::string& folder, unsigned number,
                     const std::function<void(std::uint64_t done, std::uint64_t all)>& show = {});

} // namespace dmremap::recover
