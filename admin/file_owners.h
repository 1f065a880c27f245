// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

/// To whom places of a file system belong.
namespace dmremap::admin {

/// Bytes of the file system's device.
struct place {
  std::uint64_t at = 0, length = 0;
};

struct owned_place {
  std::string path;         ///< relative to the file system's root; "" is the root itself
  std::string kind;         ///< "data", "attributes", "folder", "link" (where a symbolic link points to)
  std::uint64_t offset = 0; ///< bytes in the file
  place where;
};

struct other_place {
  std::string kind; ///< "free", "metadata", "unknown" (in use, by nothing that has a name)
  place where;
};

struct owners {
  std::vector<owned_place> files; ///< by path, then by offset
  std::vector<other_place> others;
  std::vector<std::string> notes; ///< what could not be looked at, in words
};

/// How far it is: of all.
using show_progress = std::function<void(std::uint64_t, std::uint64_t)>;

/// Who owns the places `lost` (ascending, without overlap) of a file system whose files tell where they lie
/// by themselves (FIEMAP: ext2 to ext4, xfs). Looks at every file below the folder `top`, which must be the
/// root of the file system; reads no data. Preallocated blocks that were never written are nobody's: reading
/// them does not touch the disk.
[[nodiscard]] result<owners> owners_by_extents(int top, const std::vector<place>& lost,
                                               const show_progress& show);

/// The same of a btrfs, by its back references. `top`: its top-level subvolume; `device_id`: which of its
/// devices the places lie on. A compressed extent that is hit is hit whole. Errors: "files-failed".
[[nodiscard]] result<owners> owners_on_btrfs(int top, std::uint64_t device_id, const std::vector<place>& lost,
                                             const show_progress& show);

/// Opens `path` below `folder`; never leaves it, follows no symbolic link. -1 with errno where it cannot.
[[nodiscard]] int open_below(int folder, const std::string& path, int flags);

} // namespace dmremap::admin
