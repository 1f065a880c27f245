// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/deep_members.h"
#include "recover/deep_resume.h"
#include "recover/deep_search.h"
#include "recover/scan.h"
#include "tests/recover/image_set.h"
#include "tests/support/memory_store.h"

#include <random>

using namespace dmremap;
using namespace dmremap::test;
using namespace dmremap::recover;
using nlohmann::json;

namespace {

json deep(std::vector<std::string> words) {
  words.insert(words.begin(), {"--json", "--deep"});
  return run_program_with(run_scan, "dmremap-scan", words).json();
}

std::string noise(std::size_t bytes, unsigned seed) {
  std::mt19937_64 chance(seed);
  std::string text(bytes, '\0');
  for (auto& c : text)
    c = static_cast<char>(chance());
  return text;
}

std::string whole(const std::string& path) {
  return read_bytes(path, 0, boost::filesystem::file_size(path));
}

/// The file `disk`, of this size, with `image` in it from `at` on.
std::string put(const host& h, const std::string& image, std::uint64_t at, std::uint64_t size) {
  const auto disk = h.dir / "disk";
  make_file(disk, size);
  write_bytes(disk, at, whole(image));
  return disk;
}

std::string member(const json& doc, unsigned spare = 0) {
  REQUIRE(doc["sets"].size() == 1);
  const auto& members = doc["sets"][0]["spares"][spare]["members"];
  REQUIRE(members.size() == 1);
  return members[0]["member"];
}

} // namespace

TEST_CASE("a spare is found wherever it begins on a device") {
  const host h;
  const image_set a(h, "a", 1);
  const std::uint64_t start =
      8 * GENERATE(1u, 2047u, 2048u, 2049u, 12345u); // sectors; blocks straddle the pieces
  const auto disk = put(h, a.spares[0], start * 512, 72u << 20);
  CHECK(run_program_with(run_scan, "dmremap-scan", {disk}).out == "nothing of dmremap was found\n");
  const auto doc = deep({a.main, disk});
  CHECK(member(doc) == disk + "@" + std::to_string(start) + "+32768");
  CHECK(doc["sets"][0]["state"] == "complete");
  CHECK(doc["sets"][0]["spares"][0]["members"][0]["deep"] == true);
  CHECK(doc["search"]["bytes"] == (72u << 20) + (4u << 20));
}

TEST_CASE("a spare that begins between units is told, but is no range") {
  const host h;
  const image_set a(h, "a", 1);
  const auto disk = put(h, a.spares[0], 63 * 512, 64u << 20);
  const auto doc = deep({disk});
  CHECK(doc["sets"].empty());
  REQUIRE(doc["search"]["passed_over"].size() == 1);
  CHECK(doc["search"]["passed_over"][0]["start_sector"] == 63);
}

TEST_CASE("with the usual places gone the rest is found") {
  const host h;
  const image_set a(h, "a", 1, 64u << 20);
  const auto places = a.super(0).places;
  const auto disk = put(h, a.spares[0], 0, 96u << 20); // larger: the heads are not where its size puts them
  SECTION("five superblocks of noise") {
    for (unsigned copy = 0; copy < fixed_supers; ++copy)
      write_bytes(disk, byte_of(places.super_place(copy)), noise(unit_bytes, copy));
  }
  SECTION("8 MiB of zeros") {
    write_bytes(disk, 0, std::string(8u << 20, '\0'));
    CHECK(run_program_with(run_scan, "dmremap-scan", {disk}).out == "nothing of dmremap was found\n");
  }
  const auto doc = deep({a.main, disk});
  CHECK(member(doc) == disk + "@0+131072");
  CHECK(doc["sets"][0]["state"] == "damaged");
}

TEST_CASE("a backup image in a data area is not taken for a spare") {
  const host h;
  const image_set outer(h, "outer", 1, 64u << 20), inner(h, "inner", 1);
  const auto& disk = outer.spares[0];
  write_bytes(disk, 30u << 20, whole(inner.spares[0])); // between two replicas
  SECTION("of another set") {}
  SECTION("with the front of the real one gone") {
    write_bytes(disk, 0, std::string(8u << 20, '\0'));
  }
  const auto doc = deep({outer.main, disk});
  CHECK(member(doc) == disk);
  CHECK(doc["sets"][0]["name"] == "outer");
  bool told = false;
  for (const auto& one : doc["search"]["passed_over"])
    told |= one["set"]["name"] == "inner" && one["start_sector"] == (30u << 20) / 512 &&
            one["why"].get<std::string>().find("data area of spare") != std::string::npos;
  CHECK(told);
}

