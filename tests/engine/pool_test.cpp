// SPDX-License-Identifier: GPL-2.0-or-later
// Sets of several spares: which spare serves, what happens where one is missing, comes back, is emptied.
#include "tests/support/pool_fixture.h"

#include "engine/codec.h"

using namespace dmremap;
using namespace dmremap::test;

TEST_CASE("a set of several spares opens with all of them and protects each by another") {
  pool_fixture f(3);
  for (unsigned n = 0; n < 3; ++n) {
    REQUIRE(f.status(n).present);
    REQUIRE(f.status(n).protected_by >= 0);
    REQUIRE(f.status(n).protected_by != static_cast<int>(n));
  }
  REQUIRE(f.set->info()->notices.empty());
  put_on(f, 3, 0, one);
  put_on(f, 4, 1, two);
  put_on(f, 5, 2, three);
  f.close();
  f.open();
  REQUIRE(f.set->info()->notices.empty());
  REQUIRE(f.shows(3) == "byte 101");
  REQUIRE(f.shows(4) == "byte 102");
  REQUIRE(f.shows(5) == "byte 103");
  REQUIRE(f.original_unit(6));
}

TEST_CASE("units go to the first spare that has room") {
  pool_fixture f(2);
  const std::uint64_t room = f.status(0).usable_units;
  f.remap(1);
  REQUIRE(f.entry(1)->spare_index == 0);
  const auto all = f.set->add_remap(sector_number(0), std::nullopt, unit_sectors, 1);
  REQUIRE(all.has_value());
  REQUIRE(f.status(0).allocated_units == 1);
  REQUIRE(f.status(0).usable_units == room);
  REQUIRE(f.status(1).allocated_units == 1);
}

TEST_CASE("a missing spare is refused, and degraded only where another protects it") {
  pool_fixture f(2);
  put_on(f, 3, 0, one);
  put_on(f, 4, 1, two);
  REQUIRE(f.set->flush());
  f.kill();
  const std::uint64_t before = f.spares[0]->image().hash(), main_before = f.main->image().hash();
  f.there[1] = false;
  auto refused = f.try_open();
  REQUIRE_FALSE(refused.has_value());
  REQUIRE(refused.error().id == "spare-missing");
  REQUIRE(refused.error().code == exit_code::damaged);
  REQUIRE(f.spares[0]->image().hash() == before);
  REQUIRE(f.main->image().hash() == main_before);

  f.open(true);
  REQUIRE(f.shows(3) == "byte 101");
  REQUIRE(f.shows(4) == "its spare is absent"); // never main's old bytes
  REQUIRE(f.original_unit(5));
  REQUIRE_FALSE(f.status(1).present);
  REQUIRE(f.set->stats().state == "spare absent");
  REQUIRE(f.write_sector(4 * unit_sectors + 1, three) ==
          io_fail(io_error::absent)); // its neighbours are unknown
  REQUIRE(f.write(4, three));         // whole: it moves
  REQUIRE(f.shows(4) == "byte 103");
  REQUIRE(f.entry(4)->spare_index == 0);
  const auto back = f.set->unmap(sector_number(4 * unit_sectors)); // the absent one knows it, too
  REQUIRE_FALSE(back.has_value());
  REQUIRE(back.error().id == "spare-absent");
  f.close();

  f.there[1] = true;
  f.open();
  REQUIRE(f.shows(4) == "byte 103"); // not what the spare that is back holds
  REQUIRE(f.entry(4)->spare_index == 0);
  REQUIRE(f.status(1).allocated_units == 0);
  REQUIRE(f.set->unmap(sector_number(4 * unit_sectors)));
  REQUIRE(f.shows(4) == "byte 103");
  f.close();
  f.open();
  REQUIRE(f.shows(4) == "byte 103");
  REQUIRE(f.set->info()->notices.empty());
}

