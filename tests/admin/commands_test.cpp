// SPDX-License-Identifier: GPL-2.0-or-later
// What the small commands send to the daemon, and what they make of its replies.
#include "tests/admin/fake_daemon.h"
#include "tests/admin/program.h"

#include <catch2/catch.hpp>
#include <poll.h>
#include <unistd.h>

using namespace dmremap::test;
using nlohmann::json;

namespace {

constexpr const char* uuid = "6d0e1b7a-0c1f-4c3e-9a56-2f1d7d0a9c11";

fake_daemon::answerer echo() {
  return [](const json& request) -> json {
    if (request.at("cmd") == "unmap")
      return {{"ok", false},
              {"error", {{"id", "unit-has-lost-sectors"}, {"what", "sector 8"}, {"why", "no"}, {"code", 4}}}};
    if (request.at("cmd") == "get")
      return {{"ok", true}, {"text", ""}, {"result", {{"auto_remap", "1"}, {"read_retries", "2"}}}};
    if (request.at("cmd") == "status")
      return {{"ok", true},
              {"text", ""},
              {"result", {{"spares", {{{"index", 0}, {"uuid", "u0"}, {"path", "/s"}, {"draining", true}}}}}}};
    return {{"ok", true}, {"text", "done it"}, {"result", {{"units", 1}}}};
  };
}

/// The last request but pings, as the daemon saw it.
json last_request(const fake_daemon& daemon) {
  std::istringstream lines(daemon.requests());
  json last;
  for (std::string line; std::getline(lines, line);)
    if (auto request = json::parse(line); request.at("cmd") != "ping")
      last = std::move(request);
  return last;
}

} // namespace

TEST_CASE("commands reach the daemon with their arguments") {
  struct row {
    std::vector<std::string> words;
    std::string command;
    json args;
  };
  const auto one = GENERATE(values<row>({
      {{"remap", "set1", "2048"}, "remap", {{"sector", 2048}}},
      {{"remap", uuid, "0x10"}, "remap", {{"sector", 16}}},
      {{"remap", "set1", "0100"}, "remap", {{"sector", 100}}}, // not octal
      {{"dust", "set1", "main", "addbadblock", "010", "010"},
       "dust",
       {{"store", "main"}, {"op", "addbadblock"}, {"sector", 10}, {"mode", "both"}, {"count", 10}}},
      {{"salvage", "set1", "all"}, "salvage", {{"sector", nullptr}}},
      {{"salvage", "set1", "9"}, "salvage", {{"sector", 9}}},
      {{"sync", "set1"}, "sync", json::object()},
      {{"set", "set1", "auto_remap=0"}, "set", {{"key", "auto_remap"}, {"value", "0"}}},
      {{"get", "set1"}, "get", {{"key", nullptr}}},
      {{"message", "set1", "0", "add_remap", "1000", "auto", "8"},
       "message",
       {{"sector", 0}, {"words", {"add_remap", "1000", "auto", "8"}}}},
      {{"message", "set1", "0", "add_remap 1000 auto 8"}, // the daemon takes it apart
       "message",
       {{"sector", 0}, {"words", {"add_remap 1000 auto 8"}}}},
      {{"message", "set1", "0", "spare_add", "/a folder/a spare"},
       "message",
       {{"sector", 0}, {"words", {"spare_add", "/a folder/a spare"}}}},
      {{"dust", "set1", "main", "addbadblock", "2048"},
       "dust",
       {{"store", "main"}, {"op", "addbadblock"}, {"sector", 2048}, {"mode", "both"}, {"count", 1}}},
      {{"dust", "set1", "spare0", "addbadblock", "8", "read", "3"},
       "dust",
       {{"store", "spare0"}, {"op", "addbadblock"}, {"sector", 8}, {"mode", "read"}, {"count", 3}}},
      {{"dust", "set1", "main", "addbadblock", "8", "3"},
       "dust",
       {{"store", "main"}, {"op", "addbadblock"}, {"sector", 8}, {"mode", "both"}, {"count", 3}}},
      {{"dust", "set1", "main", "removebadblock", "8"},
       "dust",
       {{"store", "main"}, {"op", "removebadblock"}, {"sector", 8}, {"mode", "both"}, {"count", 1}}},
      {{"dust", "set1", "main", "queryblock", "8"},
       "dust",
       {{"store", "main"}, {"op", "queryblock"}, {"sector", 8}}},
      {{"dust", "set1", "main", "disable"}, "dust", {{"store", "main"}, {"op", "disable"}}},
      {{"spare", "add", "set1", "/x/../s", "--wipe=ext4", "--wipe", "xfs"},
       "spare_add",
       {{"member", "/x/../s"},
        {"wipe", {"ext4", "xfs"}},
        {"destroy_set", ""},
        {"sparse", false},
        {"dry_run", false}}},
      {{"spare", "add", "set1", "dust:/s@8+65536", "-n", "--destroy-set", uuid, "--sparse"},
       "spare_add",
       {{"member", "dust:/s@8+65536"},
        {"wipe", json::array()},
        {"destroy_set", uuid},
        {"sparse", true},
        {"dry_run", true}}},
      {{"spare", "remove", "set1", "2"}, "spare_remove", {{"spare", "2"}, {"dry_run", false}}},
      {{"spare", "remove", "set1", uuid, "-n"}, "spare_remove", {{"spare", uuid}, {"dry_run", true}}},
      {{"spare", "forget", "set1", "/s", "--yes"}, "spare_forget", {{"spare", "/s"}}},
      {{"spare", "forget", "set1", "/s", "-n"}, "spare_forget", {{"spare", "/s"}, {"dry_run", true}}},
      {{"spare", "evacuate", "set1", "/s", "-n"}, "spare_evacuate", {{"spare", "/s"}, {"dry_run", true}}},
      {{"spare", "evacuate", "set1", "/s", "--partial", "-n"},
       "spare_evacuate",
       {{"spare", "/s"}, {"dry_run", true}, {"partial", true}}},
      {{"spare", "evacuate", "set1", "/s", "--cancel"}, "spare_refill", {{"spare", "/s"}}}, // it drains
  }));
  const private_folders folders;
  const fake_daemon daemon("set1", uuid, echo());
  const auto done = dmremap_with(one.words);
  INFO(done.err);
  CHECK(done.status == 0);
  CHECK(last_request(daemon) == json{{"v", 1}, {"cmd", one.command}, {"args", one.args}});
}