TEST_CASE("a backup image on main is not taken for a spare") {
  const host h;
  const image_set real(h, "real", 1);
  const auto disk = h.image("big.main");
  make_file(disk, 40u << 20);
  write_bytes(disk, 0, noise(40u << 20, 1));
  write_bytes(disk, 5u << 20, whole(real.spares[0]));
  make_file(h.image("big.0"), 16u << 20);
  auto main_io = open_file(disk), spare_io = open_file(h.image("big.0"));
  format_options options;
  options.name = "big";
  store* spares[] = {spare_io.get()};
  REQUIRE(disk::format(*main_io, spares, options));
  const auto doc = deep({disk, h.image("big.0")});
  REQUIRE(doc["sets"].size() == 1);
  CHECK(doc["sets"][0]["name"] == "big");
  REQUIRE(doc["search"]["passed_over"].size() == 1);
  CHECK(doc["search"]["passed_over"][0]["set"]["name"] == "real");
}

TEST_CASE("units of a backup image that moved one by one are nothing") {
  const host h;
  const image_set a(h, "a", 1);
  const auto disk = h.dir / "disk";
  make_file(disk, 64u << 20);
  std::uint64_t at = 20u << 20;
  for (unsigned copy = 0; copy < super_copies; ++copy, at += 3 * unit_bytes)
    write_bytes(disk, at, read_bytes(a.spares[0], byte_of(a.super(0).places.super_place(copy)), unit_bytes));
  const auto doc = deep({disk});
  CHECK(doc["sets"].empty());
  CHECK_FALSE(doc["search"]["passed_over"].empty());
}

TEST_CASE("what lies in a file system is no spare unless it is named") {
  const host h;
  const image_set a(h, "a", 1);
  const auto disk = put(h, a.spares[0], 20u << 20, 64u << 20);
  std::string ext4(unit_bytes, '\0');
  ext4[1024 + 56] = '\x53'; // s_magic
  ext4[1024 + 57] = '\xEF';
  ext4[1024 + 4] = '\x40'; // blocks
  ext4[1024 + 24] = '\2';  // of 4096 bytes
  ext4[1024 + 76] = '\1';  // revision
  write_bytes(disk, 0, ext4);
  const auto doc = deep({disk});
  CHECK(doc["sets"].empty());
  REQUIRE(doc["search"]["passed_over"].size() == 1);
  CHECK(doc["search"]["passed_over"][0]["why"].get<std::string>().find("lies in ext") == 0);
  const auto named = disk + "@40960+32768";
  CHECK(member(deep({disk, named})) == named);
}

TEST_CASE("table blocks without any superblock are told") {
  const host h;
  const image_set a(h, "a", 1);
  const auto places = a.super(0).places;
  for (unsigned copy = 0; copy < super_copies; ++copy)
    write_bytes(a.spares[0], byte_of(places.super_place(copy)), std::string(unit_bytes, '\0'));
  const auto doc = deep({a.spares[0]});
  REQUIRE(doc["search"]["passed_over"].size() == 1);
  CHECK(doc["search"]["passed_over"][0]["why"] == "table blocks without a superblock");
  CHECK(doc["search"]["passed_over"][0]["table_blocks"] > 0);
  CHECK(doc["search"]["passed_over"][0]["set"] == nullptr);
}

TEST_CASE("table blocks without any superblock are named where another spare knows whose they are") {
  const host h;
  const image_set a(h, "a", 2);
  const auto super = a.super(0);
  for (unsigned copy = 0; copy < super_copies; ++copy)
    write_bytes(a.spares[0], byte_of(super.places.super_place(copy)), std::string(unit_bytes, '\0'));
  const auto doc = deep({h.images});
  CHECK(doc["sets"][0]["spares"][0]["state"] == "missing");
  bool told = false;
  for (const auto& one : doc["search"]["passed_over"])
    told |= one["path"] == a.spares[0] && one["start_sector"] == 0 && one["set"]["uuid"] == a.uuid &&
            one["spare"] == to_text(super.spare_uuid);
  CHECK(told);
}

