// SPDX-License-Identifier: GPL-2.0-or-later
// Session records that fail halfway, while another spare goes: whoever is listed afterwards, what was
// acknowledged must be found again, and nothing that was shown before may come back.
#include "engine/spare_metadata.h"
#include "tests/support/pool_fixture.h"

using namespace dmremap;
using namespace dmremap::test;

namespace {

void gone_after(memory_store& spare, std::uint64_t writes, io_error how = io_error::gone) {
  fault_table faults;
  faults.all = how;
  faults.all_after_writes = writes;
  spare.set_faults(faults);
}

void flush_fails_once(memory_store& spare, std::uint64_t after) {
  fault_table faults;
  faults.good_flushes = after;
  faults.flush_failures = 1;
  spare.set_faults(faults);
}

void full(memory_store& spare) {
  spare.add_bad({0, spare.size() / sector_bytes, direction::write, io_error::no_space});
}

/// As a host does that keeps what it saw.
struct host {
  std::uint64_t seen = 0;
  [[nodiscard]] open_options options(bool degraded = false) {
    open_options o;
    o.degraded = degraded;
    if (seen != 0)
      o.last_seen = seen;
    o.on_record = [this](std::uint64_t end) { seen = std::max(seen, end); };
    return o;
  }
  void open(pool_fixture& f, bool degraded = false) {
    if (const auto opened = f.try_open(options(degraded)); !opened)
      FAIL(opened.error().id + ": " + opened.error().text());
  }
};

/// The write is answered, and a flush behind it: the first may say that a spare went.
bool write_for_good(pool_fixture& f, std::uint64_t unit, std::byte value) {
  const auto written = f.write(unit, value);
  auto flushed = f.set->flush();
  if (!flushed)
    flushed = f.set->flush();
  return written && flushed;
}

superblock super_of(const memory_store& spare) {
  static const commit_rules rules;
  const auto copy = std::make_shared<memory_store>(spare.image(), spare.block_size());
  const auto m = spare_metadata::load_supers(copy, rules);
  REQUIRE(m.has_value());
  return (*m)->super;
}

} // namespace

TEST_CASE("a spare whose removal failed while another one went is recorded again before anything changes") {
  unsigned failed = 0, found = 0;
  for (unsigned last_write = 0; last_write < 24; ++last_write)
    for (unsigned flush = 0; flush < 14; ++flush) {
      CAPTURE(last_write, flush);
      pool_fixture f(3);
      host h;
      h.open(f);
      put_on(f, 5, 1, one);
      REQUIRE(f.set->flush());
      gone_after(*f.spares[1], last_write);
      flush_fails_once(*f.spares[2], flush);
      if (f.set->remove_spare(0) || f.status(1).present)
        continue;
      ++failed;
      f.break_spare(1);
      f.spares[2]->clear_faults();
      (void)f.set->remap(sector_number(20 * unit_sectors));
      if (!write_for_good(f, 5, two))
        continue;
      f.kill();
      f.mend_spare(1);
      std::vector<page_image> images;
      for (const auto& s : f.spares)
        images.push_back(s->image());
      f.there[1] = false;
      if (host other = h; f.try_open(other.options(true)))
        CHECK(f.shows(5) == "byte 102");
      f.kill();
      for (unsigned n = 0; n < 3; ++n)
        f.spares[n]->set_image(images[n]);
      f.there[1] = true;
      h.open(f);
      CHECK(f.shows(5) == "byte 102");
      ++found;
    }
  REQUIRE(failed > 0);
  REQUIRE(found > 0);
}

TEST_CASE("a spare that died while the other one was to be removed follows that one when it is back") {
  const bool seen_before = GENERATE(true, false);
  const unsigned tries = GENERATE(1u, 2u); // the first ends with an error that goes by
  unsigned found = 0;
  for (unsigned first = 0; first < (tries == 2 ? 14u : 1u); ++first)
    for (unsigned last_write = 0; last_write < 20; ++last_write) {
      CAPTURE(seen_before, tries, first, last_write);
      pool_fixture f(2);
      host h;
      h.open(f);
      put_on(f, 5, 0, one);
      REQUIRE(f.set->flush());
      if (tries == 2) {
        gone_after(*f.spares[0], first, io_error::transient);
        if (f.set->remove_spare(1))
          continue;
      }
      gone_after(*f.spares[0], last_write);
      if (f.set->remove_spare(1))
        continue;
      f.break_spare(0);
      if (!write_for_good(f, 5, two))
        continue;
      f.kill();
      f.mend_spare(0);
      const auto opened = f.try_open(seen_before ? h.options() : open_options{});
      if (!opened)
        FAIL(opened.error().id + ": " + opened.error().text());
      CHECK(f.shows(5) == "byte 102");
      ++found;
    }
  REQUIRE(found > 10);
}

