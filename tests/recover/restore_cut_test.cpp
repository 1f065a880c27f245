// SPDX-License-Identifier: GPL-2.0-or-later
// A restore on the crash store, and on a spare with bad places.
#include "engine/disk.h"
#include "recover/restore_check.h"
#include "recover/restore_write.h"
#include "tests/recover/image_set.h"
#include "tests/support/crash_replay.h"
#include "tests/support/crash_store.h"
#include "tests/support/sanitized.h"

using namespace dmremap;
using namespace dmremap::test;

namespace {

struct table_row {
  std::uint64_t main;
  unsigned spare;
  std::uint64_t unit;
  unsigned lost;
  friend bool operator==(const table_row&, const table_row&) = default;
};

/// A set in memory.
struct images {
  page_image main;
  std::vector<page_image> spares;

  explicit images(const image_set& from) : main(of(from.main)) {
    for (const auto& spare : from.spares)
      spares.push_back(of(spare));
  }
  static page_image of(const std::string& path) {
    const auto bytes = whole_file(path);
    page_image image(bytes.size());
    image.write(std::as_bytes(std::span(bytes)), 0);
    return image;
  }
};

std::shared_ptr<memory_store> device(const page_image& content, const std::string& path) {
  auto io = std::make_shared<memory_store>(content);
  store_identity identity;
  identity.path = path;
  io->set_identity(identity);
  return io;
}

/// What the set shows; the error where nobody opens it.
result<std::vector<table_row>> shown(const page_image& main, const std::vector<page_image>& spares) {
  std::vector<std::shared_ptr<store>> ios;
  for (std::size_t n = 0; n < spares.size(); ++n)
    ios.push_back(device(spares[n], "/spare" + std::to_string(n)));
  open_options how;
  how.read_only = true;
  const auto set = TRY(disk::open(device(main, "/main"), ios, how));
  std::vector<table_row> rows;
  set->for_each_remap([&](const remap_entry& e) {
    rows.push_back({e.main.value, e.spare_index, e.spare.value, e.lost});
  });
  return rows;
}

template <class Store>
void run_restore_on(const set_dump& dump, const std::vector<std::shared_ptr<Store>>& ios) {
  std::vector<recover::examined_spare> spares;
  for (std::size_t n = 0; n < ios.size(); ++n)
    spares.push_back({&dump.spares[n], ios[n], recover::look_for(*ios[n], dump.spares[n], dump)});
  const auto done = recover::write_restore(dump, recover::make_targets(spares));
  REQUIRE(done);
  CHECK(done->failed == 0);
}

/// Whether a chunk that the dump does not know of still has a valid block: whoever rebuilds a superblock from
/// the table would take in what it says.
bool tells_of_more(const std::vector<page_image>& spares, const set_dump& dump) {
  for (std::size_t n = 0; n < spares.size(); ++n) {
    const superblock& s = dump.spares[n].super;
    for (std::uint32_t b = 0; b < s.places.table_blocks; ++b)
      for (unsigned r = 0; r < own_replicas && s.good_replicas(s.places.chunk_of(b)) == 0; ++r) {
        const spare_unit place = s.places.block_place(r, b);
        block_bytes block;
        table_block t;
        spares[n].read(block.span(), byte_of(place));
        if (decode_table_block(block, low_half(s.spare_uuid), b, place, t))
          return true;
      }
  }
  return false;
}

/// Cut off at every write and every flush, with any of the writes that were not flushed.
/// `exact`: every run ends with the same bytes; else the superblocks may have another sequence.
void check_cuts(const set_dump& dump, const images& old, bool exact) {
  const auto before = shown(old.main, old.spares);
  const auto log = std::make_shared<crash_log>();
  std::vector<std::shared_ptr<crash_store>> ios;
  for (std::size_t n = 0; n < old.spares.size(); ++n)
    ios.push_back(std::make_shared<crash_store>(log, device(old.spares[n], "/spare" + std::to_string(n))));
  run_restore_on(dump, ios);
  std::vector<page_image> end;
  for (const auto& io : ios)
    end.push_back(io->inner().image());
  const auto after = shown(old.main, end);
  REQUIRE(after);
  CHECK_FALSE(tells_of_more(end, dump));
  replay_limits limits;
  limits.exhaustive = sanitized ? 1 : 3;
  limits.samples = sanitized ? 1 : 4;
  limits.torn_together = sanitized ? 0 : 2;
  limits.random_tears = 0;
  limits.combinations = sanitized ? 4 : 24;
  limits.tears = !sanitized;
  crash_replay replay(*log, limits);
  std::map<std::string, std::uint64_t> outcomes;
  const bool all = replay.run([&](const crash_state& state) {
    std::vector<page_image> left;
    std::vector<std::shared_ptr<memory_store>> again;
    for (std::size_t n = 0; n < state.devices.size(); ++n) {
      left.push_back(state.devices[n]->content);
      again.push_back(device(left.back(), "/spare" + std::to_string(n)));
    }
    const auto now = shown(old.main, left);
    const bool is_new = now && *now == *after, is_old = now && before && *now == *before;
    ++outcomes[is_new ? "new" : is_old ? "old" : now ? "neither" : now.error().id];
    run_restore_on(dump, again);
    bool same = true;
    std::vector<page_image> then;
    for (const auto& io : again)
      then.push_back(io->image());
    const auto final = shown(old.main, then);
    same = final && *final == *after && !tells_of_more(then, dump);
    for (std::size_t n = 0; n < then.size(); ++n)
      same = same && (!exact || then[n].hash() == end[n].hash());
    INFO(state.describe());
    CHECK(same);
    return same && (now || is_old || outcomes.count("neither") == 0);
  });
  CHECK(all);
  CHECK(outcomes.count("neither") == 0);
  CHECK(outcomes["new"] > 0);
  CHECK(outcomes["restore-unfinished"] > 10);
  CHECK(replay.counts().points > 20);
  CHECK(replay.counts().checks > (sanitized ? 40 : 200));
}

} // namespace

