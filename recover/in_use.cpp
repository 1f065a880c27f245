// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/in_use.h"

#include "engine/device_identity.h"
#include "engine/units.h"

#include <sys/stat.h>

namespace dmremap::recover {

std::optional<claim_owner> served_by(const storage& bottom) {
  auto owner = find_claim_owner({bottom.block, bottom.device, bottom.inode},
                                {bottom.bytes.start, bottom.bytes.start + unit_bytes});
  return owner && owner->writing ? owner : std::nullopt;
}

result<void> check_not_served(const member_spec& spec) {
  const auto bottom = TRY(find_storage(spec));
  if (const auto owner = served_by(bottom))
    return fail("in-use", spec.text(),
                "is in use by " + owner->text() + (owner->set.empty() ? "" : "; name the set instead"));
  return {};
}

} // namespace dmremap::recover
