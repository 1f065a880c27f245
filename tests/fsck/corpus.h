// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "tests/fsck/images.h"

#include <functional>
#include <string>
#include <vector>

/// Damaged sets, each made from a sound one.
namespace dmremap::test {

enum class expectation {
  same,    ///< after -y the set shows what it showed before the damage, and is clean
  safe,    ///< as `same`, and -p suffices
  clean,   ///< after -y the set is clean; what it shows is right or an error
  left,    ///< some damage is left alone and said; nothing wrong is ever shown
  refused, ///< not for this program to touch: an operational error
  noticed, ///< no damage, but not passed over in silence
};

struct damaged_set {
  std::string name; ///< what is wrong
  unsigned spares = 1;
  bool closed = true;
  bool sealed = false; ///< all checksums are right, the logic is not
  expectation after = expectation::same;
  std::function<void(set_images&)> damage;
};

[[nodiscard]] std::vector<damaged_set> bytes_by_hand(); ///< checksums show it
[[nodiscard]] std::vector<damaged_set> logic_by_hand(); ///< checksums do not

enum class seeded {
  bytes,      ///< copies overwritten, torn, swapped; of every block one current copy is left
  fields,     ///< fields of single copies changed under right checksums
  everywhere, ///< fields changed in all copies alike, under right checksums
};
/// Damages `images`. Returns what was done, in words.
[[nodiscard]] std::string damage_by_seed(set_images& images, std::uint32_t seed, seeded how);

/// DMREMAP_REPLAY=nightly: twenty times as many seeds, ten times as many draws a cut.
[[nodiscard]] bool nightly();

} // namespace dmremap::test
