// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/spare_pool.h"

#include "engine/config.h"
#include "tests/support/asleep.h"
#include "tests/support/pool_fixture.h"
#include "tests/support/temp_dir.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <future>
#include <thread>
#include <unistd.h>

using namespace dmremap;
using namespace dmremap::test;
using namespace std::chrono_literals;

namespace {

open_member member_of(const std::shared_ptr<store>& io) {
  open_member member;
  member.spec.path = io->identity().path;
  member.io = io;
  return member;
}

set_members members_of(const pool_fixture& f) {
  set_members out;
  out.members.push_back(member_of(f.main));
  for (const auto& spare : f.spares)
    out.members.push_back(member_of(spare));
  return out;
}

void gone_after(memory_store& drive, unsigned writes) {
  fault_table faults;
  faults.all = io_error::gone;
  faults.all_after_writes = writes;
  drive.set_faults(faults);
}

/// The folders of this host, the test's own.
struct host {
  temp_dir dir;
  scoped_env run{"DMREMAP_RUN_DIR", dir / "run"}, state{"DMREMAP_STATE_DIR", dir / "state"},
      conf{"DMREMAP_CONF_DIR", dir / "conf"};
  event_log log{log_level::error};
};

/// Of what tells nobody that it has come.
void wait_until(const std::function<bool()>& there) {
  const auto start = std::chrono::steady_clock::now();
  while (!there()) {
    if (std::chrono::steady_clock::now() - start > 60s)
      FAIL("it has not come after a minute");
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
  REQUIRE(pool.evacuate(f.status(0).uuid, false, false));
  f.spares[0]->wait_for_blocked();
  f.spares[0]->add_bad({first, unit_sectors, direction::read, io_error::transient}); // it fails then
  const std::string next_uuid = f.status(1).uuid;
  // The next one is asked for: its look at the spares waits, and no other change can begin.
  f.spares[1]->close_gate(second, unit_sectors, direction::read);
  f.spares[2]->close_gate(0, 8, direction::read);
  auto next = std::async(std::launch::async, [&] { return pool.evacuate(next_uuid, false, false); });
  f.spares[2]->wait_for_blocked();
  std::promise<pid_t> canceller;
  auto cancelled = std::async(std::launch::async, [&] {
    canceller.set_value(::gettid());
    return pool.stop_evacuation();
  });
  const pid_t thread = canceller.get_future().get();
  wait_until([&] { return is_asleep(thread); });
  f.spares[0]->open_gate(); // the first one ends,
  wait_until([&] { return !pool.evacuation().running; });
  f.spares[2]->open_gate(); // and the next one begins
  REQUIRE(next.get());
  f.spares[1]->wait_for_blocked();
  CHECK(cancelled.wait_for(10s) == std::future_status::ready);
  CHECK(pool.evacuation().running);
  f.spares[1]->open_gate();
  CHECK(cancelled.get());
  pool.stop();
}

TEST_CASE("an add that could not be taken back keeps its line in the configuration") {
  // All drives go at once, after so many writes of the old spare and of the new one.
  unsigned taken_back = 0, in_doubt = 0;
  for (unsigned old_writes = 0; old_writes < 24; old_writes += 4)
    for (unsigned new_writes = 0; new_writes < 34; new_writes += 3) {
      host here;
      pool_fixture f(1);
      const auto info = *f.set->info();
      REQUIRE(save_set_config({"pool", info.set_uuid, "/main", {"/spare0"}, {}}, config_write::create));
      const auto fresh = pool_fixture::new_spare(1);
      set_members members = members_of(f);
      const open_member way_in = member_of(fresh); // for a store in memory
      members.left_out.push_back({way_in.spec, error{}, way_in});
      {
        spare_pool pool(*f.set, here.log, members, info, false, "0:0");
        gone_after(*f.spares[0], old_writes);
        gone_after(*fresh, new_writes);
        if (pool.add({"/spare1", {}, "", true, false}))
          continue;
      }
      f.kill();
      f.mend_spare(0);
      fresh->clear_faults();
      const auto config = load_set_config("pool");
      REQUIRE(config);
      const bool named = std::count(config->spares.begin(), config->spares.end(), "/spare1") != 0;
      ++(named ? in_doubt : taken_back);
      if (named) {
        f.spares.push_back(fresh);
        f.there.push_back(true);
      }
      INFO(old_writes << " and " << new_writes << " writes, named: " << named);
      if (const auto opened = f.try_open(); !opened)
        FAIL_CHECK(opened.error().id << ": " << opened.error().text());
    }
  CHECK(taken_back != 0);
  CHECK(in_doubt != 0);
}

TEST_CASE("a spare is meant by its UUID until the change is made") {
  host here;
  pool_fixture f(2);
  const std::string uuid = f.status(1).uuid;
  spare_pool pool(*f.set, here.log, members_of(f), *f.set->info(), false, "0:0");
  REQUIRE(pool.remove(uuid, false));
  const auto fresh = pool_fixture::new_spare(2);
  REQUIRE(f.set->add_spare(fresh));
  REQUIRE(f.status(1).uuid != uuid); // another one has its place
  CHECK(pool.remove(uuid, false).error().id == "no-such-spare");
  CHECK(pool.evacuate(uuid, false, false).error().id == "no-such-spare");
  CHECK(pool.refill(uuid).error().id == "no-such-spare");
  CHECK(pool.forget(uuid, false).error().id == "no-such-spare");
  CHECK(f.status(1).present);
}