TEST_CASE(
    "a change that its sixth replica missed is not acknowledged before a record says that its host went") {
  unsigned acknowledged = 0, not_yet = 0;
  for (unsigned last_write = 0; last_write < 60; ++last_write) {
    CAPTURE(last_write);
    pool_fixture f(2);
    host h;
    h.open(f);
    put_on(f, 5, 0, one);
    REQUIRE(f.set->flush());
    f.break_spare(1);
    gone_after(*f.spares[0], last_write);
    f.main->add_bad({6 * unit_sectors, unit_sectors, direction::write});
    const bool written = f.write(6, two).has_value();
    (written ? acknowledged : not_yet) += 1;
    f.kill();
    f.mend_spare(0);
    f.mend_spare(1);
    f.there[0] = false;
    if (f.try_open(h.options(true)) && written)
      CHECK_FALSE(f.original_unit(6));
  }
  REQUIRE(acknowledged > 0);
  REQUIRE(not_yet > 0);
}

TEST_CASE("nor is it, nor shown, while a further spare cannot take that record") {
  const bool by_hand = GENERATE(true, false);
  pool_fixture f(3);
  put_on(f, 5, 1, one);
  REQUIRE(f.set->flush());
  if (!by_hand) { // 1 is where units go
    f.set->set_auto_remap(true);
    REQUIRE(f.set->evacuate_spare(0));
    REQUIRE(f.set->evacuate_spare(2));
  }
  REQUIRE(f.status(1).protected_by == 0);
  full(*f.spares[2]);
  f.break_spare(0);
  if (by_hand) {
    REQUIRE_FALSE(
        f.set->add_remap(sector_number(6 * unit_sectors), std::nullopt, unit_sectors, 1).has_value());
  } else {
    f.main->add_bad({6 * unit_sectors, unit_sectors, direction::write});
  }
  CHECK_FALSE(f.write(6, two).has_value());
  CHECK_FALSE(f.write(6, three).has_value()); // what is in doubt is not settled by writing the tables anew
  CHECK(f.shows(6) == "lost sector");
  SECTION("the machine goes down") {
    f.kill();
    f.mend_spare(0);
    f.mend_spare(2);
    f.there[1] = false;
    f.open(true);
    CHECK(f.original_unit(6)); // it was never shown as anything else
  }
  SECTION("the host gets room") {
    f.mend_spare(2);
    REQUIRE(write_for_good(f, 6, three));
    CHECK(f.shows(6) == "byte 103");
    f.kill();
    f.mend_spare(0);
    f.there[1] = false;
    if (f.try_open(open_options{}))
      CHECK_FALSE(f.original_unit(6));
  }
}

TEST_CASE("nor is it shown where it was in doubt before") {
  unsigned in_doubt = 0;
  for (unsigned flush = 0; flush < 8; ++flush) {
    CAPTURE(flush);
    pool_fixture f(3);
    put_on(f, 5, 1, one);
    REQUIRE(f.set->flush());
    f.set->set_auto_remap(true);
    REQUIRE(f.set->evacuate_spare(0));
    REQUIRE(f.set->evacuate_spare(2));
    REQUIRE(f.status(1).protected_by == 0);
    f.main->add_bad({6 * unit_sectors, unit_sectors, direction::write});
    f.spares[1]->fail_flushes(always, io_error::transient, flush);
    (void)f.write(6, two);
    if (const auto shows = f.shows(6); shows == "mixed" || shows == "byte 102")
      continue; // refused, as main's bytes say, or done
    ++in_doubt;
    f.spares[1]->clear_faults();
    full(*f.spares[2]);
    f.break_spare(0);
    CHECK_FALSE(f.write(6, three).has_value());
    CHECK(f.shows(6).rfind("byte", 0) == std::string::npos);
    f.kill();
    f.mend_spare(0);
    f.mend_spare(2);
    f.there[1] = false;
    if (f.try_open(host().options(true)))
      CHECK((f.original_unit(6) || f.shows(6) == "its spare is absent"));
  }
  REQUIRE(in_doubt > 0);
}

