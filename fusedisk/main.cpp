// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/run.h"

#include <iostream>

int main(int argc, char** argv) {
  return dmremap::run_fusedisk(argc, argv, std::cout, std::cerr);
}
