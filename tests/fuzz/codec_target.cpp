// SPDX-License-Identifier: GPL-2.0-or-later
// Superblocks and table blocks. An input is a byte of switches, three of parameters and then either raw bytes
// of a block or records that change a valid one; magic, place and checksum are put right where a switch says
// so, so that what lies behind them is reached.
#include "engine/codec.h"
#include "tests/fuzz/fuzz.h"

#include <algorithm>
#include <cstring>
#include <memory>

namespace dmremap::fuzz {
namespace {

enum switches : std::uint8_t { is_table = 1, raw = 2, right_head = 4, right_crc = 8 };
constexpr std::size_t head_bytes = 4, record_bytes = 12;

void put(block_bytes& block, std::size_t offset, std::uint64_t value, unsigned size) {
  for (unsigned i = 0; i < size && offset + i < block.bytes.size(); ++i)
    block.bytes[offset + i] = std::byte(value >> (8 * i));
}

std::uint64_t get(const block_bytes& block, std::size_t offset, unsigned size) {
  std::uint64_t value = 0;
  for (unsigned i = 0; i < size; ++i)
    value |= std::to_integer<std::uint64_t>(block.bytes[offset + i]) << (8 * i);
  return value;
}

void seal(block_bytes& block) {
  put(block, 0, crc32_of(block.span().subspan(4)), 4);
}

superblock sample_super() {
  superblock s;
  s.sequence = 77;
  s.spare_uuid.fill(0x11);
  s.set_uuid.fill(0x22);
  s.set_name = "fuzz";
  s.spare_count = 1;
  s.spare_uuids[0] = s.spare_uuid;
  s.main_sectors = 2051;
  s.places = make_geometry(16u << 20).value();
  s.super_good = 0x3FF;
  s.sequence_next = 80;
  s.sequence_end = 1000;
  s.session = 5;
  s.sessions[0] = {5, 5};
  s.main_serial = "serial";
  s.good[0][0] = 3;
  return s;
}

table_block sample_table() {
  table_block t;
  t.sequence = 9;
  t.slots[0] = slot::make(slot_kind::remap, main_unit(3), 1, 1, 8);
  t.slots[253] = slot::make(slot_kind::metadata, main_unit(0), 0, 0, 0);
  return t;
}

struct question {
  bool table = false;
  unsigned copy = 0; // of a superblock; number of a table block
  spare_unit place;
  std::uint64_t owner_low = 0x1111111111111111u;
  block_bytes block{};
};

std::unique_ptr<question> read_question(input& in) {
  auto q = std::make_unique<question>();
  const unsigned how = in.byte();
  q->table = (how & is_table) != 0;
  q->copy = in.byte();
  q->place = spare_unit(in.half());
  if ((how & raw) != 0) {
    const auto bytes = in.take(unit_bytes);
    std::memcpy(q->block.bytes.data(), bytes.data(), bytes.size());
  } else {
    if (q->table)
      encode_table_block(sample_table(), q->owner_low, q->copy, q->place, q->block);
    else
      encode_superblock(sample_super(), q->copy, q->place, q->block);
    while (!in.empty()) {
      const std::size_t offset = in.half() % unit_bytes;
      const unsigned size = 1 + in.byte() % 8;
      static_cast<void>(in.byte());
      put(q->block, offset, in.number(8), size);
    }
  }
  if ((how & right_head) != 0) {
    put(q->block, 4, q->table ? 0x01544D44 : 0x01534D44, 4);
    put(q->block, q->table ? 24 : 32, q->copy, 4);
    put(q->block, q->table ? 28 : 36, q->place.value, 4);
    if (q->table)
      put(q->block, 16, q->owner_low, 8);
  }
  if ((how & right_crc) != 0)
    seal(q->block);
  return q;
}

/// What encode makes of an accepted superblock: the same, but for what has no meaning: reserved places, flags
/// that are not known, what stands behind the end of a text.
void make_canonical(block_bytes& block) {
  constexpr std::pair<std::size_t, std::size_t> reserved[] = {{804, 4}, {1044, 4}, {1248, 32}, {2048, 2048}};
  constexpr std::pair<std::size_t, std::size_t> texts[] = {{56, 64},  {816, 64}, {880, 64},
                                                           {944, 40}, {984, 40}, {1024, 16}};
  for (const auto& [at, length] : reserved)
    std::fill_n(block.bytes.begin() + static_cast<std::ptrdiff_t>(at), length, std::byte{0});
  for (const auto& [at, length] : texts) {
    const auto first = block.bytes.begin() + static_cast<std::ptrdiff_t>(at);
    const auto last = first + static_cast<std::ptrdiff_t>(length);
    std::fill(std::find(first, last - 1, std::byte{0}), last, std::byte{0});
  }
  put(block, 140, get(block, 140, 4) & 3, 4);
  put(block, 808, get(block, 808, 4) != 0 ? 1 : 0, 4);
  seal(block);
}

/// What others compute from a decoded geometry must stay within the spare.
void check_geometry(const geometry& g, std::uint64_t bytes) {
  if (!plausible(g, bytes))
    return;
  require(g.units * unit_bytes <= bytes, "a plausible geometry fits");
  require(g.data_units() < g.units, "some units are data, some are not");
  for (unsigned copy = 0; copy < super_copies; ++copy)
    require(g.super_place(copy).value < g.units && g.is_metadata(g.super_place(copy)),
            "superblocks are metadata");
  for (unsigned r = 0; r < own_replicas; ++r)
    require(g.is_metadata(g.block_place(r, g.table_blocks - 1)), "the last block is metadata");
  require(g.chunks() <= chunk_count && g.chunk_end(g.chunks() - 1) == g.table_blocks,
          "chunks cover the table");
  require(g.first_automatic().value < g.units, "automatic allocation has units");
}

void check_super(const question& q) {
  static_cast<void>(hint_of_superblock(q.block));
  const auto s = decode_superblock(q.block, q.copy, q.place);
  if (!s) {
    require(!name_of(s.error()).empty(), "a fault has a name");
    return;
  }
  require(s->spare_index < s->spare_count && s->spare_count <= s->spare_uuids.size(),
          "the index is in the list");
  require(s->sequence_next <= s->sequence_end && s->sequence_end <= sequence_limit,
          "the reserved range is one");
  require(s->set_name.size() < 64 || q.block.bytes[119] != std::byte{0}, "the name fits");
  check_geometry(s->places, 16u << 20);
  check_geometry(s->places, UINT64_MAX);
  auto again = std::make_unique<block_bytes>(), wanted = std::make_unique<block_bytes>(q.block);
  encode_superblock(*s, q.copy, q.place, *again);
  make_canonical(*wanted);
  require(again->bytes == wanted->bytes, "a superblock survives decoding and encoding");
  require(decode_superblock(*again, q.copy, q.place).has_value(), "what was encoded is accepted");
}

void check_table(const question& q) {
  auto t = std::make_unique<table_block>();
  if (const auto read = decode_table_block(q.block, q.owner_low, q.copy, q.place, *t); !read) {
    require(!name_of(read.error()).empty(), "a fault has a name");
    return;
  }
  require(t->sequence != 0 && t->sequence < sequence_limit, "the sequence is one");
  for (const slot& s : t->slots) {
    const slot again = slot::make(s.kind(), s.main(), s.lost(), s.main_may_answer(), s.sequence());
    require(s.reserved() != 0 || again == s, "a slot is what its parts say");
  }
  auto again = std::make_unique<block_bytes>();
  encode_table_block(*t, q.owner_low, q.copy, q.place, *again);
  require(again->bytes == q.block.bytes, "a table block survives decoding and encoding");
}

} // namespace

void run_codec(input_bytes bytes) {
  input in(bytes);
  const auto q = read_question(in);
  if (q->table)
    check_table(*q);
  else
    check_super(*q);
  const std::uint64_t size = get(q->block, 152, 8);
  if (const auto g = make_geometry(size)) {
    require(plausible(*g, size), "a geometry that was made is plausible");
    check_geometry(*g, size);
  }
}

void mutate_codec(std::vector<std::uint8_t>& bytes, std::minstd_rand& random) {
  if (bytes.size() < head_bytes || random() % 16 == 0) {
    bytes.resize(std::max(bytes.size(), head_bytes));
    bytes[0] = static_cast<std::uint8_t>((random() % 2 != 0 ? is_table : 0) | right_head | right_crc);
    return;
  }
  if ((bytes[0] & raw) != 0)
    bytes = {static_cast<std::uint8_t>(bytes[0] & ~raw), bytes[1], bytes[2], bytes[3]};
  bytes[0] |= right_crc;
  const auto fields = (bytes[0] & is_table) != 0 ? table_block_fields() : superblock_fields();
  const field& f = fields[random() % fields.size()];
  const auto offset = f.offset + ((bytes[0] & is_table) != 0 && f.offset >= 32 ? random() % 253 * 16 : 0);
  std::uint8_t record[record_bytes] = {static_cast<std::uint8_t>(offset),
                                       static_cast<std::uint8_t>(offset >> 8U),
                                       static_cast<std::uint8_t>(f.size - 1), 0};
  const std::uint64_t value = interesting_value(random);
  for (unsigned i = 0; i < 8; ++i)
    record[4 + i] = static_cast<std::uint8_t>(value >> (8 * i));
  const std::size_t records = (bytes.size() - head_bytes) / record_bytes;
  if (records > 0 && random() % 2 == 0) { // in the place of another
    const auto at = head_bytes + random() % records * record_bytes;
    std::copy_n(record, record_bytes, bytes.begin() + static_cast<std::ptrdiff_t>(at));
  } else {
    bytes.resize(head_bytes + records * record_bytes);
    bytes.insert(bytes.end(), record, record + record_bytes);
  }
}

} // namespace dmremap::fuzz
