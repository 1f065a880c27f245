// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "tests/support/page_image.h"

#include <cstdint>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

namespace dmremap::test {

/// A slot that is not free, as the disk has it.
struct decoded_slot {
  std::uint64_t spare_unit = 0, main_unit = 0, sequence = 0;
  unsigned kind = 0, lost = 0, may_answer = 0;
};

/// What a spare holds, read from its bytes alone.
struct spare_report {
  std::vector<std::string> damage; ///< what must not be after an open that mends
  std::uint64_t sequence = 0;      ///< of the newest superblock; 0: no valid copy
  std::uint64_t sequence_next = 0, sequence_end = 0, session = 0;
  std::uint64_t largest_sequence = 0; ///< of any block or slot
  std::uint64_t main_sectors = 0;
  unsigned flags = 0, super_good = 0;
  unsigned weakest_chunk = 0;      ///< the fewest good replicas of any initialised chunk
  std::vector<decoded_slot> slots; ///< of kind remap and explicit, by spare unit
  unsigned index = 0;              ///< of the spare in its set
  unsigned guests_listed = 0;      ///< bit i: says that it holds a full copy of spare i's table
};

/// Decodes spares from the format's description, sharing no code with the engine: every good copy of every
/// superblock and table block must be valid and equal to the others. Remembers which pages had a right CRC:
/// images that share pages are checked fast. Not thread-safe.
class spare_checker {
public:
  [[nodiscard]] spare_report check(const page_image& spare);
  /// Spares that one set uses together: what a host says is a full copy of a guest's table must be one, and
  /// where the guest relies on a copy, the host must list it. With `expect_all`, every spare must have one.
  /// Returns what is wrong.
  [[nodiscard]] std::vector<std::string> check_sixths(const std::vector<const page_image*>& spares,
                                                      bool expect_all);
  /// Can a set of these spares be opened without that one: do they know its map? Where it is not known the
  /// set must be refused.
  [[nodiscard]] bool map_is_known(const std::vector<const page_image*>& present, unsigned absent);
  /// Does one of those present hold what the newest record among all calls old? Used without the others it
  /// would show old data, and could not know: that is for the administrator to avoid.
  [[nodiscard]] bool some_stale(const std::vector<const page_image*>& all,
                                const std::vector<const page_image*>& present);
  /// Is one of them, by their newest record, only to be used with a map that lies on a spare that is not
  /// among them? Then they must be refused.
  [[nodiscard]] bool lacks_a_map(const std::vector<const page_image*>& present);
  /// Must a set of these spares open without those whose places in its list these are?
  [[nodiscard]] bool maps_are_known(const std::vector<const page_image*>& present,
                                    const std::vector<unsigned>& absent);
  /// Main units that any valid copy of a table block of the spare names, on the spare itself and on others.
  [[nodiscard]] std::set<std::uint64_t> named_units(const page_image& spare,
                                                    const std::vector<const page_image*>& others);

private:
  struct page_facts {
    bool crc_right = false;
    std::uint64_t body = 0; ///< hash of what must be equal in all copies
  };
  const page_facts& facts(const page& of, bool super);
  void check_supers(const page_image& spare, spare_report& report);
  void check_block(const page_image& spare, std::uint32_t number, unsigned good, spare_report& report);
  void check_slots(const page& block, std::uint32_t number, spare_report& report);
  void check_slot_set(spare_report& report);
  const page* newest_super(const page_image& spare);
  const page* newest_record(const std::vector<const page_image*>& spares);
  bool sixth_readable(const page_image& host_image, const page& host, unsigned guest);
  void add_named(const page_image& from, std::uint64_t first, std::uint32_t blocks,
                 std::set<std::uint64_t>& units);
  void check_sixth(const page_image& guest_image, const page& guest, const page_image& host_image,
                   const page& host, std::vector<std::string>& wrong);

  // of the superblock in force during check()
  const page* super_ = nullptr;
  std::unordered_map<std::uint64_t, page_facts> known_;
  std::unordered_map<std::uint64_t, unsigned long>
      tails_; ///< CRC of what is alike in all copies, by its hash
};

/// Is the unit of the spare part of a superblock copy or a table replica, valid or not? False where no
/// superblock at a fixed place is valid.
[[nodiscard]] bool is_metadata_unit(const page_image& spare, std::uint64_t unit);
/// The unit of superblock copy 0 to 9.
[[nodiscard]] std::uint64_t unit_of_super(const page_image& spare, unsigned copy);
/// The unit of a table block's copy.
[[nodiscard]] std::uint64_t unit_of_block(const page_image& spare, unsigned replica, std::uint32_t number);

} // namespace dmremap::test
