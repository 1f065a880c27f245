// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/codec.h"
#include "engine/commit_rules.h"
#include "engine/store.h"

#include <map>
#include <memory>
#include <set>
#include <span>
#include <utility>
#include <vector>

namespace dmremap {

/// The one counter of a set: every table block, slot and superblock written takes a number that was never
/// used before. Numbers come from a range that the superblock reserved durably. Not thread-safe.
struct sequence_counter {
  std::uint64_t next = 1;
  std::uint64_t end = 1;
  [[nodiscard]] std::uint64_t take() { return next++; }
  [[nodiscard]] std::uint64_t left() const { return end > next ? end - next : 0; }
};

/// What a table block's copies looked like at the open, where they were not all equal and valid.
struct damaged_block {
  std::uint32_t number = 0;
  unsigned newest = 0;     ///< bit r: replica r holds the newest valid content
  unsigned unreadable = 0; ///< bit r: the medium failed
};

/// The metadata of one spare: what memory holds of superblock and table, and the I/O that keeps their copies
/// by the rules of dmremap-format(5). Not thread-safe: its owner serialises all calls (remap_set).
class spare_metadata {
public:
  /// Reads every good copy of everything; writes nothing. Errors: "no-superblock", "upstream-v4",
  /// "mixed-superblocks", "unsupported-feature", "spare-too-small", "block-destroyed" (exit 4; names the
  /// block), "impossible-slot", "spare-unreadable".
  [[nodiscard]] static result<std::unique_ptr<spare_metadata>> load(std::shared_ptr<store> spare,
                                                                    const commit_rules& rules);
  /// A new, empty spare: nothing on disk yet. `super` has all but geometry and good bits.
  [[nodiscard]] static result<std::unique_ptr<spare_metadata>>
  blank(std::shared_ptr<store> spare, superblock super, const commit_rules& rules);

  superblock super; ///< what the next write_super() makes durable

  [[nodiscard]] store& io() { return *io_; }
  [[nodiscard]] const geometry& places() const { return super.places; }
  [[nodiscard]] slot get(spare_unit u) const;
  /// In memory only; write_blocks() makes it durable.
  void set(spare_unit u, slot value);
  /// Visits every slot that is neither free nor metadata.
  template <class Visit>
  void for_each_used(Visit&& visit) const {
    for (std::uint32_t b = 0; b < blocks_.size(); ++b)
      if (blocks_[b])
        for (std::uint32_t i = 0; i < slots_per_block; ++i)
          if (const slot& s = blocks_[b]->slots[i];
              s.kind() != slot_kind::free && s.kind() != slot_kind::metadata)
            visit(spare_unit(std::uint64_t{b} * slots_per_block + i), s);
  }

  /// Blocks whose copies differed or could not be read at the load, and superblock copies that were not the
  /// newest.
  [[nodiscard]] const std::vector<damaged_block>& damaged() const { return damaged_; }
  [[nodiscard]] bool supers_damaged() const { return supers_damaged_; }
  [[nodiscard]] std::uint64_t highest_sequence() const { return highest_sequence_; }
  [[nodiscard]] unsigned
  weakest_chunk() const; ///< fewest good replicas of an initialised chunk; 5 if none is

  /// Writes `super` under a new sequence into every good copy: one, flush, read back, the rest, flush. A copy
  /// that cannot be written loses its bit and all are written again. Durable on success in at least two
  /// copies; on an error memory is ahead of the disk and the next call repairs that.
  [[nodiscard]] io_result write_super(sequence_counter& sequences);
  /// Makes a chunk usable: its blocks in every replica, flushed, then the good bits. Durable on return.
  [[nodiscard]] io_result prepare_chunk(std::uint32_t chunk, sequence_counter& sequences);
  /// Rewrites the blocks from memory under new sequences, in the order of rule 1. Durable on success in every
  /// good replica. On an error the blocks are in doubt until a later call with the same blocks succeeds.
  [[nodiscard]] io_result write_blocks(std::span<const std::uint32_t> blocks, sequence_counter& sequences,
                                       bool renumber = true);
  /// Reads superblock copies from the medium now: bit c is set where copy c is valid and the newest.
  [[nodiscard]] unsigned verify_supers();
  /// Overwrites every superblock copy with zeros: the spare is no member afterwards. Durable on success.
  [[nodiscard]] io_result erase_supers();

private:
  spare_metadata(std::shared_ptr<store> io, const commit_rules& rules) : io_(std::move(io)), rules_(rules) {}

  [[nodiscard]] result<void> load_supers();
  [[nodiscard]] result<void> load_tables();
  [[nodiscard]] result<void> load_piece(std::uint32_t chunk, std::uint32_t first, std::uint32_t count,
                                        std::vector<block_bytes>& buffer);
  [[nodiscard]] result<void> adopt_block(std::uint32_t number, std::span<const table_block* const> copies,
                                         unsigned good, unsigned unreadable);
  [[nodiscard]] result<void> check_slots(std::uint32_t number, const table_block& t) const;
  [[nodiscard]] std::unique_ptr<table_block> default_block(std::uint32_t number) const;
  [[nodiscard]] table_block& block(std::uint32_t number);

  using failed_copies = std::set<std::pair<unsigned, std::uint32_t>>; // replica, chunk
  [[nodiscard]] io_result write_copy(unsigned replica, std::uint32_t number);
  [[nodiscard]] io_result write_first_copies(std::vector<std::uint32_t> blocks, failed_copies& failed,
                                             std::map<std::uint32_t, unsigned>& first_of);
  [[nodiscard]] bool matches_disk(unsigned replica, std::uint32_t number, io_error& why);
  [[nodiscard]] io_result write_other_copies(std::span<const std::uint32_t> blocks, failed_copies& failed,
                                             const std::map<std::uint32_t, unsigned>& first_of);
  [[nodiscard]] io_result drop_failed_copies(const failed_copies& failed, sequence_counter& sequences);
  [[nodiscard]] unsigned sure_copies(std::uint32_t number) const;
  [[nodiscard]] io_result super_attempt(bool& again);

  std::shared_ptr<store> io_;
  const commit_rules& rules_;
  std::vector<std::unique_ptr<table_block>> blocks_; // null: every slot as in a fresh chunk
  std::vector<damaged_block> damaged_;
  std::map<std::uint32_t, unsigned>
      sure_;                  // blocks not in order: replicas known to hold the newest content durably
  unsigned valid_supers_ = 0; // copies known to hold a valid newest superblock
  bool supers_damaged_ = false;
  bool bits_unsaved_ = false; // good bits were cleared in memory; no table change is answered before on disk
  std::uint64_t highest_sequence_ = 0;
};

} // namespace dmremap
