// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/restore.h"

#include "engine/host_state.h"
#include "engine/member.h"
#include "fsck/run.h"
#include "recover/dump.h"
#include "recover/dump_json.h"
#include "recover/restore_check.h"
#include "recover/restore_write.h"
#include "tests/recover/image_set.h"
#include "tests/support/memory_store.h"

using namespace dmremap;
using namespace dmremap::test;
using nlohmann::json;

namespace {

ran restore(std::vector<std::string> words) {
  return run_program_with(recover::run_restore, "dmremap-restore", words);
}

std::string dump_file(const host& h, const std::vector<std::string>& spares,
                      const std::string& name = "dump") {
  const auto path = h.dir / name;
  std::ofstream(path) << dump_of(spares);
  return path;
}

std::string error_of(std::vector<std::string> words) {
  words.insert(words.begin(), "--json");
  const auto r = restore(words);
  return r.status == 0 ? "" : r.json()["error"]["id"].get<std::string>();
}

/// What this host remembers of a set that it started.
void remember(const image_set& a) {
  host_state state;
  state.uuid = a.uuid;
  state.name = a.name;
  state.sequence_end = a.super(0).sequence_end;
  REQUIRE(write_host_state(state));
}

} // namespace

TEST_CASE("a spare that is restored from its dump carries the same bytes again") {
  const host h;
  image_set a(h, "a", 3);
  a.work([](disk& d) { REQUIRE(d.unmap(sector_number(8))); });
  const auto file = dump_file(h, a.spares);
  std::vector<std::string> before;
  for (const auto& spare : a.spares)
    before.push_back(whole_file(spare));
  SECTION("all copies of one kind gone, in each") {
    damage(a.spares[0], a.super(0).places.block_place(2, 4));
    write_bytes(a.spares[1], 0, std::string(unit_bytes, 'x'));
    for (unsigned c = 1; c < super_copies; ++c)
      damage(a.spares[2], a.super(2).places.super_place(c));
    const auto r = restore({file, a.spares[2], a.spares[0], a.spares[1]});
    INFO(r.err);
    REQUIRE(r.status == 0);
  }
  SECTION("all metadata of one gone, its copies on another stay") {
    erase_metadata(a.spares[1], a.super(1).places);
    remember(a);
    CHECK(error_of({file, "1=" + a.spares[1]}) == "spare-unknown");
    CHECK(error_of({file, "--data-in-place", a.spares[1]}) == "which-spare");
    const auto r = restore({"--data-in-place", file, "1=" + a.spares[1]});
    INFO(r.err);
    REQUIRE(r.status == 0);
  }
  for (unsigned n = 0; n < 3; ++n)
    CHECK((whole_file(a.spares[n]) == before[n]));
  a.work([](disk& d) { CHECK(d.stats().remapped_units == 3); });
}

TEST_CASE("a spare is restored to another, larger one") {
  const host h;
  image_set a(h, "a", 1);
  const auto file = dump_file(h, a.spares);
  const auto other = h.image("other");
  boost::filesystem::copy_file(a.spares[0], other);
  boost::filesystem::resize_file(other, 40u << 20);
  erase_metadata(other, a.super(0).places);
  remember(a);
  CHECK(error_of({file, other}) == "spare-unknown");
  REQUIRE(restore({"--data-in-place", file, other}).status == 0);
  CHECK(dump_of({other + "@0+32768"}).find("explicit") != std::string::npos);
  a.spares[0] = other;
  a.work([](disk& d) { CHECK(d.stats().remapped_units == 4); });
  const auto small = h.image("small");
  make_file(small, 15u << 20);
  CHECK(error_of({"--data-in-place", file, small}) == "spare-too-small");
}

