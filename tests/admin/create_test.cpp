// SPDX-License-Identifier: GPL-2.0-or-later
// create, rename and destroy on files, without a daemon.
#include "engine/config.h"
#include "engine/disk.h"
#include "engine/file_store.h"
#include "engine/member.h"
#include "tests/admin/program.h"

#include <catch2/catch.hpp>
#include <sys/stat.h>
#include <unistd.h>

using namespace dmremap;
using namespace dmremap::test;

namespace {

constexpr std::uint64_t mib = 1024 * 1024;

struct two_files : private_folders {
  std::string main = dir.file("main", 4 * mib), spare = dir.file("spare", 32 * mib);
  two_files() { fill(main, 0, std::string(4 * mib, 'm')); }

  static void fill(const std::string& path, std::uint64_t at, const std::string& bytes) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(at));
    file << bytes;
  }
  [[nodiscard]] program_result create(std::vector<std::string> more = {},
                                      const std::string& name = "set1") const {
    std::vector<std::string> words{"create", name, "--main", main, "--spare", spare, "--json"};
    words.insert(words.end(), more.begin(), more.end());
    return dmremap_with(words);
  }
  /// Everything that a refusal must leave as it is.
  [[nodiscard]] std::string contents() const {
    std::string all = slurp(main) + slurp(spare);
    for (const auto& path : {main, spare}) {
      struct stat facts {};
      ::stat(path.c_str(), &facts);
      all += std::to_string(facts.st_mtim.tv_sec) + "." + std::to_string(facts.st_mtim.tv_nsec);
    }
    return all + (boost::filesystem::exists(dir / "conf/sets.d/set1.conf") ? "configured" : "");
  }
  void remap(std::uint64_t sector) const {
    auto members =
        open_members({{member_role::main, *parse_member(main)}, {member_role::spare, *parse_member(spare)}},
                     access_mode::read_write);
    REQUIRE(members);
    auto set = disk::open((*members)[0].io, {(*members)[1].io}, {});
    REQUIRE(set);
    REQUIRE((*set)->remap(sector_number(sector)));
    auto context = (*set)->make_context();
    const std::string fresh(4096, 'n'); // newer than what main holds
    REQUIRE((*set)->write(*context, std::as_bytes(std::span(fresh)), sector * 512));
    REQUIRE((*set)->close());
  }
};

} // namespace

TEST_CASE("create makes a set, keeps its configuration, and writes nothing on main") {
  const two_files files;
  const auto before = slurp(files.main);
  const auto made = files.create();
  INFO(made.err);
  REQUIRE(made.status == 0);
  CHECK(made.json().at("outcome") == "created");
  CHECK(slurp(files.main) == before);
  const auto config = load_set_config("set1");
  REQUIRE(config);
  CHECK(config->uuid == made.json().at("uuid"));
  CHECK(config->main == files.main);
  CHECK(config->spares == std::vector{files.spare});

  struct stat facts {};
  REQUIRE(::stat(files.spare.c_str(), &facts) == 0);
  CHECK(static_cast<std::uint64_t>(facts.st_blocks) * 512 >= 32 * mib); // set aside

  SECTION("once: the same pair is opened as it is") {
    const auto held = files.contents();
    const auto again = files.create();
    CHECK(again.status == 0);
    CHECK(again.json().at("outcome") == "opened");
    CHECK(again.json().at("uuid") == config->uuid);
    const auto by_table = dmremap_with(
        {"create", "set1", "--json", "--table", "0 8192 remap-v4 " + files.main + " " + files.spare});
    CHECK(by_table.status == 0);
    CHECK(by_table.json().at("outcome") == "opened");
    CHECK(files.contents() == held);
  }
  SECTION("under another name it is not made again") {
    const auto held = files.contents();
    CHECK(files.create({}, "set2").error_id() == "spare-in-set");
    const auto by_table = dmremap_with(
        {"create", "set2", "--json", "--table", "0 8192 remap-v4 " + files.main + " " + files.spare});
    CHECK(by_table.error_id() == "name-mismatch");
    CHECK(files.contents() == held);
  }
  SECTION("with another main it is refused, and given up by its UUID only") {
    const auto other = files.dir.file("other", 4 * mib);
    const auto held = files.contents();
    const std::vector<std::string> words{"create", "set2", "--main", other, "--spare", files.spare, "--json"};
    CHECK(dmremap_with(words).error_id() == "spare-in-set");
    auto forced = words;
    forced.insert(forced.end(), {"--destroy-set", "6d0e1b7a-0c1f-4c3e-9a56-2f1d7d0a9c11"});
    CHECK(dmremap_with(forced).error_id() == "spare-in-set");
    forced.back() = config->uuid;
    forced.emplace_back("--dry-run");
    CHECK(dmremap_with(forced).json().at("outcome") == "planned");
    CHECK(files.contents() == held);
    forced.pop_back();
    CHECK(dmremap_with(forced).json().at("outcome") == "created");
  }
}