TEST_CASE("a spare that cannot be forgotten now can be forgotten after the next start") {
  const bool no_room = GENERATE(true, false);
  const unsigned count =
      no_room ? GENERATE(2u, 3u) : 2u; // one flush that fails is tried again where there are more
  unsigned failed = 0;
  for (unsigned at = 0; at < (no_room ? 50u : 14u); ++at) {
    CAPTURE(count, no_room, at);
    pool_fixture f(count);
    const unsigned dead = count - 1;
    put_on(f, 5, dead, one);
    put_on(f, 6, 0, one);
    const std::string uuid = f.status(dead).uuid;
    f.kill();
    f.there[dead] = false;
    f.open(true);
    if (no_room)
      gone_after(*f.spares[0], at, io_error::no_space);
    else
      flush_fails_once(*f.spares[0], at);
    const auto forgotten = f.set->forget_spare(dead);
    f.spares[0]->clear_faults();
    if (!forgotten && forgotten.error().id == "remove-failed") {
      ++failed;
      CHECK(forgotten.error().what == uuid);
      CHECK(forgotten.error().why.find("ry again") != std::string::npos);
      CHECK(forgotten.error().why.find("1 units became lost (8 sectors)") != std::string::npos);
    }
    (void)f.set->remap(sector_number(20 * unit_sectors));
    (void)f.set->remap(sector_number(21 * unit_sectors));
    f.kill();
    f.open(true);
    if (f.status(dead).uuid == uuid) {
      const auto again = f.set->forget_spare(dead);
      if (!again)
        FAIL_CHECK(again.error().text());
    }
    CHECK(f.shows(5) == "lost sector");
    CHECK(f.shows(6) == "byte 101");
    f.close();
    f.open(); // with those that are left
  }
  REQUIRE(failed > 0);
}

TEST_CASE("a spare that got a record before another one failed to is no fork") {
  const unsigned tries = GENERATE(1u, 2u, 3u);
  pool_fixture f(3);
  put_on(f, 5, 0, one);
  put_on(f, 6, 1, one);
  REQUIRE(f.set->flush());
  full(*f.spares[1]);
  f.break_spare(2);
  for (unsigned n = 0; n < tries; ++n)
    REQUIRE_FALSE(f.set->remap(sector_number((10 + n) * unit_sectors)).has_value());
  f.kill();
  f.mend_spare(1);
  f.mend_spare(2);
  f.there[0] = false;
  f.open(true);
  REQUIRE(write_for_good(f, 6, two));
  f.kill();
  f.there[0] = true;
  f.open();
  CHECK(f.shows(5) == "byte 101");
  CHECK(f.shows(6) == "byte 102");
}

TEST_CASE("no clean mark is written under a session that some spares may not hold") {
  unsigned closed = 0, pending = 0;
  for (unsigned flush = 0; flush < 24; ++flush) {
    CAPTURE(flush);
    pool_fixture f(3);
    host h;
    h.open(f);
    put_on(f, 5, 0, one);
    put_on(f, 6, 2, one);
    REQUIRE(f.set->flush());
    f.break_spare(2);
    f.spares[1]->fail_flushes(2, io_error::transient, flush);
    REQUIRE_FALSE(f.write_sector(6 * unit_sectors, two).has_value()); // no table changes for it
    pending += super_of(*f.spares[0]).sessions[1].held != super_of(*f.spares[0]).session ? 1 : 0;
    const auto done = f.set->close();
    f.kill();
    for (const unsigned n : {0u, 1u}) {
      const superblock s = super_of(*f.spares[n]);
      if (done)
        CHECK(s.clean);
      if (!s.clean)
        continue;
      for (const unsigned i : {0u, 1u}) {
        CHECK(s.sessions[i].held == s.session);
        CHECK(s.sessions[i].given == s.session);
      }
      CHECK(s.sessions[2].given != s.session); // it went, and that was recorded
    }
    closed += done ? 1 : 0;
    f.mend_spare(1);
    f.mend_spare(2);
    h.open(f);
    CHECK(f.shows(5) == "byte 101");
  }
  REQUIRE(closed > 0);
  REQUIRE(pending > 0);
}

TEST_CASE("where the spare that is added and the only other one die, the set asks for both or for neither") {
  unsigned as_before = 0, both = 0;
  for (unsigned old_writes = 0; old_writes < 16; ++old_writes)
    for (unsigned new_writes = 0; new_writes < 24; ++new_writes) {
      CAPTURE(old_writes, new_writes);
      pool_fixture f(1);
      host h;
      h.open(f);
      put_on(f, 5, 0, one);
      REQUIRE(f.set->flush());
      const auto fresh = pool_fixture::new_spare(1);
      gone_after(*f.spares[0], old_writes);
      gone_after(*fresh, new_writes);
      const auto added = f.set->add_spare(fresh);
      f.kill();
      f.mend_spare(0);
      fresh->clear_faults();
      if (f.try_open(h.options())) {
        ++as_before;
      } else { // it asks for the new one
        CHECK((added || added.error().why.find("name this spare, too") != std::string::npos));
        f.spares.push_back(fresh);
        f.there.push_back(true);
        h.open(f);
        ++both;
      }
      CHECK(f.shows(5) == "byte 101");
    }
  REQUIRE(as_before > 0);
  REQUIRE(both > 0);
}
