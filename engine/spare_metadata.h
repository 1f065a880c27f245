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
/// used before. Numbers come from a range that the superblock reserved durably; `end` is never below one that
/// was taken, so that what is reserved next lies above it. Not thread-safe.
struct sequence_counter {
  std::uint64_t next = 1;
  std::uint64_t end = 1;
  [[nodiscard]] std::uint64_t take() {
    end = std::max(end, next + 1);
    return next++;
  }
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
  /// The first half of load(): the superblocks. Sets of several spares first find out which spares belong
  /// together, then attach sixth replicas, then load_tables(). Errors: as load(), but for those of tables.
  /// "metadata-image" but where `also` has that bit: for who looks, and serves nothing.
  [[nodiscard]] static result<std::unique_ptr<spare_metadata>>
  load_supers(std::shared_ptr<store> spare, const commit_rules& rules, std::uint32_t also = 0);
  /// A spare that is not there, known by the head of its sixth replica on `host`; load_tables() comes next.
  /// Nothing where no valid head of spare `uuid` of the set lies there.
  [[nodiscard]] static std::unique_ptr<spare_metadata> absent(std::shared_ptr<store> host,
                                                              std::uint32_t start, const uuid_bytes& set,
                                                              const uuid_bytes& uuid,
                                                              const commit_rules& rules);
  /// Reads the tables. `own`: from the spare's replicas and, where attached, the sixth; otherwise from the
  /// sixth alone: what the spare itself holds is old.
  [[nodiscard]] result<void> load_tables(bool own = true);
  /// A new, empty spare: nothing on disk yet. `super` has all but geometry and good bits.
  [[nodiscard]] static result<std::unique_ptr<spare_metadata>>
  blank(std::shared_ptr<store> spare, superblock super, const commit_rules& rules);

  superblock super; ///< what the next write_super() makes durable

  [[nodiscard]] bool present() const { return io_ != nullptr; }
  [[nodiscard]] store& io() { return *io_; }
  [[nodiscard]] std::shared_ptr<store> share_io() const { return io_ ? io_ : read_only_; }
  [[nodiscard]] const std::string& path() const;
  /// The spare does not answer any more, or takes no writes (`readable`): from now on its tables live in
  /// memory and in the sixth replica.
  void lose(bool readable) {
    read_only_ = readable ? io_ : nullptr;
    io_.reset();
  }
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

  /// Visits every block that is initialised, ascending: visit(NUMBER, SEQUENCE, BLOCK); null where it is as
  /// in a fresh table.
  template <class Visit>
  void for_each_block(Visit&& visit) const {
    for (std::uint32_t b = 0; b < blocks_.size(); ++b)
      if (const auto sequence = blocks_[b] ? blocks_[b]->sequence : empty_sequence_[b]; sequence != 0)
        visit(b, sequence, static_cast<const table_block*>(blocks_[b].get()));
  }

  /// The sixth replica, on another spare. attach_sixth(): it is there and full (the caller has seen both
  /// superblocks say so); in memory only.
  void attach_sixth(std::shared_ptr<store> host, std::uint32_t host_index, std::uint32_t start);
  [[nodiscard]] bool has_sixth() const { return sixth_ != nullptr; }
  [[nodiscard]] std::uint64_t sixth_units() const { return std::uint64_t{places().table_blocks} + 1; }
  /// Ends the use of the sixth in memory; the next write_super() makes it durable.
  void detach_sixth();
  /// Writes a full sixth replica to `start` of the host, flushed, then the superblock that names it. The
  /// host's superblock is the caller's. On an error there is no sixth.
  [[nodiscard]] io_result place_sixth(std::shared_ptr<store> host, std::uint32_t host_index,
                                      std::uint32_t start, sequence_counter& sequences);
  /// A full copy of the map of a spare that is absent, under the superblock that memory has of it, to another
  /// host, flushed. On an error the sixth is where it was.
  [[nodiscard]] io_result move_sixth(std::shared_ptr<store> host, std::uint32_t host_index,
                                     std::uint32_t start);
  [[nodiscard]] std::shared_ptr<store> sixth_io() const { return sixth_; }
  /// True once after the sixth was given up because it could not be written: the host's superblock must
  /// not list it any more before anything is answered.
  [[nodiscard]] bool take_sixth_lost() { return std::exchange(sixth_lost_, false); }
  /// Of the sixth that was given up last: its host was full, the place itself is well.
  [[nodiscard]] bool sixth_found_no_space() const { return sixth_no_space_; }
  /// Brings the sixth to what memory holds, whatever the spare's own copies are: it is going, or gone.
  /// `blocks`: changed in memory, though perhaps nowhere else.
  [[nodiscard]] io_result complete_sixth(std::set<std::uint32_t> blocks, sequence_counter& sequences);
  /// A spare that is back: its own replicas are written anew from memory, which has them from the sixth,
  /// under the sequences that they have there; the good bits say which could be. Durable but for the
  /// superblock, which is the caller's to write. On an error memory is as before.
  [[nodiscard]] io_result rewrite_tables();