TEST_CASE("data that is not on the spare is lost, and not what lies there") {
  const host h;
  image_set a(h, "a", 1);
  const auto file = dump_file(h, a.spares);
  remember(a);
  boost::filesystem::remove(a.spares[0]);
  make_file(a.spares[0], 16u << 20);
  REQUIRE(restore({"--data-lost", file, a.spares[0]}).status == 0);
  a.work([](disk& d) {
    CHECK(d.stats().remapped_units == 4);
    CHECK(d.stats().lost_sectors == 32);
    CHECK(d.salvage(std::nullopt)->recovered == 0); // main holds old bytes there
    const auto io = d.make_context();
    std::vector<std::byte> sector(512);
    CHECK_FALSE(d.read(*io, sector, 8 * 512));
    CHECK(d.read(*io, sector, 0));
  });
  const auto lost = whole_file(a.spares[0]);
  CHECK(error_of({"--data-lost", dump_file(h, a.spares, "again"), a.spares[0]}) == "data-is-there");
  CHECK((whole_file(a.spares[0]) == lost));
  const image_set b(h, "b", 2);
  CHECK(error_of({"--data-lost", dump_file(h, b.spares, "b"), b.spares[0], b.spares[1]}) ==
        "data-lost-of-many");
}

TEST_CASE("a restore that was cut off is not finished as one of a spare whose data is gone") {
  const host h;
  image_set a(h, "a", 1);
  const auto file = dump_file(h, a.spares);
  remember(a);
  const auto whole = whole_file(a.spares[0]);
  const auto places = a.super(0).places;
  for (unsigned copy = 0; copy < super_copies; ++copy) {
    block_bytes block;
    const std::uint64_t at = byte_of(places.super_place(copy));
    std::memcpy(block.bytes.data(), whole.data() + at, unit_bytes);
    add_incompat(block, restoring_incompat);
    write_bytes(a.spares[0], at, std::string(reinterpret_cast<const char*>(block.bytes.data()), unit_bytes));
  }
  const auto cut = whole_file(a.spares[0]);
  CHECK(error_of({"--data-lost", file, a.spares[0]}) == "data-is-there");
  CHECK((whole_file(a.spares[0]) == cut));
  CHECK(error_of({file, a.spares[0]}).empty());
  a.work([](disk& d) {
    CHECK(d.stats().remapped_units == 4);
    CHECK(d.lost().empty());
  });
}

TEST_CASE("what would lose something is refused") {
  const host h;
  image_set a(h, "a", 2);
  const auto file = dump_file(h, a.spares);
  const auto untouched = [&](const std::string& path, std::vector<std::string> words, const std::string& id) {
    const auto before = whole_file(path);
    INFO(id);
    CHECK(error_of(std::move(words)) == id);
    CHECK((whole_file(path) == before));
  };
  SECTION("the set moved on since") {
    a.work([](disk& d) { REQUIRE(d.remap(sector_number(888))); });
    untouched(a.spares[0], {file, a.spares[0]}, "dump-older");
    untouched(a.spares[0], {"--accept-older", file, a.spares[0]}, "restore-all");
    REQUIRE(restore({"--accept-older", file, a.spares[0], a.spares[1]}).status == 0);
    a.work([](disk& d) { CHECK(d.stats().remapped_units == 4); });
  }
  SECTION("the set may have moved on since: a block has no copy that tells") {
    for (unsigned r = 0; r < own_replicas; ++r)
      damage(a.spares[0], a.super(0).places.block_place(r, 4));
    untouched(a.spares[0], {file, a.spares[0]}, "dump-maybe-older");
    remember(a); // this host knows that it did not
    CHECK(error_of({file, a.spares[0]}).empty());
  }
  SECTION("this host saw something newer") {
    auto state = host_state{a.uuid, a.name, a.super(0).sequence_end + 1, {}};
    REQUIRE(write_host_state(state));
    untouched(a.spares[0], {file, a.spares[0]}, "dump-older");
  }
  SECTION("another spare of the set, another set, a file system, a set in use") {
    untouched(a.spares[1], {file, "0=" + a.spares[1]}, "other-spare");
    const image_set b(h, "b", 1);
    untouched(b.spares[0], {file, "0=" + b.spares[0]}, "spare-in-set");
    std::vector<std::string> words{"--data-in-place", "--accept-older", "--destroy-set", b.uuid, file,
                                   "0=" + b.spares[0]};
    untouched(b.spares[0], words, "restore-all");
    words.push_back(a.spares[1]);
    CHECK(error_of(words).empty());
    write_bytes(a.spares[0], 0x438, "\x53\xEF"); // ext's magic alone is not enough for libblkid
    const auto claimed =
        open_members({{member_role::spare, *parse_member(a.spares[0])}}, access_mode::read_write);
    REQUIRE(claimed);
    untouched(a.spares[0], {file, a.spares[0]}, "in-use");
  }
  SECTION("dumps that are no good") {
    auto text = dump_of(a.spares);
    std::ofstream(h.dir / "edited") << text.replace(text.find("manual_remaps 4"), 15, "manual_remaps 9");
    untouched(a.spares[0], {h.dir / "edited", a.spares[0]}, "dump-checksum");
    CHECK(error_of({"--edited", h.dir / "edited", a.spares[0]}).empty());
    for (unsigned r = 0; r < own_replicas; ++r)
      damage(a.spares[0], a.super(0).places.block_place(r, 4));
    damage(a.spares[1], spare_unit(std::uint64_t{a.super(0).sixth_start} + 1 + 4));
    std::ofstream(h.dir / "partial") << dump_of({"--best-effort", a.spares[0], a.spares[1]});
    untouched(a.spares[0], {h.dir / "partial", a.spares[0]}, "dump-incomplete");
    untouched(a.spares[0], {h.dir / "none", a.spares[0]}, "dump-unreadable");
    untouched(a.spares[0], {h.images, a.spares[0]}, "not-a-file");
  }
  SECTION("a dry run") {
    const auto before = whole_file(a.spares[0]);
    damage(a.spares[0], a.super(0).places.block_place(0, 4));
    const auto damaged = whole_file(a.spares[0]);
    const auto r = restore({"-n", "--json", file, a.spares[0]});
    REQUIRE(r.status == 0);
    CHECK(r.json()["outcome"] == "planned");
    CHECK((whole_file(a.spares[0]) == damaged));
    CHECK(restore({file, a.spares[0]}).status == 0);
    CHECK((whole_file(a.spares[0]) == before));
  }
}