TEST_CASE("an unprotected spare must be there") {
  pool_fixture f(2);
  put_on(f, 4, 0, one);
  f.kill();
  f.there[0] = false;
  fault_table faults;
  // The host's copy of the map cannot be read.
  const auto start = 4096 - 18;
  faults.bad.push_back(
      {static_cast<std::uint64_t>(start) * unit_sectors, 18 * unit_sectors, direction::read});
  f.spares[1]->set_faults(faults);
  open_options options;
  options.degraded = true;
  const auto refused = f.try_open(options);
  REQUIRE_FALSE(refused.has_value());
  REQUIRE(refused.error().id == "spare-unprotected");
  f.spares[1]->clear_faults();
  f.open(true);
  REQUIRE(f.shows(4) == "its spare is absent");
}

TEST_CASE("a replica that its host gives less room than it takes is not used") {
  pool_fixture f(2);
  put_on(f, 4, 1, one);
  f.kill();
  const std::uint64_t units = f.spares[0]->size() / unit_bytes;
  for (std::uint64_t at = 0; at < units; ++at) { // every superblock copy of the host, with valid checksums
    block_bytes bytes;
    REQUIRE(f.spares[0]->read(bytes.span(), at * unit_bytes));
    for (unsigned copy = 0; copy < super_copies; ++copy)
      if (auto s = decode_superblock(bytes, copy, spare_unit(at))) {
        --s->hosted_blocks[1];
        encode_superblock(*s, copy, spare_unit(at), bytes);
        REQUIRE(f.spares[0]->write(bytes.span(), at * unit_bytes));
      }
  }
  f.there[1] = false;
  open_options options;
  options.degraded = true;
  const auto refused = f.try_open(options);
  REQUIRE_FALSE(refused.has_value());
  REQUIRE(refused.error().id == "spare-unprotected");
  f.there[1] = true;
  f.open();
  REQUIRE(f.shows(4) == "byte 101");
  REQUIRE(f.status(1).protected_by == 0); // a new one
}

TEST_CASE("a spare that vanishes while the set runs costs what it holds, until it is back") {
  pool_fixture f(3);
  put_on(f, 3, 0, one);
  put_on(f, 4, 1, two);
  put_on(f, 5, 1, two);
  REQUIRE(f.set->flush());
  f.break_spare(1);
  REQUIRE(f.shows(4) == "its spare is absent");
  REQUIRE(f.shows(3) == "byte 101");
  REQUIRE_FALSE(f.status(1).present);
  REQUIRE(f.write(5, three));
  REQUIRE(f.shows(5) == "byte 103");
  f.remap(6);
  REQUIRE(f.write(6, two));
  REQUIRE(f.set->flush());
  SECTION("killed, and the spare is back") {
    f.mend_spare(1);
    f.open();
  }
  SECTION("opened without it in between") {
    f.kill();
    f.there[1] = false;
    f.open(true);
    REQUIRE(f.shows(4) == "its spare is absent");
    REQUIRE(f.shows(5) == "byte 103");
    f.close();
    f.mend_spare(1);
    f.there[1] = true;
    f.open();
  }
  REQUIRE(f.shows(3) == "byte 101");
  REQUIRE(f.shows(4) == "byte 102");
  REQUIRE(f.shows(5) == "byte 103");
  REQUIRE(f.shows(6) == "byte 102");
  REQUIRE(f.status(1).present);
  for (unsigned n = 0; n < 3; ++n)
    REQUIRE(f.status(n).protected_by >= 0);
}

TEST_CASE("a flush that meets a vanishing spare fails once") {
  pool_fixture f(2);
  put_on(f, 4, 1, one);
  REQUIRE(f.set->flush());
  REQUIRE(f.write(4, two));
  f.break_spare(1);
  REQUIRE_FALSE(f.set->flush().has_value());
  REQUIRE(f.set->flush().has_value());
  REQUIRE(f.shows(4) == "its spare is absent");
}

