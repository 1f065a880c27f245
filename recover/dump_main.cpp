// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/dump.h"

#include <csignal>
#include <iostream>

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN); // a reader that went away is a write error, not a reason to die half-way
  std::signal(SIGXFSZ, SIG_IGN); // a limit on the size of files is a write error, too
  return dmremap::recover::run_dump(argc, argv, std::cout, std::cerr);
}