TEST_CASE("replies are shown as text or as JSON, errors with the daemon's identifier and status") {
  const private_folders folders;
  const fake_daemon daemon("set1", uuid, echo());
  CHECK(dmremap_with({"remap", "set1", "8"}).out == "done it\n");
  CHECK(dmremap_with({"remap", "set1", "8", "--json"}).json() ==
        json{{"schema", 1}, {"units", 1}, {"text", "done it"}});
  CHECK(dmremap_with({"get", "set1"}).out == "auto_remap=1\nread_retries=2\n");
  const auto refused = dmremap_with({"unmap", "set1", "8", "--json"});
  CHECK(refused.status == 4);
  CHECK(refused.json().at("error") ==
        json{{"id", "unit-has-lost-sectors"}, {"what", "sector 8"}, {"why", "no"}});
  CHECK(refused.err == "dmremap: sector 8: no\n");
}

TEST_CASE("forget asks first, and without a terminal wants --yes") {
  const private_folders folders;
  const fake_daemon daemon("set1", uuid, [](const json& request) -> json {
    const bool planned = request.at("args").value("dry_run", false);
    return {{"ok", true},
            {"text", planned ? "planned" : "forgotten"},
            {"result", {{"units", 3}, {"lost_sectors", 17}, {"free_units", 900}}}};
  });
  const auto refused = dmremap_with({"spare", "forget", "set1", "/s", "--json"});
  CHECK(refused.status == 2);
  CHECK(refused.error_id() == "not-confirmed");
  CHECK(refused.err.find("3 units with 17 sectors become lost") != std::string::npos);
  CHECK(last_request(daemon).at("args").at("dry_run") == true);
  const auto done = dmremap_with({"spare", "forget", "set1", "/s", "--yes"});
  CHECK(done.status == 0);
  CHECK(done.out == "forgotten\n");
  CHECK(done.err.find("3 units with 17 sectors become lost") !=
        std::string::npos); // the count is shown all the same
}

