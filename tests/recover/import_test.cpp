// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/import.h"

#include "engine/config.h"
#include "engine/metadata_backup.h"
#include "recover/dump.h"
#include "recover/dump_json.h"
#include "recover/import_lists.h"
#include "recover/import_plan.h"
#include "tests/recover/image_set.h"

#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

using namespace dmremap;
using namespace dmremap::test;
using namespace dmremap::recover;
using nlohmann::json;

namespace {

ran import_with(std::vector<std::string> words) {
  return run_program_with(run_import, "dmremap-import", words);
}

using pairs = std::vector<std::pair<std::uint64_t, std::uint64_t>>;

pairs of(const result<bad_list>& list) {
  if (!list)
    FAIL(list.error().text());
  pairs out;
  for (const auto& range : list->ranges)
    out.emplace_back(range.start, range.end);
  return out;
}

std::string id_of(const result<bad_list>& list) {
  return list ? "" : list.error().id;
}

/// A configured set that does not run.
image_set configured(const host& h, const std::string& name, unsigned count = 1) {
  image_set a(h, name, count);
  REQUIRE(save_set_config({a.name, a.uuid, a.main, a.spares, {}}, config_write::create));
  return a;
}

std::vector<std::uint64_t> moved(image_set& a) {
  std::vector<std::uint64_t> units;
  a.work([&](disk& d) { d.for_each_remap([&](const remap_entry& e) { units.push_back(e.main.value); }); });
  return units;
}

std::string list_file(const host& h, const std::string& text) {
  const auto path = h.dir / "list";
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

std::string error_of(std::vector<std::string> words) {
  words.insert(words.begin(), "--json");
  const auto r = import_with(words);
  return r.status == 0 ? "" : r.json()["error"]["id"].get<std::string>();
}

template <class Number>
void put(std::string& bytes, std::size_t at, Number value) {
  for (std::size_t i = 0; i < sizeof value; ++i)
    bytes[at + i] = static_cast<char>(static_cast<std::uint64_t>(value) >> (8 * i));
}

/// What dm-remap 4 writes, with the checksum of the kernel's crc32().
std::string v4_structure(std::uint64_t sequence, std::uint64_t main_sectors,
                         const std::vector<std::pair<std::uint64_t, std::uint64_t>>& remaps) {
  std::string bytes(84288, '\0');
  put(bytes, 0, std::uint32_t{0x444D5234});
  put(bytes, 4, std::uint32_t{4});
  put(bytes, 8, sequence);
  put(bytes, 120, main_sectors);
  put(bytes, 296, static_cast<std::uint32_t>(remaps.size()));
  for (std::size_t n = 0; n < remaps.size(); ++n) {
    put(bytes, 312 + 40 * n, remaps[n].first);
    put(bytes, 312 + 40 * n + 8, remaps[n].second);
  }
  std::uint32_t crc = 0; // bit by bit, as the kernel's documentation has it
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (i >= 24 && i < 28)
      continue;
    crc ^= static_cast<unsigned char>(bytes[i]);
    for (int bit = 0; bit < 8; ++bit)
      crc = crc >> 1 ^ ((crc & 1) != 0 ? 0xEDB88320u : 0u);
  }
  put(bytes, 24, crc);
  return bytes;
}

} // namespace

TEST_CASE("a mapfile of ddrescue gives its bad places, and others only when asked") {
  const std::string text = "# Mapfile. Created by GNU ddrescue version 1.27\r\n"
                           "# current_pos  current_status  current_pass\r\n"
                           "0x00100000     ?               1\r\n"
                           "#      pos        size  status\r\n"
                           "0x00000000  0x00001000  +\r\n"
                           "0x00001000  0x00000200  -\r\n"
                           "0x00001200  0x00000e00  /\n"
                           "8192  010000  *\n" // an octal size
                           "0x00003000  0x00001000  ?\n"
                           "0x00004000  0x00001000  - # the last\n";
  CHECK(of(parse_ddrescue(text, "map", false)) == pairs{{0x1000, 0x1200}, {0x4000, 0x5000}});
  CHECK(of(parse_ddrescue(text, "map", true)) ==
        pairs{{0x1000, 0x1200}, {0x1200, 0x2000}, {0x2000, 0x3000}, {0x4000, 0x5000}});
  for (const char* bad :
       {"", "# nothing\n", "0x0 + 1\n", "1\n2\n", "0x0 + 1\n0x0 0x200\n", "0x0 + 1\n0x0 0x200 x\n",
        "0x0 + 1\n0x0 0x200 -\n0x400 0x200 -\n", // a gap
        "0x0 + 1\n0x0 0x400 -\n0x200 0x200 -\n", // an overlap
        "0x0 + 1\n0x0 0xg -\n", "0x0 + 1\n-1 5 -\n", "0x0 + 1\n0x0 08 -\n"})
    CHECK(id_of(parse_ddrescue(bad, "map", false)) == "bad-list");
}

