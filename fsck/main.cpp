// SPDX-License-Identifier: GPL-2.0-or-later
#include "fsck/run.h"

#include <csignal>
#include <iostream>
#include <unistd.h>

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN); // a reader that went away is a write error, not a reason to die half-way
  std::signal(SIGXFSZ, SIG_IGN); // a limit on the size of files is a write error, too
  const bool terminal = ::isatty(STDIN_FILENO) != 0 && ::isatty(STDOUT_FILENO) != 0;
  return dmremap::fsck::run(argc, argv, {std::cin, std::cout, std::cerr, terminal});
}