TEST_CASE("sides that were in use without each other are refused") {
  pool_fixture f(2);
  put_on(f, 3, 0, one);
  put_on(f, 4, 1, two);
  f.kill();
  f.there = {true, false};
  f.open(true);
  f.remap(7);
  f.kill();
  f.there = {false, true};
  f.open(true);
  f.remap(8);
  f.kill();
  f.there = {true, true};
  const std::uint64_t a = f.spares[0]->image().hash(), b = f.spares[1]->image().hash();
  const auto refused = f.try_open();
  REQUIRE_FALSE(refused.has_value());
  REQUIRE(refused.error().id == "forked-set");
  REQUIRE(f.spares[0]->image().hash() == a);
  REQUIRE(f.spares[1]->image().hash() == b);
  // The way out: one side without the other, which is forgotten.
  f.there = {true, false};
  f.open(true);
  const auto plan = f.set->plan_forget(1);
  REQUIRE(plan.has_value());
  REQUIRE(plan->units == 1);
  REQUIRE(plan->lost_sectors == 8);
  REQUIRE(f.set->forget_spare(1).has_value());
  REQUIRE(f.shows(4) == "lost sector"); // never main's old bytes
  REQUIRE(f.write_sector(4 * unit_sectors, three));
  REQUIRE(f.shows_sector(4 * unit_sectors) == "byte 103");
  REQUIRE(f.shows_sector(4 * unit_sectors + 1) == "lost sector");
  f.close();
  f.open();
  REQUIRE(f.shows(4) == "lost sector");
  f.close();
  f.there = {true, true};
  const auto foreign = f.try_open();
  REQUIRE_FALSE(foreign.has_value());
  REQUIRE(foreign.error().id == "forked-set"); // it was in use without the other: for a person to leave out
  REQUIRE(foreign.error().what == "/spare1");
}

TEST_CASE("a spare is added, filled, emptied and removed while the disk is in use") {
  pool_fixture f(1);
  put_on(f, 3, 0, one);
  f.spares.push_back(pool_fixture::new_spare(1));
  f.there.push_back(true);
  const auto place = f.set->add_spare(f.spares[1]);
  REQUIRE(place.has_value());
  REQUIRE(*place == 1);
  REQUIRE(f.status(0).protected_by == 1);
  REQUIRE(f.status(1).protected_by == 0);
  put_on(f, 4, 1, two);
  REQUIRE(f.set->flush());
  f.open();
  REQUIRE(f.shows(4) == "byte 102");

  const auto in_use = f.set->remove_spare(0);
  REQUIRE_FALSE(in_use.has_value());
  REQUIRE(in_use.error().id == "spare-in-use");
  REQUIRE(in_use.error().why == "Cannot remove spare /spare0: 1 active allocations");
  std::uint64_t reports = 0;
  const auto moved = f.set->evacuate_spare(0, [&](std::uint64_t, std::uint64_t) {
    ++reports;
    return true;
  });
  REQUIRE(moved.has_value());
  REQUIRE(moved->moved == 1);
  REQUIRE(reports > 0);
  REQUIRE(f.shows(3) == "byte 101");
  REQUIRE(f.entry(3)->spare_index == 1);
  REQUIRE(f.set->remove_spare(0));
  REQUIRE(f.shows(3) == "byte 101");
  f.close();
  const auto ignored = f.try_open(); // the removed one has no superblock any more
  REQUIRE_FALSE(ignored.has_value());
  REQUIRE(ignored.error().id == "no-superblock");
  f.there[0] = false;
  f.open();
  REQUIRE(f.shows(3) == "byte 101");
  REQUIRE(f.shows(4) == "byte 102");
  REQUIRE(f.set->remove_spare(1).error().id == "spare-in-use");
}

