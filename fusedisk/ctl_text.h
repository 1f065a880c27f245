// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "fusedisk/control_target.h"

#include <string>
#include <string_view>

namespace dmremap {

/// The content of MOUNTPOINT/ctl/NAME, one of image_tree::ctl_names, from the same functions as the replies
/// of the control socket. May wait half a second for a drive.
[[nodiscard]] std::string ctl_text(control_target& target, std::string_view name);

} // namespace dmremap