TEST_CASE("a dry run says what would be done, and asks the daemon for nothing else than its tables") {
  const private_folders folders;
  const auto on = [](int index, const char* path, int used, int usable, int room, bool present) {
    return json{{"index", index},         {"uuid", "u" + std::to_string(index)},
                {"path", path},           {"state", present ? "present" : "absent"},
                {"present", present},     {"allocated_units", used},
                {"usable_units", usable}, {"free_units", room}};
  };
  const fake_daemon daemon("set1", uuid, [on](const json& request) -> json {
    if (request.at("cmd") == "status")
      return {{"ok", true},
              {"text", ""},
              {"result",
               {{"name", "set1"},
                {"main", {{"path", "/m"}, {"sectors", 1000}}},
                {"spares",
                 {on(0, "/s", 3, 20, 3, true), on(1, "/t", 3, 18, 2, true), on(2, "/a", 0, 0, 0, false)}}}}};
    const auto row = [](int sector, int lost, int may) {
      return json{{"main_sector", sector},
                  {"spare", sector == 88 ? "u2" : "u0"},
                  {"spare_sector", 8000 + sector},
                  {"sectors", 8},
                  {"lost_mask", lost},
                  {"may_answer_mask", may}};
    };
    return {{"ok", true},
            {"text", ""},
            {"result", {{"remaps", {row(8, 0, 0), row(16, 7, 2), row(80, 1, 3), row(88, 0, 0)}}}}};
  });
  const auto plan = [](std::vector<std::string> words) {
    words.insert(words.end(), {"--dry-run", "--json"});
    const auto done = dmremap_with(words);
    CHECK(done.status == 0);
    CHECK(done.json().at("dry_run") == true);
    return done.json();
  };
  CHECK(plan({"remap", "set1", "7"}).at("remapped") == false);
  CHECK(plan({"remap", "set1", "15"}).at("remapped") == true);
  CHECK(plan({"unmap", "set1", "8"}).at("lost_sectors") == 0);
  const auto refused = [](std::vector<std::string> words, const std::string& id) {
    words.insert(words.end(), {"--dry-run", "--json"});
    const auto done = dmremap_with(words);
    INFO(done.out);
    CHECK(done.status == 1); // as without --dry-run
    CHECK(done.error_id() == id);
  };
  refused({"unmap", "set1", "17"}, "lost-sectors");
  refused({"unmap", "set1", "999"}, "not-remapped");
  refused({"unmap", "set1", "88"}, "spare-absent");
  const auto all = plan({"salvage", "set1", "all"}), one = plan({"salvage", "set1", "16"});
  CHECK((all.at("lost_sectors") == 4 && all.at("may_answer") == 2));
  CHECK((one.at("lost_sectors") == 3 && one.at("may_answer") == 1));
  CHECK(dmremap_with({"remap", "set1", "1000", "-n", "--json"}).error_id() == "out-of-range");
  CHECK(plan({"sync", "set1"}).at("members") == 3); // main and two spares
  CHECK(dmremap_with({"spare", "evacuate", "set1", "/s", "--cancel", "--json"}).error_id() ==
        "no-evacuation");
  std::istringstream lines(daemon.requests());
  for (std::string line; std::getline(lines, line);) {
    const auto asked = json::parse(line).at("cmd").get<std::string>();
    CHECK((asked == "ping" || asked == "status" || asked == "table"));
  }
}

TEST_CASE("an evacuation is planned by the daemon; what is to be done next depends on the spare") {
  const private_folders folders;
  const bool writable = GENERATE(true, false);
  const fake_daemon daemon("set1", uuid, [writable](const json& request) -> json {
    const json told = {{"running", false}, {"spare", "u1"}, {"path", "/s"},      {"done", 3},
                       {"all", 3},         {"moved", 3},    {"lost_sectors", 0}, {"error", nullptr}};
    if (request.at("cmd") == "status")
      return {{"ok", true},
              {"text", ""},
              {"result",
               {{"name", "set1"},
                {"spares", {{{"index", 1}, {"uuid", "u1"}, {"path", "/s"}, {"present", writable}}}}}}};
    if (request.at("cmd") == "spare_evacuate" && request.at("args").at("spare") == "/full")
      return {{"ok", false},
              {"error", {{"id", "no-spare-capacity"}, {"what", "/full"}, {"why", "no"}, {"code", 1}}}};
    return {{"ok", true}, {"text", ""}, {"result", told}};
  });
  const auto planned = dmremap_with({"spare", "evacuate", "set1", "/s", "-n", "--json"});
  CHECK(planned.status == 0);
  CHECK((planned.json().at("all") == 3 && planned.json().at("dry_run") == true));
  CHECK(last_request(daemon).at("args").at("dry_run") == true);
  CHECK(dmremap_with({"spare", "evacuate", "set1", "/full", "-n", "--json"}).error_id() ==
        "no-spare-capacity");
  const auto done = dmremap_with({"spare", "evacuate", "set1", "/s"});
  CHECK(done.status == 0);
  CHECK(done.out.find(writable ? "next: dmremap spare remove set1 /s"
                               : "next: dmremap spare forget set1 /s") != std::string::npos);
}

