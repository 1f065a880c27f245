// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"
#include "engine/member.h"
#include "fusedisk/background.h"
#include "fusedisk/log.h"
#include "fusedisk/options.h"

#include <string>
#include <vector>

namespace dmremap {

/// What is to be served, and how.
struct daemon_settings {
  member_spec main;
  std::vector<member_spec> spares;
  std::string uuid; ///< not empty: the set that it must be
  std::string mountpoint;
  mount_options options;
};

/// The command line, with what the configuration of --name adds. Errors: those of load_set_config,
/// "bad-option".
[[nodiscard]] result<daemon_settings> settings_of(const command_line& line);

/// Opens the set, mounts, serves, and returns when the mount is gone and the set is closed. `serving` is
/// called once everything answers. SIGTERM and SIGINT unmount, if nobody uses the image. Call before any
/// thread starts.
[[nodiscard]] result<void> serve(const daemon_settings& settings, event_log::sink log_sink,
                                 const serving_hook& serving);

} // namespace dmremap
