// SPDX-License-Identifier: GPL-2.0-or-later
// Spares put back from a copy: what this host saw of the set after the copy was made must refuse it.
#include "engine/host_state.h"
#include "engine/set_members.h"
#include "tests/support/pool_fixture.h"
#include "tests/support/temp_dir.h"

#include <boost/filesystem.hpp>

using namespace dmremap;
using namespace dmremap::test;

namespace {

/// Opens with what was seen before, and notes what is told.
result<void> open_seen(pool_fixture& f, std::uint64_t& seen) {
  open_options options;
  if (seen != 0)
    options.last_seen = seen;
  options.on_record = [&seen](std::uint64_t end) { seen = std::max(seen, end); };
  return f.try_open(options);
}

} // namespace

TEST_CASE("a copy of a spare taken while the set ran is refused once the set was closed") {
  const unsigned count = GENERATE(1u, 2u);
  const unsigned restored = GENERATE_COPY(range(1u, 1u << count)); // bit a spare
  pool_fixture f(count);
  std::uint64_t seen = 0;
  REQUIRE(open_seen(f, seen));
  for (unsigned n = 0; n < count; ++n) {
    REQUIRE(f.set->add_remap(sector_number((3 + n) * unit_sectors), std::nullopt, unit_sectors, n));
    REQUIRE(f.write(3 + n, one));
  }
  REQUIRE(f.set->flush());
  std::vector<page_image> copies;
  for (const auto& s : f.spares)
    copies.push_back(s->image());
  for (unsigned n = 0; n < count; ++n)
    REQUIRE(f.write(3 + n, two)); // no table says so
  f.remap(9);
  REQUIRE(f.write(9, two));
  const std::uint64_t in_session = seen;
  f.close();
  CHECK(seen > in_session);

  std::vector<page_image> now;
  for (unsigned n = 0; n < count; ++n) {
    now.push_back(f.spares[n]->image());
    if ((restored >> n & 1) != 0)
      f.spares[n]->set_image(copies[n]);
  }
  std::vector<std::uint64_t> before;
  for (const auto& s : f.spares)
    before.push_back(s->image().hash());
  const std::uint64_t main_before = f.main->image().hash();
  const auto refused = open_seen(f, seen);
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().id == "spare-older");
  CHECK(refused.error().code == exit_code::damaged);
  for (unsigned n = 0; n < count; ++n)
    CHECK(f.spares[n]->image().hash() == before[n]);
  CHECK(f.main->image().hash() == main_before);

  for (unsigned n = 0; n < count; ++n)
    f.spares[n]->set_image(now[n]);
  REQUIRE(open_seen(f, seen));
  for (unsigned n = 0; n < count; ++n)
    CHECK(f.shows(3 + n) == "byte 102");
  CHECK(f.shows(9) == "byte 102");
}

TEST_CASE("what was seen of a set never refuses the set itself") {
  pool_fixture f(3);
  std::uint64_t seen = 0;
  for (unsigned round = 0; round < 3; ++round) {
    const std::uint64_t before = seen;
    REQUIRE(open_seen(f, seen));
    CHECK(seen > before);
    REQUIRE(f.write(3, one));
    f.remap(4 + round);
    switch (round) {
    case 0:
      f.close();
      break;
    case 1: // one that was away, and one that this host saw after that
      f.break_spare(2);
      REQUIRE_FALSE(f.set->add_remap(sector_number(160), std::nullopt, unit_sectors, 2));
      (void)f.set->flush();
      f.close();
      f.mend_spare(2);
      break;
    default:
      f.kill();
    }
  }
  REQUIRE(open_seen(f, seen));
  CHECK(f.shows(3) == "byte 101");
  CHECK(f.status(2).present);
}

TEST_CASE("a spare that is back is not taken for a copy, wherever its taking back was cut off") {
  const unsigned away = GENERATE(0u, 1u);
  pool_fixture f(2);
  std::uint64_t seen = 0;
  REQUIRE(open_seen(f, seen));
  for (unsigned n = 0; n < 2; ++n) {
    REQUIRE(f.set->add_remap(sector_number((3 + n) * unit_sectors), std::nullopt, unit_sectors, n));
    REQUIRE(f.write(3 + n, one));
  }
  REQUIRE(f.set->flush());
  f.break_spare(away);
  CHECK(f.shows(3 + away) == "its spare is absent");
  f.close();
  f.mend_spare(away);
  const page_image main = f.main->image(), first = f.spares[0]->image(), second = f.spares[1]->image();
  bool cut = true;
  for (unsigned good = 0; cut; ++good) { // so many writes, then the machine goes down
    INFO(good << " writes");
    f.main->set_image(main);
    f.spares[0]->set_image(first);
    f.spares[1]->set_image(second);
    cut = false;
    unsigned written = 0;
    for (const auto& s : {f.main, f.spares[0], f.spares[1]})
      s->on_change([&](std::uint64_t, std::uint64_t, const std::byte*) {
        cut = cut || written++ == good;
        return !cut;
      });
    std::uint64_t told = seen;
    open_options options;
    options.last_seen = seen;
    options.on_record = [&](std::uint64_t end) { told = cut ? told : std::max(told, end); };
    (void)f.try_open(options);
    f.kill();
    for (const auto& s : {f.main, f.spares[0], f.spares[1]})
      s->on_change({});
    const auto opened = open_seen(f, told);
    if (!opened)
      FAIL(opened.error().text());
    CHECK(f.shows(3) == "byte 101");
    CHECK(f.shows(4) == "byte 101");
    f.kill();
  }
}

TEST_CASE("a close that fails does not tell of a session that goes on") {
  pool_fixture f(1);
  std::uint64_t seen = 0;
  REQUIRE(open_seen(f, seen));
  const std::uint64_t before = seen;
  f.spares[0]->fail_flushes(1, io_error::medium, 1); // of the superblock
  REQUIRE_FALSE(f.set->close().has_value());
  CHECK(seen == before);
  f.spares[0]->clear_faults();
  REQUIRE(f.set->close().has_value());
  CHECK(seen > before);
  REQUIRE(open_seen(f, seen));
}

TEST_CASE("a record that this host cannot keep is told until one is kept") {
  const temp_dir dir;
  const scoped_env state("DMREMAP_STATE_DIR", dir / "state");
  const std::string uuid = "6d0e1b7a-0c1f-4c3e-9a56-2f1d7d0a9c11";
  std::string trouble;
  host_keeper keeper(uuid, trouble);
  keeper.note_record(5);
  CHECK(keeper.trouble().empty());
  boost::filesystem::remove_all(dir / "state");
  CHECK(dir.file("state", 1) == dir / "state"); // a file where the folder was
  keeper.note_record(6);
  CHECK(keeper.trouble().find(dir / "state") != std::string::npos);
  boost::filesystem::remove(dir / "state");
  keeper.note_record(7);
  CHECK(keeper.trouble().empty());
  CHECK(read_host_state(uuid, trouble)->sequence_end == 7);
}