TEST_CASE("a search passes over what cannot be read, and counts it") {
  const host h;
  const image_set a(h, "a", 1);
  auto device = std::make_shared<memory_store>(32u << 20);
  const auto image = whole(a.spares[0]);
  REQUIRE(device->write(std::as_bytes(std::span(image.data(), image.size())), 8u << 20));
  fault_table faults;
  faults.bad.push_back(bad_range{(8u << 20) / 512, 1}); // in the first superblock
  device->set_faults(faults);
  deep_state state;
  REQUIRE(search_device(*device, {}, state, [] { return true; }));
  CHECK(state.unreadable == unit_bytes);
  CHECK(state.done == 32u << 20);
  REQUIRE(state.finds.size() == 1);
  CHECK(state.finds.begin()->second.supers == 0x3FE);
  CHECK(state.finds.begin()->second.start == 8 << 20);
}

TEST_CASE("a block across the border of two pieces is found") {
  const host h;
  const image_set a(h, "a", 1);
  const auto disk = open_file(put(h, a.spares[0], (8u << 20) - 512, 48u << 20));
  deep_state state;
  REQUIRE(search_device(*disk, {}, state, [] { return true; }));
  REQUIRE(state.finds.size() == 1);
  CHECK(state.finds.begin()->second.supers == 0x3FF);
  CHECK(state.finds.begin()->second.start == (8 << 20) - 512);
}

TEST_CASE("a search leaves out what it is told to") {
  const host h;
  const image_set a(h, "a", 1);
  const auto disk = open_file(put(h, a.spares[0], 16u << 20, 48u << 20));
  deep_state state;
  REQUIRE(search_device(*disk, {{16u << 20, 32u << 20}}, state, [] { return true; }));
  CHECK(state.finds.empty());
  CHECK(state.done == 48u << 20);
}

TEST_CASE("a search that was stopped goes on where it was, with the same result") {
  const host h;
  const image_set a(h, "a", 1);
  const auto disk = put(h, a.spares[0], 20u << 20, 64u << 20);
  const auto keep = h.dir / "keep";
  const auto io = open_file(disk);
  deep_state straight;
  REQUIRE(search_device(*io, {}, straight, [] { return true; }));
  unsigned runs = 0;
  for (;; ++runs) { // each run does one piece
    auto file = resume_file::open(keep);
    REQUIRE(file);
    auto state = file->state_of(disk, mark_of(*io));
    if (state.done == io->size())
      break;
    const auto before = state.done;
    REQUIRE(search_device(*io, {}, state, [] { return false; }));
    CHECK(state.done == std::min<std::uint64_t>(before + (8u << 20), io->size()));
    REQUIRE(file->keep(disk, mark_of(*io), state, std::chrono::milliseconds(0)));
  }
  CHECK(runs == 8);
  const auto resumed = resume_file::open(keep)->state_of(disk, mark_of(*io));
  REQUIRE(resumed.finds.size() == straight.finds.size());
  const auto& one = resumed.finds.begin()->second;
  const auto& other = straight.finds.begin()->second;
  CHECK(one.start == other.start);
  CHECK(one.supers == other.supers);
  CHECK(one.supers == 0x3FF);
  CHECK(one.table_blocks == other.table_blocks);
  CHECK(one.spare == other.spare);
  CHECK(one.units == other.units);
  CHECK(resume_file::open(keep)->state_of(disk, {io->size() + 4096, mark_of(*io).who}).done == 0);

  // The program finds nothing left to search, and the spare all the same.
  const auto again = deep({"--resume", keep, a.main, disk});
  CHECK(member(again) == disk + "@40960+32768");
  CHECK(again["search"]["earlier_bytes"] == 64u << 20);

  // Another disk has the name now: nothing counts as searched.
  std::filesystem::remove(disk);
  const image_set b(h, "b", 1);
  CHECK(put(h, b.spares[0], 12u << 20, 64u << 20) == disk);
  const auto other_disk = deep({"--resume", keep, b.main, disk});
  CHECK(other_disk["search"]["earlier_bytes"] == 0);
  CHECK(member(other_disk) == disk + "@24576+32768");
}

