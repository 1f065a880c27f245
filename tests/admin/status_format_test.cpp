// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/figures.h"
#include "admin/status_format.h"

#include <catch2/catch.hpp>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

using namespace dmremap::admin;
using nlohmann::json;

namespace {

json whole_status() {
  return {{"name", "a\"b"},
          {"uuid", "u"},
          {"answers", true},
          {"state", "ok"},
          {"main", {{"path", "/m"}, {"sectors", 100}}},
          {"image", "/run/x/disk.img"},
          {"loop", {"/dev/loop3"}},
          {"stats", {{"reads", 5}, {"remapped_units", 2}, {"lost_sectors", 3}, {"auto_remap", true}}},
          {"spares",
           {{{"uuid", "s0"},
             {"path", "/s"},
             {"usable_units", 1000},
             {"allocated_units", 2},
             {"free_units", 700},
             {"super_copies_valid", 5},
             {"weakest_block_copies", 4}}}},
          {"notices", {"something happened"}},
          {"dm", "0 100 remap"}};
}

json two_spares() {
  auto status = whole_status();
  auto& first = status["spares"][0];
  first["index"] = 0;
  first["state"] = "draining";
  first["draining"] = true;
  first["protected_by"] = nullptr;
  auto second = first;
  second.update({{"index", 3},
                 {"uuid", "s3"},
                 {"path", "/away"},
                 {"state", "absent"},
                 {"draining", false},
                 {"protected_by", "s0"},
                 {"usable_units", 900},
                 {"free_units", 0},
                 {"allocated_units", 7}});
  status["spares"].push_back(second);
  status["notices"].push_back("not protected against the loss of /s");
  status["evacuation"] = {{"number", 1}, {"running", true}, {"path", "/s"}, {"done", 5}, {"all", 40}};
  return status;
}

/// The parts of the text exposition format that its parsers insist on.
void check_exposition(const std::string& text) {
  std::map<std::string, int> helps, types;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string hash, what, name;
    if (line.rfind("# ", 0) == 0) {
      words >> hash >> what >> name;
      CHECK(((what == "HELP" && ++helps[name] == 1) || (what == "TYPE" && ++types[name] == 1)));
      continue;
    }
    name = line.substr(0, line.find('{'));
    INFO(line);
    CHECK(helps[name] == 1);
    CHECK(types[name] == 1); // before its samples
    CHECK(line.find("{set=\"a\\\"b\"") == name.size());
    CHECK(name.rfind("dmremap_", 0) == 0);
  }
  CHECK(helps.size() > 20);
}

} // namespace

TEST_CASE("prometheus: each metric once, with help and type, and the set's name escaped") {
  const auto text = status_prometheus(whole_status());
  check_exposition(text);
  CHECK(text.find("dmremap_up{set=\"a\\\"b\"} 1\n") != std::string::npos);
  CHECK(text.find("dmremap_read_requests_total{set=\"a\\\"b\"} 5\n") != std::string::npos);
  CHECK(text.find("dmremap_lost_sectors{set=\"a\\\"b\"} 3\n") != std::string::npos);
  CHECK(text.find("dmremap_spare_weakest_block_copies{set=\"a\\\"b\",spare=\"s0\"} 4\n") !=
        std::string::npos);
}

TEST_CASE("each spare's state, protection and allocation are shown") {
  const auto status = two_spares();
  const auto text = status_text(status);
  for (const char* word :
       {"spare 0      /s, draining: takes no new data, 2 of 1000 units used",
        "spare 3      /away, ABSENT: its units answer EIO, 7 of 900 units used, 0 bytes free",
        "not protected against the loss of /s\n", "protected by spare s0", "UUID s3",
        "evacuating   /s: 5 of 40 units moved"}) {
    INFO(text);
    CHECK(text.find(word) != std::string::npos);
  }
  CHECK(text.find("not protected against the loss of /s", text.find("not protected") + 1) ==
        std::string::npos);
  CHECK(status_exit(status) == dmremap::exit_code::damaged);
  CHECK(status_exit(whole_status()) == dmremap::exit_code::ok);
  const auto metrics = status_prometheus(status);
  check_exposition(metrics);
  const auto has = [&](const std::string& name, const char* spare, const char* value) {
    return metrics.find("dmremap_spare_" + name + "{set=\"a\\\"b\",spare=\"" + spare + "\"} " + value +
                        "\n") != std::string::npos;
  };
  CHECK((has("present", "s0", "1") && has("present", "s3", "0")));
  CHECK((has("draining", "s0", "1") && has("draining", "s3", "0")));
  CHECK((has("protected", "s0", "0") && has("protected", "s3", "1")));
  CHECK((has("full", "s0", "0") && has("full", "s3", "0")));
  CHECK((has("allocated_units", "s0", "2") && has("allocated_units", "s3", "7")));
  CHECK((has("free_units", "s0", "700") && has("free_units", "s3", "0")));
  CHECK(metrics.find("dmremap_evacuation_units_done{set=\"a\\\"b\"} 5\n") != std::string::npos);
}

TEST_CASE("prometheus without the daemon's answer leaves out what is not known") {
  auto status = whole_status();
  status["answers"] = false;
  status["spares"] = {"/s"};
  const auto text = status_prometheus(status);
  CHECK(text.find("dmremap_up{set=\"a\\\"b\"} 0\n") != std::string::npos);
  CHECK(text.find("dmremap_spare_usable") == std::string::npos);
}

TEST_CASE("status for people names what matters") {
  const auto text = status_text(whole_status());
  for (const char* word : {"/dev/loop3", "/run/x/disk.img", "2 of 1000 units", "3 sectors",
                           "at least 4 copies", "something happened", "state        ok"}) {
    INFO(word);
    CHECK(text.find(word) != std::string::npos);
  }
  CHECK(!status_text(json::object()).empty()); // an older or newer daemon costs figures, not the report
}

TEST_CASE("the dm line is one line") {
  CHECK(status_dm(whole_status()) == "0 100 remap\n");
  CHECK(status_dm(json::object()).empty());
}

TEST_CASE("stats are a line each") {
  CHECK(stats_text({{"reads", 5}, {"state", "ok"}}, nullptr) ==
        "reads                    5\nstate                    ok\n");
  CHECK(stats_text({{"reads", 5}}, two_spares().at("spares")) == "reads                    5\n"
                                                                 "spare0_state             draining\n"
                                                                 "spare0_allocated_units   2\n"
                                                                 "spare0_usable_units      1000\n"
                                                                 "spare0_free_units        700\n"
                                                                 "spare3_state             absent\n"
                                                                 "spare3_allocated_units   7\n"
                                                                 "spare3_usable_units      900\n"
                                                                 "spare3_free_units        0\n");
}

TEST_CASE("sizes are readable and exact where they are whole") {
  CHECK(size_text(4096) == "4096 bytes");
  CHECK(size_text(16 * 1024 * 1024) == "16 MiB");
  CHECK(size_text(std::uint64_t{3} << 40U) == "3072 GiB");
  CHECK(size_text(UINT64_MAX) == "16 EiB");
  CHECK(counted(1, "unit") == "1 unit");
  CHECK(counted(0, "unit") == "0 units");
}
