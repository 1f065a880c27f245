// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/scan.h"

#include "engine/codec.h"
#include "engine/host_state.h"
#include "recover/dump.h"
#include "recover/scan_report.h"
#include "tests/recover/image_set.h"
#include "tests/support/progress_lines.h"

#include <sys/stat.h>

using namespace dmremap;
using namespace dmremap::test;
using nlohmann::json;

namespace {

ran scan(std::vector<std::string> words) {
  return run_program_with(recover::run_scan, "dmremap-scan", words);
}

json scan_json(std::vector<std::string> words) {
  words.insert(words.begin(), "--json");
  return scan(words).json();
}

json only_set(const json& doc) {
  REQUIRE(doc["sets"].size() == 1);
  return doc["sets"][0];
}

/// {copy: state} of the superblocks of a spare that was found once.
std::string state_of_copy(const json& set, unsigned spare, unsigned copy) {
  const auto& members = set["spares"][spare]["members"];
  REQUIRE(members.size() == 1);
  return members[0]["superblocks"][copy]["state"];
}

std::uint64_t blocks(const json& set, unsigned spare, unsigned replica, const char* state) {
  return set["spares"][spare]["members"][0]["tables"][replica][state];
}

std::uint32_t initialised_block(const superblock& s) {
  for (std::uint32_t chunk = 0; chunk < s.places.chunks(); ++chunk)
    if (s.good_replicas(chunk) != 0)
      return s.places.chunk_first(chunk);
  FAIL("no block is initialised");
  return 0;
}

std::uint64_t initialised(const json& set, unsigned spare) {
  return set["spares"][spare]["members"][0]["tables"][0]["blocks"];
}

} // namespace

TEST_CASE("a set that is whole is complete, and every copy of it is valid") {
  const host h;
  const image_set a(h, "a", 3);
  const auto r = scan({"--json", h.images});
  CHECK(r.status == 0);
  const auto set = only_set(r.json());
  CHECK(set["name"] == "a");
  CHECK(set["uuid"] == a.uuid);
  CHECK(set["state"] == "complete");
  CHECK(set["main"] == a.main);
  CHECK(set["next"] == "dmremap-reassemble a " + h.images);
  for (unsigned n = 0; n < 3; ++n) {
    CHECK(set["spares"][n]["members"][0]["member"] == a.spares[n]);
    for (unsigned copy = 0; copy < super_copies; ++copy)
      CHECK(state_of_copy(set, n, copy) == "valid");
    REQUIRE(initialised(set, n) > 0);
    for (unsigned replica = 0; replica < 6; ++replica) // the sixth lies on another spare
      CHECK(blocks(set, n, replica, "valid") == initialised(set, n));
    CHECK(set["spares"][n]["members"][0]["tables"][5]["on"] != a.spares[n]);
  }
  CHECK(scan({h.images}).out.find("set a  " + a.uuid + "  complete\n") == 0);
  const progress_lines progress; // of main and three spares
  CHECK(scan({"--progress", progress.fd(), h.images}).status == 0);
  CHECK(progress.lines() ==
        std::vector<std::pair<std::uint64_t, std::uint64_t>>{{1, 4}, {2, 4}, {3, 4}, {4, 4}});
}

TEST_CASE("a folder is named as it is, however it was written") {
  const host h;
  const image_set a(h, "a", 1);
  for (const char* way : {"", "/", "/.", "//./"})
    CHECK(only_set(scan_json({h.images + way}))["spares"][0]["members"][0]["member"] == a.spares[0]);
}

