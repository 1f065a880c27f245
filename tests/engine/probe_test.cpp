// SPDX-License-Identifier: GPL-2.0-or-later
// What create and `spare add` see on a member before they would write to it: real signatures by the real
// mkfs.
#include "engine/file_store.h"
#include "engine/member.h"
#include "engine/unique_fd.h"
#include "engine/units.h"
#include "engine/wipe.h"
#include "tests/support/loop_device.h"
#include "tests/support/set_fixture.h"
#include "tests/support/temp_dir.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <unistd.h>

using namespace dmremap;
using namespace dmremap::test;

namespace {

constexpr const char* make_gpt = "printf 'label: gpt\\n,,\\n' | sfdisk -q --no-reread --no-tell-kernel";

std::vector<std::string> types_on(store& member) {
  const auto found = probe_signatures(member);
  REQUIRE(found);
  std::vector<std::string> types;
  for (const signature& s : *found)
    types.push_back(s.type);
  std::sort(types.begin(), types.end());
  return types;
}

/// A sparse file of 512 MiB on which `command` (with the path behind it) has run, read back into memory.
std::shared_ptr<memory_store> made_by(const std::string& command) {
  const temp_dir folder;
  const std::string path = folder.path() + "/member";
  constexpr std::uint64_t size = 512u << 20;
  std::ofstream(path, std::ios::binary).close();
  REQUIRE(std::system(("truncate -s 512M " + path).c_str()) == 0);
  REQUIRE(std::system((command + " " + path + " >/dev/null 2>&1").c_str()) == 0);
  auto copy = std::make_shared<memory_store>(size);
  const unique_fd in(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  REQUIRE(in);
  std::vector<std::byte> piece(64u << 10);
  for (off_t at = ::lseek(in.get(), 0, SEEK_DATA); at >= 0; at = ::lseek(in.get(), at, SEEK_DATA)) {
    at -= at % static_cast<off_t>(unit_bytes);
    const auto got = ::pread(in.get(), piece.data(), piece.size(), at);
    REQUIRE(got > 0);
    const auto data = std::span(piece).first(static_cast<std::size_t>(got));
    REQUIRE(data.size() % sector_bytes == 0);
    REQUIRE(copy->write(data, static_cast<std::uint64_t>(at)));
    at += got;
  }
  return copy;
}

} // namespace

TEST_CASE("signatures of file systems, partition tables and swap are found, and gone after a wipe",
          "[probe]") {
  struct sample {
    const char* command;
    const char* type;
  };
  const auto s = GENERATE(sample{"mkfs.ext4 -q", "ext4"}, sample{"mkfs.xfs -q -f", "xfs"},
                          sample{"mkfs.btrfs -q", "btrfs"}, sample{"mkswap", "swap"},
                          sample{"mkfs.vfat -F 32", "vfat"}, sample{make_gpt, "gpt"});
  INFO(s.command);
  const auto member = made_by(s.command);
  const auto types = types_on(*member);
  REQUIRE(std::find(types.begin(), types.end(), s.type) != types.end());
  REQUIRE(wipe_signatures(*member));
  REQUIRE(types_on(*member).empty());
}

namespace {

/// Writes `bytes` at `offset` of an empty member.
void put(store& member, std::uint64_t offset, const std::string& bytes) {
  const std::uint64_t from = offset / 512 * 512;
  std::vector<std::byte> block(4096);
  REQUIRE(member.read(block, from));
  std::memcpy(block.data() + (offset - from), bytes.data(), bytes.size());
  REQUIRE(member.write(block, from));
}

std::string little_endian(std::uint64_t value, unsigned bytes) {
  std::string out;
  for (unsigned i = 0; i < bytes; ++i)
    out += static_cast<char>(value >> (8 * i));
  return out;
}

bool found_and_wiped(store& member, const std::string& type) {
  const auto types = types_on(member);
  if (std::find(types.begin(), types.end(), type) == types.end())
    return false;
  REQUIRE(wipe_signatures(member));
  return types_on(member).empty();
}

} // namespace

TEST_CASE("a partition table in 4096-byte sectors is found, on its disk and on a copy of it",
          "[probe][root]") {
  const temp_dir folder;
  const auto path = folder.file("disk", 64u << 20);
  {
    const loop_device loop(path, {.block_size = 4096});
    REQUIRE(std::system((make_gpt + (" " + loop.path()) + " >/dev/null 2>&1").c_str()) == 0);
    const auto disk = *file_store::open(loop.path(), {.read_only = true});
    REQUIRE(disk->block_size() == 4096);
    CHECK(types_on(*disk) == std::vector<std::string>{"gpt"});
  }
  const auto copy = *file_store::open(path, {});
  CHECK(found_and_wiped(*copy, "gpt"));
}

TEST_CASE("what lies at the far end alone is found", "[probe]") {
  const auto gpt = made_by(make_gpt);
  REQUIRE(gpt->write(std::vector<std::byte>(34 * 512), 0));
  CHECK(found_and_wiped(*gpt, "gpt"));

  constexpr std::uint64_t size = 64u << 20;
  memory_store raid(size);
  const std::uint64_t sector = (size / 512 - 16) / 8 * 8; // metadata version 1.0
  put(raid, sector * 512, little_endian(0xa92b4efc, 4) + little_endian(1, 4));
  put(raid, sector * 512 + 144, little_endian(sector, 8)); // the superblock's own place
  CHECK(found_and_wiped(raid, "linux_raid_member"));
}

TEST_CASE("LUKS is found by either header", "[probe]") {
  const std::string version("\0\2", 2);
  memory_store first(64u << 20);
  put(first, 0, "LUKS\xba\xbe" + version);
  CHECK(found_and_wiped(first, "crypto_LUKS"));
  memory_store second(64u << 20);
  put(second, 4u << 20, "SKUL\xba\xbe" + version);
  put(second, (4u << 20) + 256, std::string("\0\0\0\0\0\x40\0\0", 8)); // its own offset, big-endian
  CHECK(found_and_wiped(second, "crypto_LUKS"));
}

TEST_CASE("an empty member has no signature", "[probe]") {
  memory_store member(16u << 20);
  REQUIRE(types_on(member).empty());
}

TEST_CASE("another set's spare is named with its UUID, whichever superblock copies are left", "[probe]") {
  set_fixture f;
  f.close();
  const auto before = probe_signatures(*f.spare);
  REQUIRE(before);
  REQUIRE(before->size() == 1);
  REQUIRE(before->front().type == "dmremap");
  REQUIRE(before->front().set_uuid.size() == 36);
  const std::vector<std::byte> junk(4096, std::byte{0xA5});
  for (const std::uint64_t sector : {0u, 1024u, 2048u, 4096u, 8192u})
    REQUIRE(f.spare->write(junk, sector * 512));
  const auto heads = probe_signatures(*f.spare);
  REQUIRE(heads);
  REQUIRE(heads->size() == 1);
  REQUIRE(heads->front().set_uuid == before->front().set_uuid);
  REQUIRE(wipe_signatures(*f.spare));
  REQUIRE(types_on(*f.spare).empty());
  REQUIRE(f.try_open().error().id == "no-superblock");
}

TEST_CASE("metadata of dm-remap 4 is named", "[probe]") {
  memory_store member(16u << 20);
  std::vector<std::byte> block(4096);
  const std::uint32_t magic = 0x444D5234u;
  std::memcpy(block.data(), &magic, sizeof magic);
  REQUIRE(member.write(block, 768 * 512));
  REQUIRE(types_on(member) == std::vector<std::string>{"dm-remap-v4"});
  REQUIRE(wipe_signatures(member));
  REQUIRE(types_on(member).empty());
}

TEST_CASE("a member whose ends cannot be read is not called empty", "[probe]") {
  memory_store member(16u << 20);
  member.add_bad({8, 1, direction::read, io_error::medium, always, false});
  REQUIRE(probe_signatures(member).error().id == "probe-failed");
}

TEST_CASE("a set that this program cannot read is still a set", "[probe]") {
  set_fixture f;
  f.close();
  const auto good = probe_set_signatures(*f.spare);
  REQUIRE(good.size() == 1);
  const auto image = f.spare->image();
  std::vector<std::byte> block(4096);
  const auto change_all = [&](std::size_t at, std::byte to) {
    f.spare->set_image(image);
    for (std::uint64_t place = 0; place < f.spare->size(); place += 4096) {
      REQUIRE(f.spare->read(block, place));
      if (std::memcmp(block.data() + 4, "DMS", 3) != 0)
        continue;
      block[at] = to;
      REQUIRE(f.spare->write(block, place));
    }
  };
  for (const std::size_t at : {std::size_t{7}, std::size_t{2000}}) { // another version; a wrong checksum
    INFO("byte " << at);
    change_all(at, std::byte{0xEE});
    REQUIRE(f.try_open().error().id != "");
    const auto found = probe_signatures(*f.spare);
    REQUIRE(found);
    REQUIRE(found->size() == 1);
    CHECK(found->front().type == "dmremap");
    CHECK(found->front().detail == good.front().detail);
    CHECK(found->front().set_uuid == good.front().set_uuid);
    REQUIRE(wipe_signatures(*f.spare));
    CHECK(types_on(*f.spare).empty());
  }
}

TEST_CASE("sets are found on a member that has bad sectors", "[probe]") {
  set_fixture f;
  f.close();
  f.spare->add_bad({0, 8, direction::both, io_error::medium, always, false});
  f.spare->add_bad({100, 1, direction::read, io_error::medium, always, false});
  const auto found = probe_set_signatures(*f.spare);
  REQUIRE(found.size() == 1);
  CHECK(found.front().type == "dmremap");
  CHECK(found.front().set_uuid.size() == 36);
}