TEST_CASE("a list of blocks counts in the size that it was told") {
  CHECK(of(parse_blocks("5\n7\r\n", "list", 1024, false)) == pairs{{5120, 6144}, {7168, 8192}});
  CHECK(of(parse_blocks("# by hand\n16 8\n100\n", "list", 512, true)) ==
        pairs{{8192, 12288}, {51200, 51712}});
  CHECK(of(parse_blocks("", "list", 1024, false)).empty());
  for (const char* bad : {"5 6\n", "x\n", "0x5\n", "-1\n", "99999999999999999999\n", "9007199254740993\n"})
    CHECK(id_of(parse_blocks(bad, "list", 4096, false)) == "bad-list");
  CHECK(id_of(parse_blocks("5 0\n", "list", 512, true)) == "bad-list");
}

TEST_CASE("smartctl's tables are read, its counts are not") {
  const json doc = {
      {"smartctl", {{"version", {7, 3}}, {"exit_status", 64}}},
      {"serial_number", "SN-1"},
      {"user_capacity", {{"blocks", 1000}, {"bytes", 4096000}}},
      {"logical_block_size", 4096},
      {"ata_smart_attributes", {{"table", {{{"id", 197}, {"raw", {{"value", 24}}}}}}}},
      {"ata_pending_defects_log", {{"table", {{{"lba", 3}}, {{"lba", 4}, {"power_on_hours", 7}}}}}},
      {"ata_smart_self_test_log",
       {{"extended",
         {{"table",
           {{{"lba", 9}, {"status", {{"value", 121}, {"passed", false}}}},
            {{"lba", 77}, {"status", {{"value", 0}, {"passed", true}}}}}}}}}},
      {"ata_smart_error_log",
       {{"extended",
         {{"table",
           {{{"completion_registers", {{"lba", 10}, {"error", 64}}}},
            {{"completion_registers", {{"lba", 11}, {"error", 4}}}},
            {{"completion_registers", {{"lba", 12}, {"error", 132}}}}}}}}}}};
  const auto list = parse_smartctl(doc.dump(), "smart", std::nullopt);
  CHECK(of(list) ==
        pairs{{3 * 4096, 4 * 4096}, {4 * 4096, 5 * 4096}, {9 * 4096, 10 * 4096}, {10 * 4096, 11 * 4096}});
  CHECK(list->serial == "SN-1");
  CHECK(list->capacity == 4096000u);
  auto silent = doc;
  silent.erase("logical_block_size");
  CHECK(id_of(parse_smartctl(silent.dump(), "smart", std::nullopt)) == "block-size-wanted");
  CHECK(of(parse_smartctl(silent.dump(), "smart", 512)).front() ==
        std::pair<std::uint64_t, std::uint64_t>{1536, 2048});
  auto other_drive = doc; // as of an NVMe drive
  for (const char* log : {"ata_pending_defects_log", "ata_smart_self_test_log", "ata_smart_error_log"})
    other_drive.erase(log);
  other_drive["nvme_error_information_log"] = {{"table", {{{"lba", {{"value", 5}}}}}}};
  CHECK(id_of(parse_smartctl(other_drive.dump(), "smart", std::nullopt)) == "bad-list");
  for (const char* bad : {"", "{", "[]", "{\"device\":1}", "null"})
    CHECK(id_of(parse_smartctl(bad, "smart", 512)) == "bad-list");
}