TEST_CASE("--dry-run says what would be done, and writes nothing") {
  const two_files files;
  const auto held = files.contents();
  const auto plan = files.create({"--dry-run"});
  REQUIRE(plan.status == 0);
  CHECK(plan.json().at("outcome") == "planned");
  CHECK(plan.json().at("uuid").is_null());
  CHECK(plan.json().at("spares").at(0).at("superblock_sectors") == nlohmann::json{0, 1024, 2048, 4096, 8192});
  CHECK(files.contents() == held);
  CHECK(!boost::filesystem::exists(files.dir / "conf"));
  const auto made = files.create();
  CHECK(made.json().at("spares") == plan.json().at("spares")); // what was announced
}

TEST_CASE("a table line is adjusted, told, and made so") {
  const two_files files;
  const auto made = dmremap_with(
      {"create", "set1", "--json", "--table", "0 8191 remap " + files.main + " " + files.spare + " 3 40000"});
  INFO(made.err);
  REQUIRE(made.status == 0);
  CHECK(made.json().at("adjustments").size() == 3);
  CHECK(load_set_config("set1")->main == files.main + "@0+8184");
  CHECK(load_set_config("set1")->spares.front() == files.spare + "@8+39992");
}

TEST_CASE("a signature on the spare goes only by its type") {
  const two_files files;
  files.fill(files.spare, 1080, "\x53\xEF"); // an ext2, and below it
  files.fill(files.spare, 4096 - 10, "SWAPSPACE2");
  files.fill(files.spare, 1024, std::string("\1\0\0\0\xff\x07\0\0", 8)); // version 1, last page
  const auto held = files.contents();
  const auto refused = files.create();
  CHECK(refused.error_id() == "spare-has-signature");
  CHECK(refused.err.find("--wipe=") != std::string::npos);
  for (const std::string type : {"ext4", "ext2", "swap", "dmremap"}) // each of the two alone is not enough
    CHECK(files.create({"--wipe=" + type}).error_id() == "spare-has-signature");
  CHECK(files.contents() == held);
  const auto made = files.create({"--wipe", "ext2", "--wipe", "swap"});
  INFO(made.err);
  CHECK(made.status == 0);
  CHECK(slurp(files.spare).find("SWAPSPACE2") == std::string::npos);
}

