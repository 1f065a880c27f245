// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"

#include <functional>

namespace dmremap {

/// To be called once the work goes on for long: what fails afterwards is no failure to start.
using serving_hook = std::function<void()>;

/// Forks. The child runs `body` in a session of its own and never returns from here; the parent returns as
/// soon as the child called the hook (then with success), failed (then with the child's error), or died
/// ("daemon-died"). Call before any thread starts.
[[nodiscard]] result<void> run_in_background(const std::function<result<void>(const serving_hook&)>& body);

} // namespace dmremap
