// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/geometry.h"
#include "engine/uuid.h"

#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace dmremap {

/// One block as it lies on a medium, aligned for direct I/O.
struct alignas(4096) block_bytes {
  std::array<std::byte, unit_bytes> bytes;
  [[nodiscard]] std::span<std::byte> span() { return bytes; }
  [[nodiscard]] std::span<const std::byte> span() const { return bytes; }
};

enum class slot_kind : std::uint8_t { free = 0, remap = 1, explicit_remap = 2, retired = 3, metadata = 4 };

inline constexpr std::uint32_t known_incompat = 0, known_ro_compat = 0; // feature bits of layout.h
/// A metadata image (dmremap-dump --metadata-image): no data is in it. Who only looks may read it.
inline constexpr std::uint32_t image_incompat = 4;
inline constexpr const char* holds_no_data =
    "is a metadata image of a spare and holds no data; name the spare itself";
inline constexpr std::uint64_t sequence_limit = 1ull << 48;
inline constexpr std::uint64_t main_unit_limit = 1ull << 48;
inline constexpr unsigned max_spares = 16;
inline constexpr std::uint32_t no_host = 0xFFFFFFFFu;
inline constexpr unsigned sixth_replica = 5;     // number of the replica on another spare
inline constexpr unsigned sixth_super_copy = 10; // number of the superblock copy at its head

/// A slot in memory, packed as on disk but in the machine's byte order.
struct slot {
  std::uint64_t where = 0;
  std::uint64_t stamp = 0;

  [[nodiscard]] main_unit main() const { return main_unit(where & (main_unit_limit - 1)); }
  [[nodiscard]] std::uint8_t lost() const { return static_cast<std::uint8_t>(where >> 48); }
  [[nodiscard]] std::uint8_t main_may_answer() const { return static_cast<std::uint8_t>(where >> 56); }
  [[nodiscard]] std::uint64_t sequence() const { return stamp & (sequence_limit - 1); }
  [[nodiscard]] slot_kind kind() const { return static_cast<slot_kind>(stamp >> 48 & 0xFF); }
  [[nodiscard]] std::uint8_t reserved() const { return static_cast<std::uint8_t>(stamp >> 56); }
  [[nodiscard]] bool serves() const {
    return kind() == slot_kind::remap || kind() == slot_kind::explicit_remap;
  }
  friend bool operator==(const slot&, const slot&) = default;

  [[nodiscard]] static slot make(slot_kind kind, main_unit main, std::uint8_t lost, std::uint8_t may_answer,
                                 std::uint64_t sequence);
};

struct table_block {
  std::uint64_t sequence = 0;
  std::array<slot, slots_per_block> slots{};
};

struct session_pair {
  std::uint64_t held = 0, given = 0;
};

/// The superblock in memory; field by field what layout.h has on disk.
struct superblock {
  std::uint64_t sequence = 0;
  uuid_bytes spare_uuid{}, set_uuid{};
  std::string set_name;
  std::uint32_t feature_compat = 0, feature_ro_compat = 0, feature_incompat = 0;
  std::uint32_t spare_index = 0, spare_count = 0;
  bool clean = false, samples_valid = false;
  std::uint64_t main_sectors = 0;
  geometry places;
  std::uint32_t super_good = 0;
  std::uint64_t sequence_next = 0, sequence_end = 0;
  std::uint64_t session = 0;
  std::array<session_pair, 16> sessions{};
  std::array<uuid_bytes, 16> spare_uuids{};
  std::uint32_t sixth_host = 0xFFFFFFFFu, sixth_start = 0;
  std::array<std::uint32_t, 16> hosted_start{}, hosted_blocks{};
  std::uint32_t hosted_protected = 0;
  std::array<std::uint8_t, 16> absent_map{};
  bool main_block_device = false;
  std::uint32_t main_block_size = 512;
  std::string main_serial, main_wwn, main_partuuid, main_fs_uuid, main_fs_type;
  std::uint32_t sample_mask = 0;
  std::array<std::uint32_t, 16> samples{};
  std::uint64_t lifetime_allocations = 0, auto_remaps = 0, manual_remaps = 0;
  std::uint64_t read_errors = 0, write_errors = 0, saves_tried = 0, saves_done = 0;
  std::array<std::array<std::uint8_t, chunk_count / 8>, 6> good{};