TEST_CASE("a setting is tried by the daemon, which is told that nothing is to change") {
  const private_folders folders;
  const fake_daemon daemon("set1", uuid, [](const json& request) -> json {
    if (request.at("cmd") != "set")
      return {{"ok", true}, {"text", ""}, {"result", {{"auto_remap", "1"}}}};
    return {
        {"ok", request.at("args").at("value") == "0"},
        {"text", ""},
        {"result", json::object()},
        {"error", {{"id", "bad-setting"}, {"what", "auto_remap"}, {"why", "it takes 0 or 1"}, {"code", 2}}}};
  });
  const auto done = dmremap_with({"set", "set1", "auto_remap=0", "-n", "--json"});
  CHECK(done.status == 0);
  CHECK(
      (done.json().at("now") == "1" && done.json().at("value") == "0" && done.json().at("dry_run") == true));
  CHECK(dmremap_with({"set", "set1", "auto_remap=0", "-n"}).out ==
        "auto_remap would be 0; it is 1 (nothing is written now)\n");
  const auto bad = dmremap_with({"set", "set1", "auto_remap=5", "-n", "--json"});
  CHECK((bad.status == 2 && bad.error_id() == "bad-setting"));
  std::istringstream lines(daemon.requests());
  for (std::string line; std::getline(lines, line);)
    if (const auto asked = json::parse(line); asked.at("cmd") == "set")
      CHECK(asked.at("args").at("dry_run") == true);
}

TEST_CASE("a salvage shows how far it is, and answers as the daemon does") {
  const private_folders folders;
  int asked[2]; // the daemon answers each request in a process of its own
  REQUIRE(::pipe(asked) == 0);
  const bool fails = GENERATE(false, true);
  const fake_daemon daemon("set1", uuid, [=](const json& request) -> json {
    if (request.at("cmd") == "ping")
      return {{"ok", true}, {"text", "pong"}};
    if (request.at("cmd") == "salvaging") {
      const bool told = ::write(asked[1], "!", 1) == 1;
      return {{"ok", told}, {"text", ""}, {"result", {{"running", true}, {"done", 3}, {"all", 7}}}};
    }
    pollfd wait{asked[0], POLLIN, 0}; // it ends once somebody has asked how far it is
    if (::poll(&wait, 1, 20000) != 1)
      return nullptr;
    return {{"ok", !fails},
            {"text", "2 came back"},
            {"result", {{"tried", 4}, {"recovered", 2}, {"not_allowed", 1}, {"still_lost", 3}}},
            {"error", {{"id", "main-unreadable"}, {"what", "sector 8"}, {"why", "gone"}, {"code", 1}}}};
  });
  int pipe[2];
  REQUIRE(::pipe(pipe) == 0);
  const auto done = dmremap_with({"salvage", "set1", "all", "--json", "--progress", std::to_string(pipe[1])});
  ::close(pipe[1]);
  char text[64] = {};
  CHECK(::read(pipe[0], text, sizeof text - 1) > 0);
  ::close(pipe[0]);
  for (const int end : asked)
    ::close(end);
  CHECK(std::string(text) == (fails ? "3 7\n" : "3 7\n7 7\n"));
  CHECK(done.status == (fails ? 1 : 0));
  if (fails)
    CHECK(done.error_id() == "main-unreadable");
  else
    CHECK(done.json().at("recovered") == 2);
}