TEST_CASE("a place that a configured set uses, or something larger may use, is not formatted") {
  const two_files files;
  const auto big = files.dir.file("big", 64 * mib);
  REQUIRE(dmremap_with({"create", "first", "--main", files.main, "--spare", big + "@0+65536"}).status == 0);
  const auto other = files.dir.file("other", 4 * mib);
  const auto held = slurp(big);
  const auto onto = [&](const std::string& range, const std::vector<std::string>& more = {}) {
    std::vector<std::string> words{"create",  "second", "--main", other,
                                   "--spare", range,    "--json", "--dry-run"};
    words.insert(words.end(), more.begin(), more.end());
    const auto done = dmremap_with(words);
    return done.status == 0 ? "done" : done.error_id();
  };
  CHECK(onto(big + "@32768+65536") == "members-overlap"); // no signature at the start of this range
  CHECK(onto(big + "@65536+65536") == "done");            // beside it
  CHECK(
      dmremap_with({"create", "second", "--main", files.main, "--spare", files.spare, "--json"}).error_id() ==
      "members-overlap"); // main is the main of another set
  CHECK(slurp(big) == held);

  const auto swap = files.dir.file("swap", 64 * mib);
  files.fill(swap, 4096 - 10, "SWAPSPACE2");
  files.fill(swap, 1024, std::string("\1\0\0\0\xff\x07\0\0", 8));
  CHECK(onto(swap + "@65536+65536") == "range-inside-signature");
  CHECK(onto(swap + "@65536+65536", {"--wipe=swap"}) == "done");
}

TEST_CASE(
    "a main with bad sectors is what sets are made for; a spare with bad sectors is not looked at by guess") {
  two_files files;
  static_cast<void>(files.dir.text_file("main.dust", "0 read 64\n4096 read 8\n"));
  files.main = "dust:" + files.main;
  const auto made = files.create({"--no-persist"});
  INFO(made.err);
  CHECK(made.status == 0);
  static_cast<void>(files.dir.text_file("spare2.dust", "2 read 1\n"));
  files.spare = "dust:" + files.dir.file("spare2", 32 * mib);
  CHECK(files.create({"--no-persist"}).error_id() == "probe-failed");
}

TEST_CASE("without a configuration, and with values that none can hold") {
  two_files files;
  CHECK(files.create({"--no-persist", "--dry-run"}).json().at("configuration").is_null());
  const auto odd = files.dir.file("two\nlines", 32 * mib);
  files.spare = odd;
  const auto held = files.contents();
  CHECK(files.create().error_id() == "bad-config-value");
  CHECK(files.contents() == held); // found before the spare was formatted
  CHECK(files.create({"--no-persist"}).status == 0);
}

TEST_CASE("rename changes the set and its configuration, or neither") {
  const two_files files;
  REQUIRE(files.create().status == 0);
  CHECK(dmremap_with({"rename", "set1", "set1", "--json"}).error_id() == "same-name");
  CHECK(dmremap_with({"rename", "set1", "a b", "--json"}).error_id() == "bad-name");
  const char* const uuid = "11111111-2222-4333-8444-555555555555"; // it could be another set's
  CHECK(dmremap_with({"rename", "set1", uuid, "--json"}).error_id() == "bad-name");
  REQUIRE(dmremap_with({"rename", "set1", "set2"}).status == 0);
  CHECK(load_set_config("set1").error().id == "no-such-set");
  CHECK(load_set_config("set2")->main == files.main);
  CHECK(files.create({}, "set2").json().at("outcome") == "opened"); // the spare says set2
  CHECK(dmremap_with({"rename", "set2", "set3", "-n"}).status == 0);
  boost::filesystem::remove(files.main);
  CHECK(dmremap_with({"rename", "set2", "set3", "--json"}).error_id() == "not-found");
  CHECK(dmremap_with({"rename", "set2", "set3", "--json", "-n"}).error_id() == "not-found");
  CHECK(load_set_config("set2"));
  CHECK(load_set_config("set3").error().id == "no-such-set");
}

