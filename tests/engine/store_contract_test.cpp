// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/store_contract.h"

#include "engine/dust_store.h"
#include "engine/file_store.h"
#include "engine/range_store.h"
#include "tests/support/loop_device.h"
#include "tests/support/temp_dir.h"

using namespace dmremap;
using namespace dmremap::test;

namespace {

std::shared_ptr<store> open_file(const std::string& path) {
  auto opened = file_store::open(path, {});
  INFO((opened ? "" : opened.error().text()));
  REQUIRE(opened);
  return *opened;
}

store_factory new_files(const temp_dir& dir, std::uint64_t bytes) {
  return [&dir, bytes, n = std::make_shared<int>(0)] {
    return open_file(dir.file("store" + std::to_string((*n)++), bytes));
  };
}

} // namespace

TEST_CASE("a file keeps the store contract", "[store]") {
  const temp_dir dir;
  check_store_contract(new_files(dir, 2u << 20));
}

TEST_CASE("a file whose size is not whole blocks keeps the store contract", "[store]") {
  const temp_dir dir;
  check_store_contract(new_files(dir, (2u << 20) + 700));
}

TEST_CASE("a file on tmpfs keeps the store contract", "[store]") {
  const temp_dir dir("/dev/shm");
  check_store_contract(new_files(dir, 2u << 20));
}

TEST_CASE("a range of a file keeps the store contract", "[store]") {
  const temp_dir dir;
  const auto files = new_files(dir, 4u << 20);
  check_store_contract([&]() -> std::shared_ptr<store> { return *range_store::make(files(), 8, 3000); });
}

TEST_CASE("a dust store with nothing bad keeps the store contract", "[store]") {
  const temp_dir dir;
  const auto files = new_files(dir, 2u << 20);
  check_store_contract([&]() -> std::shared_ptr<store> { return std::make_shared<dust_store>(files()); });
}

TEST_CASE("a dust store with something bad elsewhere keeps the store contract", "[store]") {
  const temp_dir dir;
  const auto files = new_files(dir, 4u << 20);
  check_store_contract([&]() -> std::shared_ptr<store> {
    const auto dust = std::make_shared<dust_store>(files());
    REQUIRE(dust->control()->add(6000, 8));
    return dust;
  });
}

TEST_CASE("a loop device keeps the store contract", "[store][root]") {
  const temp_dir dir;
  for (const std::uint32_t block : {512u, 4096u}) {
    INFO("block size " << block);
    int n = 0;
    std::vector<std::unique_ptr<loop_device>> loops;
    check_store_contract([&] {
      const auto file = dir.file("loop" + std::to_string(block) + "." + std::to_string(n++), 2u << 20);
      loops.push_back(std::make_unique<loop_device>(file, loop_device::options{.block_size = block}));
      const auto s = open_file(loops.back()->path());
      CHECK(s->block_size() == block);
      CHECK(s->identity().block_device);
      CHECK(s->identity().direct);
      return s;
    });
  }
}