TEST_CASE("an evacuation that is stopped moves no further unit, and goes on after a restart") {
  pool_fixture f(2);
  for (unsigned n = 0; n < 10; ++n)
    put_on(f, 3 + n, 0, one);
  const unsigned stop_at = GENERATE(0u, 1u, 7u);
  const auto stopped = f.set->evacuate_spare(0, [&](std::uint64_t done, std::uint64_t all) {
    REQUIRE(all == 10);
    return done < stop_at;
  });
  REQUIRE_FALSE(stopped);
  CHECK(stopped.error().id == "cancelled");
  CHECK(f.status(0).allocated_units == 10 - stop_at);
  CHECK(f.status(0).draining);
  f.close();
  f.open();
  CHECK_FALSE(f.status(0).draining); // not remembered: the same command goes on
  const auto rest = f.set->evacuate_spare(0);
  REQUIRE(rest);
  CHECK(rest->moved == 10 - stop_at);
  CHECK(f.status(0).allocated_units == 0);
  for (unsigned n = 0; n < 10; ++n)
    CHECK(f.shows(3 + n) == "byte 101");
}

TEST_CASE("a bad place on a spare is left, and its data moves on") {
  pool_fixture f(2);
  put_on(f, 3, 0, one);
  const spare_unit place = f.entry(3)->spare;
  SECTION("writing") {
    f.spares[0]->add_bad({place.value * unit_sectors + 2, 1, direction::write});
    REQUIRE(f.write_sector(3 * unit_sectors + 2, two));
    REQUIRE(f.shows_sector(3 * unit_sectors + 2) == "byte 102");
    REQUIRE(f.shows_sector(3 * unit_sectors + 1) == "byte 101");
    REQUIRE(f.entry(3)->lost == 0);
  }
  SECTION("reading") {
    f.spares[0]->add_bad({place.value * unit_sectors + 2, 1, direction::read});
    REQUIRE(f.shows(3) == "lost sector");
    REQUIRE(f.shows_sector(3 * unit_sectors + 1) == "byte 101");
    REQUIRE(f.shows_sector(3 * unit_sectors + 2) == "lost sector");
    REQUIRE(f.entry(3)->lost == 4);
    REQUIRE(f.entry(3)->main_may_answer == 0); // main has old bytes there
    REQUIRE(f.write_sector(3 * unit_sectors + 2, two));
    REQUIRE(f.shows_sector(3 * unit_sectors + 2) == "byte 102");
  }
  REQUIRE(f.entry(3)->spare != place);
  const std::uint64_t usable = f.status(0).usable_units;
  f.spares[0]->clear_faults();
  f.open();
  REQUIRE(f.status(0).usable_units == usable); // retired for good
  REQUIRE(f.shows_sector(3 * unit_sectors + 1) == "byte 101");
  REQUIRE(f.shows_sector(3 * unit_sectors + 2) == "byte 102");
}

TEST_CASE("spares of another set, and copies of a spare, are refused") {
  pool_fixture f(2), other(1);
  f.close();
  other.close();
  f.spares.push_back(other.spares[0]);
  f.there.push_back(true);
  REQUIRE(f.try_open().error().id == "foreign-spare");
  f.spares[2] = std::make_shared<memory_store>(f.spares[1]->image(), 4096);
  REQUIRE(f.try_open().error().id == "duplicate-spare");
  f.there[2] = false;
  f.open();
}

TEST_CASE("a host that fails costs the protection, not the change") {
  pool_fixture f(3);
  put_on(f, 3, 0, one);
  const int host = f.status(0).protected_by;
  REQUIRE(host > 0);
  // All writes to the end of the host fail: the sixth replica, and the places next to it.
  f.spares[static_cast<unsigned>(host)]->add_bad({3900 * unit_sectors, 196 * unit_sectors, direction::write});
  f.remap(4);
  REQUIRE(f.write(4, two));
  REQUIRE(f.status(0).protected_by >= 0); // elsewhere
  f.open();
  REQUIRE(f.shows(4) == "byte 102");
  f.kill();
  f.there[0] = false;
  f.open(true);
  REQUIRE(f.shows(3) == "its spare is absent");
  REQUIRE(f.shows(4) == "its spare is absent");
}

