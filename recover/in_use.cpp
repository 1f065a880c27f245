// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/in_use.h"

#include "engine/device_identity.h"
#include "engine/units.h"

#include <sys/stat.h>

namespace dmremap::recover {

std::optional<claim_owner> served_by(const member_spec& spec, const storage& bottom) {
  struct stat st {};
  if (::stat(spec.path.c_str(), &st) != 0)
    return std::nullopt;
  const auto at = [](const claim_target& on, std::uint64_t start) {
    auto owner = find_claim_owner(on, {start, start + unit_bytes});
    return owner && owner->writing ? owner : std::nullopt;
  };
  if (S_ISBLK(st.st_mode)) { // a claim on a loop device is on it, not on what is below
    const auto extent = extent_of(st.st_rdev);
    if (auto owner = at({true, extent.disk, 0}, extent.start + spec.start.value_or(0) * sector_bytes))
      return owner;
  }
  return at({bottom.block, bottom.device, bottom.inode}, bottom.bytes.start);
}

result<void> check_not_served(const member_spec& spec) {
  const auto bottom = TRY(find_storage(spec));
  if (const auto owner = served_by(spec, bottom))
    return fail("in-use", spec.text(),
                "is in use by " + owner->text() + (owner->set.empty() ? "" : "; name the set instead"));
  return {};
}

} // namespace dmremap::recover