  [[nodiscard]] bool is_good(unsigned replica, std::uint32_t chunk) const {
    return (good[replica][chunk / 8] >> (chunk % 8) & 1) != 0;
  }
  void set_good(unsigned replica, std::uint32_t chunk, bool on);
  /// Good copies of a chunk on the spare itself, one bit a replica; 0: never initialised.
  [[nodiscard]] unsigned good_replicas(std::uint32_t chunk) const;
};

/// Why bytes are not the block that was asked for.
enum class block_fault : std::uint8_t {
  unreadable, ///< the medium failed
  no_magic,   ///< something else, or nothing
  version,    ///< ours, of a version this program does not know
  checksum,   ///< torn or damaged
  foreign,    ///< a valid block of another spare
  misplaced,  ///< a valid block that belongs elsewhere
  impossible, ///< valid checksum, impossible content
};
[[nodiscard]] std::string_view name_of(block_fault f) noexcept;

void encode_superblock(const superblock& s, unsigned copy, spare_unit place, block_bytes& out);
/// `place`: where the bytes were read; a superblock that says it lies elsewhere is misplaced. Feature bits
/// are the caller's to judge. Never trusts a length or a count in the block without a bound.
[[nodiscard]] tl::expected<superblock, block_fault> decode_superblock(const block_bytes& in, unsigned copy,
                                                                      spare_unit place);

/// A block that decode_superblock() takes gets a bit of feature_incompat; all else in it stays as it is.
void add_incompat(block_bytes& super, std::uint32_t bit);

/// What a block that bears our superblock's letters says of its set, however damaged, misplaced or new its
/// version is: for refusing to overwrite it, never for using it. Nothing where the letters are not there.
struct superblock_hint {
  uuid_bytes set_uuid{};
  std::string set_name; ///< "?" where it is no valid name
};
[[nodiscard]] std::optional<superblock_hint> hint_of_superblock(const block_bytes& in);

void encode_table_block(const table_block& t, std::uint64_t owner_low, std::uint32_t number, spare_unit place,
                        block_bytes& out);
[[nodiscard]] tl::expected<void, block_fault> decode_table_block(const block_bytes& in,
                                                                 std::uint64_t owner_low,
                                                                 std::uint32_t number, spare_unit place,
                                                                 table_block& out);

/// Whether `other`, read at `place`, is a valid copy of the block that `valid` is a valid copy of, read at
/// `place_of_valid`. Compares bytes and follows the checksum through the one field that differs: several times
/// as fast as decoding.
[[nodiscard]] bool is_same_table_block(const block_bytes& valid, spare_unit place_of_valid,
                                       const block_bytes& other, spare_unit place);

/// Which kind of block bytes may be, by their letters alone; nothing is checked.
enum class block_kind : std::uint8_t { none, super, table };
/// `head`: at least the first 8 bytes of the block. Cheap: for a search through a whole device.
[[nodiscard]] block_kind kind_of_block(const std::byte* head) noexcept;

/// Where a block says that it lies: for a search that finds blocks without knowing where they should be.
struct stated_place {
  std::uint32_t number = 0; ///< copy of a superblock, or number of a table block
  spare_unit unit;          ///< of the spare that holds it
  std::uint64_t owner_low = 0;
};
/// What the header of a block of this kind says; nothing is checked.
[[nodiscard]] stated_place stated_place_of(const block_bytes& in, block_kind kind);

/// CRC32 with zlib's polynomial.
[[nodiscard]] std::uint32_t crc32_of(std::span<const std::byte> bytes);

} // namespace dmremap
