// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/doctor.h"

#include "admin/stopped_set.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

using namespace dmremap;
using namespace dmremap::admin;
using nlohmann::json;

namespace {

json spare(const char* path) {
  return {{"path", path},
          {"uuid", "u-" + std::string(path)},
          {"state", "present"},
          {"usable_units", 1000},
          {"allocated_units", 10},
          {"free_units", 740}, // the head is for add_remap by hand
          {"super_copies_valid", 5},
          {"direct", true},
          {"weakest_block_copies", 5},
          {"protected_by", "somebody"}};
}

json well() {
  return {{"name", "set1"},
          {"answers", true},
          {"loop", {"/dev/loop0"}},
          {"main", {{"path", "/dev/main"}}},
          {"spares", {spare("/dev/a"), spare("/dev/b")}},
          {"stats", {{"lost_sectors", 0}}}};
}

/// One thing that is not well, as a patch of the status, and what is said of it.
struct ill {
  const char* id;
  bool problem;
  json patch;       ///< RFC 7396
  const char* next; ///< one of the commands
};

json with(json a_spare, const char* key, json value) {
  a_spare[key] = std::move(value);
  return a_spare;
}

std::vector<ill> all_ills() {
  const auto one = [](const char* key, json value) {
    return json{{"spares", {with(spare("/dev/a"), key, std::move(value)), spare("/dev/b")}}};
  };
  return {
      {"daemon-hangs", true, {{"answers", false}, {"pid", 12}}, "dmesg | tail"},
      {"main-gone", true, {{"stats", {{"main_gone", true}}}}, "dmremap attach set1"},
      {"breaker-open", true, {{"stats", {{"breaker_open", true}}}}, "dmremap message set1 0 reset_breaker"},
      {"requests-wait",
       true,
       {{"requests_away", 2}, {"oldest_request_seconds", 30.5}},
       "smartctl -l scterc /dev/main"},
      {"main-fails", false, {{"stats", {{"main_read_errors", 3}}}}, "smartctl -a /dev/main"},
      {"spare-absent", true, one("state", "absent"), "dmremap spare forget set1 u-/dev/a"},
      {"spare-unwritable", true, one("state", "unwritable"), "dmremap spare evacuate set1 u-/dev/a"},
      {"spare-failed", true, one("state", "failed"), "dmremap spare evacuate set1 u-/dev/a"},
      {"host-full", true, one("state", "host-full"), "df -h /dev/a"},
      {"copies-few", true, one("weakest_block_copies", 1), "dmremap spare add set1 /dev/NEW"},
      {"copies-missing", false, one("super_copies_valid", 3), "dmremap sync set1"},
      {"not-protected", false, one("protected_by", nullptr), "dmremap spare list set1"},
      {"buffered", false, one("direct", false), nullptr},
      {"lost-sectors", true, {{"stats", {{"lost_sectors", 1}}}}, "dmremap lost set1 --files"},
      {"flush-errors", true, {{"stats", {{"flush_errors", 1}}}}, "dmesg | tail"},
      {"evacuating", false, {{"evacuation", {{"running", true}, {"path", "/dev/a"}}}}, nullptr},
      {"evacuation-failed",
       true,
       {{"evacuation", {{"spare", "u1"}, {"error", {{"why", "no room"}}}}}},
       "dmremap spare evacuate set1 u1"},
      {"draining", false, one("state", "draining"), "dmremap spare evacuate set1 u-/dev/a --cancel"},
      {"no-capacity",
       true,
       {{"spares", {with(spare("/dev/a"), "free_units", 0)}}},
       "dmremap spare add set1 /dev/NEW"},
      {"no-capacity", // newer than the figures
       true,
       {{"state", "No spare capacity available"}},
       "dmremap spare add set1 /dev/NEW"},
      {"nearly-full",
       true,
       {{"spares", {with(with(spare("/dev/a"), "allocated_units", 90), "free_units", 10)}}},
       "dmremap spare add set1 /dev/NEW"},
      {"auto-remap-off", true, {{"auto_remap", false}}, "dmremap set set1 auto_remap=1"},
      {"read-only", false, {{"read_only", true}}, nullptr},
      {"no-loop-device", false, {{"loop", json::array()}}, "dmremap attach set1"},
  };
}

listed_set stopped(const char* state) {
  return {"set1", "u", state, "", "", "/no/such/main", {"/no/such/spare"}, {}};
}

} // namespace

TEST_CASE("a set that is well needs nothing") {
  CHECK(findings_of_status(well()).empty());
}

