// SPDX-License-Identifier: GPL-2.0-or-later
// What the small commands send to the daemon, and what they make of its replies.
#include "tests/admin/fake_daemon.h"
#include "tests/admin/program.h"

#include <catch2/catch.hpp>

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
      {{"salvage", "set1", "all"}, "salvage", {{"sector", nullptr}}},
      {{"salvage", "set1", "9"}, "salvage", {{"sector", 9}}},
      {{"sync", "set1"}, "sync", json::object()},
      {{"set", "set1", "auto_remap=0"}, "set", {{"key", "auto_remap"}, {"value", "0"}}},
      {{"get", "set1"}, "get", {{"key", nullptr}}},
      {{"message", "set1", "0", "add_remap 1000 auto", "8"},
       "message",
       {{"sector", 0}, {"words", {"add_remap", "1000", "auto", "8"}}}},
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
  const auto spare = dmremap_with({"spare", "add", "set1", "/dev/x", "--json"});
  CHECK(spare.status == 1);
  CHECK(spare.error_id() == "one-spare-only");
}

TEST_CASE("usage errors exit with 2, touch nothing, and are objects with --json") {
  const private_folders folders;
  const std::vector<std::string> words = GENERATE(values<std::vector<std::string>>({
      {},
      {"nonsense"},
      {"create"},
      {"create", "a"},
      {"create", "a", "--main", "/m"},
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
      {"salvage", "a", "x"},
      {"set", "a", "auto_remap"},
      {"message", "a", "8", "ping"},
      {"message", "a", "0", " "},
      {"dust", "a", "main", "explode"},
      {"dust", "a", "main", "addbadblock"},
      {"dust", "a", "main", "addbadblock", "1", "read", "2", "3"},
      {"spare", "paint", "a"},
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
