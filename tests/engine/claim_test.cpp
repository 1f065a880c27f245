// SPDX-License-Identifier: GPL-2.0-or-later
// Claims on block devices and what else may use them. Needs root and loop devices.
#include "engine/claim.h"

#include "engine/device_identity.h"
#include "engine/file_store.h"
#include "engine/member.h"
#include "tests/support/loop_device.h"
#include "tests/support/processes.h"
#include "tests/support/temp_dir.h"

#include <boost/filesystem.hpp>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <future>
#include <sys/mount.h>
#include <sys/swap.h>

using namespace dmremap;
using namespace dmremap::test;

namespace {

struct fixture {
  temp_dir dir;
  scoped_env run{"DMREMAP_RUN_DIR", dir / "run"};

  static result<std::vector<open_member>> open(const std::vector<std::string>& members,
                                               access_mode mode = access_mode::read_write) {
    std::vector<std::pair<member_role, member_spec>> specs;
    for (const auto& m : members)
      specs.emplace_back(specs.empty() ? member_role::main : member_role::spare, *parse_member(m));
    return open_members(specs, mode);
  }
  static std::string id_of(const std::vector<std::string>& members,
                           access_mode mode = access_mode::read_write) {
    const auto opened = open(members, mode);
    return opened ? "opened" : opened.error().id;
  }
};

struct mounted {
  mounted(const std::string& device, const std::string& at) : point(at) {
    ::mkdir(at.c_str(), 0700);
    ok = ::mount(device.c_str(), at.c_str(), "ext4", MS_RDONLY, "") == 0;
  }
  ~mounted() { ::umount2(point.c_str(), 0); }
  mounted(const mounted&) = delete;
  mounted& operator=(const mounted&) = delete;
  std::string point;
  bool ok = false;
};

bool make_ext4(const std::string& path, const std::string& more = "") {
  return std::system(("mkfs.ext4 -q -F " + more + " " + path).c_str()) == 0;
}

/// A disk image of 8 MiB with two DOS partitions: sectors 2048 to 8191 and 8192 to 16383.
std::string partitioned_file(const temp_dir& dir) {
  const std::string path = dir.file("disk.img", 8 << 20);
  unsigned char table[66] = {};
  const auto entry = [&](int n, std::uint32_t start, std::uint32_t count) {
    unsigned char* e = table + n * 16;
    e[4] = 0x83;
    std::memcpy(e + 8, &start, 4); // little-endian on every machine these tests run on
    std::memcpy(e + 12, &count, 4);
  };
  entry(0, 2048, 6144);
  entry(1, 8192, 8192);
  table[64] = 0x55;
  table[65] = 0xaa;
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(0x1b8);
  file.write("\x78\x56\x34\x12", 4); // the disk's signature, of which partition UUIDs are made
  file.seekp(446);
  file.write(reinterpret_cast<const char*>(table), sizeof table);
  return path;
}

} // namespace

TEST_CASE("a killed process leaves no claim behind", "[claim][root]") {
  const fixture f;
  const auto file = f.dir.file("a", 1 << 20);
  const loop_device loop(f.dir.file("b", 1 << 20), {});
  child_process child([&] {
    static auto held = f.open({file, loop.path() + "@8+16"});
    if (held)
      name_claims(*held, "victim");
    return held.has_value();
  });
  REQUIRE(child.ready());
  const std::string who = "'victim' (process " + std::to_string(child.pid()) + ")";
  for (const auto& member : {file, loop.path() + "@8+16"}) {
    const auto second = f.open({member});
    REQUIRE_FALSE(second);
    CHECK(second.error().id == "in-use");
    CHECK(second.error().why.find(who) != std::string::npos);
  }
  child.kill();
  CHECK(f.id_of({file, loop.path() + "@8+16"}) == "opened");
  std::size_t records = 0;
  for (const auto& entry : boost::filesystem::directory_iterator(f.dir / "run/.claims"))
    records += entry.path().filename().string().starts_with("owner.") ? 1 : 0;
  CHECK(records == 0);
}