TEST_CASE("a restore that is cut off is the old, the new, or refused; another run makes it the new") {
  const host h;
  const unsigned count = GENERATE(1u, 2u);
  image_set a(h, "a", count);
  const auto dump = parse_dump_text(dump_of(a.spares), "dump", false);
  REQUIRE(dump);
  SECTION("over what is newer") {
    a.work([](disk& d) {
      REQUIRE(d.remap(sector_number(888)));
      REQUIRE(d.unmap(sector_number(8)));
    });
    check_cuts(*dump, images(a), false);
  }
  SECTION("over what has used more of the table since") {
    a.work([&](disk& d) {
      for (unsigned n = 0; n < count; ++n) // far behind what automatic remaps use
        REQUIRE(d.add_remap(sector_number(1600 + 8 * n), sector_number(std::uint64_t{3000} * 8), 8, n));
      REQUIRE(d.unmap(sector_number(16)));
    });
    for (unsigned n = 0; n < count; ++n) {
      const auto now = a.super(n);
      const auto chunk = now.places.chunk_of(geometry::block_of(spare_unit(3000)));
      REQUIRE(now.good_replicas(chunk) != 0);
      REQUIRE(dump->spares[n].super.good_replicas(chunk) == 0);
    }
    check_cuts(*dump, images(a), false);
  }
  if (count == 1)
    SECTION("over nothing") {
      erase_metadata(a.spares[0], a.super(0).places);
      check_cuts(*dump, images(a), true);
    }
}

TEST_CASE("copies that cannot be written are done without, and old ones among them do not count") {
  const host h;
  image_set a(h, "a", 1);
  const auto dump = parse_dump_text(dump_of(a.spares), "dump", false);
  REQUIRE(dump);
  a.work([](disk& d) { REQUIRE(d.remap(sector_number(888))); });
  const images old(a);
  const auto& places = a.super(0).places;
  const auto io = device(old.spares[0], "/spare0");
  for (const auto bad : {places.super_place(0), places.super_place(7), places.block_place(3, 4)})
    io->add_bad({byte_of(bad) / 512, 8, direction::write});
  const auto there = recover::look_for(*io, dump->spares[0], *dump);
  const auto done = recover::write_restore(*dump, recover::make_targets({{&dump->spares[0], io, there}}));
  REQUIRE(done);
  CHECK(done->failed == 3);
  const auto now = shown(old.main, {io->image()});
  REQUIRE(now);
  CHECK(now->size() == 4);
}
