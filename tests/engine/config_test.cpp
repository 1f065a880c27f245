// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/config.h"
#include "engine/paths.h"
#include "tests/support/temp_dir.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <fmt/format.h>
#include <sys/stat.h>
#include <thread>

using namespace dmremap;
using namespace dmremap::test;

namespace {

constexpr const char* uuid = "6d0e1b7a-0c1f-4c3e-9a56-2f1d7d0a9c11";

set_config whole(const std::string& name = "backup") {
  return {name, uuid, "/dev/disk/by-id/a b=c", {"/s@8+40000", "dust:/t"}, {"ro", "workers=4"}};
}

std::string bad(const std::string& text) {
  const auto config = parse_set_config(text, "/c");
  REQUIRE(!config);
  CHECK(config.error().id == "bad-config");
  CHECK(config.error().what == "/c");
  return config.error().why;
}

const std::string good = std::string("name = n\nuuid = ") + uuid + "\nmain = /m\nspare = /s\n";

} // namespace

TEST_CASE("a configuration comes back as it was saved") {
  const temp_dir dir;
  const scoped_env moved("DMREMAP_CONF_DIR", dir / "conf");
  REQUIRE(save_set_config(whole(), config_write::create));
  const auto back = load_set_config("backup");
  REQUIRE(back);
  CHECK(back->name == "backup");
  CHECK(back->uuid == uuid);
  CHECK(back->main == whole().main);
  CHECK(back->spares == whole().spares);
  CHECK(back->options == whole().options);
  struct stat facts {};
  REQUIRE(::stat(set_conf_path("backup").c_str(), &facts) == 0);
  CHECK((facts.st_mode & 07777) == 0600);
}

TEST_CASE("a file is not overwritten but where that is asked for, and removed once") {
  const temp_dir dir;
  const scoped_env moved("DMREMAP_CONF_DIR", dir / "conf");
  REQUIRE(save_set_config(whole(), config_write::create));
  auto other = whole();
  other.main = "/other";
  const auto refused = save_set_config(other, config_write::create);
  REQUIRE(!refused);
  CHECK(refused.error().id == "name-taken");
  CHECK(load_set_config("backup")->main == whole().main);
  REQUIRE(save_set_config(other, config_write::replace));
  CHECK(load_set_config("backup")->main == "/other");
  // Nothing but the file is left: no temporary one.
  using entries = boost::filesystem::directory_iterator;
  CHECK(std::distance(entries(dir / "conf/sets.d"), entries()) == 1);
  REQUIRE(copy_set_config("backup", "other"));
  CHECK(copy_set_config("backup", "other").error().id == "name-taken");
  CHECK(load_set_config("other")->main == "/other");
  CHECK(load_set_config("other")->spares == whole().spares);
  REQUIRE(remove_set_config("other"));
  CHECK(copy_set_config("other", "third").error().id == "no-such-set");
  REQUIRE(remove_set_config("backup"));
  REQUIRE(remove_set_config("backup"));
  CHECK(load_set_config("backup").error().id == "no-such-set");
}

TEST_CASE("sets are listed by name and found by UUID; a bad file does not hide the others") {
  const temp_dir dir;
  const scoped_env moved("DMREMAP_CONF_DIR", dir / "conf");
  CHECK(list_set_configs().sets.empty());
  REQUIRE(save_set_config(whole("zz"), config_write::create));
  auto second = whole("aa");
  second.uuid = "00000000-0c1f-4c3e-9a56-2f1d7d0a9c11";
  REQUIRE(save_set_config(second, config_write::create));
  static_cast<void>(dir.text_file("conf/sets.d/bad.conf", "nonsense\n"));
  static_cast<void>(dir.text_file("conf/sets.d/renamed.conf", good)); // says name = n
  static_cast<void>(dir.text_file("conf/sets.d/other.txt", "nonsense\n"));
  const auto all = list_set_configs();
  REQUIRE(all.sets.size() == 2);
  CHECK(all.sets[0].name == "aa");
  CHECK(all.bad.size() == 2);
  CHECK(find_set_config("zz")->name == "zz");
  CHECK(find_set_config("00000000-0C1F-4c3e-9a56-2f1d7d0a9c11")->name == "aa");
  CHECK(find_set_config("../aa").error().id == "no-such-set");
  // What looks like a UUID is one, even where an older set is called so.
  REQUIRE(save_set_config(whole("00000000-0c1f-4c3e-9a56-2f1d7d0a9c11"), config_write::create));
  CHECK(find_set_config("00000000-0c1f-4c3e-9a56-2f1d7d0a9c11")->name == "aa");
  CHECK(means_set("aa", "aa", uuid));
  CHECK_FALSE(means_set("aA", "aa", uuid));
  CHECK(means_set("6D0E1b7a-0c1f-4c3e-9a56-2f1d7d0a9c11", "aa", uuid));
  CHECK_FALSE(means_set(uuid, uuid, "00000000-0c1f-4c3e-9a56-2f1d7d0a9c11"));
  CHECK(valid_set_name(uuid));
  CHECK_FALSE(valid_new_set_name(uuid));
  CHECK(valid_new_set_name("6d0e1b7a-0c1f-4c3e-9a56"));
  CHECK(find_set_config("bad").error().id == "bad-config");
}