TEST_CASE("a mapfile without its first line is refused: that line is no bad place") {
  CHECK(of(parse_ddrescue("0x0 F 3\n0x0 0x200 -\n", "map", false)) == pairs{{0, 512}});
  for (const char* bad : {"0x0 8 -\n0x8 0x200 -\n", "0x0 + -\n0x0 0x200 -\n", "0x0 x 1\n0x0 0x200 -\n"})
    CHECK(id_of(parse_ddrescue(bad, "map", false)) == "bad-list");
}

TEST_CASE("a pending defect that cannot be read is not left out in silence") {
  const auto list = [](const json& row) {
    const json doc{{"smartctl", json::object()},
                   {"logical_block_size", 512},
                   {"ata_pending_defects_log", {{"table", json::array({json{{"lba", 3}}, row})}}}};
    return parse_smartctl(doc.dump(), "smart", std::nullopt);
  };
  CHECK(of(list({{"lba", 4}})) == pairs{{1536, 2048}, {2048, 2560}});
  for (const json& row : {json{{"lba", -1}}, json{{"lba", 4.5}}, json{{"lba", "4"}},
                          json{{"lba", UINT64_MAX}}, json::object(), json(nullptr), json(7)}) {
    INFO(row);
    CHECK(id_of(list(row)) == "bad-list");
  }
}

TEST_CASE("JSON of nothing but brackets is survived") {
  constexpr std::size_t levels = 400'000;
  const auto brackets = std::string(levels, '[') + std::string(levels, ']');
  const auto with = [&](const std::string& log) {
    return parse_smartctl(R"({"smartctl":{},"logical_block_size":512,)" + log + brackets + "]}}}", "smart",
                          512);
  };
  CHECK(of(with(R"("ata_smart_self_test_log":{"extended":{"table":[)")).empty());
  CHECK(of(with(R"("ata_smart_error_log":{"summary":{"table":[)")).empty());
}

TEST_CASE("a plan for a list of all of a huge disk is made at once, and what lies outside counts once") {
  set_dump set;
  set.spares.emplace_back();
  superblock& s = set.spares[0].super;
  s.places = make_geometry(16u << 20).value();
  s.main_sectors = std::uint64_t{1} << 51; // the largest that there can be
  set.spares[0].slots.push_back({1030, slot::make(slot_kind::remap, main_unit(1000), 0, 0, 5)});
  const auto all = make_import_plan({{0, std::uint64_t{1} << 60}}, 0, set, "list");
  REQUIRE_FALSE(all);
  CHECK(all.error().id == "no-spare-capacity");
  CHECK(all.error().why.find(std::to_string((std::uint64_t{1} << 48) - 1) + " units more") !=
        std::string::npos);
  const auto room = make_import_plan({{0, std::uint64_t{1} << 60}}, 0, set, "list", UINT64_MAX);
  REQUIRE(room);
  CHECK(room->already_units == 1);
  CHECK(room->sectors == s.main_sectors);
  s.main_sectors = 100;
  const std::vector<byte_range> listed{{51200, 51712}, {0, 512}, {51200, 51712}, {51000, 51300}};
  const auto twice = make_import_plan(listed, 0, set, "list", 100);
  REQUIRE(twice);
  CHECK(twice->outside == 1); // sector 100
  CHECK(twice->sectors == 2); // 0 and 99
  const std::vector<byte_range> many(5000, byte_range{std::uint64_t{1} << 61, std::uint64_t{1} << 62});
  auto more = many;
  more.push_back({0, 512});
  CHECK(make_import_plan(more, 0, set, "list", 100)->outside == std::uint64_t{1} << 52);
}

