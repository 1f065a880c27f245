// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/options.h"
#include "fusedisk/run.h"

#include <catch2/catch.hpp>
#include <sstream>

using namespace dmremap;

namespace {

result<command_line> parse(std::vector<const char*> words) {
  words.insert(words.begin(), "fusedisk");
  return parse_command_line(static_cast<int>(words.size()), words.data());
}

} // namespace

TEST_CASE("every option lands where it belongs") {
  mount_options o;
  REQUIRE(apply_options("ro,degraded,accept_main,accept_older,read_retries=7,auto_remap=0,breaker_remaps=5,"
                        "breaker_seconds=60,workers=32,allow_other,"
                        "log_level=debug",
                        o));
  CHECK(o.open.read_only);
  CHECK(o.open.degraded);
  CHECK(o.open.accept_main);
  CHECK(o.accept_older);
  CHECK(o.open.read_retries == 7);
  CHECK(o.open.breaker_remaps == 5);
  CHECK(o.open.breaker_seconds == 60);
  CHECK_FALSE(o.open.auto_remap);
  CHECK(o.workers == 32);
  CHECK(o.allow_other);
  CHECK(o.level == log_level::debug);
}

TEST_CASE("nothing given means writable, strict, four workers, automatic remaps") {
  const mount_options o;
  CHECK_FALSE((o.open.read_only || o.open.degraded || o.open.accept_main || o.accept_older || o.allow_other));
  CHECK(o.open.auto_remap);
  CHECK(o.workers == 4);
  CHECK(o.level == log_level::info);
}

TEST_CASE("the last of two counts, and empty places between commas do not matter") {
  mount_options o;
  REQUIRE(apply_options(",ro,,workers=2,rw,workers=3,", o));
  CHECK_FALSE(o.open.read_only);
  CHECK(o.workers == 3);
}

TEST_CASE("a bad option is a usage error that names it") {
  const char* bad = GENERATE("nonsense", "workers=0", "workers=129", "workers=x", "workers=", "workers",
                             "workers=4x", "read_retries=-1", "read_retries=101", "auto_remap=2",
                             "auto_remap", "log_level=loud", "log_level", "ro=1", "rox", "allow_other=0");
  CAPTURE(bad);
  mount_options o;
  const auto done = apply_options(std::string("ro,") + bad, o);
  REQUIRE_FALSE(done);
  CHECK(done.error().id == "bad-option");
  CHECK(done.error().code == exit_code::usage);
  CHECK(done.error().what == std::string("-o ") + bad);
}

TEST_CASE("members, mount point and options from the command line") {
  const auto line = parse(
      {"--foreground", "-o", "ro,workers=2", "/x/main.img", "dust:/x/spare.img@8+4096", "/mnt", "-o", "rw"});
  REQUIRE(line);
  CHECK(line->foreground);
  REQUIRE(line->main);
  CHECK(line->main->path == "/x/main.img");
  REQUIRE(line->spares.size() == 1);
  CHECK(line->spares[0].dust);
  CHECK(line->spares[0].start == 8U);
  CHECK(line->mountpoint == "/mnt");
  CHECK(line->option_lists == std::vector<std::string>{"ro,workers=2", "rw"});
}

TEST_CASE("a name takes the place of the members") {
  const auto line = parse({"--name", "backup", "/mnt"});
  REQUIRE(line);
  CHECK(line->name == "backup");
  CHECK_FALSE(line->main);
  CHECK(line->mountpoint == "/mnt");
  CHECK_FALSE(line->foreground);
}

TEST_CASE("words behind -- are no options") {
  const auto line = parse({"-o", "ro", "--", "/x/-main", "/x/spare", "/mnt"});
  REQUIRE(line);
  CHECK(line->main->path == "/x/-main");
}

TEST_CASE("incomplete command lines are usage errors") {
  struct bad_line {
    std::vector<const char*> words;
    const char* id;
  };
  const bad_line lines[] = {
      {{}, "bad-usage"},
      {{"/mnt"}, "bad-usage"},
      {{"/x/main", "/mnt"}, "bad-usage"},
      {{"--name", "n"}, "bad-usage"},
      {{"--name", "n", "/x/spare", "/mnt"}, "bad-usage"},
      {{"--nonsense", "/x/main", "/x/spare", "/mnt"}, "bad-usage"},
      {{"-o", "nonsense", "/x/main", "/x/spare", "/mnt"}, "bad-option"},
      {{"/x/main@1+8", "/x/spare", "/mnt"}, "misaligned-range"},
  };
  for (const auto& bad : lines) {
    CAPTURE(bad.words);
    const auto line = parse(bad.words);
    REQUIRE_FALSE(line);
    CHECK(line.error().id == bad.id);
    CHECK(line.error().code == exit_code::usage);
  }
}

TEST_CASE("help, version and usage errors come out of the program as such") {
  const auto run = [](std::vector<const char*> words) {
    words.insert(words.begin(), "fusedisk");
    std::ostringstream out, err;
    const int code = run_fusedisk(static_cast<int>(words.size()), words.data(), out, err);
    return std::tuple(code, out.str(), err.str());
  };
  const auto [help_code, help, help_err] = run({"--help"});
  CHECK(help_code == 0);
  CHECK(help.find("--name") != std::string::npos);
  CHECK(help.find("read_retries=") != std::string::npos);
  CHECK(help_err.empty());
  CHECK(std::get<1>(run({"--version"})) == std::string("fusedisk ") + DMREMAP_VERSION + "\n");
  CHECK(run({"-o", "loud", "a", "b", "c"}) ==
        std::tuple(2, std::string(),
                   std::string("fusedisk: -o loud: there is no such option; see fusedisk --help\n")));
  const auto [code, out, err] = run({"/no/such/main", "/no/such/spare", "/no/such/folder"});
  CHECK(code == 1);
  CHECK(err == "fusedisk: /no/such/folder: no such file or folder; make it first\n");
}