TEST_CASE("an evacuation is followed to its end") {
  const private_folders folders;
  const temp_dir shared;
  const std::string asked = shared / "asked"; // the daemon is another process
  const bool fails = GENERATE(false, true);
  const int lost = GENERATE(0, 2);
  const auto state = [lost](bool running, int done, json error) {
    return json{{"number", 1}, {"running", running}, {"path", "/s"},         {"done", done},
                {"all", 9},    {"moved", done},      {"lost_sectors", lost}, {"error", std::move(error)}};
  };
  const fake_daemon daemon("set1", uuid, [=](const json& request) -> json {
    if (request.at("cmd") != "evacuation")
      return {{"ok", true}, {"text", ""}, {"result", state(true, 0, nullptr)}};
    const bool again = boost::filesystem::exists(asked);
    std::ofstream(asked).flush();
    const json failed = {{"id", "no-spare-capacity"}, {"what", "/s"}, {"why", "full"}, {"code", 1}};
    return {{"ok", true},
            {"text", ""},
            {"result", state(!again, again ? 9 : 4, again && fails ? failed : nullptr)}};
  });
  int pipe[2];
  REQUIRE(::pipe(pipe) == 0);
  const auto done =
      dmremap_with({"spare", "evacuate", "set1", "/s", "--json", "--progress", std::to_string(pipe[1])});
  ::close(pipe[1]);
  char text[64] = {};
  CHECK(::read(pipe[0], text, sizeof text - 1) > 0);
  ::close(pipe[0]);
  CHECK(std::string(text) == "0 9\n4 9\n9 9\n");
  CHECK(done.status == (fails ? 1 : lost != 0 ? 4 : 0));
  if (fails)
    CHECK(done.error_id() == "no-spare-capacity");
  else
    CHECK(done.json().at("moved") == 9);
}

TEST_CASE("how an evacuation ended is not told by the next one") {
  const private_folders folders;
  const fake_daemon daemon("set1", uuid, [](const json& request) -> json {
    const bool next = request.at("cmd") == "evacuation"; // somebody else began it meanwhile
    return {{"ok", true},
            {"text", ""},
            {"result",
             {{"number", next ? 2 : 1},
              {"running", !next},
              {"path", "/s"},
              {"done", 9},
              {"all", 9},
              {"moved", 9},
              {"lost_sectors", 0},
              {"error", nullptr}}}};
  });
  const auto done = dmremap_with({"spare", "evacuate", "set1", "/s", "--json"});
  CHECK(done.status == 1);
  CHECK(done.error_id() == "evacuation-unknown");
}

