// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "admin/context.h"
#include "admin/fstab.h"
#include "admin/table_line.h"
#include "admin/udev_rule.h"
#include "engine/geometry.h"
#include "engine/member.h"

#include <string>
#include <vector>

namespace dmremap::admin {

struct planned_member {
  member_spec spec;
  member_measure measure;
  std::uint64_t sectors = 0;         ///< of the opened member
  geometry places;                   ///< of a spare
  std::vector<signature> signatures; ///< of a spare: what goes
};

/// All that `create` is about to do, or did.
struct create_plan {
  std::string name, uuid; ///< no UUID before it was made
  planned_member main;
  std::vector<planned_member> spares;
  std::vector<std::string> adjustments;
  std::string config_file; ///< empty: none is written
  udev_rule udev;
  std::vector<fstab_conflict> fstab;
  enum class outcome { planned, created, opened } done = outcome::planned;
};

void report_plan(const context& c, const create_plan& plan);

} // namespace dmremap::admin
