// SPDX-License-Identifier: GPL-2.0-or-later
// Space set aside for spare files, on hosts that have room and on full ones. Needs root and loop devices.
#include "engine/preallocate.h"

#include "tests/support/loop_device.h"
#include "tests/support/mounted.h"
#include "tests/support/temp_dir.h"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <memory>

using namespace dmremap;
using namespace dmremap::test;

namespace {

constexpr std::uint64_t mib = 1024 * 1024;

/// A host with about 20 MiB of room, of either kind.
struct small_host {
  explicit small_host(const std::string& type) {
    if (type == "tmpfs") {
      fs = std::make_unique<mounted_fs>("tmpfs", "none", dir / "host", "size=20m");
      return;
    }
    const auto image = dir.file("image", 24 * mib);
    if (std::system(("mkfs.ext4 -q -F -m 0 -O ^has_journal " + image).c_str()) != 0)
      throw std::runtime_error("mkfs.ext4");
    loop = std::make_unique<loop_device>(image, loop_device::options{});
    fs = std::make_unique<mounted_fs>(type, loop->path(), dir / "host");
  }
  temp_dir dir;
  std::unique_ptr<loop_device> loop;
  std::unique_ptr<mounted_fs> fs;

  /// A sparse file with a word of data at 5 MiB.
  [[nodiscard]] std::string spare(const std::string& name, std::uint64_t bytes) const {
    auto path = *fs / name;
    std::ofstream(path).flush();
    boost::filesystem::resize_file(path, bytes);
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(5 * mib);
    file << "what was there";
    return path;
  }
};

std::uint64_t allocated(const std::string& path) {
  struct stat facts {};
  REQUIRE(::stat(path.c_str(), &facts) == 0);
  return static_cast<std::uint64_t>(facts.st_blocks) * 512;
}

result<preallocation> take(const std::string& member) {
  return preallocation::take(*parse_member(member));
}

} // namespace

TEST_CASE("a spare file gets all of its space, and keeps size and content", "[preallocate][root]") {
  const small_host host(GENERATE("tmpfs", "ext4"));
  const auto path = host.spare("spare", 16 * mib);
  const auto before = slurp(path);
  REQUIRE(allocated(path) < mib);
  {
    auto room = take(path);
    REQUIRE(room);
    room->keep();
  }
  CHECK(allocated(path) >= 16 * mib);
  REQUIRE(take(path)); // not kept, but it had nothing to take
  CHECK(allocated(path) >= 16 * mib);
  CHECK(slurp(path) == before);
}

TEST_CASE("space that is not kept is given back", "[preallocate][root]") {
  const small_host host(GENERATE("tmpfs", "ext4"));
  const auto path = host.spare("spare", 16 * mib);
  const auto before = slurp(path);
  const auto had = allocated(path);
  {
    const auto room = take(path);
    REQUIRE(room);
    CHECK(allocated(path) >= 16 * mib);
  }
  CHECK(allocated(path) == had);
  CHECK(slurp(path) == before);
  preallocation later;
  later = std::move(*take(path));
  CHECK(allocated(path) >= 16 * mib);
}

TEST_CASE("a host without room: refused, and the file is as it was", "[preallocate][root]") {
  const small_host host(GENERATE("tmpfs", "ext4"));
  const auto path = host.spare("spare", 64 * mib);
  const auto before = slurp(path);
  const auto had = allocated(path);
  const auto refused = take(path);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().id == "spare-host-full");
  CHECK(refused.error().text().find(path + ": there is no room for all of its 64 MiB") == 0);
  CHECK(refused.error().why.find("--sparse") != std::string::npos);
  CHECK(allocated(path) == had);
  CHECK(slurp(path) == before);

  const auto range = path + "@16384+32768"; // 16 MiB from 8 MiB on
  auto room = take(range);
  REQUIRE(room);
  room->keep();
  CHECK(allocated(path) >= 16 * mib);
  CHECK(allocated(path) < 18 * mib);
  CHECK(slurp(path) == before);
}

TEST_CASE("a block device needs no space", "[preallocate][root]") {
  const temp_dir dir;
  const auto file = dir.file("image", 16 * mib);
  const loop_device loop(file, {});
  CHECK(take(loop.path()));
  CHECK(allocated(file) == 0);
  CHECK(take(dir / "nothing").error().id == "not-found");
}
