// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/dust_store.h"

#include "engine/file_store.h"
#include "tests/support/store_contract.h"
#include "tests/support/temp_dir.h"

#include <algorithm>
#include <random>

using namespace dmremap;
using namespace dmremap::test;
using std::chrono::milliseconds;

namespace {

struct fixture {
  temp_dir dir;
  std::shared_ptr<store> below = *file_store::open(dir.file("main.img", 1 << 20), {});
  dust_store io{below};
  dust_control& dust = *io.control();
  shifted_buffer memory{64 << 10, 0};

  io_result read(std::uint64_t sector, std::uint64_t count) {
    return io.read(memory.span().first(count * 512), sector * 512);
  }
  io_result write(std::uint64_t sector, std::uint64_t count, std::uint64_t seed = 1) {
    fill_random(memory.span().first(count * 512), seed);
    return io.write(memory.span().first(count * 512), sector * 512);
  }
};

bool medium(const io_result& r) {
  return !r && r.error() == io_error::medium;
}

} // namespace

TEST_CASE("a transfer that covers a bad sector fails whole", "[dust]") {
  fixture f;
  REQUIRE(f.write(0, 64));
  REQUIRE(f.dust.add(10));
  CHECK(medium(f.read(10, 1)));
  CHECK(medium(f.read(0, 64)));
  CHECK(medium(f.read(3, 8)));
  CHECK(f.read(2, 8));
  CHECK(f.read(11, 8));
  shifted_buffer before(64 << 9, 0);
  REQUIRE(f.below->read(before.span(), 0));
  CHECK(medium(f.write(8, 8, 2)));
  CHECK(medium(f.io.zero(8 * 512, 8 * 512)));
  shifted_buffer after(64 << 9, 0);
  REQUIRE(f.below->read(after.span(), 0));
  CHECK(equal(before.span(), after.span()));
  CHECK(f.dust.failed_reads() == 3);
  CHECK(f.dust.failed_writes() == 2);
}

TEST_CASE("the directions of a bad sector are apart", "[dust]") {
  fixture f;
  f.dust.set_heal(false);
  REQUIRE(f.dust.add(0, 1, dust_mode::read));
  REQUIRE(f.dust.add(8, 1, dust_mode::write));
  CHECK(medium(f.read(0, 1)));
  CHECK(f.write(0, 1));
  CHECK(medium(f.read(0, 1))); // does not heal
  CHECK(f.read(8, 1));
  CHECK(medium(f.write(8, 1)));
  CHECK(medium(f.io.zero(8 * 512, 512)));
  REQUIRE(f.dust.remove(8, 1, dust_mode::write));
  CHECK(f.write(8, 1));
}

TEST_CASE("a write heals read errors only, and only where it went", "[dust]") {
  fixture f;
  REQUIRE(f.dust.add(0, 16, dust_mode::read));
  REQUIRE(f.dust.add(32, 1, dust_mode::both));
  REQUIRE(f.write(4, 8));
  const std::vector<dust_range> left{
      {0, 4, dust_mode::read}, {12, 4, dust_mode::read}, {32, 1, dust_mode::both}};
  CHECK(f.dust.list() == left);
  CHECK(f.read(4, 8));
  CHECK(medium(f.write(32, 1)));
  CHECK(f.dust.query(32) == dust_mode::both);
  if (f.io.zero(0, 2048)) // where the host can punch holes
    CHECK(f.dust.query(0) == dust_mode::none);
}

TEST_CASE("disabled, nothing fails and nothing is forgotten", "[dust]") {
  fixture f;
  REQUIRE(f.dust.add(0, 8));
  f.dust.enable(false);
  CHECK_FALSE(f.dust.enabled());
  CHECK(f.read(0, 8));
  CHECK(f.write(0, 8));
  CHECK(f.dust.count() == 8);
  f.dust.enable(true);
  CHECK(medium(f.read(0, 8)));
  CHECK(f.dust.clear() == 8);
  CHECK(f.read(0, 8));
  CHECK(f.dust.count() == 0);
}

TEST_CASE("the list of bad sectors equals a plain array, whatever is done to it", "[dust]") {
  constexpr unsigned sectors = 96;
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  dust_control dust(sectors);
  std::vector<dust_mode> model(sectors, dust_mode::none);
  for (int round = 0; round < 4000; ++round) {
    const auto first = static_cast<unsigned>(random() % sectors);
    const auto count = static_cast<unsigned>(1 + random() % (sectors - first));
    const auto mode = dust_mode(1 + random() % 3);
    const bool add = random() % 2 == 0;
    REQUIRE((add ? dust.add(first, count, mode) : dust.remove(first, count, mode)));
    for (unsigned s = first; s < first + count; ++s)
      model[s] = add ? model[s] | mode : without(model[s], mode);
    std::vector<dust_range> expected;
    for (unsigned s = 0; s < sectors; ++s) {
      if (model[s] == dust_mode::none)
        continue;
      if (!expected.empty() && expected.back().first + expected.back().count == s &&
          expected.back().mode == model[s])
        ++expected.back().count;
      else
        expected.push_back({s, 1, model[s]});
    }
    REQUIRE(dust.list() == expected);
    REQUIRE(dust.query(first) == model[first]);
  }
}

