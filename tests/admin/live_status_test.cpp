// SPDX-License-Identifier: GPL-2.0-or-later
// `dmremap status` against a daemon that answers, is stopped, hangs up, or is dead.
#include "tests/admin/fake_daemon.h"
#include "tests/admin/program.h"

#include <catch2/catch.hpp>
#include <chrono>

using namespace dmremap::test;
using nlohmann::json;

namespace {

constexpr const char* uuid = "6d0e1b7a-0c1f-4c3e-9a56-2f1d7d0a9c11";

json status_result(const json& more = json::object()) {
  json status{{"schema", 1},
              {"name", "set1"},
              {"uuid", uuid},
              {"running", true},
              {"answers", true},
              {"age_seconds", 0.0},
              {"state", "ok"},
              {"main", {{"path", "/dev/main"}, {"sectors", 204800}}},
              {"pid", 1},
              {"stats", {{"reads", 43}, {"main_gone", false}}},
              {"dm", "0 204800 remap v5.0 8/1000"}};
  status.update(more);
  return status;
}

fake_daemon::answerer answers(const json& more = json::object()) {
  return [more](const json& request) -> json {
    if (request.at("cmd") == "status")
      return {{"ok", true}, {"text", ""}, {"result", status_result(more)}};
    return {{"ok", true}, {"text", "pong"}, {"result", json::object()}};
  };
}

/// Runs status until the answer is what it has to be in the end. A machine that stalls for half a second,
/// which is how long status waits, makes of a daemon that answers one that is late, and of one that is late
/// one that is stopped. What is wrong sooner, or for a minute, is returned, for the test to find it so.
template <class Run, class Expected>
program_result asked_until(Run run, const std::vector<std::string>& words, Expected expected) {
  using clock = std::chrono::steady_clock;
  const auto begun = clock::now();
  for (;;) {
    const auto asked = clock::now();
    auto result = run(words);
    const auto now = clock::now();
    if (expected(result) || now - asked < std::chrono::milliseconds(500) ||
        now - begun > std::chrono::minutes(1))
      return result;
  }
}

/// Status of a daemon that answers, once the answer is its own.
program_result status_of_live(std::vector<std::string> words) {
  const bool is_json = words.back() == "--json";
  words.insert(words.begin(), "status");
  return asked_until(dmremap_with, words, [&](const program_result& r) {
    return is_json ? r.json().at("answers") == true : r.out.find("does not answer") == std::string::npos;
  });
}

/// Runs status and fails where it takes a second each time: one that waits for the daemon does, and so does
/// now and then one that a busy machine held up.
program_result status_in_time(std::vector<std::string> words) {
  words.insert(words.begin(), "status");
  for (int late = 0;; ++late) {
    const auto begun = std::chrono::steady_clock::now();
    auto result = dmremap_with(words);
    if (std::chrono::steady_clock::now() - begun < std::chrono::seconds(1))
      return result;
    REQUIRE(late < 2);
  }
}

} // namespace

TEST_CASE("status is what the daemon says where it answers") {
  const private_folders folders;
  const fake_daemon daemon("set1", uuid, answers());
  const auto asked = status_of_live({"set1", "--json"});
  CHECK(asked.status == 0);
  CHECK(asked.json().at("schema") == 1);
  CHECK(asked.json().at("answers") == true);
  CHECK(asked.json().at("stats").at("reads") == 43);
  const auto line = asked_until(dmremap_with, {"status", uuid, "--format", "dm"},
                                [](const program_result& r) { return r.status == 0; });
  CHECK(line.out == "0 204800 remap v5.0 8/1000\n");
}

TEST_CASE("status falls back to the segment of a daemon that is stopped") {
  const private_folders folders;
  fake_daemon daemon("set1", uuid, answers());
  daemon.stop();
  const auto asked = status_in_time({"set1", "--json"});
  CHECK(asked.status == 4);
  const auto now = asked.json();
  CHECK(now.at("answers") == false);
  CHECK(now.at("hangs") == true);
  CHECK(now.at("running") == true);
  CHECK(now.at("age_seconds").get<double>() >= 0.5); // no heartbeat came while the answer was waited for
  CHECK(now.at("stats").at("reads") == 42);
  CHECK(now.at("stats").at("remapped_units") == 7);
  CHECK(now.at("spares") == json{"/dev/spare"});
  CHECK(now.at("pid") == daemon.pid());
  CHECK(now.at("notices").at(0).get<std::string>().find("does not answer since") != std::string::npos);
  CHECK(status_in_time({"set1", "--format", "dm"}).out == "0 204800 remap v5.0 7/1000\n");
  CHECK(status_in_time({"set1", "--format", "prometheus"}).out.find("dmremap_up{set=\"set1\"} 0\n") !=
        std::string::npos);
  CHECK(status_in_time({"set1"}).out.find("does not answer") != std::string::npos);

  SECTION("and to its answer when it goes on") {
    daemon.go_on();
    CHECK(status_of_live({"set1", "--json"}).json().at("stats").at("reads") == 43);
  }
  SECTION("commands that change something say so instead of waiting") {
    const auto remapped = dmremap_with({"remap", "set1", "8", "--json"});
    CHECK(remapped.status == 1);
    CHECK(remapped.error_id() == "no-answer");
    CHECK(daemon.requests().find("\"remap\"") == std::string::npos);
  }
}

