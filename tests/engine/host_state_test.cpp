// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/host_state.h"

#include "tests/support/temp_dir.h"

#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>

using namespace dmremap;
using namespace dmremap::test;
using nlohmann::json;

TEST_CASE("what this host saw last comes back, and nothing else passes for it") {
  const temp_dir dir;
  const scoped_env folder{"DMREMAP_STATE_DIR", dir / "state"};
  const std::string uuid = "0aB11111-2222-3333-4444-555555555555";
  const std::string file = dir / "state/sets/0ab11111-2222-3333-4444-555555555555.json";
  const host_state seen{uuid, "pool", 77, {{"66666666-2222-3333-4444-555555555555", "/dev/sdx"}}};
  REQUIRE(write_host_state(seen));
  std::string trouble;
  const auto back = read_host_state(uuid, trouble);
  REQUIRE(back);
  CHECK(trouble.empty());
  CHECK(back->uuid == uuid);
  CHECK(back->name == "pool");
  CHECK(back->sequence_end == 77);
  CHECK(back->spares == seen.spares);
  const auto whole = json::parse(slurp(file));
  const auto refused = [&](const std::string& text) {
    std::ofstream(file) << text;
    std::string why;
    return !read_host_state(uuid, why) && why.find("is damaged") != std::string::npos;
  };
  for (const auto& [key, value] : std::vector<std::pair<std::string, json>>{
           {"sequence_end", -1},
           {"sequence_end", 1.5},
           {"sequence_end", "77"},
           {"sequence_end", (std::uint64_t{1} << 48) + 1},   // no set gets there
           {"uuid", "11111111-2222-3333-4444-555555555555"}, // another set's file
           {"uuid", 5},
           {"schema", 2}}) {
    auto doc = whole;
    doc[key] = value;
    INFO(doc);
    CHECK(refused(doc.dump()));
    doc.erase(key);
    CHECK(refused(doc.dump()));
  }
  CHECK(refused(""));
  CHECK(refused("[]"));
  CHECK(refused(whole.dump() + "{"));
  CHECK_FALSE(refused(whole.dump()));
}
