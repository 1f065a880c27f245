// SPDX-License-Identifier: GPL-2.0-or-later
// The program from the outside: exit statuses and identifiers of errors that touch no device.
#include "admin/run.h"

#include "tests/support/temp_dir.h"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

using namespace dmremap;
using namespace dmremap::test;

namespace {

struct outcome {
  int status;
  std::string out, err;
};

/// Runs `dmremap WORDS...` with folders of its own.
outcome dmremap_with(std::vector<const char*> words) {
  const temp_dir folder;
  for (const char* name : {"DMREMAP_RUN_DIR", "DMREMAP_CONF_DIR", "DMREMAP_STATE_DIR"})
    ::setenv(name, folder.path().c_str(), 1);
  words.insert(words.begin(), "dmremap");
  std::ostringstream out, err;
  const int status = admin::run(static_cast<int>(words.size()), words.data(), out, err);
  for (const char* name : {"DMREMAP_RUN_DIR", "DMREMAP_CONF_DIR", "DMREMAP_STATE_DIR"})
    ::unsetenv(name);
  return {status, out.str(), err.str()};
}

} // namespace

TEST_CASE("wrong words are usage errors with status 2, on standard error", "[command_line]") {
  for (const std::vector<const char*>& words :
       std::vector<std::vector<const char*>>{{},
                                             {"nonsense"},
                                             {"create"},
                                             {"remap", "x"},
                                             {"remap", "x", "y"},
                                             {"attach"},
                                             {"detach"},
                                             {"attach", "x", "--all"},
                                             {"status"},
                                             {"status", "x", "--format", "xml"},
                                             {"message", "x", "0"},
                                             {"list", "--nonsense"},
                                             {"spare", "paint", "x"},
                                             {"create", "bad name", "--main", "/m", "--spare", "/s"}}) {
    std::string line;
    for (const char* w : words)
      line += std::string(w) + " ";
    INFO(line);
    const auto done = dmremap_with(words);
    REQUIRE(done.status == 2);
    REQUIRE(done.err.rfind("dmremap: ", 0) == 0);
  }
}

TEST_CASE("help and version answer on standard output with status 0", "[command_line]") {
  for (const std::vector<const char*>& words : std::vector<std::vector<const char*>>{
           {"--help"}, {"--version"}, {"attach", "--help"}, {"detach", "--help"}}) {
    const auto done = dmremap_with(words);
    REQUIRE(done.status == 0);
    REQUIRE_FALSE(done.out.empty());
    REQUIRE(done.err.empty());
  }
}

TEST_CASE("a set that is not there is status 1, as an object where JSON was asked for", "[command_line]") {
  for (const char* command : {"status", "stats", "table", "lost", "attach", "detach"}) {
    INFO(command);
    const auto done = dmremap_with({command, "nobody", "--json"});
    REQUIRE(done.status == 1);
    const auto said = nlohmann::json::parse(done.out);
    REQUIRE(said["schema"] == 1);
    REQUIRE_FALSE(said["error"]["id"].get<std::string>().empty());
    REQUIRE(done.err.find("nobody") != std::string::npos);
  }
}

TEST_CASE("nothing to list is no error", "[command_line]") {
  const auto done = dmremap_with({"list", "--json"});
  REQUIRE(done.status == 0);
  REQUIRE(nlohmann::json::parse(done.out)["schema"] == 1);
}
