// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/spare_pool.h"

#include "tests/support/pool_fixture.h"
#include "tests/support/temp_dir.h"

#include <atomic>
#include <chrono>
#include <fstream>
#include <future>
#include <thread>
#include <unistd.h>

using namespace dmremap;
using namespace dmremap::test;
using namespace std::chrono_literals;

namespace {

set_members members_of(const pool_fixture& f) {
  set_members out;
  const auto add = [&](const std::shared_ptr<store>& io) {
    open_member member;
    member.spec.path = io->identity().path;
    member.io = io;
    out.members.push_back(member);
  };
  add(f.main);
  for (const auto& spare : f.spares)
    add(spare);
  return out;
}

/// The folders of this host, the test's own.
struct host {
  temp_dir dir;
  scoped_env run{"DMREMAP_RUN_DIR", dir / "run"}, state{"DMREMAP_STATE_DIR", dir / "state"},
      conf{"DMREMAP_CONF_DIR", dir / "conf"};
  event_log log{log_level::error};
};

/// Returns when the thread of this process sleeps: it waits for a lock.
void wait_until_asleep(pid_t thread) {
  const std::string path = "/proc/self/task/" + std::to_string(thread) + "/stat";
  while (true) {
    const std::string text = slurp(path);
    const auto name_end = text.rfind(") ");
    if (name_end != std::string::npos && text[name_end + 2] == 'S')
      return;
    std::this_thread::yield();
  }
}

} // namespace

TEST_CASE("cancelling an evacuation does not wait for the next one") {
  host here;
  pool_fixture f(3);
  put_on(f, 3, 0, one);
  put_on(f, 4, 1, two);
  const auto place = [&](std::uint64_t unit) { return f.entry(unit)->spare.value * unit_sectors; };
  const auto first = place(3), second = place(4);
  spare_pool pool(*f.set, here.log, members_of(f), *f.set->info(), false, "0:0");

  f.spares[0]->close_gate(first, unit_sectors, direction::read);
  REQUIRE(pool.evacuate(0, false, false));
  f.spares[0]->wait_for_blocked();
  f.spares[0]->add_bad({first, unit_sectors, direction::read, io_error::transient}); // it fails then
  // The next one is asked for: its look at the spares waits, and no other change can begin.
  f.spares[1]->close_gate(second, unit_sectors, direction::read);
  f.spares[2]->close_gate(0, 8, direction::read);
  auto next = std::async(std::launch::async, [&] { return pool.evacuate(1, false, false); });
  f.spares[2]->wait_for_blocked();
  std::promise<pid_t> canceller;
  auto cancelled = std::async(std::launch::async, [&] {
    canceller.set_value(::gettid());
    return pool.stop_evacuation();
  });
  wait_until_asleep(canceller.get_future().get());
  f.spares[0]->open_gate(); // the first one ends,
  while (pool.evacuation().running)
    std::this_thread::sleep_for(1ms);
  f.spares[2]->open_gate(); // and the next one begins
  REQUIRE(next.get());
  f.spares[1]->wait_for_blocked();
  CHECK(cancelled.wait_for(10s) == std::future_status::ready);
  CHECK(pool.evacuation().running);
  f.spares[1]->open_gate();
  CHECK(cancelled.get());
  pool.stop();
}
