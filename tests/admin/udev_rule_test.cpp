// SPDX-License-Identifier: GPL-2.0-or-later
// The text of a udev rule; what udev makes of it is tests/e2e/test_udev.py.
#include "admin/fstab.h"
#include "admin/udev_rule.h"
#include "tests/admin/program.h"

#include <catch2/catch.hpp>

using namespace dmremap;
using namespace dmremap::admin;
using namespace dmremap::test;

namespace {

using lines = std::vector<std::string>;

device_marks disk_with(const std::string& wwn, const std::string& serial) {
  device_marks marks;
  marks.sectors = 4096;
  marks.wwn = wwn;
  marks.serial = serial;
  return marks;
}

device_marks partition_with(const std::string& uuid) {
  auto marks = disk_with("5000c500a1b2c3d4", "Z1Z2Z3");
  marks.partition = true;
  marks.partuuid = uuid;
  return marks;
}

} // namespace

TEST_CASE("a partition is known by its UUID and its size") {
  CHECK(
      udev_match(partition_with("0FC63DAF-8483-4772-8e79-3d69d8477de4")) ==
      lines{"ENV{DEVTYPE}==\"partition\", ENV{ID_PART_ENTRY_UUID}==\"0fc63daf-8483-4772-8e79-3d69d8477de4\", "
            "ATTR{size}==\"4096\""});
  CHECK(udev_match(partition_with("1a2b3c4d-01"))->front().find("\"1a2b3c4d-01\"") != std::string::npos);
  for (const std::string odd : {"", "*", "1a2b3c4d-0?", "1a|2b", "1a\"", "1a\n"})
    CHECK(!udev_match(partition_with(odd)));
}

TEST_CASE("a disk is known by its WWN, else by its serial number, and its size") {
  const auto by_wwn = udev_match(disk_with("5000c500a1b2c3d4", "Z1Z2Z3"));
  CHECK(by_wwn ==
        lines{"ENV{ID_WWN_WITH_EXTENSION}==\"0x5000c500a1b2c3d4|naa.5000c500a1b2c3d4|eui.5000c500a1b2c3d4\", "
              "ATTRS{size}==\"4096\"",
              "ENV{ID_WWN}==\"0x5000c500a1b2c3d4|naa.5000c500a1b2c3d4|eui.5000c500a1b2c3d4\", "
              "ATTRS{size}==\"4096\""});
  const auto by_serial = udev_match(disk_with("t10.ATA Some Drive", "Z1 Z2Z3"));
  CHECK(by_serial == lines{"ENV{ID_SERIAL_SHORT}==\"Z1 Z2Z3|Z1_Z2Z3\", ATTRS{size}==\"4096\"",
                           "ENV{ID_SERIAL}==\"Z1 Z2Z3|Z1_Z2Z3\", ATTRS{size}==\"4096\"",
                           "ENV{ID_SCSI_SERIAL}==\"Z1 Z2Z3|Z1_Z2Z3\", ATTRS{size}==\"4096\""});
  auto known = disk_with("5000c500a1b2c3d4", "Z1Z2Z3"); // as udev itself spells it
  known.udev_key = "ID_SERIAL";
  known.udev_value = "Maker_Drive_Z1Z2Z3";
  CHECK(udev_match(known) == lines{"ENV{ID_SERIAL}==\"Maker_Drive_Z1Z2Z3\", ATTRS{size}==\"4096\""});
}

TEST_CASE("a name that could match something else makes no rule") {
  for (const std::string odd : {"", "1", "0000000000", "*", "Z1Z2*", "Z1|Z2Z3", "Z1Z2?", "[A-Z]1234",
                                "Z1\"Z2Z3", "Z1\\Z2Z3", "Z1Z2\nZ3", "Z1$kernel", "Z1%k345", "Z1\x80Z2Z3"}) {
    CAPTURE(odd);
    CHECK(!udev_match(disk_with("", odd)));
    CHECK(!udev_match(disk_with("abc", odd))); // too short to be a WWN
    auto known = disk_with("", "Z1Z2Z3");
    known.udev_key = "ID_WWN";
    known.udev_value = odd.size() > 4 && odd != "0000000000" ? odd : "*";
    CHECK(!udev_match(known));
  }
}

