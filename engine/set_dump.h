// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/codec.h"
#include "engine/error.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// All metadata of a set as values, and the text that dmremap-dump(8) describes. A spare that is written from
/// its dump carries the same bytes as before.
namespace dmremap {

/// In a superblock's feature_incompat while dmremap-restore writes the spare: no program opens it
/// (DMR_INCOMPAT_RESTORING of layout.h).
inline constexpr std::uint32_t restoring_incompat = 2;

/// Initialised table blocks, neighbours with one sequence.
struct dumped_blocks {
  std::uint32_t first = 0, count = 0;
  std::uint64_t sequence = 0;
  friend bool operator==(const dumped_blocks&, const dumped_blocks&) = default;
};

/// A slot that is not as in a fresh table.
struct dumped_slot {
  std::uint32_t unit = 0; ///< of the spare
  slot value;
  friend bool operator==(const dumped_slot&, const dumped_slot&) = default;
};

struct dumped_spare {
  std::string member; ///< where it was; for people
  bool away = false;  ///< absent, or was while the set was in use: the map is what another spare has of it
  int map_on = -1;    ///< away: index of that spare; -1: only the daemon's memory has it
  superblock super;   ///< the newest; of an `away` one as that other spare has it
  std::vector<dumped_blocks> blocks; ///< ascending
  std::vector<dumped_slot> slots;    ///< ascending; all in `blocks`
  std::vector<std::string> damage;   ///< what could not be read, in words
};

struct set_dump {
  bool live = false;                ///< a snapshot of a set in use
  bool complete = true;             ///< every spare's whole table is there
  std::vector<dumped_spare> spares; ///< by index; one at least

  [[nodiscard]] const superblock& newest() const; ///< the superblock with the highest sequence
  [[nodiscard]] const dumped_spare* find(const uuid_bytes& spare) const;
};

/// The highest number in a spare's dump: what is newer than the dump has a higher one.
[[nodiscard]] std::uint64_t highest_sequence(const dumped_spare& spare);
/// The unit on `host` at which the copy of the table of `guest` begins that the set relies on; 0: none.
[[nodiscard]] std::uint32_t sixth_on(const dumped_spare& guest, const dumped_spare& host);
/// As a fresh table has it.
[[nodiscard]] slot default_slot(const geometry& places, std::uint32_t unit);

/// Collects a table block by block, ascending. `slots`: null where all are as in a fresh table.
void add_block(dumped_spare& to, std::uint32_t number, std::uint64_t sequence, const table_block* slots);

/// Every field of a superblock that stands in a line of its own, once, as visit(NAME, FIELD): for writing and
/// for reading, text and JSON. Left out are those that have lines for each spare or replica.
template <class Visit, class Super>
void each_dump_field(Visit&& visit, Super& s) {
  visit("sequence", s.sequence);
  visit("clean", s.clean);
  visit("feature_compat", s.feature_compat);
  visit("feature_ro_compat", s.feature_ro_compat);
  visit("feature_incompat", s.feature_incompat);
  visit("spare_count", s.spare_count);
  visit("units", s.places.units);
  visit("table_blocks", s.places.table_blocks);
  visit("chunk_blocks", s.places.chunk_blocks);
  visit("sequence_next", s.sequence_next);
  visit("sequence_end", s.sequence_end);
  visit("sixth_host", s.sixth_host);
  visit("sixth_start", s.sixth_start);
  visit("hosted_protected", s.hosted_protected);
  visit("main_sectors", s.main_sectors);
  visit("main_block_device", s.main_block_device);
  visit("main_block_size", s.main_block_size);
  visit("main_serial", s.main_serial);
  visit("main_wwn", s.main_wwn);
  visit("main_partuuid", s.main_partuuid);
  visit("main_fs_uuid", s.main_fs_uuid);
  visit("main_fs_type", s.main_fs_type);
  visit("samples_valid", s.samples_valid);
  visit("sample_mask", s.sample_mask);
  visit("lifetime_allocations", s.lifetime_allocations);
  visit("auto_remaps", s.auto_remaps);
  visit("manual_remaps", s.manual_remaps);
  visit("read_errors", s.read_errors);
  visit("write_errors", s.write_errors);
  visit("saves_tried", s.saves_tried);
  visit("saves_done", s.saves_done);
}

/// One line of a spare's list of all spares.
struct dumped_place {
  std::uint32_t index = 0;
  uuid_bytes uuid{};
  session_pair sessions;
  std::uint32_t hosted_start = 0, hosted_blocks = 0;
  unsigned map_on = 0; ///< superblock::absent_map
  [[nodiscard]] bool empty() const;
};
[[nodiscard]] dumped_place place_at(const superblock& s, unsigned index);
void set_place(superblock& s, const dumped_place& p);

/// "0-3,7"; "-" for none. parse_bits() is false where the text is no such list of numbers below
/// `bits.size()`.
[[nodiscard]] std::string bits_text(const std::vector<bool>& bits);
[[nodiscard]] bool parse_bits(std::string_view text, std::vector<bool>& bits);
/// Bytes that are not printable ASCII, and the backslash, as \xNN; and back.
[[nodiscard]] std::string escaped(std::string_view text);
[[nodiscard]] std::optional<std::string> unescaped(std::string_view text);
[[nodiscard]] const char* name_of(slot_kind kind) noexcept;
[[nodiscard]] std::optional<slot_kind> slot_kind_of(std::string_view name) noexcept;

using text_sink = std::function<void(std::string_view)>;
/// The text, in pieces of 64 KiB or so. Returns the checksum in its last line.
std::uint32_t write_dump_text(const set_dump& d, const text_sink& put);
[[nodiscard]] std::string dump_text(const set_dump& d);
/// `any_checksum`: the text was edited by hand. Errors: "dump-syntax" (names the line), "dump-truncated",
/// "dump-checksum", and those of check_dump().
[[nodiscard]] result<set_dump> parse_dump_text(std::string_view text, const std::string& name,
                                               bool any_checksum);
/// Whether it can be a set's metadata: what a program would refuse on a spare it must not write there.
/// Errors: "dump-impossible".
[[nodiscard]] result<void> check_dump(const set_dump& d, const std::string& name);

} // namespace dmremap
