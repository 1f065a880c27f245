// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/disk.h"
#include "engine/member.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

/// Opening a set by a list of members that may name spares which are away, or which are its spares no more.
namespace dmremap {

/// A spare of the list that the set is opened without.
struct left_out_spare {
  member_spec spec;
  error why;
};

struct set_members {
  std::vector<open_member> members; ///< main first
  std::vector<left_out_spare> left_out;
};

/// As open_members(), but spares whose device or file is not there, has no size or cannot be opened are left
/// out. At least one stays, or the first one's error is returned. Main must be there; so must whatever is in
/// use.
[[nodiscard]] result<set_members> open_set_members(const member_spec& main,
                                                   const std::vector<member_spec>& spares, access_mode mode);

/// disk::open() with what is there. Left out further: spares that carry no metadata at all, beside others
/// that do, and those that the set does not list any more. What is missing then is for the engine to judge;
/// its error names the members that were left out and why. Where `accept_older` is not set, what this host
/// saw last of the set goes to open_options::last_seen. `notices` get what the caller should show. A set
/// opened for writing is remembered. Errors: those of disk::open.
[[nodiscard]] result<std::unique_ptr<disk>> open_disk(set_members& from, open_options how, bool accept_older,
                                                      std::vector<std::string>& notices);

/// Keeps what this host saw of the set now: call it after every change of its spares. Errors:
/// "state-unwritable", never a reason to stop.
[[nodiscard]] result<void> remember_set(const disk_info& info, const std::vector<open_member>& members);

/// The member whose store the engine shows under `path`; nothing where it is none of these.
[[nodiscard]] const open_member* member_at(const std::vector<open_member>& members, const std::string& path);

} // namespace dmremap
