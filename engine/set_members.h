// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/disk.h"
#include "engine/host_state.h"
#include "engine/member.h"

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

/// Opening a set by a list of members that may name spares which are away, or which are its spares no more.
namespace dmremap {

/// A spare of the list that the set is opened without.
struct left_out_spare {
  member_spec spec;
  error why;
  std::optional<open_member> member; ///< where its claim is one with that of a member that stays
};

/// Keeps what this host sees of a set in its state folder. Thread-safe.
class host_keeper {
public:
  /// Begins with what is kept of the set already; `trouble` says why that cannot be read.
  host_keeper(const std::string& uuid, std::string& trouble);
  /// What the next open compares with; nothing where the set was not seen before.
  [[nodiscard]] std::optional<std::uint64_t> last_seen() const { return last_seen_; }
  /// A session record is durable on the spares; durable here, too, on return. A failure is told by trouble().
  void note_record(std::uint64_t sequence_end);
  /// Further the set's name and where its spares are: after every change of them. Not how new they are: what
  /// the set counts by now may not be on them yet. Errors: "state-unwritable", never a reason to stop.
  [[nodiscard]] result<void> remember(const disk_info& info, const std::vector<open_member>& members);
  /// Why what was to be kept last could not be; empty where it was. Does not wait for a write under way.
  [[nodiscard]] std::string trouble() const;

private:
  [[nodiscard]] result<void> write(); // with mutex_

  mutable std::mutex trouble_mutex_;
  std::string trouble_;
  std::mutex mutex_;
  host_state state_;
  std::optional<std::uint64_t> last_seen_;
};

struct set_members {
  std::vector<open_member> members; ///< main first
  std::vector<left_out_spare> left_out;
  std::shared_ptr<host_keeper> keeper; ///< of a set that is open
};

/// Says of an error of open_members() that the member is not there, has no size or cannot be opened.
[[nodiscard]] bool is_away(const error& e);

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

/// The member whose store the engine shows under `path`; nothing where it is none of these.
[[nodiscard]] const open_member* member_at(const std::vector<open_member>& members, const std::string& path);

} // namespace dmremap