TEST_CASE("the text of a rule") {
  const auto text =
      udev_rule_text("set1", {"ENV{A}==\"1\"", "ENV{B}==\"2\""}, true, {"/run/dmremap/set1/disk.img"});
  CHECK(
      text ==
      R"(# The set set1 of dmremap(8): kept by create, rename, attach and destroy, which drop changes made here.
SUBSYSTEM!="block", GOTO="dmremap_end"
ACTION=="remove", GOTO="dmremap_end"
ENV{A}=="1", GOTO="dmremap_main"
ENV{B}=="2", GOTO="dmremap_main"
GOTO="dmremap_loop"
LABEL="dmremap_main"
ENV{SYSTEMD_READY}="0", ENV{UDISKS_IGNORE}="1", ENV{ID_FS_TYPE}="", ENV{ID_FS_USAGE}=""
PROGRAM=="/bin/sh -c 'for l do case $$l in disk/by-uuid/*|disk/by-label/*) ;; *) echo $$l;; esac; done' sh $links", SYMLINK="$result"
LABEL="dmremap_loop"
KERNEL=="loop*", ENV{DEVTYPE}=="disk", ATTR{loop/backing_file}=="/run/dmremap/set1/disk.img", SYMLINK+="dmremap/set1"
KERNEL=="loop*", ENV{DEVTYPE}=="partition", ATTRS{loop/backing_file}=="/run/dmremap/set1/disk.img", SYMLINK+="dmremap/set1-part%n"
LABEL="dmremap_end"
)");
  CHECK(udev_rule_text("set1", {"X"}, false, {}).find("|disk/by-partuuid/*|disk/by-partlabel/*)") !=
        std::string::npos);
  const auto plain = udev_rule_text("set1", {}, false, {"/odd\"name*/disk.img"});
  CHECK(plain.find("SYSTEMD_READY") == std::string::npos);
  CHECK(plain.find("odd") == std::string::npos);
}

TEST_CASE_METHOD(private_folders, "the rule of a set comes, moves and goes") {
  const auto main = *parse_member(dir.file("main", 4 << 20));
  CHECK(udev_rule_dir().empty()); // the configuration is moved: nothing goes to the host's folder
  CHECK(plan_udev_rule("set1", main).path.empty());
  CHECK(remove_udev_rule("set1", main.text(), false) == "");
  const scoped_env rules("DMREMAP_UDEV_DIR", dir / "rules");
  const auto path = dir / "rules/62-dmremap-set1.rules", moved = dir / "rules/62-dmremap-set2.rules";
  auto rule = plan_udev_rule("set1", main);
  CHECK(rule.path == path);
  CHECK(!rule.hides_main);
  CHECK(rule.warnings.empty()); // a file: nobody looks at it
  const lines conditions{"ENV{A}==\"1\""};
  rule.text = udev_rule_text("set1", conditions, true, {dir / "run/set1/disk.img"});
  REQUIRE(write_udev_rule(rule, main));
  CHECK(slurp(path) == rule.text);

  REQUIRE(show_image_to_udev("set1", dir / "run/set1/disk.img", "/dev/null"));
  CHECK(slurp(path) == rule.text);
  REQUIRE(show_image_to_udev("set1", "/srv/set1.img", "/dev/null"));
  const auto both = udev_rule_text("set1", conditions, true, {dir / "run/set1/disk.img", "/srv/set1.img"});
  CHECK(slurp(path) == both);
  CHECK(!show_image_to_udev("set1", "/srv/\"*", "/dev/null"));
  CHECK(slurp(path) == both);

  CHECK(move_udev_rule("set1", "set2", "/srv/set1.img") == moved);
  CHECK(slurp(moved) ==
        udev_rule_text("set2", conditions, true, {dir / "run/set2/disk.img", "/srv/set1.img"}));
  CHECK(!boost::filesystem::exists(path));
  CHECK(move_udev_rule("set1", "set3", "") == ""); // none is none
  CHECK(remove_udev_rule("set2", main.text(), true) == moved);
  CHECK(boost::filesystem::exists(moved));
  CHECK(remove_udev_rule("set2", main.text(), false) == moved);
  CHECK(boost::filesystem::is_empty(dir / "rules"));
}

TEST_CASE_METHOD(private_folders, "fstab names a main that is a file by its path alone") {
  const auto main = dir.file("main", 4 << 20);
  boost::filesystem::create_symlink(main, dir / "a link");
  const auto fstab = dir.text_file(
      "fstab", "# " + main + " /no ext4\n\n" + main + " /a ext4 loop 0 0\nUUID= /b ext4\n" + dir.path() +
                   "/a\\040link /c ext4 loop\n" + dir.path() + "/other /d ext4\nalone\n");
  const auto found = find_fstab_conflicts(fstab, *parse_member(main), "set1");
  REQUIRE(found.size() == 2);
  CHECK(found[0].line == 3);
  CHECK(found[0].point == "/a");
  CHECK(found[1].line == 5);
  CHECK(found[1].source == dir.path() + "/a\\040link");
  CHECK(found[1].text().find("/dev/dmremap/set1") != std::string::npos);
  CHECK(find_fstab_conflicts(fstab, *parse_member(main + "@0+4096"), "set1").size() == 2);
  CHECK(find_fstab_conflicts(fstab, *parse_member(main + "@4096+4096"), "set1").empty());
  CHECK(find_fstab_conflicts(dir / "nowhere", *parse_member(main), "set1").empty());
}
