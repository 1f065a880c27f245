// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "fusedisk/control_target.h"

#include <functional>
#include <string>
#include <string_view>

namespace dmremap {

/// Takes a piece of the reply; false: the peer is gone, write no more.
using reply_sink = std::function<bool(std::string_view)>;

/// Answers one request of engine/CONTROL.md (a JSON object, without its newline) with one reply and its
/// newline. Thread-safe as far as the target is.
void answer_request(control_target& target, const std::string& request, const reply_sink& send);

/// False: answer_request answers it at once, whatever the drives do (at most after half a second).
[[nodiscard]] bool request_waits_for_drives(const std::string& request);

/// The status object of engine/CONTROL.md as JSON text, indented: what ctl/ and the command `status` show.
[[nodiscard]] std::string status_json(control_target& target);

} // namespace dmremap