TEST_CASE("an older dump is restored to all spares of a set, or to none: no third state comes of it") {
  const host h;
  image_set a(h, "a", 2);
  std::string file;
  const auto move = [](disk& d, unsigned first) {
    for (unsigned unit = first; unit < first + 20; ++unit)
      REQUIRE(d.remap(sector_number(unit * unit_sectors)));
  };
  SECTION("in one session: the copy of a table on the other spare stays newer") {
    a.work([&](disk& d) {
      file = dump_file(h, a.spares);
      move(d, 100);
    });
  }
  SECTION("of an earlier session") {
    file = dump_file(h, a.spares);
    a.work([&](disk& d) { move(d, 100); });
  }
  const auto before = whole_file(a.spares[0]);
  CHECK(error_of({"--accept-older", file, a.spares[0]}) == "restore-all");
  CHECK(error_of({"--accept-older", "-n", file, a.spares[0]}) == "restore-all");
  CHECK((whole_file(a.spares[0]) == before));
  REQUIRE(restore({"--accept-older", file, a.spares[0], a.spares[1]}).status == 0);
  a.work([](disk& d) { CHECK(d.stats().remapped_units == 4); });
}

TEST_CASE("the table of an absent spare comes back with the spare that it lies on, and only so") {
  const host h;
  image_set a(h, "a", 2);
  a.work([](disk& d) { REQUIRE(d.remap(sector_number(888))); }, true, {1}); // spare 1 is away now
  const auto before = whole_file(a.spares[0]);
  const auto file = dump_file(h, {a.spares[0]});
  const auto dump = recover::read_dump(file, false);
  REQUIRE(dump);
  REQUIRE(dump->spares[1].away);
  CHECK(error_of({file, "1=" + a.spares[1]}) == "spare-away");
  CHECK(error_of({file, "4294967296=" + a.spares[0]}) == "which-spare"); // 2^32 is not 0
  const std::uint32_t start = dump->spares[0].super.hosted_start[1];
  REQUIRE(start != 0);
  SECTION("gone") {
    for (const auto& run : dump->spares[1].blocks)
      for (std::uint32_t b = run.first; b < run.first + run.count; ++b)
        damage(a.spares[0], spare_unit(std::uint64_t{start} + 1 + b));
    CHECK(error_of({file, a.spares[0]}) == "dump-maybe-older"); // nothing else has it
    remember(a);
    REQUIRE(restore({file, a.spares[0]}).status == 0);
    CHECK((whole_file(a.spares[0]) == before));
  }
  SECTION("there, as it was") {
    damage(a.spares[0], a.super(0).places.super_place(3));
    REQUIRE(restore({file, a.spares[0]}).status == 0);
    CHECK((whole_file(a.spares[0]) == before));
  }
}