TEST_CASE("a file that cannot be read may be the one of the set that is asked for") {
  const temp_dir dir;
  const scoped_env moved("DMREMAP_CONF_DIR", dir / "conf");
  const auto nothing = [](std::vector<std::string>&) { return false; };
  CHECK(configured_spares(uuid)->empty());
  CHECK(*change_configured_spares(uuid, nothing) == false);
  auto another = whole("aa");
  another.uuid = "00000000-0c1f-4c3e-9a56-2f1d7d0a9c11";
  REQUIRE(save_set_config(another, config_write::create));
  static_cast<void>(dir.text_file("conf/sets.d/bad.conf", good + "colour = red\n"));
  const auto lines = configured_spares(uuid);
  const auto changed = change_configured_spares(uuid, nothing);
  REQUIRE((!lines && !changed));
  for (const auto& e : {lines.error(), changed.error()}) {
    CHECK(e.id == "bad-config");
    CHECK(e.what == dir / "conf/sets.d/bad.conf");
    CHECK(e.why.find("unknown key 'colour'") != std::string::npos);
  }
  REQUIRE(save_set_config(whole("zz"), config_write::create));
  CHECK(*configured_spares(uuid) == whole("zz").spares);
  CHECK(*change_configured_spares(uuid, nothing) == true);
}

TEST_CASE("what is wrong in a file is named with its line") {
  CHECK(parse_set_config("# x\n\n  " + good + "options =\noptions = a=b , c\n", "/c")->options ==
        std::vector<std::string>{"a=b", "c"});
  CHECK(bad(good + "colour = red\n").find("line 5: unknown key 'colour'") == 0);
  CHECK(bad(good + "main = /n\n").find("line 5") == 0);
  CHECK(bad("name = n\nwhat\n").find("line 2") == 0);
  CHECK(bad("main =\n").find("line 1") == 0);
  CHECK(bad("").find("name") != std::string::npos);
  CHECK(bad("name = a/b\n").find("a/b") != std::string::npos);
  CHECK(bad("name = n\nuuid = 6d0e1b7a0c1f4c3e9a562f1d7d0a9c11\n").find("no UUID") != std::string::npos);
  CHECK(bad(std::string("name = n\nuuid = ") + uuid + "\nmain = /m\n").find("spare") != std::string::npos);
}

TEST_CASE("what a line cannot hold is refused before anything is written") {
  const temp_dir dir;
  const scoped_env moved("DMREMAP_CONF_DIR", dir / "conf");
  for (const std::string path : {"/a\nname = b", " /a", "/a ", ""}) {
    auto config = whole();
    config.spares = {path};
    CHECK(save_set_config(config, config_write::create).error().id == "bad-config-value");
  }
  auto config = whole();
  config.options = {"a,b"};
  CHECK(save_set_config(config, config_write::create).error().id == "bad-config-value");
  CHECK(save_set_config(whole("../x"), config_write::create).error().id == "bad-name");
  CHECK(!boost::filesystem::exists(dir / "conf"));
}

TEST_CASE("a configuration that is to stay as it is needs no lock, one that is to change does") {
  const temp_dir dir;
  const scoped_env moved("DMREMAP_CONF_DIR", dir / "conf");
  REQUIRE(save_set_config(whole(), config_write::create));
  boost::filesystem::create_directory(dir / "conf/sets.d/.lock"); // as on a file system that takes no writes
  const auto kept = change_configured_spares(uuid, [](std::vector<std::string>&) { return false; });
  REQUIRE(kept);
  CHECK(*kept);
  CHECK_FALSE(change_configured_spares(uuid, [](std::vector<std::string>& lines) {
    lines.clear();
    return true;
  }));
  CHECK(load_set_config("backup")->spares == whole().spares);
}

TEST_CASE("a spare that is added while the set is renamed is in its configuration") {
  const temp_dir dir;
  const scoped_env moved("DMREMAP_CONF_DIR", dir / "conf");
  REQUIRE(save_set_config(whole("a"), config_write::create));
  constexpr unsigned count = 60;
  unsigned refused = 0; // by either thread
  std::atomic<bool> done = false;
  std::jthread spares([&] {
    for (unsigned i = 0; i < count; ++i) {
      const auto added = change_configured_spares(uuid, [&](std::vector<std::string>& lines) {
        lines.push_back(fmt::format("/added{}", i));
        return true;
      });
      refused += added && *added ? 0 : 1;
    }
    done = true;
  });
  std::string name = "a";
  unsigned renamed = 0, failed = 0;
  while (!done && failed == 0) {
    const std::string next = name == "a" ? "b" : "a";
    failed += copy_set_config(name, next) && remove_set_config(name) ? 0 : 1;
    name = next;
    ++renamed;
  }
  spares.join();
  CHECK(refused + failed == 0);
  CHECK(renamed > 0);
  auto want = whole().spares;
  for (unsigned i = 0; i < count; ++i)
    want.push_back(fmt::format("/added{}", i));
  CHECK(load_set_config(name)->spares == want);
  CHECK(list_set_configs().sets.size() == 1);
}

TEST_CASE("what a rename that was cut off left is removed, but not the configuration to keep") {
  const temp_dir dir;
  const scoped_env moved("DMREMAP_CONF_DIR", dir / "conf");
  auto other = whole("other");
  other.uuid[0] = other.uuid[0] == '1' ? '2' : '1';
  for (const auto& config : {whole("a"), whole("b"), other})
    REQUIRE(save_set_config(config, config_write::create));
  const auto left = [] {
    std::string names;
    for (const auto& config : list_set_configs().sets)
      names += config.name + " ";
    return names;
  };
  REQUIRE(remove_other_configs(uuid, "c")); // another one has renamed it since
  CHECK(left() == "a b other ");
  REQUIRE(remove_other_configs(uuid, "b"));
  CHECK(left() == "b other ");
  REQUIRE(remove_other_configs(uuid, ""));
  CHECK(left() == "other ");
}