TEST_CASE("a list is moved once, and counted the next time") {
  const host h;
  auto a = configured(h, "a", 2); // units 1, 2, 3 and 700 are moved
  const auto list = list_file(h, "0\n17\n24 16\n5600\n8000 9\n99999999\n");
  const std::vector<std::string> words{"--json", "--format", "sectors", "--offset", "0", "a", list};
  auto dry = words;
  dry.insert(dry.begin(), "-n");
  const auto before = read_bytes(a.spares[0], 0, 16u << 20);
  const auto planned = import_with(dry).json();
  CHECK((read_bytes(a.spares[0], 0, 16u << 20) == before));
  CHECK(planned["units"] == 4); // 0, 4, 1000, 1001
  CHECK(planned["already_units"] == 3);
  CHECK(planned["outside_sectors"] == 1);
  CHECK(planned["listed_sectors"] == 28);
  const auto first = import_with(words).json();
  CHECK(first["units"] == 4);
  CHECK(first["already_units"] == 3);
  CHECK(first["online"] == false);
  CHECK(moved(a) == std::vector<std::uint64_t>{0, 1, 2, 3, 4, 700, 1000, 1001});
  const auto second = import_with(words).json();
  CHECK(second["units"] == 0);
  CHECK(second["already_units"] == 7);
  a.work([&](disk& d) { // and the data came along
    const auto io = d.make_context();
    std::vector<std::byte> now(a.main.empty() ? 0 : 4u << 20);
    REQUIRE(d.read(*io, now, 0));
    CHECK((std::string(reinterpret_cast<const char*>(now.data()), now.size()) ==
           read_bytes(a.main, 0, 4u << 20)));
  });
}

TEST_CASE("offsets go both ways") {
  const host h;
  auto a = configured(h, "a");
  const auto list = list_file(h, "2048\n");
  REQUIRE(
      import_with({"--format", "badblocks", "--block-size", "1024", "--offset", "-2048", "a", list}).status ==
      0);
  REQUIRE(import_with({"--format", "sectors", "--offset", "512", "a", list}).status == 0);
  CHECK(moved(a) == std::vector<std::uint64_t>{1, 2, 3, 256, 320, 700});
}

TEST_CASE("what the format does not tell is asked for") {
  const host h;
  const auto a = configured(h, "a");
  const auto list = list_file(h, "2048\n");
  CHECK(error_of({"--format", "sectors", "a", list}) == "offset-wanted");
  for (const auto* number : {"010", "", "9223372036854775808", "0x10"}) // octal, nothing, 2^63
    CHECK(error_of({"--format", "sectors", "--offset", number, "a", list}) == "bad-usage");
  CHECK(error_of({"--format", "ddrescue", "a", list}) == "offset-wanted");
  CHECK(error_of({"--format", "badblocks", "--offset", "0", "a", list}) == "block-size-wanted");
  CHECK(error_of({"--format", "badblocks", "--offset", "0", "--block-size", "1000", "a", list}) ==
        "bad-number");
  CHECK(error_of({"--format", "v4", "a", list}) == "data-wanted");
  CHECK(error_of({"--format", "sectors", "--offset", "99999999", "a", list}) == "list-outside");
  CHECK(error_of({"--format", "sectors", "--offset", "0", "a", h.dir / "none"}) == "bad-list");
  CHECK(error_of({"--format", "sectors", "--offset", "0", "b", list}) == "no-such-set");
  const auto all = list_file(h, "0 8192\n"); // 1024 units fit, 20000 do not
  CHECK(error_of({"-n", "--format", "sectors", "--offset", "0", "a", all}).empty());
  set_dump small;
  small.spares.emplace_back();
  small.spares[0].super = a.super(0);
  small.spares[0].super.main_sectors = 1u << 20;
  std::uint64_t free = 0; // nothing is given out by itself in the first quarter of 4096 units
  for (std::uint64_t u = 1024; u < 4096; ++u)
    free += small.spares[0].super.places.is_metadata(spare_unit(u)) ? 0 : 1;
  const std::vector<byte_range> fits{byte_range{0, free * 4096}}, more{byte_range{0, (free + 1) * 4096}};
  CHECK(make_import_plan(fits, 0, small, "list"));
  const auto plan = make_import_plan(more, 0, small, "list");
  REQUIRE_FALSE(plan);
  CHECK(plan.error().id == "no-spare-capacity");
  // A running set knows better: a spare that takes no new data has no room.
  CHECK(make_import_plan(fits, 0, small, "list", free));
  const auto draining = make_import_plan(fits, 0, small, "list", free - 1);
  REQUIRE_FALSE(draining);
  CHECK(draining.error().why.find(std::to_string(free - 1) + " are free") != std::string::npos);
}