  /// Blocks whose copies differed or could not be read at the load, and superblock copies that were not the
  /// newest.
  [[nodiscard]] const std::vector<damaged_block>& damaged() const { return damaged_; }
  /// All that could be read of the table was alike in all good copies, and no change of it is on its way.
  [[nodiscard]] bool copies_agree() const { return sure_.empty(); }
  [[nodiscard]] bool supers_damaged() const { return supers_damaged_; }
  [[nodiscard]] std::uint64_t highest_sequence() const { return highest_sequence_; }
  /// Whether the block's chunk may change: it has two good replicas at least, so that a torn write costs
  /// nothing.
  [[nodiscard]] bool may_change(std::uint32_t block) const;
  /// Whether the block's chunk is in two good copies at least, the sixth counted.
  [[nodiscard]] bool in_two_copies(std::uint32_t block) const;
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
  /// Takes a change back that write_blocks() failed to make with io_error::medium, where one copy of the
  /// block is left and was not touched: the others, which may hold anything, lose their bits, durably on
  /// return, and memory holds what that copy holds. An error: as before the call; the change may still come
  /// to light.
  [[nodiscard]] io_result withdraw(std::uint32_t block, sequence_counter& sequences);
  /// Whether any superblock copy of this spare can be read now, the newest or not.
  [[nodiscard]] bool answers();
  /// Reads superblock copies from the medium now: bit c is set where copy c is valid and the newest.
  [[nodiscard]] unsigned verify_supers();
  /// Overwrites every superblock copy with zeros: the spare is no member afterwards. Durable on success.
  [[nodiscard]] io_result erase_supers();

private:
  spare_metadata(std::shared_ptr<store> io, const commit_rules& rules) : io_(std::move(io)), rules_(rules) {}

  [[nodiscard]] result<void> choose_super(std::uint32_t also);
  [[nodiscard]] result<void> load_piece(unsigned good, std::uint32_t first, std::uint32_t count,
                                        std::vector<block_bytes>& buffer);
  [[nodiscard]] result<void> adopt_block(std::uint32_t number, std::span<const table_block* const> copies,
                                         unsigned good, unsigned unreadable);
  [[nodiscard]] result<void> check_slots(std::uint32_t number, const table_block& t) const;
  [[nodiscard]] std::unique_ptr<table_block> default_block(std::uint32_t number) const;
  [[nodiscard]] table_block& block(std::uint32_t number);

  [[nodiscard]] store& io_of(unsigned replica) { return replica == sixth_replica ? *sixth_ : *io_; }
  [[nodiscard]] spare_unit place_of(unsigned replica, std::uint32_t number) const;
  [[nodiscard]] unsigned good_copies(std::uint32_t chunk) const; ///< own and sixth
  [[nodiscard]] io_result write_chunk(unsigned replica, std::uint32_t chunk);
  [[nodiscard]] io_result write_sixth_head(bool flushed);
  void lose_sixth(io_error why);

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

  std::shared_ptr<store> io_;        // null: absent
  std::shared_ptr<store> read_only_; // null: it does not even answer reads, or is present
  std::shared_ptr<store> sixth_;     // the host's; null: no sixth replica
  const commit_rules& rules_;
  std::vector<std::unique_ptr<table_block>> blocks_; // null: every slot as in a fresh chunk
  std::vector<std::uint64_t> empty_sequence_;        // of blocks that are null
  std::vector<damaged_block> damaged_;
  std::map<std::uint32_t, unsigned>
      sure_;                  // blocks not in order: replicas known to hold the newest content durably
  unsigned valid_supers_ = 0; // copies known to hold a valid newest superblock
  bool supers_damaged_ = false;
  bool sixth_lost_ = false, sixth_no_space_ = false;
  bool bits_unsaved_ = false; // good bits were cleared in memory; no table change is answered before on disk
  bool bits_raised_ = false;  // set again in memory, perhaps not on disk: no copy is written over before
  std::uint64_t highest_sequence_ = 0;
};

} // namespace dmremap
