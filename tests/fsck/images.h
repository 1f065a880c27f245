// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "fsck/plan.h"
#include "tests/support/page_image.h"

#include <map>
#include <string>
#include <vector>

/// Sets as images, what they show, and tools to damage them. Shares no code with the codec: offsets are those
/// of dmremap-format(5).
namespace dmremap::test {

struct set_images {
  page_image main;
  std::vector<page_image> spares;
  [[nodiscard]] std::vector<std::uint64_t> hashes() const;
};

/// A set of 1 to 3 spares that has moved units after read and write errors and by hand; closed, or cut off
/// while open.
[[nodiscard]] const set_images& base_set(unsigned spares, bool closed);

/// What an open of the engine shows: for each sector of main its content or an error, and the table. Of a set
/// that does not open: the error's identifier.
struct shown_set {
  std::string refused;
  std::vector<std::string> sectors; ///< hash of the bytes, or "error"
  std::vector<std::string> table;
  friend bool operator==(const shown_set&, const shown_set&) = default;
};
[[nodiscard]] shown_set show(const set_images& images);
/// Every sector that both show is the same, and every error of `now` is at worst new: no byte is wrong.
[[nodiscard]] bool no_wrong_byte(const shown_set& oracle, const shown_set& now);

/// A set after an open for writing in which one unit of main was moved and written, and a close.
struct used_set {
  std::string refused; ///< identifier of an error
  main_unit unit;
  std::string written; ///< as shown_set has it: each of its sectors
  set_images after;
};
[[nodiscard]] used_set use(const set_images& images);

/// Changes one spare's bytes. A block that is changed by its fields is sealed again: its checksum is right.
class spare_editor {
public:
  explicit spare_editor(page_image& spare) : spare_(spare) {}

  [[nodiscard]] std::uint64_t super(unsigned copy) const;
  [[nodiscard]] std::uint64_t block(unsigned replica, std::uint32_t number) const;
  [[nodiscard]] std::uint64_t get(std::uint64_t unit, unsigned offset, unsigned size) const;

  /// Sets a field, little-endian, and seals the block.
  void put(std::uint64_t unit, unsigned offset, unsigned size, std::uint64_t value);
  /// The field in all ten superblocks, or in all five copies of a block.
  void put_supers(unsigned offset, unsigned size, std::uint64_t value);
  void put_blocks(std::uint32_t number, unsigned offset, unsigned size, std::uint64_t value);
  /// Two words of slot `index`, in all five copies.
  void put_slot(std::uint32_t number, unsigned index, std::uint64_t where, std::uint64_t stamp);
  void flip(std::uint64_t unit, unsigned offset);               ///< one bit, not sealed
  void fill(std::uint64_t unit, std::uint64_t units, int byte); ///< -1: noise
  void tear(std::uint64_t unit, unsigned sectors);              ///< the first sectors zeroed, not sealed
  void copy(std::uint64_t from, std::uint64_t to);              ///< a unit as it is

  /// Units of the spare whose slots serve main: {block, slot}.
  [[nodiscard]] std::vector<std::pair<std::uint32_t, unsigned>> serving() const;
  /// A slot of a unit of data that is free, in an initialised block.
  [[nodiscard]] std::pair<std::uint32_t, unsigned> free_slot() const;

private:
  page_image& spare_;
};

/// fsck in memory.
struct fsck_run {
  fsck::set_findings before, after; ///< `after` of a repair
  fsck::repair_plan plan;
  std::uint64_t written = 0;
  std::string refused; ///< identifier of an error
  [[nodiscard]] bool has(fsck::damage_kind kind) const;
  [[nodiscard]] bool damaged() const { return refused.empty() && !before.clean(); }
};
/// Looks; changes nothing (checked).
[[nodiscard]] fsck_run look(const set_images& images);
/// Repairs all that can be, as -y does, in `images`.
[[nodiscard]] fsck_run repair(set_images& images, const fsck::repair_choice& chosen = fsck::is_repairable);

} // namespace dmremap::test