TEST_CASE("the list of another drive is refused") {
  const host h;
  auto a = configured(h, "a");
  json doc = {{"smartctl", {{"exit_status", 0}}},
              {"serial_number", "SN-1"},
              {"user_capacity", {{"bytes", 4u << 20}}},
              {"logical_block_size", 512},
              {"ata_pending_defects_log", {{"table", {{{"lba", 80}}}}}}};
  REQUIRE(import_with({"--format", "smartctl", "--offset", "0", "a", list_file(h, doc.dump())}).status == 0);
  CHECK(moved(a) == std::vector<std::uint64_t>{1, 2, 3, 10, 700});
  CHECK(error_of({"--format", "smartctl", "--offset", "-8", "a", list_file(h, doc.dump())}) == "wrong-drive");
  doc["user_capacity"]["bytes"] = 1u << 20;
  CHECK(error_of({"--format", "smartctl", "--offset", "0", "a", list_file(h, doc.dump())}) == "wrong-drive");
  CHECK(error_of({"--any-drive", "--format", "smartctl", "--offset", "0", "a", list_file(h, doc.dump())})
            .empty());
}

TEST_CASE("metadata of dm-remap 4 becomes remaps, with the data from where it is said to be") {
  const host h;
  auto a = configured(h, "a");
  const auto old = h.image("v4");
  make_file(old, 4u << 20);
  write_bytes(old, 0, v4_structure(5, 8192, {{81, 4000}}));
  auto newest = v4_structure(9, 8192, {{81, 4000}, {900, 4001}});
  newest[28] = 1; // the number of the copy, set after the checksum was taken
  write_bytes(old, 256 * 512, newest);
  auto torn = v4_structure(11, 8192, {{7000, 4000}});
  torn[5000] = 'x';
  write_bytes(old, 512 * 512, torn);
  write_bytes(old, 4000 * 512, std::string(512, 'A') + std::string(512, 'B'));
  SECTION("main") {
    const auto r = import_with({"--json", "--format", "v4", "--data", "main", "a", old}).json();
    CHECK(r["units"] == 2);
    CHECK(r["copied_sectors"] == 0);
    CHECK(moved(a) == std::vector<std::uint64_t>{1, 2, 3, 10, 112, 700});
  }
  const auto sector_of = [&](std::uint64_t sector) {
    std::string now;
    a.work([&](disk& d) {
      const auto io = d.make_context();
      std::vector<std::byte> data(512);
      REQUIRE(d.read(*io, data, sector * 512));
      now.assign(reinterpret_cast<const char*>(data.data()), data.size());
    });
    return now;
  };
  const auto as_before = [&](std::uint64_t sector) {
    return sector_of(sector) == read_bytes(a.main, sector * 512, 512);
  };
  const std::string data_a(512, 'A'), data_b(512, 'B');
  SECTION("its spare") {
    const auto r = import_with({"--json", "--format", "v4", "--data", "spare", "a", old}).json();
    CHECK(r["units"] == 2);
    CHECK(r["copied_sectors"] == 2);
    const auto backup = read_dump(backup_path(a.uuid), false);
    REQUIRE(backup);
    std::vector<std::uint64_t> kept;
    for (const auto& slot : backup->spares.front().slots)
      kept.push_back(slot.value.main().value);
    std::sort(kept.begin(), kept.end());
    CHECK(kept == moved(a));
    CHECK(sector_of(81) == data_a);
    CHECK(sector_of(900) == data_b);
    for (const std::uint64_t sector : {80u, 82u, 83u, 84u, 85u, 86u, 87u, 896u, 901u})
      CHECK(as_before(sector));
  }
  SECTION("its spare, once more: what was written since stays") {
    REQUIRE(import_with({"--json", "--format", "v4", "--data", "spare", "a", old}).status == 0);
    a.work([&](disk& d) {
      const auto io = d.make_context();
      REQUIRE(d.write(*io, std::vector<std::byte>(512, std::byte{'N'}), 81 * 512));
      REQUIRE(d.flush());
    });
    const auto r = import_with({"--json", "--format", "v4", "--data", "spare", "a", old}).json();
    CHECK(r["units"] == 0);
    CHECK(r["copied_sectors"] == 0);
    CHECK(sector_of(81) == std::string(512, 'N'));
    CHECK(sector_of(900) == data_b);
  }
  SECTION("its spare, where main begins behind the start of what it lists") {
    const auto r =
        import_with({"--json", "--format", "v4", "--offset", "-32", "--data", "spare", "a", old}).json();
    CHECK(r["units"] == 2);
    CHECK(moved(a) == std::vector<std::uint64_t>{1, 2, 3, 6, 108, 700});
    CHECK(sector_of(49) == data_a);
    CHECK(sector_of(868) == data_b);
    CHECK(as_before(81));
    CHECK(as_before(900));
    CHECK(error_of({"--format", "v4", "--offset", "-9000000000000000000", "--data", "main", "a", old}) ==
          "bad-number");
  }
  SECTION("its spare, for what is lost") {
    REQUIRE(save_set_config({a.name, a.uuid, "dust:" + a.main, a.spares, {}}, config_write::replace));
    std::ofstream(a.main + ".dust") << "81 read\n83 read\n";
    REQUIRE(import_with({"--format", "sectors", "--offset", "0", "a", list_file(h, "81\n")}).status == 0);
    const auto r = import_with({"--json", "--format", "v4", "--data", "spare", "a", old}).json();
    CHECK(r["units"] == 1);
    CHECK(r["copied_sectors"] == 2);
    CHECK(sector_of(81) == data_a);
    CHECK(as_before(82));
    a.work([&](disk& d) {
      REQUIRE(d.lost().size() == 1);
      CHECK(d.lost().front().first.value == 83);
      CHECK(d.lost().front().count == 1);
    });
  }
  SECTION("another main, and no copy that is sound") {
    write_bytes(old, 256 * 512, v4_structure(12, 9000, {{81, 4000}}));
    CHECK(error_of({"--format", "v4", "--data", "main", "a", old}) == "wrong-drive");
    write_bytes(old, 0, std::string(512 * 1024, 'x'));
    CHECK(error_of({"--format", "v4", "--data", "main", "a", old}) == "no-v4-metadata");
  }
}

