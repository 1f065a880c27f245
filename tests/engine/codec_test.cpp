// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/codec.h"

#include <catch2/catch.hpp>
#include <random>

using namespace dmremap;

namespace {

superblock sample() {
  superblock s;
  s.sequence = 77;
  s.set_uuid = random_uuid();
  s.spare_uuid = random_uuid();
  s.set_name = "archive";
  s.spare_count = 1;
  s.spare_uuids[0] = s.spare_uuid;
  s.main_sectors = 123456;
  s.places = *make_geometry(64u << 20);
  s.super_good = 0x3FF;
  s.sequence_next = 70;
  s.sequence_end = 1000;
  s.session = 5;
  s.sessions[0] = {4, 5};
  s.main_serial = "WD-1234";
  s.samples[15] = 0xDEADBEEF;
  s.clean = true;
  s.set_good(4, 1023, true);
  return s;
}

} // namespace

TEST_CASE("a superblock survives the round trip, in its place only", "[codec]") {
  const superblock s = sample();
  block_bytes b;
  encode_superblock(s, 3, spare_unit(512), b);
  const auto back = decode_superblock(b, 3, spare_unit(512));
  REQUIRE(back);
  REQUIRE(back->set_name == "archive");
  REQUIRE(back->spare_uuid == s.spare_uuid);
  REQUIRE(back->main_sectors == 123456);
  REQUIRE(back->places.replica_start == s.places.replica_start);
  REQUIRE(back->sessions[0].given == 5);
  REQUIRE(back->main_serial == "WD-1234");
  REQUIRE(back->samples[15] == 0xDEADBEEF);
  REQUIRE(back->clean);
  REQUIRE_FALSE(back->samples_valid);
  REQUIRE(back->is_good(4, 1023));
  REQUIRE_FALSE(back->is_good(3, 1023));
  REQUIRE(decode_superblock(b, 2, spare_unit(512)).error() == block_fault::misplaced);
  REQUIRE(decode_superblock(b, 3, spare_unit(513)).error() == block_fault::misplaced);
}

TEST_CASE("every single flipped bit of a block is noticed", "[codec]") {
  block_bytes b;
  encode_superblock(sample(), 0, spare_unit(0), b);
  for (std::size_t bit = 0; bit < unit_bytes * 8; bit += 1) {
    block_bytes damaged = b;
    damaged.bytes[bit / 8] ^= std::byte(1u << (bit % 8));
    REQUIRE_FALSE(decode_superblock(damaged, 0, spare_unit(0)));
  }
}

TEST_CASE("every torn table block is noticed", "[codec]") {
  std::mt19937_64 random(7);
  table_block before, after;
  before.sequence = 10;
  after.sequence = 11;
  for (auto& s : after.slots)
    s = slot::make(slot_kind::remap, main_unit(random() & 0xFFFFFFFFFFFF), 3, 1, 11);
  block_bytes old_bytes, new_bytes;
  encode_table_block(before, 42, 3, spare_unit(1029), old_bytes);
  encode_table_block(after, 42, 3, spare_unit(1029), new_bytes);
  for (unsigned mask = 1; mask < 255; ++mask) {
    block_bytes torn = old_bytes;
    for (unsigned s = 0; s < 8; ++s)
      if ((mask >> s & 1) != 0)
        std::copy_n(new_bytes.bytes.begin() + s * 512, 512, torn.bytes.begin() + s * 512);
    table_block out;
    REQUIRE(decode_table_block(torn, 42, 3, spare_unit(1029), out).error() == block_fault::checksum);
  }
  table_block out;
  REQUIRE(decode_table_block(new_bytes, 42, 3, spare_unit(1029), out));
  REQUIRE(out.slots == after.slots);
  REQUIRE(decode_table_block(new_bytes, 43, 3, spare_unit(1029), out).error() == block_fault::foreign);
  REQUIRE(decode_table_block(new_bytes, 42, 4, spare_unit(1029), out).error() == block_fault::misplaced);
  REQUIRE(decode_table_block(new_bytes, 42, 3, spare_unit(1030), out).error() == block_fault::misplaced);
}

TEST_CASE("slots hold 48-bit numbers to the last bit", "[codec]") {
  const slot s = slot::make(slot_kind::explicit_remap, main_unit(0xFFFFFFFFFFFF), 0xA5, 0x24, 0xFEDCBA987654);
  REQUIRE(s.main().value == 0xFFFFFFFFFFFF);
  REQUIRE(s.lost() == 0xA5);
  REQUIRE(s.main_may_answer() == 0x24);
  REQUIRE(s.sequence() == 0xFEDCBA987654);
  REQUIRE(s.kind() == slot_kind::explicit_remap);
  REQUIRE(s.reserved() == 0);
}
