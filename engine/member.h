// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"
#include "engine/store.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace dmremap {

/// A member as given on a command line: [dust:]PATH[@START+LENGTH], START and LENGTH in sectors.
/// Only a trailing "@digits+digits" is a range; any other '@' belongs to the path.
struct member_spec {
  std::string path; ///< absolute, not resolved further
  bool dust = false;
  std::optional<std::uint64_t> start, length; ///< sectors, multiples of 8; both or neither

  [[nodiscard]] std::string text() const; ///< round-trips through parse_member
};

/// Errors: "bad-member" (usage). Does not touch the file system but to make a relative path absolute.
[[nodiscard]] result<member_spec> parse_member(const std::string& text);

enum class member_role { main, spare };
enum class access_mode {
  read_only,
  read_write,
  degraded ///< as read_write, but a spare that cannot be opened for writing is opened for reading
};

class dust_control; // engine/dust_store.h
class claim;        // engine/claim.h

/// A member opened and claimed; the claim lasts as long as this object or `io`, whichever lives longer.
struct open_member {
  member_spec spec;
  std::shared_ptr<store> io;          ///< range and dust applied
  std::shared_ptr<dust_control> dust; ///< where the member is `dust:`
  std::shared_ptr<claim> held;        ///< shared by the ranges of one device or file
};

/// Opens and claims the members of one set together: one open and one claim per physical device or file,
/// shared by its ranges. Writes nothing. Read-only access takes a shared claim and opens nothing for writing.
/// Errors (each with its own id): not-found, no-permission, not-a-device, too-small-range, range-beyond-end,
/// members-overlap (also of two sets: the other is named), in-use (another set, or O_EXCL refused), mounted,
/// swap, loop-backed (a loop device stands on the file), empty-member, misaligned-range; seldom:
/// block-size-unsupported, open-failed, claim-failed, bad-dust-file.
[[nodiscard]] result<std::vector<open_member>>
open_members(const std::vector<std::pair<member_role, member_spec>>& specs, access_mode mode);

/// Says in the claims' records which set and which process hold them, so that others can name it. Call it
/// once the set's name is known, in the process that stays. Best effort. Not thread-safe.
void name_claims(const std::vector<open_member>& members, const std::string& set_name);

/// What a spare candidate carries, found by libblkid and our own magics.
struct signature {
  std::string type;     ///< blkid's TYPE or PTTYPE ("ext4", "crypto_LUKS", "gpt"), "dmremap", "dm-remap-v4"
  std::string detail;   ///< label/UUID, in words; for "dmremap" the set's name
  std::string set_uuid; ///< for "dmremap"
};

/// All signatures on a store (probes through the store's own reads). Errors: "probe-failed".
[[nodiscard]] result<std::vector<signature>> probe_signatures(store& member);
/// Only the signatures of sets ("dmremap", "dm-remap-v4"). Goes on over what cannot be read, so it also suits
/// a main that has bad sectors already. Superblocks that are damaged or of an unknown version count where no
/// good one is found.
[[nodiscard]] std::vector<signature> probe_set_signatures(store& member);

/// The UUIDs of the spares that good superblocks on it speak of: one, or more where older ones are left over.
[[nodiscard]] std::vector<std::string> spares_named_on(store& member);

/// Sectors at which a copy of the metadata of dm-remap 4 begins; passes over what cannot be read.
[[nodiscard]] std::vector<std::uint64_t> upstream_v4_copies(store& member);

} // namespace dmremap