TEST_CASE("every exit status of the page of dmremap-import happens") {
  const host h;
  const auto a = configured(h, "a");
  const auto b = configured(h, "b");
  for (unsigned r = 0; r < own_replicas; ++r)
    damage(b.spares[0], b.super(0).places.block_place(r, 4));
  const auto list = list_file(h, "80\n");
  const std::map<std::string, std::vector<std::string>> lines{
      {"0", {"--format", "sectors", "--offset", "0", "a", list}},
      {"1", {"--format", "sectors", "--offset", "0", "none", list}},
      {"2", {"--format", "sectors", "a", list}},
      {"4", {"--format", "sectors", "--offset", "0", "b", list}},
  };
  const auto items = page_items("dmremap-import.8", "EXIT STATUS");
  REQUIRE(items == std::vector<std::string>{"0", "1", "2", "4"});
  for (const auto& item : items) {
    INFO(item);
    CHECK(import_with(lines.at(item)).status == std::stoi(item));
  }
}

TEST_CASE("a folder or a named pipe is no list, and a pipe of a shell is read to its end") {
  const host h;
  image_set a = configured(h, "a");
  const auto named = h.dir / "pipe";
  REQUIRE(::mkfifo(named.c_str(), 0600) == 0);
  for (const auto& path : {h.images, named, std::string("/dev/null")})
    CHECK(error_of({"--format", "sectors", "--offset", "0", "a", path}) == "not-a-file");
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  REQUIRE(::write(ends[1], "800 8\n", 6) == 6);
  ::close(ends[1]);
  const auto shell = "/dev/fd/" + std::to_string(ends[0]);
  CHECK(import_with({"--format", "sectors", "--offset", "0", "a", shell}).status == 0);
  ::close(ends[0]);
  CHECK(moved(a).back() == 700);
  CHECK(moved(a).size() == 5);
}
