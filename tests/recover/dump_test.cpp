// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/dump.h"

#include "engine/erase_set.h"
#include "engine/set_dump.h"
#include "recover/dump_json.h"
#include "recover/dump_load.h"
#include "recover/named_dump.h"
#include "recover/reassemble.h"
#include "recover/restore.h"
#include "recover/scan.h"
#include "tests/recover/image_set.h"
#include "tests/support/progress_lines.h"

#include <set>
#include <sys/stat.h>

using namespace dmremap;
using namespace dmremap::test;
using nlohmann::json;

namespace {

ran dump(std::vector<std::string> words) {
  return run_program_with(recover::run_dump, "dmremap-dump", words);
}

set_dump parsed(const std::string& text) {
  auto d = parse_dump_text(text, "test", false);
  if (!d)
    FAIL(d.error().text());
  return std::move(*d);
}

std::string id_of(const std::string& text) {
  const auto d = parse_dump_text(text, "test", true);
  return d ? "" : d.error().id;
}

std::string with(std::string text, const std::string& from, const std::string& to) {
  const auto at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

std::uint32_t number_at(const std::string& block, std::size_t offset) {
  std::uint32_t value;
  std::memcpy(&value, block.data() + offset, sizeof value);
  return value;
}

std::uint32_t feature_of(const std::string& super) {
  return number_at(super, 128);
}

std::vector<std::uint64_t> mains_of(const dumped_spare& d) {
  std::vector<std::uint64_t> units;
  for (const auto& one : d.slots)
    if (one.value.serves())
      units.push_back(one.value.main().value);
  std::sort(units.begin(), units.end());
  return units;
}

} // namespace

TEST_CASE("a dump has what the set has, and its text and its JSON say the same") {
  const host h;
  image_set a(h, "a", 2);
  a.work([](disk& d) {
    REQUIRE(d.remap(sector_number(9 * 8), 24));
    REQUIRE(d.unmap(sector_number(2 * 8)));
  });
  const auto text = dump(a.spares);
  REQUIRE(text.status == 0);
  const auto d = parsed(text.out);
  REQUIRE(d.spares.size() == 2);
  CHECK(d.complete);
  CHECK_FALSE(d.live);
  auto units = mains_of(d.spares[0]);
  const auto second = mains_of(d.spares[1]);
  units.insert(units.end(), second.begin(), second.end());
  std::sort(units.begin(), units.end());
  CHECK(units == std::vector<std::uint64_t>{1, 3, 9, 10, 11, 700});
  for (unsigned n = 0; n < 2; ++n) {
    block_bytes dumped, there;
    const superblock on_disk = a.super(n);
    encode_superblock(on_disk, 0, spare_unit(0), there);
    encode_superblock(d.spares[n].super, 0, spare_unit(0), dumped);
    CHECK(dumped.bytes == there.bytes);
    CHECK(d.spares[n].member == a.spares[n]);
  }
  CHECK(dump_text(d) == text.out); // nothing is lost on the way
  auto words = a.spares;
  words.insert(words.begin(), "--json");
  const auto doc = dump(words).json();
  CHECK(doc["schema"] == 1);
  CHECK(doc["uuid"] == a.uuid);
  const auto back = recover::parse_dump_json(doc, "test", false);
  REQUIRE(back);
  CHECK(dump_text(*back) == text.out);
}

TEST_CASE("a live snapshot is what a dump of the same bytes is") {
  const host h;
  image_set a(h, "a", 2);
  std::string live;
  a.work(
      [&](disk& d) {
        REQUIRE(d.remap(sector_number(4096)));
        CHECK(d.dump()->live);
        auto snapshot = *d.dump();
        snapshot.live = false;
        live = dump_text(snapshot);
      },
      false);
  CHECK(dump(a.spares).out == live);
}

TEST_CASE("a spare that is away is dumped from the copy of its table") {
  const host h;
  image_set a(h, "a", 2);
  const auto whole = parsed(dump(a.spares).out);
  const auto d = parsed(dump({a.spares[0]}).out);
  REQUIRE(d.spares.size() == 2);
  CHECK(d.spares[1].away);
  CHECK(d.spares[1].map_on == 0);
  CHECK(d.spares[1].slots == whole.spares[1].slots);
  CHECK(d.spares[1].blocks == whole.spares[1].blocks);
  // One that was away while the set was in use holds old tables.
  a.work([](disk& disk) { REQUIRE(disk.remap(sector_number(800))); }, true, {1});
  CHECK(parsed(dump(a.spares).out).spares[1].away);
}

TEST_CASE("a damaged set is dumped with best effort only, and the damage is told") {
  const host h;
  const image_set a(h, "a", 1);
  const auto whole = parsed(dump(a.spares).out);
  REQUIRE(whole.spares[0].blocks.size() >= 1);
  const std::uint32_t block = whole.spares[0].blocks[0].first;
  for (unsigned r = 0; r < own_replicas; ++r)
    damage(a.spares[0], a.super(0).places.block_place(r, block));
  const auto strict = dump({"--json", a.spares[0]});
  CHECK(strict.status == 4);
  CHECK(strict.json()["error"]["id"] == "block-destroyed");
  const auto best = dump({"--best-effort", a.spares[0]});
  CHECK(best.status == 4);
  CHECK(best.err.find("blocks " + std::to_string(block) + "+1: no valid copy is left") != std::string::npos);
  const auto d = parsed(best.out);
  CHECK_FALSE(d.complete);
  REQUIRE(d.spares[0].damage.size() == 1);
  for (const auto& run : d.spares[0].blocks)
    CHECK((block < run.first || block >= run.first + run.count));
}

TEST_CASE("one copy of four that are torn is enough") {
  const host h;
  const image_set a(h, "a", 1);
  const auto before = dump(a.spares).out;
  for (unsigned r = 0; r < own_replicas - 1; ++r)
    damage(a.spares[0], a.super(0).places.block_place(r, parsed(before).spares[0].blocks[0].first));
  for (unsigned c = 0; c < super_copies - 1; ++c)
    damage(a.spares[0], a.super(0).places.super_place(c));
  const auto after = dump(a.spares);
  CHECK(after.status == 0);
  CHECK(after.out == before);
}

TEST_CASE("what is no dump is refused, each with its own reason") {
  const host h;
  const image_set a(h, "a", 2);
  const auto text = dump(a.spares).out;
  CHECK(parse_dump_text(with(text, "manual_remaps 4", "manual_remaps 5"), "test", false).error().id ==
        "dump-checksum");
  CHECK(id_of(with(text, "manual_remaps 4", "manual_remaps 5")).empty()); // edited, and said so
  CHECK(id_of("") == "dump-truncated");
  CHECK(id_of(text.substr(0, text.size() / 2)) != "");
  CHECK(id_of(text.substr(0, text.rfind("end "))) == "dump-truncated");
  CHECK(id_of(with(text, "dmremap-dump 1", "dmremap-dump 2")) == "dump-syntax");
  CHECK(id_of(with(text, "  clean yes\n", "")) == "dump-syntax");
  CHECK(id_of(with(text, "  clean yes\n", "  clean perhaps\n")) == "dump-syntax");
  CHECK(id_of(with(text, "  clean yes\n", "  clean yes\n  clean no\n")) == "dump-syntax");
  CHECK(id_of(with(text, "  clean yes\n", "  clean yes\n  klean no\n")) == "dump-syntax");
  CHECK(id_of(with(text, "\nspare 1", "\nspare 16")) == "dump-syntax");
  CHECK(id_of(with(text, "\nspare 1", "\nspare 0")) == "dump-impossible");
  CHECK(id_of(with(text, "  table_blocks 17", "  table_blocks 18")) == "dump-impossible");
  CHECK(id_of(with(text, "feature_incompat 0", "feature_incompat 1")) == "dump-impossible");
  CHECK(id_of(with(text, " main 5600 ", " main 5600000000 ")) == "dump-impossible");
  CHECK(id_of(with(text, " main 5600 ", " main 5601 ")) == "dump-syntax");
  CHECK(id_of(with(text, "  explicit ", "  remap 0 main 0 lost 00 answers 00 sequence 5\n  explicit ")) ==
        "dump-impossible"); // a slot on metadata
  // Every piece of it is a dump that is not whole, and none brings the parser down.
  // One that is said to be edited needs no checksum: with a piece of that line it is whole.
  const std::size_t last_line = text.rfind("end ");
  for (std::size_t cut = 0; cut < text.size() - 1; cut += cut < last_line - 13 ? 13 : 1) {
    CHECK_FALSE(parse_dump_text(text.substr(0, cut), "test", false));
    if (cut <= last_line)
      CHECK_FALSE(parse_dump_text(text.substr(0, cut), "test", true));
    auto changed = text;
    changed[cut] = static_cast<char>(changed[cut] ^ 0x15);
    static_cast<void>(parse_dump_text(changed, "test", true));
  }
}

TEST_CASE("a dump is refused where a line is missing, is there twice, or stands behind the end") {
  const host h;
  const image_set a(h, "a", 2);
  const auto text = dump(a.spares).out;
  CHECK(id_of(text + " \r\n\n").empty());
  CHECK(id_of(text + text) == "dump-syntax");
  CHECK(id_of(text + "spare") == "dump-syntax");
  CHECK(id_of("end 00000000\n") == "dump-syntax");
  for (const std::string line : {"live no\n", "complete yes\n"}) {
    CHECK(id_of(with(text, line, "")) == "dump-syntax");
    CHECK(id_of(with(text, line, line + line)) == "dump-syntax");
  }
  CHECK(id_of(with(text, "set \"a\" " + a.uuid + "\n", "")) == "dump-syntax");
  CHECK(id_of(with(text, "set \"a\"", "set a")) == "dump-syntax");
  const auto place = text.substr(text.find("  place 0 "), text.find("  place 1 ") - text.find("  place 0 "));
  CHECK(id_of(with(text, place, place + with(place, "place 0 ", "place 00 "))) == "dump-syntax");
  const auto bad = parse_dump_text(with(text, "live no", "live \x1b[2J\r"), "test", true);
  REQUIRE_FALSE(bad);
  CHECK(bad.error().why.find_first_of("\x1b\r") == std::string::npos);
}

TEST_CASE("a dump with numbers that do not fit each other is impossible") {
  const host h;
  const image_set a(h, "a", 2);
  const auto text = dump(a.spares).out;
  for (const char* spare : {"16", "99", "-1"})
    CHECK(id_of(with(text, "map_from own", std::string("map_from ") + spare)) == "dump-syntax");
  CHECK(id_of(with(text, "main_serial \"\"", "main_serial \"" + std::string(63, 'x') + '"')).empty());
  for (const auto& cut : {std::string(64, 'x'), std::string("S\\x00N")})
    CHECK(id_of(with(text, "main_serial \"\"", "main_serial \"" + cut + '"')) == "dump-impossible");
  CHECK(id_of(with(text, "replica 0 start 1025 good ", "replica 0 start 1025 good 17,")) ==
        "dump-impossible"); // a chunk that the table does not have
  // A restore would write the table of spare 1 to that place of spare 0.
  const superblock first = a.super(0);
  const std::string old = std::to_string(first.hosted_start[1]);
  REQUIRE(first.hosted_start[1] != 0);
  const std::string used = std::to_string(parsed(text).spares[0].slots.back().unit);
  for (const std::string& place : {std::string("120"), std::string("1030"), std::string("4090"), used}) {
    const auto line = text.find("  place 1 ");
    auto moved = text.substr(0, line) + with(text.substr(line), "hosted " + old, "hosted " + place);
    const auto guest = moved.find("\nspare 1");
    REQUIRE(guest > line);
    moved = moved.substr(0, guest) + with(moved.substr(guest), "sixth_start " + old, "sixth_start " + place);
    CHECK(id_of(moved) == "dump-impossible");
  }
}

TEST_CASE("a dump whose superblock names a spare beyond the last is not made: nobody could read it") {
  const host h;
  const image_set a(h, "a", 1);
  auto d = parsed(dump(a.spares).out);
  CHECK(check_dump(d, "test"));
  d.spares[0].super.absent_map[3] = 17;
  REQUIRE_FALSE(check_dump(d, "test"));
  CHECK(check_dump(d, "test").error().id == "dump-impossible");
}

TEST_CASE("a reply of a daemon that holds no dump is told as such") {
  const host h;
  const image_set a(h, "a", 1);
  const auto text = dump(a.spares).out;
  REQUIRE(recover::dump_in_reply({{"ok", true}, {"result", {{"dump", text}}}}, "a"));
  for (const char* reply :
       {R"({"ok":true})", R"({"result":5})", R"({"result":[1]})", R"({"result":{"dump":5}})", "5"}) {
    const auto d = recover::dump_in_reply(json::parse(reply), "a");
    REQUIRE_FALSE(d);
    CHECK(d.error().id == "bad-reply");
  }
}

TEST_CASE("what is missing in the JSON of a dump is not taken for nothing") {
  const host h;
  const image_set a(h, "a", 2);
  auto words = a.spares;
  words.insert(words.begin(), "--json");
  const auto whole = dump(words).json();
  const auto id = [](const json& doc) {
    const auto d = recover::parse_dump_json(doc, "test", true);
    return d ? "" : d.error().id;
  };
  REQUIRE(id(whole).empty());
  for (const char* key :
       {"samples", "replicas", "places", "damage", "blocks", "slots", "supers_good", "member"}) {
    INFO(key);
    auto doc = whole;
    doc["spares"][0].erase(key);
    CHECK(id(doc) == "dump-syntax");
    doc["spares"][0][key] = 5;
    CHECK(id(doc) == "dump-syntax");
  }
  auto doc = whole;
  doc["spares"][0]["replicas"][0].erase("good");
  CHECK(id(doc) == "dump-syntax");
  doc = whole;
  doc.erase("complete");
  CHECK(id(doc) == "dump-syntax");
}

TEST_CASE("no text in the JSON of a dump becomes more than one word of the other form") {
  const host h;
  const image_set a(h, "a", 1);
  auto words = a.spares;
  words.insert(words.begin(), "--json");
  const auto whole = dump(words).json();
  const auto session = whole["spares"][0]["session"].get<std::string>();
  for (const std::string more : {" # and so on", "\n  damage \"none\"", " ", "\""}) {
    auto doc = whole;
    doc["spares"][0]["session"] = session + more;
    const auto d = recover::parse_dump_json(doc, "test", true);
    REQUIRE_FALSE(d);
    CHECK(d.error().id == "dump-syntax");
  }
  auto doc = whole;
  doc["spares"][0]["member"] = "a\"\n  damage \"none";
  const auto d = recover::parse_dump_json(doc, "test", true);
  REQUIRE_FALSE(d);
  CHECK(d.error().id == "dump-syntax");
}

TEST_CASE("a JSON text of nothing but brackets is no dump, and is survived") {
  const host h;
  constexpr std::size_t levels = 400'000;
  const auto file = h.dir / "deep";
  std::ofstream(file) << R"({"format":"dmremap-dump","version":1,"spares":[{"blocks":)"
                      << std::string(levels, '[') << std::string(levels, ']') << "}]}";
  const auto d = recover::read_dump(file, true);
  REQUIRE_FALSE(d);
  CHECK(d.error().id == "dump-syntax");
}

TEST_CASE("a text with bytes of all kinds comes back") {
  std::string all;
  for (int c = 0; c < 256; ++c)
    all += static_cast<char>(c);
  CHECK(unescaped(escaped(all)) == all);
  CHECK(escaped("a\"b\\\n") == "a\\x22b\\x5c\\x0a");
  CHECK_FALSE(unescaped("\\x4"));
}

TEST_CASE("a dump goes to a new file as a whole, and never over one") {
  const host h;
  const image_set a(h, "a", 1);
  const auto file = h.dir / "a.dump";
  REQUIRE(dump({"--output", file, a.spares[0]}).status == 0);
  const auto d = recover::read_dump(file, false);
  REQUIRE(d);
  CHECK(dump_text(*d) == dump(a.spares).out);
  CHECK(dump({"--output", file, a.spares[0]}).status == 1);
  CHECK(dump({"--output", h.dir / "nosuch/x", "--json", a.spares[0]}).json()["error"]["id"] ==
        "output-failed");
  CHECK_FALSE(boost::filesystem::exists(h.dir / "nosuch"));
}

TEST_CASE("an image of the metadata is read like the spares, and holds no data") {
  const host h;
  image_set a(h, "a", 2);
  a.work([](disk& d) { // what was moved can be told from main's
    const auto io = d.make_context();
    const std::string secret(unit_bytes, 'S');
    REQUIRE(d.write(*io, std::as_bytes(std::span(secret)), 3 * unit_bytes));
  });
  damage(a.spares[0], a.super(0).places.block_place(2, 4));
  damage(a.spares[0], spare_unit(128));
  const auto folder = h.dir / "support";
  auto words = a.spares;
  const progress_lines progress;
  words.insert(words.begin(), {"--metadata-image", folder, "--progress", progress.fd()});
  const auto r = dump(words);
  INFO(r.err);
  REQUIRE(r.status == 0);
  const auto lines = progress.lines(); // each of two spares to its end
  CHECK(std::count_if(lines.begin(), lines.end(), [](const auto& l) { return l.first == l.second; }) == 2);
  CHECK(lines.back().second % unit_bytes == 0);
  CHECK(lines.back().second > 10 * unit_bytes);
  for (unsigned n = 0; n < 2; ++n) {
    const auto image = folder + "/" + std::to_string(n) + ".img";
    struct stat st {};
    REQUIRE(::stat(image.c_str(), &st) == 0);
    CHECK(st.st_size == 16 << 20);
    CHECK(st.st_blocks * 512 < 1 << 20);
    const auto bytes = read_bytes(image, 0, 16u << 20);
    CHECK(bytes.find("SSSSSSSS") == std::string::npos);
    const auto places = a.super(n).places;
    std::set<std::uint64_t> supers; // sound ones, which say that it is an image
    for (unsigned c = 0; c < super_copies; ++c)
      supers.insert(places.super_place(c).value);
    supers.insert(a.super(n).hosted_start[1 - n]);
    for (std::uint64_t u = 0; u < places.units; ++u) {
      const bool hosted = u >= *supers.rbegin() && u <= *supers.rbegin() + places.table_blocks;
      if (!places.is_metadata(spare_unit(u)) && !hosted)
        continue;
      const auto before = read_bytes(a.spares[n], u * unit_bytes, unit_bytes);
      auto now = bytes.substr(u * unit_bytes, unit_bytes);
      if (supers.count(u) != 0 && !(n == 0 && u == 128)) {
        block_bytes block;
        std::memcpy(block.bytes.data(), now.data(), unit_bytes);
        CHECK((feature_of(now) == 4 && crc32_of(block.span().subspan(4)) == number_at(now, 0)));
        now.replace(0, 4, before.substr(0, 4)).replace(128, 4, before.substr(128, 4));
      }
      REQUIRE((now == before));
    }
  }
  auto there = parsed(dump({folder + "/0.img", folder + "/1.img"}).out);
  for (unsigned n = 0; n < 2; ++n)
    there.spares[n].member = a.spares[n];
  CHECK(dump_text(there) == dump(a.spares).out);
  CHECK(dump(words).status == 1); // never over one that is there
  words = {"--metadata-image", h.dir / "blank", h.image("blank")};
  make_file(h.image("blank"), 16u << 20);
  CHECK(dump(words).status == 0); // nothing is left of it: an empty file says so
}

TEST_CASE("every superblock of an image says that it is one, whatever the list of guests names") {
  const host h;
  const image_set a(h, "a", 2);
  superblock s = a.super(0);
  s.hosted_start[1] = 100; // the fixed superblocks at 128 to 1024 lie in it
  s.hosted_blocks[1] = 1000;
  s.hosted_start[2] = 128;
  s.hosted_blocks[2] = 1;
  for (unsigned c = 0; c < super_copies; ++c) {
    block_bytes block;
    encode_superblock(s, c, s.places.super_place(c), block);
    write_bytes(a.spares[0], byte_of(s.places.super_place(c)),
                std::string(reinterpret_cast<const char*>(block.bytes.data()), unit_bytes));
  }
  REQUIRE(dump({"--metadata-image", h.dir / "support", a.spares[0]}).status == 0);
  for (unsigned c = 0; c < super_copies; ++c) {
    const auto at = byte_of(s.places.super_place(c));
    CHECK(feature_of(read_bytes(h.dir / "support/0.img", at, unit_bytes)) == 4);
  }
}

TEST_CASE("nothing serves or overwrites an image of the metadata, and who looks says what it is") {
  const host h;
  image_set a(h, "a", 2);
  REQUIRE(dump({"--metadata-image", h.dir / "support", a.spares[0], a.spares[1]}).status == 0);
  const std::vector<std::string> images{h.dir / "support/0.img", h.dir / "support/1.img"};
  const auto before = read_bytes(images[0], 0, 16u << 20);
  SECTION("the engine") {
    for (const auto& members : {images, {images[0], a.spares[1]}}) {
      const auto opened = disk::open(open_file(a.main), {open_file(members[0]), open_file(members[1])}, {});
      REQUIRE_FALSE(opened);
      CHECK(opened.error().id == "metadata-image");
      CHECK(opened.error().what == images[0]);
      CHECK(opened.error().why.find("holds no data") != std::string::npos);
    }
    const auto erased = erase_set(*open_file(images[0]));
    REQUIRE_FALSE(erased);
    CHECK(erased.error().id == "metadata-image");
  }
  SECTION("reassembly") {
    boost::filesystem::remove(a.spares[0]);
    const auto alone = run_program_with(recover::run_reassemble, "dmremap-reassemble",
                                        {"--json", "-n", "--all", a.main, images[0], images[1]});
    CHECK(alone.status == 4);
    CHECK(alone.json()["sets"][0]["error"]["id"] == "metadata-image");
    CHECK(alone.json()["sets"][0]["main"] == nullptr);
  }
  SECTION("reassembly, beside the set") {
    const auto both =
        run_program_with(recover::run_reassemble, "dmremap-reassemble",
                         {"--json", "-n", "--all", a.main, a.spares[0], a.spares[1], images[0], images[1]});
    CHECK(both.status == 0);
    CHECK(both.err.find("metadata images") != std::string::npos);
    REQUIRE(both.json()["sets"].size() == 1);
    CHECK(both.json()["sets"][0]["verdict"] == "certain");
    CHECK(both.json()["sets"][0]["spares"] == json(a.spares));
  }
  SECTION("scan") {
    const auto found = run_program_with(recover::run_scan, "dmremap-scan",
                                        {"--json", a.main, a.spares[0], a.spares[1], images[0], images[1]});
    const auto sets = found.json()["sets"];
    REQUIRE(sets.size() == 2);
    CHECK(sets[0]["state"] == "complete");
    CHECK(sets[1]["state"] == "image");
    CHECK(sets[1]["spares"][0]["members"][0]["damaged"] == false);
    CHECK(sets[1]["next"] == "dmremap-fsck -n " + images[0] + " " + images[1]);
  }
  SECTION("restore") {
    const auto file = h.dir / "a.dump";
    REQUIRE(dump({"--output", file, images[0], images[1]}).status == 0); // of an image as of the spare
    const auto r = run_program_with(recover::run_restore, "dmremap-restore",
                                    {"--json", "--accept-older", "--data-in-place", file, images[0]});
    CHECK(r.status == 1);
    CHECK(r.json()["error"]["id"] == "metadata-image");
    damage(a.spares[0], a.super(0).places.super_place(3));
    CHECK(run_program_with(recover::run_restore, "dmremap-restore", {file, a.spares[0]}).status == 0);
    CHECK(a.super(0).feature_incompat == 0);
    a.work([](disk& d) { CHECK(d.stats().remapped_units == 4); });
  }
  CHECK((read_bytes(images[0], 0, 16u << 20) == before));
}

TEST_CASE("spares of two sets are no set") {
  const host h;
  const image_set a(h, "a", 1), b(h, "b", 1);
  const auto r = dump({"--json", a.spares[0], b.spares[0]});
  CHECK(r.status == 4);
  CHECK(r.json()["error"]["id"] == "foreign-spare");
}

TEST_CASE("every exit status of the page of dmremap-dump happens") {
  const host h;
  const image_set a(h, "a", 1);
  const image_set b(h, "b", 1);
  for (unsigned r = 0; r < own_replicas; ++r)
    damage(b.spares[0], b.super(0).places.block_place(r, 4));
  const std::map<std::string, std::vector<std::string>> lines{
      {"0", a.spares},
      {"1", {h.image("none")}},
      {"2", {"--no-such-option"}},
      {"4", {b.spares[0]}},
  };
  const auto items = page_items("dmremap-dump.8", "EXIT STATUS");
  REQUIRE(items == std::vector<std::string>{"0", "1", "2", "4"});
  for (const auto& item : items) {
    INFO(item);
    CHECK(dump(lines.at(item)).status == std::stoi(item));
  }
  CHECK(dump({}).status == 2);
  CHECK(dump({a.main}).status == 1);        // no spare
  CHECK(dump({"no-such-set"}).status == 1); // not configured
}