TEST_CASE("a spare that was away must not stand for the set of today") {
  pool_fixture f(2);
  std::uint64_t seen = 0;
  open_options options;
  options.on_record = [&](std::uint64_t end) { seen = std::max(seen, end); };
  REQUIRE(f.try_open(options));
  REQUIRE(seen == f.set->info()->sequence_end);
  const std::uint64_t at_open = seen;
  put_on(f, 4, 1, one);
  REQUIRE(f.set->flush());
  f.break_spare(1);
  REQUIRE(f.shows(4) == "its spare is absent");
  REQUIRE(seen > at_open); // the record that says who is gone
  put_on(f, 5, 0, two);    // main's bytes are old from now on, and only spare 0 knows it
  REQUIRE(f.set->flush());
  f.kill();
  f.mend_spare(1);
  f.there = {false, true};
  open_options alone;
  alone.degraded = true;
  alone.last_seen = seen;
  const std::uint64_t before = f.spares[1]->image().hash();
  const auto refused = f.try_open(alone);
  REQUIRE_FALSE(refused.has_value());
  REQUIRE(refused.error().id == "spare-older");
  REQUIRE(f.spares[1]->image().hash() == before);
  f.there = {true, true};
  alone.degraded = false;
  REQUIRE(f.try_open(alone));
  REQUIRE(f.shows(4) == "byte 101");
  REQUIRE(f.shows(5) == "byte 102");
}

TEST_CASE("a spare whose places failed can be removed once it serves nothing") {
  pool_fixture f(1);
  f.spares[0]->add_bad({1024 * unit_sectors, 3000 * unit_sectors, direction::write}); // all that is given out
  f.main->add_bad({6 * unit_sectors, unit_sectors, direction::write});
  REQUIRE_FALSE(f.write(6, two).has_value());
  f.spares.push_back(pool_fixture::new_spare(1));
  f.there.push_back(true);
  REQUIRE(f.set->add_spare(f.spares[1]).has_value());
  REQUIRE(f.set->evacuate_spare(0).has_value());
  const auto removed = f.set->remove_spare(0);
  if (!removed)
    FAIL(removed.error().text());
  REQUIRE(f.write(6, two));
  f.there[0] = false;
  f.close();
  f.open();
  REQUIRE(f.shows(6) == "byte 102");
}

TEST_CASE("what a set of several spares lacks is told while it lacks it") {
  pool_fixture f(2);
  put_on(f, 3, 1, one);
  f.close();
  f.there[1] = false;
  f.open(true);
  const auto notices = [&] { return f.set->info()->notices; };
  const auto told = [&](const std::string& start) {
    const auto all = notices();
    return std::count_if(all.begin(), all.end(), [&](const std::string& n) { return n.starts_with(start); });
  };
  const std::string away = "spare " + f.status(1).uuid;
  CHECK(told(away + " is absent: its units answer EIO") == 1);
  CHECK(told("not protected against the loss of " + f.status(0).path) == 1); // the other one is away
  CHECK(told("not protected") == 1);                                         // the map of that one is on it
  REQUIRE(f.set->forget_spare(1));
  CHECK(notices().empty());
}

TEST_CASE("a removal says where superblocks are left on what was taken out") {
  pool_fixture f(2);
  const auto g = make_geometry(f.spares[1]->size());
  const bool bad = GENERATE(false, true);
  if (bad)
    f.spares[1]->add_bad({g->super_place(4).value * unit_sectors, unit_sectors, direction::write});
  const auto removed = f.set->remove_spare(1);
  REQUIRE(removed.has_value());
  CHECK(*removed == !bad);
  f.close();
  f.there[1] = false;
  f.open();
}

TEST_CASE("no dry run on a set that is open read-only promises what would be refused") {
  pool_fixture f(3);
  put_on(f, 3, 2, one);
  f.close();
  f.there[2] = false;
  open_options options;
  options.read_only = options.degraded = true;
  REQUIRE(f.try_open(options));
  for (const auto& e :
       {f.set->plan_forget(2).error(), f.set->plan_remove(1).error(), f.set->plan_evacuate(1).error(),
        f.set->forget_spare(2).error(), f.set->remove_spare(1).error()}) {
    CHECK(e.id == "read-only");
    CHECK(e.what == f.set->info()->set_name);
  }
}
