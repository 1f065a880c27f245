// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/pool_operations.h"

#include "engine/units.h"

#include <stdexcept>

namespace dmremap::test {

namespace {

constexpr std::uint64_t a = unit_a * unit_sectors, b = unit_b * unit_sectors, c = b + unit_sectors;
constexpr std::uint64_t weak = 5; ///< the sector of a unit that goes bad

const operation all[] = {
    {"write A part", [](crash_run& r) { r.write(a + 3, 1); }},
    {"write A whole", [](crash_run& r) { r.write(a, unit_sectors); }},
    {"write B part", [](crash_run& r) { r.write(b + 3, 1); }},
    {"write B whole", [](crash_run& r) { r.write(b, unit_sectors); }},
    {"write straddling", [](crash_run& r) { r.write(a + 6, 4); }},
    {"write both", [](crash_run& r) { r.write(a, 2 * unit_sectors); }},
    {"flush", [](crash_run& r) { r.flush(); }},
    {"zero A", [](crash_run& r) { r.zero(a, unit_sectors); }},
    {"zero straddling", [](crash_run& r) { r.zero(a + 4, unit_sectors); }},
    {"write error A",
     [](crash_run& r) {
       r.break_writes(unit_a);
       r.write(a + 2, 2);
     }},
    {"write error B",
     [](crash_run& r) {
       r.break_writes(unit_b);
       r.write(b + 2, 2);
     }},
    {"read error A",
     [](crash_run& r) {
       r.break_reads(a + weak, 1);
       r.read(a, unit_sectors);
     }},
    {"remap A", [](crash_run& r) { r.remap(unit_a); }},
    {"unmap A", [](crash_run& r) { r.unmap(unit_a); }},
    {"unmap B", [](crash_run& r) { r.unmap(unit_b); }},
    {"overwrite lost", [](crash_run& r) { r.write(a + weak, 1); }},
    {"bad place, written", [](crash_run& r) { r.write_on_bad_place(unit_a, a + 2, 2); }},
    {"bad place, read", [](crash_run& r) { r.read_from_bad_place(unit_a); }},
    {"add", [](crash_run& r) { r.add_spare(); }},
    {"remove 0", [](crash_run& r) { r.remove_spare(0); }},
    {"remove 1", [](crash_run& r) { r.remove_spare(1); }},
    {"evacuate 0", [](crash_run& r) { r.evacuate(0); }},
    {"evacuate 1", [](crash_run& r) { r.evacuate(1); }},
    {"vanish 0", [](crash_run& r) { r.vanish(0); }},
    {"vanish 1", [](crash_run& r) { r.vanish(1); }},
    {"vanish 1 soon", [](crash_run& r) { r.vanish(1, 3); }},
    {"all back", [](crash_run& r) { r.reopen_with_all(); }},
    {"without 0", [](crash_run& r) { r.reopen_without(0); }},
    {"without 1", [](crash_run& r) { r.reopen_without(1); }},
    {"forget", [](crash_run& r) { r.forget(); }},
    {"sync", [](crash_run& r) { r.sync(); }},
    {"kill", [](crash_run& r) { r.kill_and_reopen(); }},
    {"close", [](crash_run& r) { r.close_and_reopen(); }},
};

const operation more[] = {
    {"write C whole", [](crash_run& r) { r.write(c, unit_sectors); }},
    {"unmap C", [](crash_run& r) { r.unmap(unit_b + 1); }},
    {"remove 2", [](crash_run& r) { r.remove_spare(2); }},
    {"evacuate 2", [](crash_run& r) { r.evacuate(2); }},
    {"vanish 2", [](crash_run& r) { r.vanish(2); }},
    {"vanish 0 soon", [](crash_run& r) { r.vanish(0, 4); }},
    {"without 2", [](crash_run& r) { r.reopen_without(2); }},
    {"0 back", [](crash_run& r) { r.reopen_with(0); }},
    {"1 back", [](crash_run& r) { r.reopen_with(1); }},
};

} // namespace

std::span<const operation> pool_operations() {
  return all;
}
std::span<const operation> more_pool_operations() {
  return more;
}

const operation& find_pool_operation(const std::string& name) {
  for (const auto& list : {pool_operations(), more_pool_operations()})
    for (const operation& candidate : list)
      if (name == candidate.name)
        return candidate;
  throw std::logic_error("no such operation: " + name);
}

set_state pool_start(const std::string& name) {
  const unsigned spares = name == "one" ? 1 : name == "three" ? 3 : 2;
  set_state state = format_pool(replay_units, spares, name == "three" ? 0 : 1);
  crash_run run(state, {});
  if (!run.open())
    throw std::runtime_error(run.violations().front());
  if (name != "fresh") {
    run.put_on(0, unit_a);
    if (spares > 1)
      run.put_on(1, unit_b);
    if (spares > 2)
      run.put_on(2, unit_b + 1);
  }
  if (name == "fresh" || name == "spread" || name == "one" || name == "three") {
    run.close_and_reopen();
  } else if (name == "killed") {
    run.read_from_bad_place(unit_a);
    run.flush();
  } else if (name == "gone") {
    run.flush();
    run.vanish(1);
    run.remap(unit_b + 1); // finds that out, too
    run.flush();
  } else {
    throw std::logic_error("no such starting state: " + name);
  }
  run.finish();
  if (!run.violations().empty())
    throw std::runtime_error(name + ": " + run.violations().front());
  return run.state();
}

} // namespace dmremap::test
