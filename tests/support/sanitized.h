// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#if defined(__has_feature) // clang; g++ has macros
#if __has_feature(address_sanitizer)
#define DMREMAP_SANITIZED
#elif __has_feature(thread_sanitizer)
#define DMREMAP_SANITIZED
#define DMREMAP_SANITIZED_THREADS
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define DMREMAP_SANITIZED
#elif defined(__SANITIZE_THREAD__)
#define DMREMAP_SANITIZED
#define DMREMAP_SANITIZED_THREADS
#endif

namespace dmremap::test {

/// True under a sanitizer, where exhaustive searches run a sample: they judge the order of writes, which the
/// release run does in full; here they show memory errors and races.
#if defined(DMREMAP_SANITIZED)
inline constexpr bool sanitized = true;
#else
inline constexpr bool sanitized = false;
#endif
/// The thread sanitizer, which has nothing to see where there is one thread.
#if defined(DMREMAP_SANITIZED_THREADS)
inline constexpr bool sanitized_threads = true;
#else
inline constexpr bool sanitized_threads = false;
#endif

} // namespace dmremap::test