TEST_CASE("each superblock copy is told from the others by what is wrong with it") {
  const host h;
  const image_set a(h, "a", 1), b(h, "b", 1);
  const auto old = read_bytes(a.spares[0], 0, unit_bytes);
  image_set(a).work([](disk&) {}); // a new session: sequences grow
  const auto& spare = a.spares[0];
  const auto place = [&](unsigned copy) { return a.super(0).places.super_place(copy); };
  write_bytes(spare, 0, old);
  damage(spare, place(1));
  write_bytes(spare, byte_of(place(2)), read_bytes(b.spares[0], byte_of(place(2)), unit_bytes));
  write_bytes(spare, byte_of(place(3)), read_bytes(spare, byte_of(place(4)), unit_bytes));
  write_bytes(spare, byte_of(place(5)), std::string(unit_bytes, '\0'));
  const auto r = scan({"--json", a.main, spare});
  CHECK(r.status == 4);
  const auto set = only_set(r.json());
  CHECK(set["state"] == "damaged");
  const char* expected[] = {"stale", "torn",  "foreign", "misplaced", "valid",
                            "gone",  "valid", "valid",   "valid",     "valid"};
  for (unsigned copy = 0; copy < super_copies; ++copy)
    CHECK(state_of_copy(set, 0, copy) == expected[copy]);
  const auto text = scan({a.main, spare}).out;
  CHECK(text.find("superblocks 5 of 10 (stale: 0) (torn: 1) (foreign: 2) (misplaced: 3) (gone: 5)") !=
        std::string::npos);
}

TEST_CASE("each copy of a table block is judged, too") {
  const host h;
  image_set a(h, "a", 2);
  const auto super = a.super(0);
  const std::uint32_t b = initialised_block(super);
  const auto place = [&](unsigned replica) { return super.places.block_place(replica, b); };
  const auto& spare = a.spares[0];
  const auto old = read_bytes(spare, byte_of(place(3)), unit_bytes);
  a.work([](disk& d) { REQUIRE(d.remap(sector_number(80))); });
  REQUIRE(read_bytes(spare, byte_of(place(3)), unit_bytes) != old);
  damage(spare, place(0));
  write_bytes(spare, byte_of(place(1)), read_bytes(a.spares[1], byte_of(place(1)), unit_bytes));
  write_bytes(spare, byte_of(place(2)), read_bytes(spare, byte_of(place(4)), unit_bytes));
  write_bytes(spare, byte_of(place(3)), old);
  damage(a.spares[1], spare_unit(std::uint64_t{a.super(0).sixth_start} + 1 + b));
  const auto set = only_set(scan_json({h.images}));
  const char* expected[] = {"torn", "foreign", "misplaced", "stale", "valid", "torn"};
  for (unsigned replica = 0; replica < 6; ++replica) {
    CHECK(blocks(set, 0, replica, expected[replica]) >= 1);
    CHECK(blocks(set, 0, replica, "valid") == initialised(set, 0) - (replica == 4 ? 0 : 1));
  }
  CHECK(set["state"] == "damaged");
  CHECK(set["spares"][0]["members"][0]["destroyed_blocks"] == 0);
  CHECK(blocks(set, 1, 0, "valid") == initialised(set, 1)); // the other spare is as it was
}

TEST_CASE("a block of which no copy is left leads to dmremap-fsck") {
  const host h;
  const image_set a(h, "a", 1);
  for (unsigned replica = 0; replica < own_replicas; ++replica)
    damage(a.spares[0], a.super(0).places.block_place(replica, initialised_block(a.super(0))));
  const auto set = only_set(scan_json({h.images}));
  CHECK(set["spares"][0]["members"][0]["destroyed_blocks"] == 1);
  CHECK(set["next"] == "dmremap-fsck -n " + a.spares[0]);
}

TEST_CASE("older copies after a crash are no damage") {
  const host h;
  image_set a(h, "a", 1);
  const auto old = read_bytes(a.spares[0], 0, unit_bytes);
  a.work([](disk&) {}, false);
  write_bytes(a.spares[0], 0, old);
  const auto r = scan({"--json", h.images});
  const auto set = only_set(r.json());
  CHECK(state_of_copy(set, 0, 0) == "stale");
  CHECK(set["spares"][0]["members"][0]["behind"] == true);
  CHECK(set["spares"][0]["members"][0]["damaged"] == false);
  CHECK(set["main_candidates"][0]["verdict"] == "needs --accept-main"); // nothing but its size speaks for it
  CHECK(set["next"] == "dmremap-reassemble a --accept-main " + h.images);
  CHECK(r.status == 0);
}

