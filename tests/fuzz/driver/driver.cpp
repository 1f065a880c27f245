// SPDX-License-Identifier: GPL-2.0-or-later
// What libFuzzer calls; compiled once for each target. DMREMAP_FUZZ_RUN is the target's function;
// DMREMAP_FUZZ_MUTATE, where it is defined, its mutator.
#include "tests/fuzz/fuzz.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    dmremap::fuzz::DMREMAP_FUZZ_RUN({data, size});
  } catch (const dmremap::fuzz::violation& what) {
    std::fprintf(stderr, "VIOLATION: %s\n", what.what());
    std::abort();
  }
  return 0;
}

#ifdef DMREMAP_FUZZ_MUTATE
extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most,
                                               unsigned seed) {
  std::minstd_rand random(seed);
  if (random() % 3 == 0)
    return LLVMFuzzerMutate(data, size, most);
  std::vector<std::uint8_t> bytes(data, data + size);
  for (unsigned i = 0, changes = 1 + random() % 3; i < changes; ++i)
    dmremap::fuzz::DMREMAP_FUZZ_MUTATE(bytes, random);
  bytes.resize(std::min(bytes.size(), most));
  if (!bytes.empty())
    std::memcpy(data, bytes.data(), bytes.size());
  return bytes.size();
}
#endif
