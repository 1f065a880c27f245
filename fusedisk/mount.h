// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"
#include "engine/member.h"

#include <string>
#include <vector>

namespace dmremap {

/// Where the image is to appear.
struct mount_place {
  std::string path;  ///< absolute, without links
  bool file = false; ///< a regular file: the image itself takes its place
  std::string image; ///< path, or path/disk.img
};

/// What lies at `path`. A mount that a dead fusedisk left there, and that nobody uses, is taken away first.
/// Errors: "mountpoint-not-found", "bad-mountpoint", "stale-mount", "no-permission".
[[nodiscard]] result<mount_place> find_mount_place(const std::string& path);

/// The same, and takes no mount away: what lies under a dead one is not known, and taken for a folder.
[[nodiscard]] result<mount_place> look_at_mount_place(const std::string& path);

/// "bad-mountpoint" where the place is one of the members: the image would hide it.
[[nodiscard]] result<void> check_no_member(const mount_place& place, const member_spec& main,
                                           const std::vector<member_spec>& spares);

/// Errors: "no-fuse", "no-permission".
[[nodiscard]] result<void> check_fuse_device();

/// "major:minor" of the FUSE mount at the place, or empty: not mounted.
[[nodiscard]] std::string mounted_device(const mount_place& place);

/// The loop devices that stand on the image of the FUSE mount `device`: also those that know it by another
/// path, and not those of an earlier mount at the same place. Asks the devices, which may hang; loops_on() of
/// engine/loop_control.h does not.
[[nodiscard]] std::vector<std::string> loops_standing_on(const mount_place& place, const std::string& device);

/// Who uses the mount, in words: loop devices, processes, mounts.
[[nodiscard]] std::vector<std::string> users_of(const mount_place& place, const std::string& device);

/// Takes the mount away, never by force and never lazily. No error where it is not mounted any more.
/// Errors: "image-in-use" (names the users), "unmount-failed".
[[nodiscard]] result<void> unmount(const mount_place& place, const std::string& device);

/// Takes a mount of our own away that nobody was told of yet, whoever looks into it. False: it could not be.
[[nodiscard]] bool take_away(const mount_place& place);

} // namespace dmremap