TEST_CASE("a missing spare is named, with who knows what is on it") {
  const host h;
  const image_set a(h, "a", 2);
  const auto uuid = to_text(a.super(1).spare_uuid);
  boost::filesystem::remove(a.spares[1]);
  auto r = scan({"--json", h.images});
  CHECK(r.status == 4);
  auto set = only_set(r.json());
  CHECK(set["state"] == "incomplete");
  CHECK(set["spares"][1]["state"] == "missing");
  CHECK(set["spares"][1]["uuid"] == uuid);
  CHECK(set["spares"][1]["protected_by"] == 0);
  CHECK(set["next"] == "dmremap-reassemble a --degraded " + h.images);
  CHECK(scan({h.images}).out.find("missing                        " + uuid) != std::string::npos);
}

TEST_CASE("a set without its main is incomplete, and nothing else of the size is taken for it") {
  const host h;
  const image_set a(h, "a", 1), b(h, "b", 1);
  boost::filesystem::remove(a.main);
  const auto doc = scan_json({h.images});
  REQUIRE(doc["sets"].size() == 2);
  CHECK(doc["sets"][0]["state"] == "incomplete");
  CHECK(doc["sets"][0]["main"] == nullptr);
  CHECK(doc["sets"][0]["main_candidates"][0]["member"] == b.main);
  CHECK(doc["sets"][0]["main_candidates"][0]["verdict"] == "refused");
  CHECK(doc["sets"][1]["main"] == b.main);
  CHECK(doc["sets"][1]["state"] == "complete");
}

TEST_CASE("copies of a spare or of main are ambiguous, not chosen from") {
  const host h;
  const image_set a(h, "a", 1);
  SECTION("a spare") {
    boost::filesystem::copy_file(a.spares[0], h.image("copy"));
    const auto set = only_set(scan_json({h.images}));
    CHECK(set["state"] == "ambiguous");
    CHECK(set["spares"][0]["members"].size() == 2);
    CHECK(set["next"] == nullptr);
  }
  SECTION("main") {
    boost::filesystem::copy_file(a.main, h.image("copy"));
    const auto set = only_set(scan_json({h.images}));
    CHECK(set["state"] == "ambiguous");
    CHECK(set["main"] == nullptr);
    CHECK(set["main_candidates"].size() == 2);
  }
  SECTION("the same file by two names is one") {
    boost::filesystem::create_hard_link(a.spares[0], h.image("link"));
    boost::filesystem::create_hard_link(a.main, h.image("link-of-main"));
    CHECK(only_set(scan_json({h.images}))["state"] == "complete");
  }
}

TEST_CASE("a spare that was copied onto something larger is the range that it was") {
  const host h;
  const image_set a(h, "a", 1);
  boost::filesystem::resize_file(a.spares[0], 40u << 20);
  const auto set = only_set(scan_json({h.images}));
  CHECK(set["state"] == "complete");
  CHECK(set["spares"][0]["members"][0]["member"] == a.spares[0] + "@0+32768");
}

TEST_CASE("metadata of dm-remap 4 is named with its copies") {
  const host h;
  make_file(h.image("v4"), 32u << 20);
  for (const std::uint64_t sector : {0u, 256u, 768u})
    write_bytes(h.image("v4"), sector * 512, "\x34\x52\x4D\x44");
  const auto doc = scan_json({h.images});
  REQUIRE(doc["upstream_v4"].size() == 1);
  CHECK(doc["upstream_v4"][0]["member"] == h.image("v4"));
  CHECK(doc["upstream_v4"][0]["sectors"] == json({0, 256, 768}));
  CHECK(scan({h.images}).out.find("earlier dm-remap 4, copies at sectors 0, 256, 768") != std::string::npos);
}

