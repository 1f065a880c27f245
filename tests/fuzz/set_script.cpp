// SPDX-License-Identifier: GPL-2.0-or-later
// Structured damage. A record: operation 1, `who` 1, `x` 1, `y` 1, `a` 2, `b` 2, `value` 8 bytes,
// little-endian. Blocks that an operation changes are sealed again: their checksum is right, what they say is
// not.
#include "tests/fuzz/set_script.h"

#include "engine/geometry.h"
#include "tests/support/spare_check.h"

#include <algorithm>
#include <array>
#include <zlib.h>

namespace dmremap::fuzz {
namespace {

using test::page_image;

constexpr std::size_t head_bytes = 4, record_bytes = 16, max_records = 48;
constexpr unsigned replicas = 5, super_copies = 10;
constexpr std::uint32_t super_magic = 0x01534D44, table_magic = 0x01544D44;
constexpr std::uint64_t near_the_limit = std::uint64_t{1} << 47U;

enum class operation : std::uint8_t {
  super_field, ///< who: copy, 10 and up: all; x: size - 1; a: offset; value
  table_field, ///< who: replica, 5 and up: all; x: size - 1; y: block; a: offset; value
  slot,        ///< who: replica, 5 and up: all; a: spare unit; x: kind; y: see put_slot; b: sequence; value
  raw_byte,    ///< not sealed. a: place of metadata; b: offset; x: exclusive-or
  zero_block,  ///< a: place of metadata
  copy_block,  ///< a: from, b: to; x: put right what the block says of its place
  fault,       ///< who: main or a spare; a: place; b: units; x: direction; y: error
  older,       ///< blocks from another base: a: first place; b: count; who: base
  good_bits, ///< who: mask of replicas; a: chunk; x: set or clear; y: copy of the superblock, 10 and up: all
  flush_faults, ///< who: main or a spare; x: good flushes before; y: failures
  data_block,   ///< a: data unit gets a copy of metadata b: must never be taken for metadata
  count_
};

struct record {
  operation what;
  unsigned who, x, y, a, b;
  std::uint64_t value;
};

record read_record(input& in) {
  record r{};
  r.what = static_cast<operation>(in.byte() % static_cast<unsigned>(operation::count_));
  r.who = in.byte();
  r.x = in.byte();
  r.y = in.byte();
  r.a = in.half();
  r.b = in.half();
  r.value = in.number(8);
  return r;
}

/// One 4 KiB block of an image, changed in memory.
class block {
public:
  block(page_image& image, std::uint64_t unit) : image_(image), unit_(unit) {
    image_.read(bytes_, unit_ * unit_bytes);
  }
  [[nodiscard]] std::uint64_t get(std::size_t at, unsigned size) const {
    std::uint64_t value = 0;
    for (unsigned i = 0; i < size && at + i < bytes_.size(); ++i)
      value |= std::to_integer<std::uint64_t>(bytes_[at + i]) << (8 * i);
    return value;
  }
  void put(std::size_t at, std::uint64_t value, unsigned size) {
    for (unsigned i = 0; i < size && at + i < bytes_.size(); ++i)
      bytes_[at + i] = std::byte(value >> (8 * i));
  }
  void write() { image_.write(bytes_, unit_ * unit_bytes); }
  void seal() {
    put(0, crc32(0, reinterpret_cast<const Bytef*>(bytes_.data()) + 4, unit_bytes - 4), 4);
    write();
  }
  [[nodiscard]] std::uint64_t unit() const { return unit_; }
  void move_to(std::uint64_t unit) { unit_ = unit; }

private:
  page_image& image_;
  std::uint64_t unit_;
  std::array<std::byte, unit_bytes> bytes_{};
};

const geometry& places() {
  static const geometry g = make_geometry(set_spare_units * unit_bytes).value();
  return g;
}

std::uint32_t table_place(unsigned replica, unsigned number) {
  return static_cast<std::uint32_t>(places().block_place(replica, number).value);
}

/// A table block that was never written starts as a fresh one.
void begin_table_block(block& b, unsigned number, const page_image& image) {
  if (b.get(4, 4) == table_magic)
    return;
  std::array<std::byte, 8> owner{};
  image.read(std::span(owner).first(8), 16);
  b.put(4, table_magic, 4);
  b.put(8, 1, 8);
  for (unsigned i = 0; i < 8; ++i)
    b.put(16 + i, std::to_integer<std::uint64_t>(owner[i]), 1);
  b.put(24, number, 4);
  b.put(28, b.unit(), 4);
  for (unsigned i = 0; i < slots_per_block; ++i)
    if (places().is_metadata(spare_unit(std::uint64_t{number} * slots_per_block + i)))
      b.put(32 + 16 * i + 14, 4, 1);
}

class script {
public:
  explicit script(set_case& made) : made_(made) {}