TEST_CASE("who only looks is waited for, but not for ever", "[claim][root]") {
  const fixture f;
  const auto file = f.dir.file("a", 1 << 20);
  const loop_device loop(f.dir.file("b", 1 << 20), {});
  for (const auto& member : {file, loop.path() + "@8+16"}) {
    auto looking = f.open({member}, access_mode::read_only);
    REQUIRE(looking);
    auto writing = std::async(std::launch::async, [&] { return f.id_of({member}); });
    CHECK(writing.wait_for(std::chrono::milliseconds(100)) == std::future_status::timeout);
    looking->clear();
    CHECK(writing.get() == "opened");

    const auto still = f.open({member}, access_mode::read_only);
    REQUIRE(still);
    CHECK(f.id_of({member}) == "in-use");
  }
}

TEST_CASE("a whole block device is opened exclusively", "[claim][root]") {
  const fixture f;
  const loop_device loop(f.dir.file("b", 1 << 20), {});
  const auto held = f.open({loop.path()});
  REQUIRE(held);
  CHECK(::open(loop.path().c_str(), O_RDONLY | O_EXCL | O_CLOEXEC) < 0);
  CHECK(errno == EBUSY);
  CHECK(f.id_of({loop.path()}) == "in-use");
  CHECK(f.id_of({loop.path() + "@8+8"}) == "members-overlap");
}

TEST_CASE("two sets share one disk by ranges", "[claim][root]") {
  const fixture f;
  const loop_device loop(f.dir.file("b", 1 << 20), {});
  const auto first = f.open({loop.path() + "@0+512", loop.path() + "@1024+512"});
  REQUIRE(first);
  CHECK(f.id_of({loop.path() + "@512+512"}) == "opened");
  CHECK(f.id_of({loop.path() + "@504+512"}) == "members-overlap");
  CHECK(f.id_of({loop.path() + "@1024+512"}) == "in-use");
  CHECK(f.id_of({loop.path()}) == "members-overlap");
}

TEST_CASE("claims on a disk hold against processes with another run folder", "[claim][root]") {
  const fixture f;
  loop_device loop(partitioned_file(f.dir), {});
  const std::string part = loop.add_partition(2048, 6144);
  auto first = f.open({loop.path() + "@512+512"}); // exclusive, so that the second is not
  REQUIRE(first);
  const auto second = f.open({loop.path() + "@4096+512"});
  REQUIRE(second);
  first->clear(); // nobody holds the disk exclusively now
  const scoped_env elsewhere{"DMREMAP_RUN_DIR", f.dir / "other"};
  CHECK(f.id_of({loop.path() + "@4096+512"}) == "in-use");
  CHECK(f.id_of({loop.path() + "@4096+512"}, access_mode::read_only) == "in-use");
  CHECK(f.id_of({loop.path() + "@4088+512"}) == "members-overlap");
  CHECK(f.id_of({loop.path()}) == "members-overlap");
  CHECK(f.id_of({part}) == "members-overlap");
  CHECK(f.id_of({loop.path() + "@8192+512"}) == "opened");
}

TEST_CASE("a claim on a partition has the whole disk open for reading only", "[claim][root]") {
  // When somebody closes a disk that he had open for writing, udev reads the partition table anew.
  const fixture f;
  loop_device loop(partitioned_file(f.dir), {});
  const auto held = f.open({loop.add_partition(2048, 6144)});
  REQUIRE(held);
  unsigned open = 0;
  boost::system::error_code gone;
  for (const auto& entry : boost::filesystem::directory_iterator("/proc/self/fd")) {
    if (boost::filesystem::read_symlink(entry.path(), gone) != loop.path())
      continue;
    ++open;
    CHECK((::fcntl(std::atoi(entry.path().filename().c_str()), F_GETFL) & O_ACCMODE) == O_RDONLY);
  }
  CHECK(open >= 1);
}

TEST_CASE("a range of a disk that somebody else holds exclusively is refused", "[claim][root]") {
  const fixture f;
  const loop_device loop(f.dir.file("b", 1 << 20), {});
  const unique_fd stranger(::open(loop.path().c_str(), O_RDONLY | O_EXCL | O_CLOEXEC));
  REQUIRE(stranger);
  CHECK(f.id_of({loop.path()}) == "in-use");
  CHECK(f.id_of({loop.path() + "@8+8"}) == "in-use");
  // A claim for reading is no proof that the disk belongs to sets.
  const auto reader = f.open({loop.path() + "@16+8"}, access_mode::read_only);
  REQUIRE(reader);
  CHECK(f.id_of({loop.path() + "@8+8"}) == "in-use");
}