TEST_CASE("a file of a search that says what no search writes is refused") {
  const host h;
  const auto keep = h.dir / "keep";
  const device_mark mark{64u << 20, "serial S"};
  deep_find find;
  find.start = -4096, find.first = 8192, find.last = 12288;
  find.owner_low = UINT64_MAX;
  find.supers = 0x401;
  find.units = 4096, find.sequence = 9;
  find.set_name = "a";
  deep_state state;
  state.done = 8u << 20;
  state.finds[{find.start, find.owner_low}] = find;
  REQUIRE(resume_file::open(keep)->keep("/dev/sdx", mark, state, std::chrono::milliseconds(0)));
  REQUIRE(resume_file::open(keep)->state_of("/dev/sdx", mark).finds.size() == 1);
  const auto whole = nlohmann::json::parse(slurp(keep));
  const auto id_with = [&](const std::string& field, const nlohmann::json& value) {
    auto doc = whole;
    doc[nlohmann::json::json_pointer(field)] = value;
    std::ofstream(keep) << doc;
    const auto opened = resume_file::open(keep);
    return opened ? "" : opened.error().id;
  };
  const std::string device = "/devices/~1dev~1sdx", one = device + "/finds/0";
  CHECK(id_with(device + "/done", 64u << 20).empty());
  const std::vector<std::pair<std::string, nlohmann::json>> bad{
      {"/devices", nullptr},
      {"/devices", nlohmann::json::array()},
      {device, 5},
      {device + "/bytes", -1},
      {device + "/bytes", 1e30},
      {device + "/bytes", true},
      {device + "/bytes", UINT64_MAX},
      {device + "/who", 5},
      {device + "/done", -1}, // would be: all of it is searched
      {device + "/done", (64u << 20) + 1},
      {device + "/unreadable", "1"},
      {device + "/finds", nullptr},
      {device + "/finds", nlohmann::json::object()},
      {device + "/finds/0", nlohmann::json::array()},
      {device + "/finds/1", whole[nlohmann::json::json_pointer(one)]}, // there twice
      {one + "/start", UINT64_MAX},
      {one + "/start", 8193},
      {one + "/start", INT64_MIN},
      {one + "/first", 12289},
      {one + "/last", (8u << 20) + 1},
      {one + "/supers", std::uint64_t{1} << 32},
      {one + "/supers", 0x800},
      {one + "/spare", "no UUID"},
      {one + "/sequence", std::uint64_t{1} << 48},
  };
  for (const auto& [field, value] : bad) {
    INFO(field << " = " << value);
    CHECK(id_with(field, value) == "resume-file");
  }
}

TEST_CASE("a spare is not taken for as large as no spare is") {
  deep_find find;
  find.supers = 0x3FF;
  find.set_name = "a";
  for (const std::uint64_t units :
       {std::uint64_t{0}, std::uint64_t{1} << 32, std::uint64_t{1} << 52, UINT64_MAX})
    for (const std::int64_t start : {0, 1 << 20}) {
      find.units = units;
      find.start = start;
      deep_state state;
      state.finds[{start, 0}] = find;
      const auto found = members_among("/dev/sdx", 64u << 20, state, "", {});
      INFO(units << " units at " << start);
      CHECK(found.members.empty());
      CHECK(found.passed.size() == 1);
    }
}

TEST_CASE("a file that is no search's is not overwritten") {
  const host h;
  const auto text = h.dir.text_file("letter", "dear all\n");
  const auto r = run_program_with(run_scan, "dmremap-scan", {"--deep", "--resume", text, h.images});
  CHECK(r.status == 1);
  CHECK(slurp(text) == "dear all\n");
  CHECK(run_program_with(run_scan, "dmremap-scan", {"--deep", "--resume", h.images, h.images}).status == 1);
  CHECK(run_program_with(run_scan, "dmremap-scan", {"--resume", text, h.images}).status == 2);
}