  void apply(const record& r) {
    spare_ = &made_.images.spares[r.who / 16 % made_.images.spares.size()];
    const auto unit_a = place(r.a), unit_b = place(r.b);
    switch (r.what) {
    case operation::super_field:
      return each_super(r.who % 16, [&](block& b) { b.put(r.a % unit_bytes, r.value, 1 + r.x % 8); });
    case operation::table_field:
      return each_replica(r.who % 16, r.y % set_table_blocks,
                          [&](block& b) { b.put(r.a % unit_bytes, r.value, 1 + r.x % 8); });
    case operation::slot:
      return put_slot(r);
    case operation::raw_byte: {
      block b(*spare_, unit_a);
      b.put(r.b % unit_bytes, b.get(r.b % unit_bytes, 1) ^ r.x, 1);
      return b.write();
    }
    case operation::zero_block:
      return spare_->zero(unit_a * unit_bytes, unit_bytes);
    case operation::copy_block:
      return copy_block(unit_a, unit_b, r.x);
    case operation::fault:
      return add_fault(r);
    case operation::older:
      return take_older(r);
    case operation::good_bits:
      return put_good_bits(r);
    case operation::flush_faults: {
      auto& faults =
          r.who % 2 == 0 ? made_.main_faults : made_.spare_faults[r.who / 16 % made_.spare_faults.size()];
      faults.good_flushes = r.x;
      faults.flush_failures = r.y % 8;
      made_.faults = true;
      return;
    }
    case operation::data_block:
      return copy_block(unit_b, 2048 + r.a % 256, 0);
    case operation::count_:
      return;
    }
  }

private:
  [[nodiscard]] static std::uint64_t place(unsigned number) {
    return metadata_places()[number % metadata_places().size()];
  }

  template <class Change>
  void each_super(unsigned copy, Change&& change) {
    for (unsigned c = 0; c < super_copies; ++c) {
      if (copy < super_copies && c != copy)
        continue;
      block b(*spare_, places().super_place(c).value);
      change(b);
      b.seal();
    }
  }

  template <class Change>
  void each_replica(unsigned replica, unsigned number, Change&& change) {
    for (unsigned r = 0; r < replicas; ++r) {
      if (replica < replicas && r != replica)
        continue;
      block b(*spare_, table_place(r, number));
      begin_table_block(b, number, *spare_);
      change(b);
      b.seal();
    }
  }

  /// y: bit 0: a main unit that is not there; 1: a sequence that is not there; 2: any bits of lost and
  /// may-answer; 3: reserved bits; 4: any kind.
  void put_slot(const record& r) {
    const std::uint64_t unit = r.a % set_spare_units;
    std::uint64_t main = r.value & 0xFFFFFFFFFFFFU, masks = r.value >> 48U;
    if ((r.y & 1U) == 0)
      main %= set_main_units + 1;
    if ((r.y & 4U) == 0)
      masks &= (masks & 0xFFU) << 8U | 0xFFU;
    const std::uint64_t sequence = (r.y & 2U) == 0 ? r.b % 64 : std::uint64_t{r.b} << 32U | r.b;
    const std::uint64_t kind = (r.y & 16U) == 0 ? r.x % 5 : r.x;
    each_replica(r.who % 16, static_cast<unsigned>(unit / slots_per_block), [&](block& b) {
      const std::size_t at = 32 + 16 * (unit % slots_per_block);
      b.put(at, main | masks << 48U, 8);
      b.put(at + 8, (sequence & 0xFFFFFFFFFFFFU) | kind << 48U | std::uint64_t{(r.y & 8U) != 0} << 56U, 8);
    });
  }