TEST_CASE("readers of a block device hold nothing exclusively", "[claim][root]") {
  const fixture f;
  const loop_device loop(f.dir.file("b", 1 << 20), {.read_only = true});
  const auto first = f.open({loop.path()}, access_mode::read_only);
  REQUIRE(first);
  CHECK(f.id_of({loop.path()}, access_mode::read_only) == "opened");
  CHECK(f.id_of({loop.path()}) == "in-use");
  CHECK(unique_fd(::open(loop.path().c_str(), O_RDONLY | O_EXCL | O_CLOEXEC)));
}

TEST_CASE("a read-only device is no place to write", "[claim][root]") {
  const fixture f;
  const loop_device loop(f.dir.file("b", 1 << 20), {.read_only = true});
  CHECK(f.id_of({loop.path()}) == "no-permission");
}

TEST_CASE("a file under a loop device is refused, in the set and outside", "[claim][root]") {
  const fixture f;
  const auto file = f.dir.file("a", 1 << 20);
  {
    const loop_device loop(file, {});
    const auto refused = f.open({file});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().id == "loop-backed");
    CHECK(refused.error().why.find(loop.path()) != std::string::npos);
    CHECK(f.id_of({file + "@8+8"}) == "loop-backed");
    CHECK(f.id_of({loop.path(), file}) == "members-overlap");
    const loop_device second(loop.path(), {});
    CHECK(f.id_of({loop.path()}) == "loop-backed");
    CHECK(f.id_of({loop.path() + "@8+8"}) == "loop-backed");
    CHECK(f.id_of({second.path(), loop.path()}) == "members-overlap");
  }
  CHECK(f.id_of({file}) == "opened");
}

TEST_CASE("a loop device made on a member of a running set is refused", "[claim][root]") {
  const fixture f;
  const auto file = f.dir.file("a", 1 << 20);
  const auto held = f.open({file});
  REQUIRE(held);
  name_claims(*held, "demo");
  const loop_device loop(file, {});
  const auto refused = f.open({loop.path()});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().id == "members-overlap");
  CHECK(refused.error().why.find("'demo'") != std::string::npos);
}

TEST_CASE("loop devices on one file are one storage", "[claim][root]") {
  const fixture f;
  const auto file = f.dir.file("a", 1 << 20);
  const loop_device one(file, {}), two(file, {});
  CHECK(f.id_of({one.path(), two.path()}) == "members-overlap");
  CHECK(f.id_of({one.path() + "@0+1024", two.path() + "@1016+8"}) == "members-overlap");
  CHECK(f.id_of({one.path() + "@0+1024", two.path() + "@1024+8"}) == "opened");
  {
    const auto held = f.open({one.path() + "@8+1024"});
    REQUIRE(held);
    name_claims(*held, "demo");
    CHECK(f.id_of({two.path() + "@1032+8"}) == "opened");
    const auto refused = f.open({two.path() + "@1024+8"});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().id == "members-overlap");
    CHECK(refused.error().why.find(one.path() + "@8+1024, which is in use by set 'demo'") !=
          std::string::npos);
    CHECK(f.id_of({two.path()}, access_mode::read_only) == "members-overlap");
    {
      const loop_device upper(two.path(), {});
      CHECK(f.id_of({upper.path()}) == "members-overlap");
    }
    const scoped_env elsewhere("DMREMAP_RUN_DIR", f.dir / "other");
    CHECK(f.id_of({two.path()}) == "members-overlap");
  }
  const auto reader = f.open({one.path()}, access_mode::read_only);
  REQUIRE(reader);
  CHECK(f.id_of({two.path()}, access_mode::read_only) == "opened");
  CHECK(f.id_of({two.path()}) == "members-overlap");
}

TEST_CASE("loop devices on one loop device are one storage", "[claim][root]") {
  const fixture f;
  const loop_device disk(f.dir.file("a", 1 << 20), {});
  const loop_device one(disk.path(), {}), two(disk.path(), {});
  CHECK(f.id_of({one.path(), two.path()}) == "members-overlap");
  const auto held = f.open({one.path()});
  REQUIRE(held);
  CHECK(f.id_of({two.path()}) == "members-overlap");
}