TEST_CASE("destroy erases a set, and remaps only as it is told to") {
  const two_files files;
  const auto uuid = files.create().json().at("uuid").get<std::string>();
  const auto signatures = [&] {
    const auto opened = file_store::open(files.spare, {true, false});
    REQUIRE(opened);
    return probe_signatures(**opened)->size();
  };
  SECTION("empty") {
    REQUIRE(dmremap_with({"destroy", "set1"}).status == 0);
    CHECK(signatures() == 0);
  }
  SECTION("with a remap") {
    files.remap(2048);
    CHECK(slurp(files.main).find('n') == std::string::npos);
    const auto held = files.contents();
    CHECK(dmremap_with({"destroy", "set1", "--json"}).error_id() == "set-has-remaps");
    CHECK(dmremap_with({"destroy", "set1", "--abandon", "nonsense", "--json"}).error_id() == "wrong-uuid");
    CHECK(dmremap_with({"destroy", "set1", "--write-back", "-n"}).status == 0);
    CHECK(files.contents() == held);
    SECTION("written back") {
      int pipe[2];
      REQUIRE(::pipe(pipe) == 0);
      const auto done =
          dmremap_with({"destroy", uuid, "--write-back", "--json", "--progress", std::to_string(pipe[1])});
      ::close(pipe[1]);
      REQUIRE(done.json().at("written_back_units") == 1);
      char told[16] = {};
      CHECK(::read(pipe[0], told, sizeof told - 1) == 4);
      ::close(pipe[0]);
      CHECK(std::string(told) == "1 1\n");
      CHECK(slurp(files.main).substr(2048 * 512, 4096) == std::string(4096, 'n'));
    }
    SECTION("given up, though main is gone") {
      boost::filesystem::remove(files.main);
      REQUIRE(dmremap_with({"destroy", "set1", "--abandon", uuid}).status == 0);
    }
    CHECK(signatures() == 0);
  }
  CHECK(load_set_config("set1").error().id == "no-such-set");
}

namespace {

std::size_t signatures_on(const std::string& path) {
  const auto opened = file_store::open(path, {true, false});
  REQUIRE(opened);
  return probe_set_signatures(**opened).size();
}

} // namespace

TEST_CASE_METHOD(two_files, "destroy looks at all spares before it erases the first") {
  const auto second = dir.file("second", 32 * mib), third = dir.file("third", 32 * mib);
  const auto uuid = create({"--spare", second}).json().at("uuid").get<std::string>();
  boost::filesystem::rename(second, second + ".away");
  REQUIRE(dmremap_with({"create", "set2", "--main", dir.file("main2", 4 * mib), "--spare", third}).status ==
          0);
  boost::filesystem::rename(third, second); // the names of the devices have changed
  const auto held = contents();
  for (const bool dry_run : {true, false}) {
    std::vector<std::string> words{"destroy", "set1", "--abandon", uuid, "--json"};
    if (dry_run)
      words.emplace_back("--dry-run");
    CHECK(dmremap_with(words).error_id() == "wrong-set");
    CHECK(contents() == held);
    CHECK(signatures_on(second) == 1);
  }
}

TEST_CASE_METHOD(two_files, "a set that is given up ends without the spares that are away") {
  const auto second = dir.file("second", 32 * mib);
  const auto uuid = create({"--spare", second}).json().at("uuid").get<std::string>();
  const bool dead = GENERATE(false, true);
  if (dead)
    boost::filesystem::resize_file(second, 0); // a device without a size
  else
    boost::filesystem::rename(second, second + ".away");
  const bool both = GENERATE(false, true);
  if (both)
    boost::filesystem::rename(spare, spare + ".away");
  CHECK(dmremap_with({"destroy", "set1", "--json"}).status != 0);
  CHECK(load_set_config("set1").has_value());
  const auto planned = dmremap_with({"destroy", "set1", "--abandon", uuid, "--json", "--dry-run"});
  REQUIRE(planned.status == 0);
  CHECK(planned.json().at("outcome") == "planned");
  CHECK(load_set_config("set1").has_value());
  const auto done = dmremap_with({"destroy", "set1", "--abandon", uuid, "--json"});
  REQUIRE(done.status == 0);
  const auto left_out = done.json().at("left_out");
  CHECK(left_out == planned.json().at("left_out"));
  REQUIRE(left_out.size() == (both ? 2 : 1));
  CHECK(left_out.back().at("member") == second);
  CHECK(load_set_config("set1").error().id == "no-such-set");
  if (!both)
    CHECK(signatures_on(spare) == 0);
  if (!dead)
    CHECK(signatures_on(second + ".away") == 1);
}

