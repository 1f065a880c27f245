// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/staying_alive.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif
#ifndef MCL_ONFAULT
#define MCL_ONFAULT 4
#endif

namespace dmremap {
namespace {

void go_without(event_log& log, const std::string& what, int why) {
  log.warn(what + " refused (" + std::strerror(why) +
           "): going on without; under heavy memory pressure the disk may stall");
}

/// With MCL_FUTURE every later mapping beyond RLIMIT_MEMLOCK fails, unless we have CAP_IPC_LOCK: try it out.
bool may_map_beyond_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
    return true;
  const std::size_t length = static_cast<std::size_t>(limit.rlim_cur) + (std::size_t{1} << 20U);
  void* probe = mmap(nullptr, length, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (probe == MAP_FAILED)
    return false;
  munmap(probe, length);
  return true;
}

/// 0, or why not. MCL_ONFAULT: what is never touched (thread stacks, spare buffers) takes no memory.
int lock_memory() {
  const rlimit all{RLIM_INFINITY, RLIM_INFINITY};
  [[maybe_unused]] const int raised = setrlimit(RLIMIT_MEMLOCK, &all);
  if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0)
    return errno;
  if (may_map_beyond_limit())
    return 0;
  munlockall();
  return EPERM;
}

/// One heap for all threads, and pieces of 128 KiB and more go back to the system when they are freed. By
/// itself malloc gives each thread a heap of its own and soon keeps pieces of up to 32 MiB in it: tables of
/// spares that came and went, locked in memory.
void keep_heap_small() {
#ifdef __GLIBC__
  constexpr int large = 128 * 1024;
  (void)mallopt(M_ARENA_MAX, 1); // cannot fail; a threshold that is set is not raised any more
  (void)mallopt(M_MMAP_THRESHOLD, large);
  (void)mallopt(M_TRIM_THRESHOLD, large);
#endif
}

} // namespace

void stay_alive(event_log& log) {
  keep_heap_small();
  if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0)
    go_without(log, "PR_SET_IO_FLUSHER", errno);
  if (const int why = lock_memory(); why != 0)
    go_without(log, "locking memory", why);
  std::ofstream score("/proc/self/oom_score_adj");
  score << "-1000" << std::flush;
  if (!score)
    go_without(log, "oom_score_adj -1000", EACCES);
  std::ifstream limit("/proc/sys/fs/fuse/default_request_timeout");
  if (unsigned seconds = 0; limit >> seconds && seconds != 0)
    log.warn("fs.fuse.default_request_timeout is " + std::to_string(seconds) +
             " s: the kernel cuts this mount off when a drive takes longer; set it to 0");
}

} // namespace dmremap
