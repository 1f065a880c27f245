// SPDX-License-Identifier: GPL-2.0-or-later
// What doctor and list --all say of configured sets that do not run.
#include "tests/admin/program.h"

#include "engine/geometry.h"
#include "engine/units.h"

#include <catch2/catch.hpp>

using namespace dmremap;
using namespace dmremap::test;
using nlohmann::json;

namespace {

constexpr std::uint64_t mib = 1024 * 1024;

void fill(const std::string& path, std::uint64_t at, const std::string& bytes) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(at));
  file << bytes;
}

/// A set of this name in two files, configured and closed.
struct closed_set : private_folders {
  std::string main = make("main", 4 * mib), spare = make("spare", 32 * mib);
  closed_set() {
    fill(main, 0, std::string(4 * mib, 'm'));
    REQUIRE(dmremap_with({"create", "set1", "--main", main, "--spare", spare}).status == 0);
  }
  [[nodiscard]] std::string make(const std::string& name, std::uint64_t bytes) const {
    return dir.file(name, bytes);
  }
  [[nodiscard]] std::string conf() const { return dir / "conf/sets.d/set1.conf"; }
  void replace_in_conf(const std::string& from, const std::string& to) const {
    auto text = slurp(conf());
    text.replace(text.find(from), from.size(), to);
    std::ofstream(conf()) << text;
  }
  [[nodiscard]] json row(const std::vector<std::string>& words, int status) const {
    auto with_json = words;
    with_json.emplace_back("--json");
    const auto done = dmremap_with(with_json);
    INFO(done.out << done.err);
    CHECK(done.status == status);
    const auto sets = done.json().at("sets");
    for (const auto& one : sets)
      if (one.at("name") == "set1")
        return one;
    FAIL("the set is not there: " << done.out);
    return {};
  }
  /// Both commands find this first, with this error, and advise this first.
  void check(const std::string& id, const std::string& error, const std::string& next, int list_status = 4) {
    const auto held = slurp(main) + slurp(spare);
    const auto found = row({"doctor", "set1"}, 4).at("findings").at(0);
    INFO(found.dump());
    CHECK((found.at("id") == id && found.at("problem") == true));
    CHECK(found.at("error") == (error.empty() ? json(nullptr) : json(error)));
    CHECK(found.at("next").at(0) == next);
    const auto listed = row({"list", "--all"}, list_status);
    CHECK(listed.at("next") == next);
    CHECK(listed.at("problem").at("id") == id);
    CHECK(listed.at("problem").at("error") == found.at("error"));
    CHECK(dmremap_with({"list", "--all"}).out.find("  ! " + id + ": ") != std::string::npos);
    CHECK(slurp(main) + slurp(spare) == held);
  }
};

} // namespace

TEST_CASE_METHOD(closed_set, "a set that can be opened only does not run") {
  const auto found = row({"doctor", "set1"}, 0).at("findings");
  REQUIRE(found.size() == 1);
  CHECK(found.at(0).at("id") == "not-running");
  const auto listed = row({"list", "--all"}, 0);
  CHECK(listed.at("problem").is_null());
  CHECK(listed.at("next") == "dmremap attach set1");
}

TEST_CASE_METHOD(closed_set, "a spare without a superblock is a problem, and one bad copy is told") {
  const auto places = make_geometry(32 * mib);
  REQUIRE(places);
  fill(spare, places->super_place(0).value * unit_bytes, std::string(unit_bytes, 'x'));
  const auto found = row({"doctor", "set1"}, 0).at("findings");
  CHECK(found.at(0).at("id") == "copies-missing");
  CHECK(found.at(0).at("next").at(0) == "dmremap-fsck -n " + spare);
  for (unsigned copy = 0; copy < 10; ++copy)
    fill(spare, places->super_place(copy).value * unit_bytes, std::string(unit_bytes, 'x'));
  check("does-not-open", "no-superblock", "dmremap-fsck -n " + spare);
}

TEST_CASE_METHOD(closed_set, "members that are missing, swapped or another set's are problems") {
  SECTION("missing") {
    boost::filesystem::rename(spare, spare + ".away");
    const auto found = row({"doctor", "set1"}, 4).at("findings").at(0);
    CHECK(found.at("id") == "members-elsewhere");
    CHECK(row({"list", "--all"}, 4).at("problem").at("id") == "members-elsewhere");
  }
  SECTION("another main") {
    replace_in_conf("main = " + main, "main = " + make("other", 8 * mib));
    check("does-not-open", "main-wrong-size", "dmremap-scan");
  }
  SECTION("swapped") {
    replace_in_conf("main = " + main, "main = " + spare + "x");
    replace_in_conf("spare = " + spare, "spare = " + main);
    replace_in_conf("main = " + spare + "x", "main = " + spare);
    check("does-not-open", "main-is-spare", "dmremap-scan");
  }
  SECTION("another set's spare") {
    const auto other = make("spare2", 32 * mib);
    REQUIRE(dmremap_with({"create", "set2", "--main", make("main2", 4 * mib), "--spare", other}).status == 0);
    replace_in_conf("spare = " + spare, "spare = " + other);
    check("does-not-open", "wrong-set", "dmremap-scan");
  }
}

TEST_CASE_METHOD(closed_set, "a configuration that cannot be read is a finding, and in the list") {
  replace_in_conf("main = ", "mane = ");
  check("bad-config", "bad-config", "cat " + conf(), 1);
  CHECK(row({"doctor", "set1"}, 4).at("state") == "unreadable");
  CHECK(row({"list", "--all"}, 1).at("uuid").is_null());
}