TEST_CASE_METHOD(two_files, "create takes several spares, and opens the same again only with all of them") {
  const auto second = dir.file("second", 24 * mib), third = dir.file("third", 64 * mib);
  const std::vector<std::string> more = {"--spare", second, "--spare", third + "@8192+65536"};
  const auto planned = create({"--spare", second, "--spare", third + "@8192+65536", "--dry-run"});
  REQUIRE(planned.status == 0);
  CHECK(planned.json().at("spares").size() == 3);
  CHECK(planned.json().at("spares").at(2).at("sectors") == 65536);
  const auto made = create(more);
  REQUIRE(made.status == 0);
  const auto config = load_set_config("set1");
  REQUIRE(config);
  CHECK(config->spares == std::vector<std::string>{spare, second, third + "@8192+65536"});
  const auto again = create(more);
  CHECK(again.status == 0);
  CHECK(again.json().at("outcome") == "opened");
  CHECK(again.json().at("uuid") == made.json().at("uuid"));
  CHECK(create({"--spare", second}, "set2").error_id() == "spare-in-set");
}

TEST_CASE_METHOD(two_files, "create checks every spare as it checks the one, and writes nothing") {
  const auto second = dir.file("second", 32 * mib);
  const auto held = contents();
  CHECK(create({"--spare", spare}).error_id() == "same-device");
  CHECK(create({"--spare", main}).error_id() == "same-device");
  CHECK(create({"--spare", dir / "nowhere"}).error_id() == "not-found");
  CHECK(create({"--spare", dir.file("small", 8 * mib)}).error_id() == "spare-too-small");
  fill(second, 1080, "\x53\xef"); // ext2's magic
  CHECK(create({"--spare", second}).error_id() == "spare-has-signature");
  CHECK(dmremap_with({"create", "set1", "--main", main, "--spare", second + "@0+40960", "--spare",
                      second + "@32768+32768", "--json"})
            .error_id() == "members-overlap");
  CHECK(contents() == held);
}

TEST_CASE_METHOD(two_files, "the state that this host keeps of a set goes with it") {
  const auto second = dir.file("second", 32 * mib);
  const auto made = create({"--spare", second});
  REQUIRE(made.status == 0);
  const auto kept = dir / "state/sets/" + made.json().at("uuid").get<std::string>() + ".json";
  REQUIRE(dmremap_with({"rename", "set1", "set2"}).status == 0); // a writable open
  const auto seen = nlohmann::json::parse(slurp(kept));
  CHECK(seen.at("sequence_end") > 0);
  CHECK(seen.at("spares").size() == 2);
  boost::filesystem::rename(second, second + ".away");
  CHECK(dmremap_with({"rename", "set2", "set3", "--json"}).error_id() == "spare-missing");
  boost::filesystem::rename(second + ".away", second);
  auto newer = seen; // as if this host had seen a later day of the set
  newer["sequence_end"] = seen.at("sequence_end").get<std::uint64_t>() * 1000;
  std::ofstream(kept) << newer.dump();
  CHECK(dmremap_with({"rename", "set2", "set3", "--json"}).error_id() == "spare-older");
  std::ofstream(kept) << "no JSON"; // never a refusal
  const auto damaged = dmremap_with({"rename", "set2", "set3", "--json"});
  CHECK(damaged.status == 0);
  CHECK(damaged.err.find(kept) != std::string::npos);
  REQUIRE(dmremap_with({"destroy", "set3"}).status == 0);
  CHECK(!boost::filesystem::exists(kept));
}

TEST_CASE("create --sparse leaves a spare file with the space that it needs") {
  const two_files files;
  REQUIRE(files.create({"--sparse"}).status == 0);
  struct stat facts {};
  REQUIRE(::stat(files.spare.c_str(), &facts) == 0);
  CHECK(static_cast<std::uint64_t>(facts.st_blocks) * 512 < 4 * mib);
}