  void copy_block(std::uint64_t from, std::uint64_t to, unsigned right) {
    block b(*spare_, from);
    b.move_to(to);
    if (right == 0)
      return b.write();
    const bool super = b.get(4, 4) == super_magic;
    b.put(super ? 36 : 28, to, 4);
    const auto& all = metadata_places();
    const auto at = static_cast<std::uint64_t>(std::find(all.begin(), all.end(), to) - all.begin());
    if (right % 2 != 0)
      b.put(super ? 32 : 24, super ? at : at < super_copies ? 0 : (at - super_copies) % set_table_blocks, 4);
    b.seal();
  }

  void add_fault(const record& r) {
    constexpr std::array errors{io_error::medium,    io_error::gone,        io_error::no_space,
                                io_error::transient, io_error::unsupported, io_error::read_only};
    const bool on_main = r.who % 2 == 0;
    auto& faults = on_main ? made_.main_faults : made_.spare_faults[r.who / 16 % made_.spare_faults.size()];
    const std::uint64_t unit = on_main            ? r.a % set_main_units
                               : (r.x & 16U) != 0 ? r.a % set_spare_units
                                                  : place(r.a);
    test::bad_range bad;
    bad.first = unit * unit_sectors + (r.x >> 5U);
    bad.count = 1 + r.b % 64;
    bad.when = static_cast<test::direction>((r.x & 3U) % 3);
    bad.error = errors[r.y % errors.size()];
    bad.times = (r.x & 4U) != 0 ? 1 + r.value % 4 : test::always;
    bad.write_heals = (r.x & 8U) != 0;
    faults.bad.push_back(bad);
    made_.faults = true;
  }

  void take_older(const record& r) {
    const page_image& from = base_set(r.who % 3).spares[0];
    std::array<std::byte, unit_bytes> bytes{};
    for (unsigned i = 0; i <= r.b % 16; ++i) {
      from.read(bytes, place(r.a + i) * unit_bytes);
      spare_->write(bytes, place(r.a + i) * unit_bytes);
    }
  }

  void put_good_bits(const record& r) {
    const unsigned chunk = r.a % set_table_blocks;
    each_super(r.y % 16, [&](block& b) {
      for (unsigned replica = 0; replica < replicas; ++replica) {
        const std::size_t at = 1280 + 128 * replica + chunk / 8;
        const std::uint64_t bit = std::uint64_t{1} << chunk % 8, old = b.get(at, 1);
        if ((r.who >> replica & 1U) != 0)
          b.put(at, (r.x & 1U) != 0 ? old | bit : old & ~bit, 1);
      }
    });
  }

