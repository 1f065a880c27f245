// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/remap_map.h"
#include "engine/spare_metadata.h"

#include <atomic>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

namespace dmremap {

/// One slot that a table change sets, and what the map says afterwards.
struct slot_change {
  unsigned spare = 0;
  spare_unit unit;
  slot_kind kind = slot_kind::free;
  main_unit main;
  std::uint8_t lost = 0;
  std::uint8_t main_may_answer = 0;

  /// What lookup(main) answers once this is durable; nothing present where the slot no longer serves.
  [[nodiscard]] map_entry entry() const;
};

enum class commit_outcome {
  done,     ///< durable in every good replica
  refused,  ///< nothing was written to any table: everything is as before
  in_doubt, ///< some copies may hold it: its units answer EIO until complete_doubt() succeeds
};

struct commit_reply {
  commit_outcome outcome = commit_outcome::done;
  io_error why = io_error::medium; ///< where the outcome is not done
};

/// Map, tables, sequences and session of one open set: every change of the map goes through here.
/// lookup() is for any thread at any time and takes no lock; everything else takes the mutexes it needs.
class remap_set {
public:
  /// Takes over loaded spares (one, in this version) and builds the map. Writes nothing.
  /// Errors: "one-spare-only", "impossible-slot".
  [[nodiscard]] static result<std::unique_ptr<remap_set>>
  assemble(std::vector<std::unique_ptr<spare_metadata>> spares, const commit_rules& rules);

  /// The writable open: session record, then mending, all durable on return. Errors: "cannot-mend" (names -o
  /// ro).
  [[nodiscard]] result<void> start_session();
  /// Makes every copy equal and writes "clean" with what `describe` puts into the superblock.
  [[nodiscard]] result<void> close(const std::function<void(superblock&)>& describe);

  [[nodiscard]] map_entry lookup(main_unit u) const noexcept { return map_.lookup(u); }
  [[nodiscard]] bool any_in(main_unit first, std::uint64_t count) const noexcept {
    return map_.any_in(first, count);
  }
  [[nodiscard]] std::uint64_t remapped() const noexcept { return map_.size(); }
  [[nodiscard]] std::vector<main_unit> remapped_units() const;
  [[nodiscard]] slot slot_of(map_entry e) const;

  /// Up to `count` free units, first fit; fewer or none where there are no more. They are the caller's until
  /// release_units() or a commit.
  [[nodiscard]] std::vector<spare_unit> allocate(unsigned spare, std::uint64_t count);
  /// A run of `count` free neighbours, or nothing.
  [[nodiscard]] std::optional<spare_unit> allocate_run(unsigned spare, std::uint64_t count);
  /// Takes exactly these units; false (and none taken) where one is in use, metadata or out of range.
  [[nodiscard]] bool claim_units(unsigned spare, spare_unit first, std::uint64_t count);
  /// Where `count` free neighbours begin, nearest to `wanted`; nothing is taken.
  [[nodiscard]] std::optional<spare_unit> nearest_free(unsigned spare, spare_unit wanted,
                                                       std::uint64_t count) const;
  void release_units(unsigned spare, std::span<const spare_unit> units);
  [[nodiscard]] bool is_free(unsigned spare, spare_unit u) const;
  [[nodiscard]] std::uint64_t allocated(unsigned spare) const;
  [[nodiscard]] std::uint64_t usable(unsigned spare) const; ///< data units that are not retired

  /// A table change by rule 1: the data on the spares is flushed first, then the tables are written. Changes
  /// that arrive together go out together. `data_since`: failed_flushes() of the spare before the first write
  /// of that data began; nothing where there is no data. The caller publishes() once this says done, before
  /// it thaws the units.
  [[nodiscard]] commit_reply commit(std::span<const slot_change> changes,
                                    std::optional<std::uint64_t> data_since);
  /// Shows committed changes to lookup(); frees units whose slot was released.
  void publish(std::span<const slot_change> changes);
  /// Tries again what is in doubt. True: nothing is in doubt any more.
  bool complete_doubt();
  [[nodiscard]] bool in_doubt() const noexcept { return doubt_count_.load() != 0; }

  /// Runs `change` on every superblock and writes them. Durable on return.
  [[nodiscard]] io_result update_super(const std::function<void(superblock&)>& change);
  /// Runs `look` under the lock that all metadata I/O takes.
  void with_metadata(const std::function<void(spare_metadata&)>& look);
  [[nodiscard]] superblock super_copy() const;

  struct counters {
    std::atomic<std::uint64_t> lifetime_allocations{0}, auto_remaps{0}, manual_remaps{0};
    std::atomic<std::uint64_t> saves_tried{0}, saves_done{0};
    std::atomic<std::uint64_t> lost_sectors{0}, by_hand_units{0};
  };
  [[nodiscard]] counters& counts() { return counters_; }
  [[nodiscard]] const counters& counts() const { return counters_; }

private:
  explicit remap_set(const commit_rules& rules) : rules_(rules) {}

  struct request {
    std::span<const slot_change> changes;
    std::optional<std::uint64_t> data_since;
    bool finished = false;
    commit_reply reply;
  };

  [[nodiscard]] result<void> build_map();
  void mark_used(spare_unit u, bool on);
  [[nodiscard]] bool usable_chunk(spare_unit u) const;
  void run_batch(std::span<request* const> batch);
  [[nodiscard]] io_result ready_chunks(std::span<request* const> batch);
  [[nodiscard]] io_result reserve_sequences(std::uint64_t needed);
  void store_counters(superblock& s);
  void remember_doubt(std::span<request* const> batch);
  void supersede_doubt();
  void prepare_ahead();
  void note_chunks(std::span<const std::uint32_t> blocks);
  [[nodiscard]] spare_metadata& spare() { return *spares_.front(); }
  [[nodiscard]] const spare_metadata& spare() const { return *spares_.front(); }

  const commit_rules& rules_;
  std::vector<std::unique_ptr<spare_metadata>> spares_;
  counters counters_;

  std::mutex queue_mutex_; // the requests that wait for the next batch
  std::vector<request*> queue_;

  mutable std::mutex metadata_mutex_; // spares_, sequences_, doubt_: one batch at a time
  sequence_counter sequences_;
  std::vector<slot_change> doubt_;
  std::atomic<std::size_t> doubt_count_{0};
  bool super_doubt_ = false;

  mutable std::mutex map_mutex_; // writers of map_
  remap_map map_;

  mutable std::mutex allocation_mutex_;
  std::vector<std::uint64_t> used_;    // bit u: unit u is taken (in use, retired, metadata, or being filled)
  std::uint64_t first_maybe_free_ = 0; // automatic allocation starts to look here
  std::uint64_t used_data_units_ = 0, retired_units_ = 0;
  std::vector<std::uint8_t> chunk_usable_; // under allocation_mutex_: mirrors the good bits
};

} // namespace dmremap
