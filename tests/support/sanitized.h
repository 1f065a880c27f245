// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

namespace dmremap::test {

/// True under a sanitizer, where exhaustive searches run a sample: they judge the order of writes, which the
/// release run does in full; here they show memory errors and races.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool sanitized = true;
#else
inline constexpr bool sanitized = false;
#endif
/// The thread sanitizer, which has nothing to see where there is one thread.
#if defined(__SANITIZE_THREAD__)
inline constexpr bool sanitized_threads = true;
#else
inline constexpr bool sanitized_threads = false;
#endif

} // namespace dmremap::test
