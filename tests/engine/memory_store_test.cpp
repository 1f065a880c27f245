// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/memory_store.h"

#include "tests/support/oracle.h"

#include <catch2/catch.hpp>

#include <thread>

using namespace dmremap;
using namespace dmremap::test;

namespace {

std::vector<std::byte> tagged(std::uint64_t first_sector, std::uint64_t count, version v) {
  std::vector<std::byte> bytes(count * 512);
  fill_tags(bytes, first_sector, v);
  return bytes;
}

version seen(store& from, std::uint64_t sector) {
  std::vector<std::byte> bytes(512);
  if (!from.read(bytes, sector * 512))
    return lost_version;
  return read_tag(bytes, sector);
}

io_error error_of(const io_result& result) {
  REQUIRE_FALSE(result.has_value());
  return result.error();
}

} // namespace

TEST_CASE("page images share pages and hash by content") {
  page_image a(1 << 20);
  REQUIRE(a.hash() == page_image(1 << 20).hash());
  REQUIRE(a.hash() != page_image(1 << 21).hash());
  a.write(tagged(3, 2, 7), 3 * 512);
  a.write(tagged(1000, 16, 7), 1000 * 512);
  page_image b = a;
  REQUIRE(a.at(125) == b.at(125));
  b.write(tagged(1000, 1, 8), 1000 * 512);
  REQUIRE(a.at(125) != b.at(125));
  REQUIRE(a.at(126) == b.at(126));
  REQUIRE(a.hash() != b.hash());
  b.write(tagged(1000, 1, 7), 1000 * 512);
  REQUIRE(a.hash() == b.hash());
  b.zero(3 * 512, 1024);
  b.zero(1000 * 512, 16 * 512);
  REQUIRE(b.hash() == page_image(1 << 20).hash()); // a page of zeros is no page
  // The same page elsewhere is other content.
  page_image c(1 << 20), d(1 << 20);
  c.set(1, a.share(125));
  d.set(2, a.share(125));
  REQUIRE(c.hash() != d.hash());
}

TEST_CASE("a memory store keeps what is written and checks requests") {
  const std::uint32_t block = GENERATE(512u, 4096u);
  memory_store s(1 << 20, block);
  const std::uint64_t sectors = block / 512;
  REQUIRE(s.write(tagged(8, 8, 3), 4096).has_value());
  REQUIRE(seen(s, block == 512 ? 9 : 8) ==
          (block == 512 ? 3u : lost_version)); // 512 bytes of a 4Kn drive: invalid
  std::vector<std::byte> buffer(block * 2);
  REQUIRE(error_of(s.read(buffer, (1 << 20) - block)) == io_error::invalid);
  REQUIRE(error_of(s.read(buffer, 256)) == io_error::invalid);
  REQUIRE(error_of(s.write(buffer, ~std::uint64_t{0} - block + 1)) == io_error::invalid);
  REQUIRE(s.zero(4096, block).has_value());
  std::vector<std::byte> unit(4096);
  REQUIRE(s.read(unit, 4096).has_value());
  for (std::uint64_t i = 0; i < 8; ++i)
    REQUIRE(read_tag(std::span(unit).subspan(i * 512, 512), 8 + i) == (i < sectors ? zeros_version : 3));
}

TEST_CASE("bad sectors fail in their direction, as often as asked, with their class") {
  memory_store s(1 << 20);
  REQUIRE(s.write(tagged(0, 64, 1), 0).has_value());
  std::vector<std::byte> unit(4096);

  s.add_bad({10, 2, direction::read, io_error::medium, always, false});
  REQUIRE(error_of(s.read(unit, 4096)) == io_error::medium);
  REQUIRE(seen(s, 9) == 1);
  REQUIRE(seen(s, 12) == 1);
  REQUIRE(s.write(tagged(8, 8, 2), 4096).has_value());
  s.clear_bad(10, 1);
  REQUIRE(seen(s, 10) == 2);
  REQUIRE(seen(s, 11) == lost_version);
  s.clear_faults();

  s.add_bad({11, 1, direction::write, io_error::gone, 2, false});
  REQUIRE(error_of(s.write(tagged(8, 8, 3), 4096)) == io_error::gone);
  REQUIRE(seen(s, 10) == 3); // the sectors before the bad one may have changed: here they have
  REQUIRE(seen(s, 11) == 2);
  REQUIRE(seen(s, 12) == 2);
  REQUIRE(error_of(s.zero(4096, 4096)) == io_error::gone);
  REQUIRE(s.write(tagged(8, 8, 4), 4096).has_value());

  s.add_bad({20, 2, direction::read, io_error::medium, always, true});
  REQUIRE(seen(s, 20) == lost_version);
  REQUIRE(s.write(tagged(20, 1, 5), 20 * 512).has_value());
  REQUIRE(seen(s, 20) == 5);
  REQUIRE(seen(s, 21) == lost_version);
  s.add_bad({30, 4, direction::both, io_error::medium, always, false});
  s.clear_bad(31, 1, direction::read);
  REQUIRE(seen(s, 31) == 1);
  REQUIRE(seen(s, 32) == lost_version);
  REQUIRE_FALSE(s.write(tagged(31, 1, 9), 31 * 512).has_value());

  s.fail_flushes(1);
  REQUIRE(error_of(s.flush()) == io_error::medium);
  REQUIRE(s.flush().has_value());

  fault_table faults;
  faults.all = io_error::gone;
  s.set_faults(faults);
  REQUIRE(error_of(s.flush()) == io_error::gone);
  REQUIRE(error_of(s.read(unit, 0)) == io_error::gone);
  faults = {};
  faults.zero_unsupported = true;
  s.set_faults(faults);
  REQUIRE(error_of(s.zero(0, 4096)) == io_error::unsupported);
  REQUIRE(seen(s, 0) == 1);
}

TEST_CASE("a closed gate holds requests on its sectors only") {
  memory_store s(1 << 20);
  s.watch(8);
  s.close_gate(8, 8, direction::write);
  std::atomic<bool> done = false;
  std::thread writer([&] {
    REQUIRE(s.write(tagged(8, 8, 2), 4096).has_value());
    done = true;
  });
  s.wait_for_blocked();
  REQUIRE(s.write(tagged(16, 8, 2), 8192).has_value());
  REQUIRE(seen(s, 8) == zeros_version);
  REQUIRE_FALSE(done.load());
  s.open_gate();
  writer.join();
  REQUIRE(seen(s, 8) == 2);
  REQUIRE(s.touched(8, direction::write) == 1);
  REQUIRE(s.touched(8, direction::read) == 2);
  REQUIRE(s.counts().writes == 2);
}