TEST_CASE("usage errors exit with 2, touch nothing, and are objects with --json") {
  const private_folders folders;
  const std::vector<std::string> words = GENERATE(values<std::vector<std::string>>({
      {},
      {"nonsense"},
      {"create"},
      {"create", "a"},
      {"create", "a", "--main", "/m"},
      {"create", "a", "--main", "/m", "--spare", "/s", "--wipe", "--dry-run"},
      {"create", "a", "--main", "/m", "--spare", "/s", "--wipe", "ext4", "--wipe", "-n"},
      {"destroy", "a", "--abandon", "--dry-run"},
      {"create", "a", "--table", "0 8 linear /m 0"},
      {"create", "a b", "--main", "/m", "--spare", "/s"},
      {"create", "a", "--main", "/m@1+8", "--spare", "/s"},
      {"create", "a", "--main", "/m", "--spare", "/s", "--table", "0 8 remap-v4 /m /s"},
      {"status"},
      {"status", "a", "--format", "xml"},
      {"table", "a", "--format", "prometheus"},
      {"attach"},
      {"attach", "a", "--all"},
      {"detach"},
      {"remap", "a"},
      {"remap", "a", "x"},
      {"remap", "a", ""},
      {"unmap", "a", "18446744073709551621"}, // 2^64 + 5
      {"remap", "a", "08x"},
      {"salvage", "a", ""},
      {"message", "a", "", "ping"},
      {"dust", "a", "main", "queryblock", ""},
      {"dust", "a", "main", "addbadblock", "8", "read", "18446744073709551621"},
      {"spare", "evacuate", "a", "/s", "--progress", "010"},
      {"lost", "a", "--files", "--progress", ""},
      {"table", "a", "--format", "badblocks", "--block-size", "01000"},
      {"salvage", "a", "x"},
      {"set", "a", "auto_remap"},
      {"message", "a", "8", "ping"},
      {"message", "a", "0", " "},
      {"dust", "a", "main", "explode"},
      {"dust", "a", "main", "addbadblock"},
      {"dust", "a", "main", "addbadblock", "1", "read", "2", "3"},
      {"spare", "paint", "a"},
      {"spare", "add", "a"},
      {"spare", "list", "a", "/s"},
      {"spare", "remove", "a", "/s", "--wipe=ext4"},
      {"spare", "evacuate", "a", "/s", "--yes"},
      {"spare", "evacuate", "a", "/s", "--cancel", "-n"},
      {"spare", "add", "a", "/s", "--progress", "1"},
      {"list", "a"},
      {"sync", "a", "b"},
      {"rename", "a", "b", "c"},
      {"detach", "a", "b"},
      {"destroy", "a", "--progress", "1"},
      {"lost", "a", "--progress", "1"},
      {"spare", "forget", "a"},
      {"spare", "evacuate", "a", "/s", "--progress", "x"},
      {"destroy", "a", "--nonsense"},
  }));
  auto with_json = words;
  with_json.emplace_back("--json");
  const auto plain = dmremap_with(words), object = dmremap_with(with_json);
  INFO(plain.err);
  CHECK(plain.status == 2);
  CHECK(plain.out.empty());
  CHECK(plain.err.rfind("dmremap: ", 0) == 0);
  CHECK(object.status == 2);
  CHECK(object.json().at("schema") == 1);
  CHECK(!object.error_id().empty());
  CHECK(!boost::filesystem::exists(folders.dir / "conf"));
}

TEST_CASE("a command that does not exist is named") {
  CHECK(dmremap_with({"frobnicate", "a"}).err ==
        "dmremap: unknown command 'frobnicate'; see `dmremap --help`\n");
  CHECK(dmremap_with({}).err == "dmremap: no command is given; see `dmremap --help`\n");
}

TEST_CASE("help and version go to standard output") {
  CHECK(dmremap_with({"--version"}).out == "dmremap " DMREMAP_VERSION "\n");
  for (const auto* command :
       {"create", "list", "status", "stats", "table", "lost", "attach", "detach", "remap", "unmap", "salvage",
        "sync", "set", "get", "spare", "rename", "destroy", "message", "dust"}) {
    const auto help = dmremap_with({command, "--help"});
    CHECK(help.status == 0);
    CHECK(help.out.find(std::string("dmremap ") + command) != std::string::npos);
    CHECK(help.out.find("--json") != std::string::npos);
    CHECK(dmremap_with({"--help"}).out.find(std::string("  ") + command + " ") != std::string::npos);
  }
}

TEST_CASE("a set that is not there is status 1, whatever is asked") {
  const private_folders folders;
  for (const auto* command :
       {"status", "stats", "table", "lost", "attach", "detach", "sync", "destroy", "get"}) {
    INFO(command);
    const auto done = dmremap_with({command, "nobody", "--json"});
    CHECK(done.status == 1);
    CHECK((done.error_id() == "no-such-set" ||
           done.error_id() == "no-permission")); // attach asks for loop devices first
    CHECK(!done.err.empty());
  }
}

TEST_CASE("nothing to list is no error") {
  const private_folders folders;
  const auto done = dmremap_with({"list", "--json"});
  CHECK(done.status == 0);
  CHECK(done.json() == json{{"schema", 1}, {"sets", json::array()}});
}

TEST_CASE("what a daemon that died left is cleared away before the set is renamed or destroyed") {
  const private_folders folders;
  fake_daemon daemon("set1", uuid, echo());
  daemon.kill();
  for (const std::vector<std::string>& words : std::vector<std::vector<std::string>>{
           {"rename", "set1", "set2"}, {"rename", "set1", "set2", "-n"}, {"destroy", "set1", "-n"}}) {
    auto with_json = words;
    with_json.emplace_back("--json");
    const auto refused = dmremap_with(with_json);
    CHECK(refused.status == 1);
    CHECK(refused.error_id() == "daemon-died");
  }
}