TEST_CASE("partitions are judged in whole-disk coordinates", "[claim][root]") {
  const fixture f;
  loop_device disk(partitioned_file(f.dir), {});
  const std::string one = disk.add_partition(2048, 6144);
  const std::string two = disk.add_partition(8192, 8192);
  struct stat st {};
  REQUIRE(::stat(one.c_str(), &st) == 0);
  const auto extent = extent_of(st.st_rdev);
  CHECK(extent.partition);
  CHECK(extent.start == 2048 * 512);
  CHECK(extent.length == 6144 * 512);
  CHECK(f.id_of({disk.path(), one}) == "members-overlap");
  CHECK(f.id_of({one, disk.path() + "@2048+8"}) == "members-overlap");
  CHECK(f.id_of({one, disk.path() + "@8184+8"}) == "members-overlap");
  CHECK(f.id_of({one, two}) == "opened");
  CHECK(f.id_of({one, disk.path() + "@8192+8"}) == "opened");
  const auto first = f.open({one});
  REQUIRE(first);
  CHECK((*first)[0].io->identity().partuuid == "12345678-01");
  CHECK(f.id_of({disk.path()}) == "members-overlap");
  CHECK(f.id_of({disk.path() + "@2048+6144"}) == "in-use");
  CHECK(f.id_of({disk.path() + "@8192+8"}) == "opened");
  CHECK(f.id_of({two}) == "opened");
}

TEST_CASE("a mounted device, or one with a mounted partition in the range, is refused", "[claim][root]") {
  const fixture f;
  const auto file = f.dir.file("fs", 4 << 20);
  REQUIRE(make_ext4(file));
  const loop_device loop(file, {});
  {
    const mounted m(loop.path(), f.dir / "m");
    REQUIRE(m.ok);
    const auto refused = f.open({loop.path()});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().id == "mounted");
    CHECK(refused.error().why.find(m.point) != std::string::npos);
    CHECK(f.id_of({loop.path() + "@8+8"}) == "mounted");
    CHECK(f.id_of({loop.path()}, access_mode::read_only) == "mounted");
  }
  CHECK(f.id_of({loop.path()}) == "opened");

  loop_device disk(partitioned_file(f.dir), {});
  const std::string one = disk.add_partition(2048, 6144);
  const std::string two = disk.add_partition(8192, 8192);
  REQUIRE(make_ext4(one));
  const mounted m(one, f.dir / "odd name");
  REQUIRE(m.ok);
  const auto refused = f.open({disk.path()});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().id == "mounted");
  CHECK(refused.error().why.find(m.point) != std::string::npos);
  CHECK(f.id_of({disk.path() + "@8184+8"}) == "mounted");
  // Elsewhere on the disk nothing is mounted, but the kernel keeps the disk for itself as a whole.
  CHECK(f.id_of({disk.path() + "@8192+8"}) == "in-use");
  CHECK(f.id_of({two}) == "opened");
}

TEST_CASE("swap space is refused", "[claim][root]") {
  const fixture f;
  const loop_device loop(f.dir.file("s", 1 << 20), {});
  REQUIRE(std::system(("mkswap -q " + loop.path() + " > /dev/null 2>&1").c_str()) == 0);
  REQUIRE(::swapon(loop.path().c_str(), 0) == 0);
  const auto id = f.id_of({loop.path()});
  const auto range = f.id_of({loop.path() + "@8+8"});
  REQUIRE(::swapoff(loop.path().c_str()) == 0);
  CHECK(id == "swap");
  CHECK(range == "swap");
  CHECK(f.id_of({loop.path()}) == "opened");
}

TEST_CASE("a loop device without a file is refused", "[claim][root]") {
  const fixture f;
  const unique_fd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  const int number = 4096 + ::getpid() % 4096; // one that nobody else gets
  REQUIRE(::ioctl(control.get(), LOOP_CTL_ADD, number) == number);
  const std::string device = "/dev/loop" + std::to_string(number);
  if (::access(device.c_str(), F_OK) != 0)
    REQUIRE(::mknod(device.c_str(), S_IFBLK | 0600, makedev(7, static_cast<unsigned>(number))) == 0);
  CHECK(f.id_of({device}) == "empty-member");
  CHECK(::ioctl(control.get(), LOOP_CTL_REMOVE, number) >= 0);
  (void)::unlink(device.c_str());
}

TEST_CASE("a folder for claims that belongs to somebody else is not used", "[claim][root]") {
  const fixture f;
  const loop_device loop(f.dir.file("s", 1 << 20), {});
  REQUIRE(::mkdir((f.dir / "run").c_str(), 0777) == 0);
  REQUIRE(::chown((f.dir / "run").c_str(), 65534, 65534) == 0);
  CHECK(f.id_of({loop.path()}) == "claim-failed");
}
