// SPDX-License-Identifier: GPL-2.0-or-later
// Random operations on sets of several spares against a model in memory (pool_model.h): main and spares fail,
// spares vanish in the middle of anything or take no writes any more, stay away, come back, are added,
// emptied, removed and forgotten.
//
// DMREMAP_MODEL_OPS sets the number of operations, DMREMAP_MODEL_SEED the first seed ("random": any).
#include "tests/engine/pool_model.h"
#include "tests/support/sanitized.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdlib>
#include <string>

using namespace dmremap;
using namespace dmremap::test;

namespace {

std::uint64_t number_from(const char* variable, std::uint64_t otherwise) {
  const char* const value = std::getenv(variable);
  if (value != nullptr && std::string(value) == "random")
    return std::random_device{}();
  return value != nullptr ? std::strtoull(value, nullptr, 0) : otherwise;
}

/// One quarter of all operations each with errors of main alone and with broken places, one half with all.
pool_model::tally run_models(pool_faults faults, std::uint64_t quarters) {
  const std::uint64_t all = number_from("DMREMAP_MODEL_OPS", sanitized ? 20000 : 200000), each = 2000;
  const std::uint64_t first = number_from("DMREMAP_MODEL_SEED", 1);
  pool_model::tally sum;
  for (std::uint64_t round = 0; round * each < all * quarters / 4; ++round) {
    INFO("DMREMAP_MODEL_SEED=" << first + round);
    pool_model m(first + round, faults);
    m.run(each);
    sum += m.counts();
  }
  return sum;
}

} // namespace

// A model that meets none of what it is there for proves nothing.

TEST_CASE(
    "while main fails writes only, every read gives what was written and every change has its outcome") {
  const auto met = run_models(pool_faults::main_writes, 1);
  CAPTURE(met.remaps, met.unmaps, met.by_hand, met.moved, met.added, met.removed, met.failed_flushes,
          met.refused_changes);
  CHECK(std::min({met.remaps, met.unmaps, met.by_hand, met.moved, met.added, met.removed, met.failed_flushes,
                  met.refused_changes}) > 0);
  CHECK(met.lost == 0);
  CHECK(met.failed_reads == 0);
}

TEST_CASE("with broken places on main and on spares only what could not be read is lost") {
  const auto met = run_models(pool_faults::places, 1);
  CAPTURE(met.lost, met.salvaged, met.failed_reads, met.unmaps, met.moved, met.removed);
  CHECK(std::min({met.lost, met.salvaged, met.failed_reads, met.unmaps, met.moved, met.removed}) > 0);
}

TEST_CASE("with spares that fail, stay away and return only what they hold is lost") {
  const auto met = run_models(pool_faults::spares, 2);
  CAPTURE(met.vanished, met.rejecting, met.degraded, met.sure_opens, met.refused_opens, met.returned,
          met.added, met.removed, met.evacuated, met.moved, met.forgotten, met.lost, met.salvaged,
          met.failed_reads, met.failed_writes, met.failed_flushes, met.read_from_unwritable);
  CHECK(std::min({met.vanished, met.rejecting, met.degraded, met.sure_opens, met.returned, met.added,
                  met.removed, met.evacuated, met.moved, met.forgotten, met.lost, met.salvaged,
                  met.failed_reads, met.failed_writes, met.failed_flushes, met.read_from_unwritable}) > 0);
}