TEST_CASE("each thing that is not well is found by itself, with what to do") {
  for (const auto& ill : all_ills()) {
    INFO(ill.id);
    json status = well();
    status.merge_patch(ill.patch);
    const auto found = findings_of_status(status);
    REQUIRE(found.size() == 1);
    CHECK(found[0].id == ill.id);
    CHECK(found[0].problem == ill.problem);
    CHECK(found[0].text.size() > 20);
    if (ill.next == nullptr)
      CHECK(found[0].next.empty());
    else
      CHECK(std::count(found[0].next.begin(), found[0].next.end(), ill.next) == 1);
  }
}

TEST_CASE("a spare whose head alone is free is full, and nothing then says that all can wait") {
  json status = well();
  status["spares"] = json::array({with(with(spare("/dev/a"), "allocated_units", 6000), "free_units", 0)});
  status["spares"][0]["usable_units"] = 8000; // three quarters used
  status["stats"] = {{"main_write_errors", 1}};
  const auto found = findings_of_status(status);
  REQUIRE(found.size() == 2);
  CHECK(found[0].id == "no-capacity");
  CHECK(found[0].problem);
  CHECK(found[1].id == "main-fails");
  CHECK(found[1].text.find("Nothing has to be done") == std::string::npos);
  status["spares"][0]["free_units"] = 2000;
  CHECK(findings_of_status(status).at(0).text.find("Nothing has to be done") != std::string::npos);
  status["spares"][0].erase("free_units"); // an older daemon: what is free at all
  CHECK(findings_of_status(status).size() == 1);
}

TEST_CASE("an evacuation that stopped for want of room needs a spare before it is tried again") {
  json status = well();
  status["evacuation"] = {{"spare", "u1"}, {"error", {{"id", "no-spare-capacity"}, {"why", "no room"}}}};
  const auto found = findings_of_status(status);
  REQUIRE(found.size() == 1);
  CHECK(found[0].next ==
        std::vector<std::string>{"dmremap spare add set1 /dev/NEW", "dmremap spare evacuate set1 u1"});
}

TEST_CASE("an evacuation that was stopped by hand is no failure") {
  json status = well();
  const auto uuid = status["spares"][0]["uuid"];
  status["evacuation"] = {{"spare", uuid}, {"error", {{"id", "cancelled"}, {"why", "stopped by hand"}}}};
  CHECK(findings_of_status(status).empty());
  status["spares"][0]["state"] = "draining"; // and was not taken back
  CHECK(findings_of_status(status).at(0).id == "draining");
  status["evacuation"]["error"]["id"] = "medium-error";
  CHECK(findings_of_status(status).size() == 1);
  CHECK(findings_of_status(status).at(0).id == "evacuation-failed");
}

TEST_CASE("smartctl is told of the drive below a member, and not of a file") {
  json status = well();
  status["stats"] = {{"main_read_errors", 1}};
  status["main"]["path"] = "dust:/dev/main@8+65536";
  CHECK(findings_of_status(status).at(0).next == std::vector<std::string>{"smartctl -a /dev/main"});
  status["main"]["path"] = std::string("dust:") + DMREMAP_SOURCE_DIR + "/man/dmremap.8";
  CHECK(findings_of_status(status).at(0).next.empty());
}

TEST_CASE("problems come before what is good to know") {
  json status = well();
  for (const auto& ill : all_ills())
    if (ill.id == std::string("buffered") || ill.id == std::string("lost-sectors"))
      status.merge_patch(ill.patch);
  const auto found = findings_of_status(status);
  REQUIRE(found.size() == 2);
  CHECK(found[0].id == "lost-sectors");
  CHECK(found[1].id == "buffered");
}

TEST_CASE("of sets that do not run it says how to start them") {
  CHECK(findings_of_stopped(stopped("died")).at(0).next.back() == "dmremap attach set1");
  CHECK(findings_of_stopped(stopped("found")).at(0).next.back() == "dmremap-reassemble set1");
  const auto elsewhere = findings_of_stopped(stopped("configured")).at(0);
  CHECK(elsewhere.id == "members-elsewhere");
  CHECK(elsewhere.text.find("/no/such/main, /no/such/spare") != std::string::npos);
}

TEST_CASE("the page lists every finding, and no other") {
  std::set<std::string> ids{"daemon-died",   "not-configured", "members-elsewhere", "not-running",
                            "does-not-open", "not-looked-at",  "bad-config",        "notice"},
      listed;
  for (const auto& ill : all_ills())
    ids.insert(ill.id);
  std::ifstream page(std::string(DMREMAP_SOURCE_DIR) + "/man/dmremap.8");
  bool inside = false;
  for (std::string line; std::getline(page, line);) {
    if (line.rfind(".Ss ", 0) == 0)
      inside = line == ".Ss doctor";
    else if (inside && line.rfind(".It Li ", 0) == 0)
      listed.insert(line.substr(7));
  }
  CHECK(listed == ids);
}