TEST_CASE("a held transfer hangs until it is released, others go on", "[dust]") {
  fixture f;
  REQUIRE(f.write(0, 8, 7));
  REQUIRE(f.dust.hold(0, 8, dust_mode::read));
  std::atomic<bool> done = false;
  shifted_buffer got(4096, 0);
  io_result answer;
  std::thread reader([&] {
    answer = f.io.read(got.span(), 0);
    done = true;
  });
  const bool hangs = f.dust.wait_held(1, milliseconds(10'000));
  CHECK(hangs);
  CHECK(f.dust.held() == 1);
  CHECK_FALSE(done);
  CHECK(f.read(8, 8));     // elsewhere
  CHECK(f.write(0, 8, 8)); // the other direction
  f.dust.release();
  reader.join();
  CHECK(answer);
  CHECK(equal(got.span(), f.memory.span().first(4096)));
  CHECK(f.dust.held() == 0);
  CHECK(f.read(0, 8)); // holds no more
}

TEST_CASE("a late read is late and still right", "[dust]") {
  fixture f;
  REQUIRE(f.dust.set_read_delay(0, 8, milliseconds(30)));
  const auto time = [&](auto&& what) {
    const auto start = std::chrono::steady_clock::now();
    CHECK(what());
    return std::chrono::steady_clock::now() - start;
  };
  CHECK(time([&] { return f.read(7, 2); }) >= milliseconds(30));
  REQUIRE(f.dust.set_read_delay(0, 8, milliseconds(0)));
  auto quickest = time([&] { return f.read(7, 2); });
  for (int more = 0; more < 4; ++more) // one may be late where the machine stalls
    quickest = std::min(quickest, time([&] { return f.read(7, 2); }));
  CHECK(quickest < milliseconds(30));
}

TEST_CASE("sectors that are not on the member are refused", "[dust]") {
  fixture f;
  const auto out = [](const result<void>& r) { return !r && r.error().id == "dust-range"; };
  CHECK(out(f.dust.add(2048)));
  CHECK(out(f.dust.add(2047, 2)));
  CHECK(out(f.dust.add(1, UINT64_MAX)));
  CHECK(out(f.dust.add(0, 0)));
  CHECK(out(f.dust.remove(2048)));
  CHECK(out(f.dust.hold(2048, 1)));
  CHECK(out(f.dust.set_read_delay(2048, 1, milliseconds(1))));
  CHECK(f.dust.add(5, 0).error().what == "0 sectors from 5");
  CHECK(f.dust.add(2047));
}

TEST_CASE("dust follows the words of a command line", "[dust]") {
  fixture f;
  const auto say = [&](std::vector<std::string> words) {
    const auto reply = f.dust.command(words);
    return reply ? *reply : "error " + reply.error().id;
  };
  CHECK(say({"addbadblock", "8"}) == "bad: 1 sector from 8 (both)");
  CHECK(say({"addbadblock", "16", "read", "4"}) == "bad: 4 sectors from 16 (read)");
  CHECK(say({"addbadblock", "32", "2"}) == "bad: 2 sectors from 32 (both)");
  CHECK(say({"countbadblocks"}) == "7");
  CHECK(say({"queryblock", "17"}) == "sector 17 is bad (read)");
  CHECK(say({"queryblock", "20"}) == "sector 20 is good");
  CHECK(say({"removebadblock", "32", "write"}) == "good: 1 sector from 32 (write)");
  CHECK(say({"listbadblocks"}) == "8 both 1\n16 read 4\n32 read 1\n33 both 1\n");
  CHECK(say({"disable"}) == "disabled");
  CHECK(say({"status"}) == "disabled, 7 sectors bad, failed reads 0, failed writes 0");
  CHECK(say({"enable"}) == "enabled");
  CHECK(say({"heal", "off"}) == "heal off");
  CHECK(say({"delay", "0", "8", "5"}) == "delay 5 ms: 8 sectors from 0");
  CHECK(say({"clearbadblocks"}) == "cleared 7 sectors");
  CHECK(say({"addbadblock", "2048"}) == "error dust-range");
  for (const auto& words : std::vector<std::vector<std::string>>{{},
                                                                 {"nonsense"},
                                                                 {"addbadblock"},
                                                                 {"addbadblock", "x"},
                                                                 {"addbadblock", "1", "both", "1", "1"},
                                                                 {"addbadblock", "1", "sideways"},
                                                                 {"enable", "now"},
                                                                 {"heal"},
                                                                 {"delay", "0", "8", "x"}})
    CHECK(say(words) == "error dust-usage");
}