  set_case& made_;
  page_image* spare_ = nullptr;
};

/// Whether a number in the metadata is so high that the counter may end: then changes may fail.
bool is_near_limit(page_image& spare) {
  for (const std::uint32_t unit : metadata_places()) {
    const block b(spare, unit);
    if (b.get(4, 4) == super_magic && std::max({b.get(8, 8), b.get(192, 8), b.get(200, 8)}) >= near_the_limit)
      return true;
    if (b.get(4, 4) != table_magic)
      continue;
    if (b.get(8, 8) >= near_the_limit)
      return true;
    for (unsigned i = 0; i < slots_per_block; ++i)
      if (b.get(40 + 16 * i, 6) >= near_the_limit)
        return true;
  }
  return false;
}

} // namespace

const std::vector<std::uint32_t>& metadata_places() {
  static const std::vector<std::uint32_t> all = [] {
    std::vector<std::uint32_t> made;
    for (unsigned copy = 0; copy < super_copies; ++copy)
      made.push_back(static_cast<std::uint32_t>(places().super_place(copy).value));
    for (unsigned r = 0; r < replicas; ++r)
      for (unsigned number = 0; number < set_table_blocks; ++number)
        made.push_back(table_place(r, number));
    return made;
  }();
  return all;
}

std::unique_ptr<set_case> read_set_case(input_bytes bytes) {
  input in(bytes);
  auto made = std::make_unique<set_case>();
  made->images = base_set(in.byte() % set_bases);
  made->spare_faults.resize(made->images.spares.size());
  const unsigned options = in.byte(), device = in.byte();
  made->degraded = (options & 1U) != 0;
  made->accept_main = (options & 2U) != 0;
  made->accept_older = (options & 4U) != 0;
  made->auto_remap = (options & 8U) == 0;
  made->absent_spare = (options & 16U) != 0 && made->images.spares.size() > 1;
  made->block_size = (device & 1U) != 0 ? 4096 : 512;
  static_cast<void>(in.byte());
  script changes(*made);
  for (std::size_t i = 0; i < max_records && !in.empty(); ++i)
    changes.apply(read_record(in));
  for (auto& spare : made->images.spares)
    made->near_limit = made->near_limit || is_near_limit(spare);
  return made;
}

namespace {

/// The offset of a field, as records have it, and its size.
void aim(std::array<std::uint8_t, record_bytes>& r, const field& f, std::size_t offset) {
  r[2] = static_cast<std::uint8_t>(f.size - 1);
  r[4] = static_cast<std::uint8_t>(offset);
  r[5] = static_cast<std::uint8_t>(offset >> 8U);
}

std::array<std::uint8_t, record_bytes> make_record(std::minstd_rand& random) {
  std::array<std::uint8_t, record_bytes> r{};
  for (auto& byte : r)
    byte = static_cast<std::uint8_t>(random() >> 8U);
  r[0] = static_cast<std::uint8_t>(random() % static_cast<unsigned>(operation::count_));
  std::uint64_t value = interesting_value(random);
  const bool all = random() % 3 != 0; // a wrong value counts only where enough copies say so
  switch (static_cast<operation>(r[0])) {
  case operation::super_field: {
    const auto fields = superblock_fields();
    const field& f = fields[random() % fields.size()];
    aim(r, f, f.offset);
    r[1] = static_cast<std::uint8_t>(all ? 15 : random() % super_copies);
    break;
  }
  case operation::table_field: {
    const auto fields = table_block_fields();
    const field& f = fields[random() % fields.size()];
    aim(r, f, f.offset + (f.offset >= 32 ? random() % 253 * 16 : 0));
    r[1] = static_cast<std::uint8_t>(all ? 15 : random() % replicas);
    r[3] = static_cast<std::uint8_t>(random() % 4 == 0 ? random() % set_table_blocks : 4);
    break;
  }
  case operation::slot:
    r[1] = static_cast<std::uint8_t>(all ? 15 : random() % replicas);
    r[3] = static_cast<std::uint8_t>(random() % 4 == 0 ? random() : 0);
    if (random() % 2 == 0) { // where automatic allocation begins
      const auto unit = 1024 + 50 + random() % 64;
      r[4] = static_cast<std::uint8_t>(unit);
      r[5] = static_cast<std::uint8_t>(unit >> 8U);
    }
    break;
  default:
    break;
  }
  for (unsigned i = 0; i < 8; ++i)
    r[8 + i] = static_cast<std::uint8_t>(value >> (8 * i));
  return r;
}

} // namespace

void mutate_set(std::vector<std::uint8_t>& bytes, std::minstd_rand& random) {
  bytes.resize(std::max(bytes.size(), head_bytes));
  const std::size_t records = (bytes.size() - head_bytes) / record_bytes;
  bytes.resize(head_bytes + records * record_bytes);
  const auto start = bytes.begin() + head_bytes;
  const auto pick = [&] { return start + static_cast<std::ptrdiff_t>(random() % records * record_bytes); };
  const auto choice = random() % 8;
  if (choice == 0) {
    bytes[random() % 3] = static_cast<std::uint8_t>(random() >> 8U);
  } else if (choice == 1 && records > 0) {
    const auto at = pick();
    bytes.erase(at, at + record_bytes);
  } else if (choice == 2 && records > 0) { // one more that differs in one byte
    std::vector<std::uint8_t> copy(record_bytes);
    std::copy_n(pick(), record_bytes, copy.begin());
    copy[random() % record_bytes] = static_cast<std::uint8_t>(random() >> 8U);
    bytes.insert(bytes.end(), copy.begin(), copy.end());
  } else if (choice == 3 && records > 0) {
    *(pick() + static_cast<std::ptrdiff_t>(random() % record_bytes)) =
        static_cast<std::uint8_t>(random() >> 8U);
  } else if (choice == 4 && records > 0) {
    const auto made = make_record(random);
    std::copy(made.begin(), made.end(), pick());
  } else if (records < max_records) {
    const auto made = make_record(random);
    bytes.insert(bytes.end(), made.begin(), made.end());
  }
}

} // namespace dmremap::fuzz
