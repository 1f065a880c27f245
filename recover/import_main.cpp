// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/import.h"

#include <csignal>
#include <iostream>

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN); // a reader that went away is a write error, not a reason to die half-way
  return dmremap::recover::run_import(argc, argv, std::cout, std::cerr);
}
