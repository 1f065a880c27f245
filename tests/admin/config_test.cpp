// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/config.h"

#include "tests/support/temp_dir.h"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>
#include <sys/stat.h>

using namespace dmremap;
using namespace dmremap::test;

namespace {

struct conf_folder {
  conf_folder() { ::setenv("DMREMAP_CONF_DIR", folder.path().c_str(), 1); }
  ~conf_folder() { ::unsetenv("DMREMAP_CONF_DIR"); }
  temp_dir folder;
};

set_config sample() {
  return {"archive",
          "2c074c48-f338-49fa-9397-fbaac4dea6f1",
          "dust:/a b/main.img@8+4096",
          {"/dev/sdc1"},
          {"workers=2", "ro"}};
}

} // namespace

TEST_CASE("a configuration comes back as it was saved, readable by its owner only", "[config]") {
  const conf_folder conf;
  REQUIRE(save_set_config(sample(), config_write::create));
  const auto back = load_set_config("archive");
  REQUIRE(back);
  REQUIRE(back->uuid == sample().uuid);
  REQUIRE(back->main == sample().main);
  REQUIRE(back->spares == sample().spares);
  REQUIRE(back->options == sample().options);
  struct stat facts {};
  REQUIRE(::stat((conf.folder.path() + "/sets.d/archive.conf").c_str(), &facts) == 0);
  REQUIRE((facts.st_mode & 0777) == 0600);
  REQUIRE(find_set_config(sample().uuid)->name == "archive");

  REQUIRE_FALSE(save_set_config(sample(), config_write::create)); // never over another one
  auto changed = sample();
  changed.options.clear();
  REQUIRE(save_set_config(changed, config_write::replace));
  REQUIRE(load_set_config("archive")->options.empty());
  REQUIRE(remove_set_config("archive"));
  REQUIRE_FALSE(load_set_config("archive"));
}

TEST_CASE("what is not understood is refused with its line, and does not hide other sets", "[config]") {
  const conf_folder conf;
  REQUIRE(save_set_config(sample(), config_write::create));
  std::ofstream(conf.folder.path() + "/sets.d/broken.conf") << "name = broken\nuuid = x\ncolour = blue\n";
  const auto broken = load_set_config("broken");
  REQUIRE_FALSE(broken);
  const auto all = list_set_configs();
  REQUIRE(all.sets.size() == 1);
  REQUIRE(all.sets[0].name == "archive");
  REQUIRE(all.bad.size() == 1);

  const auto strange =
      parse_set_config("name = a\nuuid = 2c074c48-f338-49fa-9397-fbaac4dea6f1\nmain = /m\nspare = /s\n"
                       "colour = blue\n",
                       "a.conf");
  REQUIRE_FALSE(strange);
  REQUIRE(strange.error().text().find("5") != std::string::npos);
}

TEST_CASE("a value that the file could not hold is refused, not mangled", "[config]") {
  auto c = sample();
  c.main = "/a\nspare = /b";
  REQUIRE_FALSE(format_set_config(c));
}