TEST_CASE("superblocks that are all torn are told, not passed over") {
  const host h;
  const image_set a(h, "a", 1);
  const auto places = a.super(0).places;
  for (unsigned copy = 0; copy < super_copies; ++copy)
    damage(a.spares[0], places.super_place(copy));
  const auto r = scan({"--json", h.images});
  CHECK(r.status == 4);
  REQUIRE(r.json()["damaged"].size() == 1);
  CHECK(r.json()["damaged"][0]["what"] == a.spares[0]);
}

TEST_CASE("a spare that was away is told") {
  const host h;
  image_set a(h, "a", 2);
  a.work([](disk& d) { REQUIRE(d.remap(sector_number(160))); }, true, {1});
  const auto set = only_set(scan_json({h.images}));
  CHECK(set["spares"][1]["state"] == "was-away");
  CHECK(set["spares"][1]["protected_by"] == 0);
}

TEST_CASE("every exit status of the page happens") {
  const host h;
  const image_set a(h, "a", 2);
  const auto items = page_items("dmremap-scan.8", "EXIT STATUS");
  REQUIRE(items == std::vector<std::string>{"0", "1", "2", "4"});
  for (const auto& item : items) {
    std::vector<std::string> words;
    if (item == "0")
      words = {h.images};
    else if (item == "1")
      words = {a.main, a.spares[0], a.spares[1], h.image("none")};
    else if (item == "2")
      words = {"--no-such-option"};
    else if (item == "4")
      words = {a.main, a.spares[0]};
    else
      FAIL("the page has an exit status that nothing tests: " + item);
    CHECK(scan(words).status == std::stoi(item));
  }
  CHECK(scan({h.dir / "conf"}).status == 1); // not there
  boost::filesystem::create_directory(h.dir / "empty");
  CHECK(scan({h.dir / "empty"}).status == 0);
  CHECK(scan({h.dir / "empty"}).out == "nothing of dmremap was found\n");
}

TEST_CASE("what is neither a device nor a file is told as such, and a named pipe is not waited for") {
  const host h;
  const auto pipe = h.image("pipe");
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  const auto found = scan({"--json", pipe});
  CHECK(found.status == 1);
  CHECK(found.err.find(pipe + ": is neither a block device nor a regular file") != std::string::npos);
  const auto dumped = [](std::vector<std::string> words) {
    words.insert(words.begin(), "--json");
    return run_program_with(recover::run_dump, "dmremap-dump", words).json()["error"]["id"];
  };
  CHECK(dumped({h.images}) == "not-a-device");
  CHECK(dumped({pipe}) == "not-a-device");
  CHECK(dumped({h.image("none")}) == "not-found");
}

TEST_CASE("one spare that is older than what this host saw makes the set old, however new the others are") {
  const host h;
  const image_set a(h, "a", 2);
  const unsigned n = a.super(0).sequence < a.super(1).sequence ? 0 : 1; // not the newest
  superblock older = a.super(n);
  REQUIRE(older.session == a.super(1 - n).session);
  host_state seen;
  seen.uuid = a.uuid;
  seen.sequence_end = older.sequence_end;
  REQUIRE(write_host_state(seen));
  CHECK(only_set(scan_json({h.images}))["state"] == "complete");
  --older.sequence_end;
  for (unsigned copy = 0; copy < super_copies; ++copy) {
    const auto place = older.places.super_place(copy);
    block_bytes block;
    encode_superblock(older, copy, place, block);
    write_bytes(a.spares[n], byte_of(place),
                {reinterpret_cast<const char*>(block.bytes.data()), block.bytes.size()});
  }
  CHECK(only_set(scan_json({h.images}))["state"] == "old");
}
