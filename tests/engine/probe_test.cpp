// SPDX-License-Identifier: GPL-2.0-or-later
// What create and `spare add` see on a member before they would write to it: real signatures by the real
// mkfs.
#include "engine/file_store.h"
#include "engine/member.h"
#include "engine/wipe.h"
#include "tests/support/set_fixture.h"
#include "tests/support/temp_dir.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <cstring>
#include <fstream>

using namespace dmremap;
using namespace dmremap::test;

namespace {

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
  std::ifstream in(path, std::ios::binary);
  std::vector<char> piece(1u << 20);
  for (std::uint64_t at = 0; at < size; at += piece.size()) {
    in.read(piece.data(), static_cast<std::streamsize>(piece.size()));
    if (std::any_of(piece.begin(), piece.end(), [](char c) { return c != 0; }))
      REQUIRE(copy->write(std::as_bytes(std::span(piece)), at));
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
                          sample{"mkfs.vfat -F 32", "vfat"}, sample{"sgdisk -n 1:0:0", "gpt"});
  INFO(s.command);
  const auto member = made_by(s.command);
  const auto types = types_on(*member);
  REQUIRE(std::find(types.begin(), types.end(), s.type) != types.end());
  REQUIRE(wipe_signatures(*member));
  REQUIRE(types_on(*member).empty());
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
  for (const std::uint64_t sector : {0, 1024, 2048, 4096, 8192})
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