TEST_CASE("a daemon that is at work but late is told from one that is stopped") {
  const private_folders folders;
  const fake_daemon daemon("set1", uuid, [](const json&) { return "hold"; });
  const auto late = asked_until(status_in_time, {"set1", "--json"},
                                [](const program_result& r) { return r.json().at("hangs") == false; });
  const auto now = late.json();
  CHECK(now.at("answers") == false);
  CHECK(now.at("hangs") == false);
  CHECK(now.at("state") == "ok");
  CHECK(now.at("notices").at(0).get<std::string>().find("at work") != std::string::npos);
}

TEST_CASE("a daemon that hangs up, or says what is no reply, is an error and not a guess") {
  const private_folders folders;
  const json said = GENERATE(json(nullptr), json{{"ok", "perhaps"}}, json{{"v", 1}});
  const fake_daemon daemon("set1", uuid, [said](const json&) { return said; });
  const auto asked = asked_until(dmremap_with, {"status", "set1", "--json"},
                                 [](const program_result& r) { return r.json().contains("error"); });
  CHECK(asked.status == 1);
  CHECK(asked.error_id() == "bad-reply");
}

TEST_CASE("exit status 4 where the set is damaged or incomplete") {
  const private_folders folders;
  const json bad =
      GENERATE(json{{"stats", {{"main_gone", true}}}}, json{{"stats", {{"breaker_open", true}}}},
               json{{"spares", {{{"path", "/s"}, {"super_copies_valid", 1}, {"weakest_block_copies", 5}}}}},
               json{{"spares", {{{"path", "/s"}, {"super_copies_valid", 5}, {"weakest_block_copies", 1}}}}},
               json{{"spares", {{{"path", ""}, {"super_copies_valid", 5}, {"weakest_block_copies", 5}}}}});
  const fake_daemon daemon("set1", uuid, answers(bad));
  CHECK(status_of_live({"set1"}).status == 4);
}

TEST_CASE("lost sectors alone are no damage to the set") {
  const private_folders folders;
  const fake_daemon daemon("set1", uuid, answers({{"stats", {{"lost_sectors", 3}}}}));
  CHECK(status_of_live({"set1"}).status == 0);
}

TEST_CASE("a dead daemon, a configured set and no set at all are told apart, with the next command") {
  const private_folders folders;
  SECTION("dead") {
    fake_daemon daemon("set1", uuid, answers());
    daemon.kill();
    const auto asked = dmremap_with({"status", "set1", "--json"});
    CHECK(asked.status == 1);
    CHECK(asked.error_id() == "daemon-died");
    CHECK(asked.err.find("dmremap detach set1") != std::string::npos);
    const auto listed = dmremap_with({"list", "--json"}).json().at("sets");
    REQUIRE(listed.size() == 1);
    CHECK(listed[0].at("state") == "died");
    CHECK(dmremap_with({"detach", "set1"}).status == 0); // clears away what it left
    CHECK(dmremap_with({"list", "--json"}).json().at("sets").empty());
  }
  SECTION("configured") {
    boost::filesystem::create_directories(folders.dir / "conf/sets.d");
    static_cast<void>(folders.dir.text_file("conf/sets.d/set1.conf", std::string("name = set1\nuuid = ") +
                                                                         uuid + "\nmain = /m\nspare = /s\n"));
    for (const std::string name : {"set1", uuid}) {
      const auto asked = dmremap_with({"status", name, "--json"});
      CHECK(asked.status == 1);
      CHECK(asked.error_id() == "not-running");
      CHECK(asked.err.find("dmremap attach set1") != std::string::npos);
    }
  }
  SECTION("unknown") {
    CHECK(dmremap_with({"status", "set1", "--json"}).error_id() == "no-such-set");
  }
}