TEST_CASE("a copy of another spare's table that is gone is not relied on") {
  const host h;
  image_set a(h, "a", 2);
  const auto file = dump_file(h, a.spares);
  const std::uint32_t start = a.super(0).hosted_start[1];
  REQUIRE(start != 0);
  damage(a.spares[0], spare_unit(std::uint64_t{start} + 1 + 4));
  REQUIRE(restore({file, a.spares[0]}).status == 0);
  CHECK((a.super(0).hosted_protected >> 1 & 1) == 0);
  a.work([](disk& d) { CHECK(d.info()->spares[1].protected_by == 0); }); // a new one was made
}

TEST_CASE("what was overwritten is kept, and brings it back") {
  const host h;
  image_set a(h, "a", 1);
  const auto file = dump_file(h, a.spares);
  a.work([](disk& d) { REQUIRE(d.remap(sector_number(888))); });
  const auto newer = whole_file(a.spares[0]);
  const auto r = restore({"--json", "--accept-older", file, a.spares[0]});
  REQUIRE(r.status == 0);
  const std::string kept = r.json()["kept"];
  const auto text = whole_file(kept);
  const auto told = restore({"--accept-older", file, a.spares[0]}); // keeps another
  REQUIRE(told.status == 0);
  const auto at = told.out.find("what was there before: ");
  REQUIRE(at != std::string::npos);
  CHECK(told.out.find(kept + "\n", at) == std::string::npos);
  CHECK((whole_file(kept) == text));
  REQUIRE(restore({"--accept-older", "--no-keep", kept, a.spares[0]}).status == 0);
  CHECK((whole_file(a.spares[0]) == newer));
}

TEST_CASE("nothing is overwritten where a superblock is there and what lies there cannot be kept") {
  const host h;
  image_set a(h, "a", 1);
  const auto file = dump_file(h, a.spares);
  a.work([](disk& d) { REQUIRE(d.remap(sector_number(888))); });
  block_bytes bytes; // two spares' superblocks in equal number: no dump can be made
  auto other = a.super(0);
  other.spare_uuid[0] ^= 1;
  other.spare_uuids[0] = other.spare_uuid;
  other.set_uuid[0] ^= 1;
  for (unsigned c = fixed_supers; c < super_copies; ++c) {
    encode_superblock(other, c, other.places.super_place(c), bytes);
    write_bytes(a.spares[0], byte_of(other.places.super_place(c)),
                std::string(reinterpret_cast<const char*>(bytes.bytes.data()), unit_bytes));
  }
  const auto before = whole_file(a.spares[0]);
  CHECK(error_of({"--accept-older", "--destroy-set", to_text(other.set_uuid), file, a.spares[0]}) ==
        "nothing-kept");
  CHECK((whole_file(a.spares[0]) == before));
  CHECK(error_of({"--accept-older", "--no-keep", "--destroy-set", to_text(other.set_uuid), file, a.spares[0]})
            .empty());
  a.work([](disk& d) { CHECK(d.stats().remapped_units == 4); });
}

