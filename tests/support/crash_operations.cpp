// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/crash_operations.h"

#include "engine/units.h"

#include <stdexcept>

namespace dmremap::test {

namespace {

constexpr std::uint64_t a = unit_a * unit_sectors, b = unit_b * unit_sectors;
constexpr std::uint64_t weak = 5; ///< the sector of a unit that goes bad

const operation on_a[] = {
    {"write part", [](crash_run& r) { r.write(a + 3, 1); }},
    {"write whole", [](crash_run& r) { r.write(a, unit_sectors); }},
    {"write straddling", [](crash_run& r) { r.write(a + 6, 4); }},
    {"flush", [](crash_run& r) { r.flush(); }},
    {"zero part", [](crash_run& r) { r.zero(a + 3, 4); }},
    {"zero whole", [](crash_run& r) { r.zero(a, unit_sectors); }},
    {"write error",
     [](crash_run& r) {
       r.break_writes(unit_a);
       r.write(a + 2, 2);
     }},
    {"write error, whole",
     [](crash_run& r) {
       r.break_writes(unit_a);
       r.write(a, unit_sectors);
     }},
    {"write error in both",
     [](crash_run& r) {
       r.break_writes(unit_a);
       r.break_writes(unit_b);
       r.write(a + 4, unit_sectors);
     }},
    {"read error",
     [](crash_run& r) {
       r.break_reads(a + weak, 1);
       r.read(a, unit_sectors);
     }},
    {"remap", [](crash_run& r) { r.remap(unit_a); }},
    {"unmap", [](crash_run& r) { r.unmap(unit_a); }},
    {"overwrite lost", [](crash_run& r) { r.write(a + weak, 1); }},
    {"salvage",
     [](crash_run& r) {
       r.heal_reads();
       r.salvage();
     }},
    {"add_remap", [](crash_run& r) { r.add_remap(unit_a, far_spare_unit); }}, // in a chunk not yet prepared
    {"sync", [](crash_run& r) { r.sync(); }},
    {"kill", [](crash_run& r) { r.kill_and_reopen(); }},
    {"close", [](crash_run& r) { r.close_and_reopen(); }},
};

const operation on_b[] = {
    {"B: write part", [](crash_run& r) { r.write(b + 3, 1); }},
    {"B: write error",
     [](crash_run& r) {
       r.break_writes(unit_b);
       r.write(b + 2, 2);
     }},
    {"B: read error",
     [](crash_run& r) {
       r.break_reads(b + weak, 1);
       r.read(b, unit_sectors);
     }},
    {"B: remap", [](crash_run& r) { r.remap(unit_b); }},
    {"B: unmap", [](crash_run& r) { r.unmap(unit_b); }},
};

} // namespace

std::span<const operation> operations_on_a() {
  return on_a;
}
std::span<const operation> operations_on_b() {
  return on_b;
}

const operation& find_operation(const std::string& name) {
  for (const auto& list : {operations_on_a(), operations_on_b()})
    for (const operation& candidate : list)
      if (name == candidate.name)
        return candidate;
  throw std::logic_error("no such operation: " + name);
}

set_state starting_state(const std::string& name, std::uint32_t main_block, std::uint32_t spare_block) {
  set_state state = format_set(replay_units, main_block, spare_block);
  if (name == "fresh")
    return state;
  crash_run run(state, {});
  if (!run.open())
    throw std::runtime_error(run.violations().front());
  if (name == "mapped") {
    run.remap(unit_a);
    run.remap(unit_b);
    run.close_and_reopen();
  } else if (name == "lost") {
    run.break_reads(a + weak, 1);
    run.read(a, unit_sectors);
    run.remap(unit_b);
    run.flush();
  } else if (name == "broken") {
    run.break_writes(unit_a);
    run.break_writes(unit_b);
  } else {
    throw std::logic_error("no such starting state: " + name);
  }
  run.finish();
  if (!run.violations().empty())
    throw std::runtime_error(name + ": " + run.violations().front());
  return run.state();
}

} // namespace dmremap::test
