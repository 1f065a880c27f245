// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/codec.h"

#include "engine/layout.h"
#include "engine/paths.h"
#include "engine/set_dump.h"

#include <bit>
#include <cstring>
#include <zlib.h>

namespace dmremap {
namespace {

template <class T>
T little(T v) { // to or from little-endian: the same permutation
  if constexpr (std::endian::native == std::endian::little)
    return v;
  else if constexpr (sizeof(T) == 4)
    return __builtin_bswap32(v);
  else
    return __builtin_bswap64(v);
}

struct to_disk {
  template <class T>
  void number(const T& memory, T& disk) const {
    disk = little(memory);
  }
  void flag(bool memory, std::uint32_t& disk) const { disk = little(memory ? 1u : 0u); }
  void bytes(const uuid_bytes& memory, std::uint8_t* disk) const { std::memcpy(disk, memory.data(), 16); }
  void text(const std::string& memory, char* disk, std::size_t room) const {
    std::memset(disk, 0, room);
    std::memcpy(disk, memory.data(), std::min(memory.size(), room - 1));
  }
};

struct from_disk {
  template <class T>
  void number(T& memory, const T& disk) const {
    memory = little(disk);
  }
  void flag(bool& memory, const std::uint32_t& disk) const { memory = little(disk) != 0; }
  void bytes(uuid_bytes& memory, const std::uint8_t* disk) const { std::memcpy(memory.data(), disk, 16); }
  void text(std::string& memory, const char* disk, std::size_t room) const {
    memory.assign(disk, strnlen(disk, room));
  }
};

/// Every field once, for both directions.
template <class Direction, class Super, class Disk>
void each_field(const Direction& d, Super& s, Disk& b) {
  d.number(s.sequence, b.sequence);
  d.bytes(s.spare_uuid, b.spare_uuid);
  d.bytes(s.set_uuid, b.set_uuid);
  d.text(s.set_name, b.set_name, sizeof b.set_name);
  d.number(s.feature_compat, b.feature_compat);
  d.number(s.feature_ro_compat, b.feature_ro_compat);
  d.number(s.feature_incompat, b.feature_incompat);
  d.number(s.spare_index, b.spare_index);
  d.number(s.spare_count, b.spare_count);
  d.number(s.main_sectors, b.main_sectors);
  d.number(s.places.units, b.spare_units);
  d.number(s.places.table_blocks, b.table_blocks);
  d.number(s.places.chunk_blocks, b.chunk_blocks);
  for (unsigned r = 0; r < own_replicas; ++r)
    d.number(s.places.replica_start[r], b.replica_start[r]);
  d.number(s.super_good, b.super_good);
  d.number(s.sequence_next, b.sequence_next);
  d.number(s.sequence_end, b.sequence_end);
  d.number(s.session, b.session);
  for (unsigned i = 0; i < DMR_MAX_SPARES; ++i) {
    d.number(s.sessions[i].held, b.sessions[i].held);
    d.number(s.sessions[i].given, b.sessions[i].given);
    d.bytes(s.spare_uuids[i], b.spare_uuids[i]);
    d.number(s.hosted_start[i], b.hosted_start[i]);
    d.number(s.hosted_blocks[i], b.hosted_blocks[i]);
  }
  d.number(s.sixth_host, b.sixth_host);
  d.number(s.sixth_start, b.sixth_start);
  d.number(s.hosted_protected, b.hosted_protected);
  d.flag(s.main_block_device, b.main_block_device);
  d.number(s.main_block_size, b.main_block_size);
  d.text(s.main_serial, b.main_serial, sizeof b.main_serial);
  d.text(s.main_wwn, b.main_wwn, sizeof b.main_wwn);
  d.text(s.main_partuuid, b.main_partuuid, sizeof b.main_partuuid);
  d.text(s.main_fs_uuid, b.main_fs_uuid, sizeof b.main_fs_uuid);
  d.text(s.main_fs_type, b.main_fs_type, sizeof b.main_fs_type);
  d.number(s.sample_mask, b.sample_mask);
  for (unsigned i = 0; i < DMR_SAMPLES; ++i)
    d.number(s.samples[i], b.samples[i]);
  d.number(s.lifetime_allocations, b.lifetime_allocations);
  d.number(s.auto_remaps, b.auto_remaps);
  d.number(s.manual_remaps, b.manual_remaps);
  d.number(s.read_errors, b.read_errors);
  d.number(s.write_errors, b.write_errors);
  d.number(s.saves_tried, b.saves_tried);
  d.number(s.saves_done, b.saves_done);
}

static_assert(sizeof(block_bytes) == sizeof(dmr_superblock) &&
              sizeof(block_bytes) == sizeof(dmr_table_block));
static_assert(slots_per_block == DMR_SLOTS_PER_BLOCK && chunk_count == DMR_CHUNKS &&
              own_replicas == DMR_REPLICAS && super_copies == DMR_SUPER_COPIES &&
              fixed_supers == DMR_FIXED_SUPERS && min_spare_units == DMR_MIN_SPARE_UNITS &&
              sequence_limit == DMR_SEQUENCE_LIMIT && main_unit_limit == DMR_MAIN_UNIT_LIMIT &&
              known_incompat == DMR_KNOWN_INCOMPAT && known_ro_compat == DMR_KNOWN_RO_COMPAT &&
              restoring_incompat == DMR_INCOMPAT_RESTORING && image_incompat == DMR_INCOMPAT_IMAGE);

template <class Block>
Block load(const block_bytes& in) {
  Block b;
  std::memcpy(&b, in.bytes.data(), sizeof b);
  return b;
}

template <class Block>
void seal(Block& b, block_bytes& out) {
  std::memcpy(out.bytes.data(), &b, sizeof b);
  const std::uint32_t crc = little(crc32_of(out.span().subspan(4)));
  std::memcpy(out.bytes.data(), &crc, 4);
}

/// Magic, version, checksum: what every block has.
tl::expected<void, block_fault> check_header(const block_bytes& in, std::uint32_t magic) {
  std::uint32_t head[2];
  std::memcpy(head, in.bytes.data(), sizeof head);
  const std::uint32_t found = little(head[1]);
  if ((found & DMR_MAGIC_MASK) != (magic & DMR_MAGIC_MASK))
    return tl::make_unexpected(block_fault::no_magic);
  if (little(head[0]) != crc32_of(in.span().subspan(4)))
    return tl::make_unexpected(block_fault::checksum);
  if (found != magic)
    return tl::make_unexpected(block_fault::version);
  return {};
}

} // namespace

std::uint32_t crc32_of(std::span<const std::byte> bytes) {
  return static_cast<std::uint32_t>(
      ::crc32(0, reinterpret_cast<const Bytef*>(bytes.data()), static_cast<uInt>(bytes.size())));
}

slot slot::make(slot_kind kind, main_unit main, std::uint8_t lost, std::uint8_t may_answer,
                std::uint64_t sequence) {
  slot s;
  s.where =
      (main.value & (main_unit_limit - 1)) | std::uint64_t{lost} << 48 | std::uint64_t{may_answer} << 56;
  s.stamp = (sequence & (sequence_limit - 1)) | std::uint64_t{static_cast<std::uint8_t>(kind)} << 48;
  return s;
}

void superblock::set_good(unsigned replica, std::uint32_t chunk, bool on) {
  auto& byte = good[replica][chunk / 8];
  const auto bit = static_cast<std::uint8_t>(1u << (chunk % 8));
  byte = static_cast<std::uint8_t>(on ? byte | bit : byte & ~bit);
}

unsigned superblock::good_replicas(std::uint32_t chunk) const {
  unsigned mask = 0;
  for (unsigned r = 0; r < own_replicas; ++r)
    mask |= is_good(r, chunk) ? 1u << r : 0u;
  return mask;
}

std::string_view name_of(block_fault f) noexcept {
  switch (f) {
  case block_fault::unreadable:
    return "unreadable";
  case block_fault::no_magic:
    return "not metadata";
  case block_fault::version:
    return "of an unknown version";
  case block_fault::checksum:
    return "checksum wrong";
  case block_fault::foreign:
    return "of another spare";
  case block_fault::misplaced:
    return "in the wrong place";
  case block_fault::impossible:
    return "impossible content";
  }
  return "unknown";
}

void encode_superblock(const superblock& s, unsigned copy, spare_unit place, block_bytes& out) {
  dmr_superblock b;
  std::memset(&b, 0, sizeof b);
  b.magic = little(std::uint32_t{DMR_MAGIC_SUPER});
  b.copy = little(std::uint32_t{copy});
  b.unit = little(static_cast<std::uint32_t>(place.value));
  each_field(to_disk{}, s, b);
  b.flags = little((s.clean ? DMR_FLAG_CLEAN : 0u) | (s.samples_valid ? DMR_FLAG_SAMPLES_VALID : 0u));
  static_assert(sizeof b.good == sizeof s.good);
  std::memcpy(b.good, s.good.data(), sizeof b.good);
  std::memcpy(b.absent_map, s.absent_map.data(), sizeof b.absent_map);
  seal(b, out);
}

tl::expected<superblock, block_fault> decode_superblock(const block_bytes& in, unsigned copy,
                                                        spare_unit place) {
  CHECK_OK(check_header(in, DMR_MAGIC_SUPER));
  const auto b = load<dmr_superblock>(in);
  if (little(b.copy) != copy || little(b.unit) != place.value)
    return tl::make_unexpected(block_fault::misplaced);
  superblock s;
  each_field(from_disk{}, s, b);
  const std::uint32_t flags = little(b.flags);
  s.clean = (flags & DMR_FLAG_CLEAN) != 0;
  s.samples_valid = (flags & DMR_FLAG_SAMPLES_VALID) != 0;
  std::memcpy(s.good.data(), b.good, sizeof b.good);
  std::memcpy(s.absent_map.data(), b.absent_map, sizeof b.absent_map);
  const bool possible = s.spare_count >= 1 && s.spare_count <= DMR_MAX_SPARES &&
                        s.spare_index < s.spare_count && s.places.table_blocks != 0 &&
                        s.places.chunk_blocks != 0 && s.sequence != 0 && s.sequence < DMR_SEQUENCE_LIMIT &&
                        s.sequence_end <= DMR_SEQUENCE_LIMIT && s.sequence_next <= s.sequence_end &&
                        s.main_sectors != 0 && s.main_sectors <= DMR_MAIN_UNIT_LIMIT * unit_sectors &&
                        s.spare_uuids[s.spare_index] == s.spare_uuid && !s.set_name.empty();
  if (!possible)
    return tl::make_unexpected(block_fault::impossible);
  return s;
}

void add_incompat(block_bytes& super, std::uint32_t bit) {
  auto b = load<dmr_superblock>(super);
  b.feature_incompat = little(little(b.feature_incompat) | bit);
  seal(b, super);
}

namespace {

/// What each bit of a table block's `unit` changes in its checksum. CRCs are linear: the checksums of two
/// blocks of one length differ by a function of their difference alone.
const std::array<std::uint32_t, 32>& unit_checksums() {
  static const auto table = [] {
    std::array<std::uint32_t, 32> t{};
    block_bytes zeros{};
    const std::uint32_t none = crc32_of(zeros.span().subspan(4));
    for (unsigned bit = 0; bit < 32; ++bit) {
      block_bytes one{};
      one.bytes[offsetof(dmr_table_block, unit) + bit / 8] = std::byte(1u << bit % 8);
      t[bit] = crc32_of(one.span().subspan(4)) ^ none;
    }
    return t;
  }();
  return table;
}

} // namespace

bool is_same_table_block(const block_bytes& valid, spare_unit place_of_valid, const block_bytes& other,
                         spare_unit place) {
  constexpr std::size_t unit_at = offsetof(dmr_table_block, unit), behind = unit_at + 4;
  const std::byte *a = valid.bytes.data(), *b = other.bytes.data();
  std::uint32_t crc, other_crc, unit;
  std::memcpy(&crc, a, 4);
  std::memcpy(&other_crc, b, 4);
  std::memcpy(&unit, b + unit_at, 4);
  if (little(unit) != place.value || std::memcmp(a + 4, b + 4, unit_at - 4) != 0 ||
      std::memcmp(a + behind, b + behind, unit_bytes - behind) != 0)
    return false;
  std::uint32_t expected = little(crc);
  const auto& table = unit_checksums();
  for (std::uint64_t bits = place_of_valid.value ^ place.value; bits != 0; bits &= bits - 1)
    expected ^= table[static_cast<unsigned>(std::countr_zero(bits)) % 32];
  return little(other_crc) == expected;
}

std::optional<superblock_hint> hint_of_superblock(const block_bytes& in) {
  const auto b = load<dmr_superblock>(in);
  if ((little(b.magic) & DMR_MAGIC_MASK) != (DMR_MAGIC_SUPER & DMR_MAGIC_MASK))
    return std::nullopt;
  superblock_hint hint;
  std::memcpy(hint.set_uuid.data(), b.set_uuid, sizeof b.set_uuid);
  hint.set_name.assign(b.set_name, ::strnlen(b.set_name, sizeof b.set_name));
  if (!valid_set_name(hint.set_name))
    hint.set_name = "?";
  return hint;
}

block_kind kind_of_block(const std::byte* head) noexcept {
  std::uint32_t magic;
  std::memcpy(&magic, head + offsetof(dmr_table_block, magic), sizeof magic);
  switch (little(magic) & DMR_MAGIC_MASK) {
  case DMR_MAGIC_SUPER& DMR_MAGIC_MASK:
    return block_kind::super;
  case DMR_MAGIC_TABLE& DMR_MAGIC_MASK:
    return block_kind::table;
  default:
    return block_kind::none;
  }
}

stated_place stated_place_of(const block_bytes& in, block_kind kind) {
  if (kind == block_kind::super) {
    const auto b = load<dmr_superblock>(in);
    uuid_bytes owner{};
    std::memcpy(owner.data(), b.spare_uuid, sizeof b.spare_uuid);
    return {little(b.copy), spare_unit(little(b.unit)), low_half(owner)};
  }
  const auto b = load<dmr_table_block>(in);
  return {little(b.number), spare_unit(little(b.unit)), little(b.owner_low)};
}

void encode_table_block(const table_block& t, std::uint64_t owner_low, std::uint32_t number, spare_unit place,
                        block_bytes& out) {
  dmr_table_block b;
  b.crc = 0;
  b.magic = little(std::uint32_t{DMR_MAGIC_TABLE});
  b.sequence = little(t.sequence);
  b.owner_low = little(owner_low);
  b.number = little(number);
  b.unit = little(static_cast<std::uint32_t>(place.value));
  for (std::uint32_t i = 0; i < slots_per_block; ++i) {
    b.slots[i].where = little(t.slots[i].where);
    b.slots[i].stamp = little(t.slots[i].stamp);
  }
  seal(b, out);
}

tl::expected<void, block_fault> decode_table_block(const block_bytes& in, std::uint64_t owner_low,
                                                   std::uint32_t number, spare_unit place, table_block& out) {
  CHECK_OK(check_header(in, DMR_MAGIC_TABLE));
  const auto b = load<dmr_table_block>(in);
  if (little(b.owner_low) != owner_low)
    return tl::make_unexpected(block_fault::foreign);
  if (little(b.number) != number || little(b.unit) != place.value)
    return tl::make_unexpected(block_fault::misplaced);
  out.sequence = little(b.sequence);
  if (out.sequence == 0 || out.sequence >= DMR_SEQUENCE_LIMIT)
    return tl::make_unexpected(block_fault::impossible);
  for (std::uint32_t i = 0; i < slots_per_block; ++i)
    out.slots[i] = slot{little(b.slots[i].where), little(b.slots[i].stamp)};
  return {};
}

} // namespace dmremap