TEST_CASE("what an older dump does not know of does not come back over what is written later") {
  const host h;
  image_set a(h, "a", 1, 64u << 20);
  const auto file = dump_file(h, a.spares);
  const auto fill = [](disk& d, char with) {
    const auto io = d.make_context();
    const std::string unit(unit_bytes, with);
    for (std::uint64_t u = 0; u < 1024; ++u)
      REQUIRE(d.write(*io, std::as_bytes(std::span(unit)), u * unit_bytes));
    REQUIRE(d.flush());
  };
  a.work([&](disk& d) {
    REQUIRE(d.remap(sector_number(0), 1024 * unit_sectors));
    fill(d, 'o');
  });
  const auto highest = a.super(0).sequence_end;
  REQUIRE(restore({"--accept-older", file, a.spares[0]}).status == 0);
  CHECK(a.super(0).sequence_next >= highest);
  a.work([&](disk& d) {
    CHECK(d.stats().remapped_units == 4);
    fill(d, 'n');
  });
  std::istringstream nobody;
  std::ostringstream out, err;
  const char* const line[]{"dmremap-fsck", "-y", a.spares[0].c_str()};
  CHECK(fsck::run(3, line, {nobody, out, err}) == fsck::exit_clean);
  INFO(out.str() << err.str());
  a.work([&](disk& d) {
    CHECK(d.stats().remapped_units == 4);
    const auto io = d.make_context();
    std::vector<std::byte> unit(unit_bytes);
    unsigned old = 0;
    for (std::uint64_t u = 0; u < 1024; ++u) {
      REQUIRE(d.read(*io, unit, u * unit_bytes));
      old += unit[100] == std::byte{'n'} ? 0 : 1;
    }
    CHECK(old == 0);
  });
}

TEST_CASE("chunks that nobody used are not read, but for the first block of each copy") {
  const host h;
  const image_set a(h, "a", 1);
  const auto dump = parse_dump_text(dump_of(a.spares), "dump", false);
  REQUIRE(dump);
  const auto bytes = whole_file(a.spares[0]);
  page_image image(bytes.size());
  image.write(std::as_bytes(std::span(bytes)), 0);
  // As on a large spare: the same table in two chunks, the second one not in use.
  set_dump coarse = *dump;
  superblock& s = coarse.spares[0].super;
  s.places.chunk_blocks = s.places.table_blocks - 2;
  for (unsigned r = 0; r < own_replicas; ++r)
    for (std::uint32_t c = 0; c < chunk_count; ++c)
      s.set_good(r, c, c == 0);
  REQUIRE(s.places.chunks() == 2);
  const auto look = [&] {
    const auto io = std::make_shared<memory_store>(image);
    for (unsigned copy = 0; copy < super_copies; ++copy) // the dump's superblock counts
      io->add_bad({byte_of(s.places.super_place(copy)) / 512, 8, direction::read});
    return recover::look_for(*io, coarse.spares[0], coarse);
  };
  constexpr std::uint64_t late = 1ull << 40;
  const auto put = [&](std::uint32_t number) {
    block_bytes block;
    table_block t;
    t.sequence = late;
    encode_table_block(t, low_half(s.spare_uuid), number, s.places.block_place(3, number), block);
    image.write(block.span(), byte_of(s.places.block_place(3, number)));
  };
  const std::uint32_t first = s.places.chunk_first(1);
  for (unsigned r = 0; r < own_replicas; ++r)
    for (std::uint32_t b = first; b < s.places.table_blocks; ++b)
      image.write(block_bytes{}.span(), byte_of(s.places.block_place(r, b)));
  put(first + 1);
  CHECK(look().extra.empty());
  CHECK(look().sequence_end < late);
  put(first);
  CHECK(look().extra == std::vector<std::uint32_t>{1});
  CHECK(look().sequence_end == late + 1);
}

TEST_CASE("every exit status of the page of dmremap-restore happens") {
  const host h;
  const image_set a(h, "a", 1);
  const image_set b(h, "b", 1);
  const auto file = dump_file(h, a.spares);
  for (unsigned r = 0; r < own_replicas; ++r)
    damage(b.spares[0], b.super(0).places.block_place(r, 4));
  std::ofstream(h.dir / "partial") << dump_of({"--best-effort", b.spares[0]});
  const std::map<std::string, std::vector<std::string>> lines{
      {"0", {file, a.spares[0]}},
      {"1", {file, h.image("none")}},
      {"2", {"--no-such-option"}},
      {"4", {h.dir / "partial", b.spares[0]}},
  };
  const auto items = page_items("dmremap-restore.8", "EXIT STATUS");
  REQUIRE(items == std::vector<std::string>{"0", "1", "2", "4"});
  for (const auto& item : items) {
    INFO(item);
    CHECK(restore(lines.at(item)).status == std::stoi(item));
  }
}
