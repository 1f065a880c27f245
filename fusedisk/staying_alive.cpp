// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/staying_alive.h"

#include <cerrno>
#include <cstring>
#include <fstream>
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
  log.warn(what + " refused (" + std::strerror(why) + "): going on without; under heavy memory pressure the disk may stall");
}

void raise_memory_limit() {
  // mlockall with MCL_FUTURE makes every later mapping fail that goes beyond the limit: lift it, or leave it be.
  const rlimit all{RLIM_INFINITY, RLIM_INFINITY};
  [[maybe_unused]] const int done = setrlimit(RLIMIT_MEMLOCK, &all);
}

bool memory_is_unlimited() {
  rlimit limit{};
  return getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur == RLIM_INFINITY;
}

} // namespace

void stay_alive(event_log& log) {
  if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0)
    go_without(log, "PR_SET_IO_FLUSHER", errno);
  raise_memory_limit();
  if (!memory_is_unlimited())
    go_without(log, "locking memory", EPERM);
  else if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0)
    go_without(log, "mlockall", errno);
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
