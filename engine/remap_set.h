// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/old_slots.h"
#include "engine/remap_map.h"
#include "engine/set_dump.h"
#include "engine/set_record.h"
#include "engine/spare_metadata.h"
#include "engine/spare_space.h"

#include <array>
#include <atomic>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
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
  bool loser = false; ///< the slot does not serve its unit any more: the map is not touched

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

/// Of each spare: failed_flushes() before the first write of some data began.
using flush_marks = std::array<std::uint64_t, max_spares>;

/// Units of one spare that allocation handed out.
struct taken_unit {
  unsigned spare = 0;
  spare_unit unit;
};

/// What is known of one spare of the set.
struct spare_overview {
  bool present = false;
  bool readable = false; ///< not present, but only its writes fail
  bool draining = false;
  std::string uuid, path;
  std::uint64_t units = 0, usable = 0, allocated = 0;
  std::uint64_t room = 0; ///< units that allocate() gives of it now
  std::uint64_t sequence = 0;
  bool clean = false;
  unsigned weakest_chunk = 0;
  int sixth_host = -1; ///< index of the spare that protects it
};

/// Map, tables, sequences and session of one open set: every change of the map goes through here.
/// lookup() is for any thread at any time and takes no lock; everything else takes the mutexes it needs.
class remap_set {
public:
  /// Takes over spares whose superblocks were read, finds the record that they follow, reads all tables and
  /// builds the map. Writes nothing. Errors: as choose_record(), "spare-missing", "spare-unprotected" (exit
  /// 4), those of spare_metadata::load_tables().
  [[nodiscard]] static result<std::unique_ptr<remap_set>>
  assemble(std::vector<std::unique_ptr<spare_metadata>> spares, bool degraded, const commit_rules& rules);

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
  /// An older slot also names the unit, on an absent spare or where it could not be released: the remap must
  /// not be removed.
  [[nodiscard]] bool shadowed(main_unit u) const;

  // --- spares: numbers are places in the set's list
  [[nodiscard]] unsigned places() const { return place_count_.load(); } ///< all numbers are below
  [[nodiscard]] bool listed(unsigned spare) const;
  [[nodiscard]] bool present(unsigned spare) const;
  [[nodiscard]] unsigned present_count() const;
  [[nodiscard]] std::shared_ptr<store> io_of(unsigned spare) const; ///< null: absent
  [[nodiscard]] std::optional<spare_overview> overview(unsigned spare) const;
  [[nodiscard]] flush_marks marks() const;
  /// Called with a spare's number when it is found to be gone, or to take no writes: then with true, and what
  /// it holds is read on; false may follow. Under the lock of all metadata: must not call back nor wait.
  std::function<void(unsigned, bool)> on_absent;
  /// Called with the end of the reserved sequences once a session record is durable, in the same way, but may
  /// wait: nothing is written under the record before it returns. So, too, once the clean mark is durable.
  std::function<void(std::uint64_t)> on_record;
  /// Called before a new spare is used, in the same way.
  std::function<void(unsigned, std::shared_ptr<store>)> on_present;
  /// Ends the use of a spare that does not answer: its sixth replica is completed, its absence recorded.
  /// False where it is the only one present: it stays, and what needs it fails.
  bool drop_spare(unsigned spare);
  /// Writes the spare's superblock to find out. Where it cannot be written the spare's use ends as above, but
  /// for reading what it holds. True, too, where it is the only one present.
  bool takes_writes(unsigned spare);
  /// A spare that takes no writes does not answer at all any more.
  void lose_readable(unsigned spare);
  /// What add_spare() would refuse at once, before anything is done to the new one (`path`): a record that is
  /// on its way is durable on return. Errors: "read-only", "too-many-spares", "format-failed".
  [[nodiscard]] result<void> ready_for_spare(const std::string& path);
  /// Formats and takes in a spare; it gives no places before a durable record lists it. Durable on return.
  /// Errors: "too-many-spares", "spare-too-small",
  /// "format-failed", "add-in-doubt", "read-only".
  [[nodiscard]] result<unsigned> add_spare(std::shared_ptr<store> io);
  /// Moves maps of absent spares that lie on this one to others. Errors: "spare-in-use": it holds the only
  /// one.
  [[nodiscard]] result<void> free_maps_on(unsigned spare);
  /// Takes a spare out of the set that serves nothing, present or not, and erases its superblocks. Durable on
  /// return. False: some are left on it, for it could not be written. Errors: "spare-in-use", "last-spare",
  /// "remove-failed".
  [[nodiscard]] result<bool> remove_spare(unsigned spare);
  /// What that would refuse at once; `failed` of its units count as serving nothing.
  [[nodiscard]] result<void> plan_remove(unsigned spare, std::uint64_t failed) const;
  /// Automatic allocation leaves a draining spare alone. Not kept over a close.
  void set_draining(unsigned spare, bool on);
  /// Winning slots on the spare, ascending by main.
  [[nodiscard]] std::vector<main_unit> units_on(unsigned spare) const;
  /// Units whose data would go with an absent spare: what it serves, but for what was to move to it when it
  /// went and is still where it was; and what was to move from it to another one that went so. Ascending.
  [[nodiscard]] std::vector<main_unit> units_lost_with(unsigned spare) const;
  [[nodiscard]] bool lost_with(main_unit u, unsigned spare) const;

  /// A free unit, first fit over all spares that take new data but those in `not_on` (bit a spare).
  [[nodiscard]] std::optional<taken_unit> allocate(unsigned not_on = 0);
  /// A run of `count` free neighbours, or nothing.
  [[nodiscard]] std::optional<spare_unit> allocate_run(unsigned spare, std::uint64_t count);
  /// Takes exactly these units; false (and none taken) where one is in use, metadata or out of range.
  [[nodiscard]] bool claim_units(unsigned spare, spare_unit first, std::uint64_t count);
  /// The longest run that allocate_run() gives now.
  [[nodiscard]] std::uint64_t longest_run(unsigned spare) const;
  /// Where `count` free neighbours begin, nearest to `wanted`; nothing is taken.
  [[nodiscard]] std::optional<spare_unit> nearest_free(unsigned spare, spare_unit wanted,
                                                       std::uint64_t count) const;
  void release_unit(taken_unit u);
  [[nodiscard]] std::uint64_t usable(unsigned spare) const; ///< data units that are not retired
  /// How many units allocate(not_on) gives now: those free for add_remap by hand only do not count.
  [[nodiscard]] std::uint64_t free_units(unsigned not_on = 0) const;

  /// A table change by rule 1: the data on the spares is flushed first, then the tables are written. Changes
  /// that arrive together go out together. `data_since`: marks() before the first write of that data began;
  /// nothing where there is no data. The caller publishes() once this says done, before it thaws the units.
  [[nodiscard]] commit_reply commit(std::span<const slot_change> changes,
                                    const std::optional<flush_marks>& data_since);
  /// Shows committed changes to lookup(); frees units whose slot was released.
  void publish(std::span<const slot_change> changes);
  /// Tries again what is in doubt. True: nothing is in doubt any more.
  bool complete_doubt();
  [[nodiscard]] bool in_doubt() const noexcept { return doubt_count_.load() != 0; }

  /// Runs `change` on the superblocks of all spares present and writes them. Durable on return.
  [[nodiscard]] io_result update_super(const std::function<void(superblock&)>& change);
  /// Runs `look` under the lock that all metadata I/O takes.
  void with_metadata(unsigned spare, const std::function<void(spare_metadata&)>& look);
  /// Whether the slot of the unit may change (spare_metadata::may_change()). Waits for changes under way.
  [[nodiscard]] bool can_change(unsigned spare, spare_unit unit);
  [[nodiscard]] superblock super_copy() const; ///< of the first spare present
  /// All metadata at one instant, as memory has it: changes wait while it is copied.
  [[nodiscard]] set_dump dump() const;
  [[nodiscard]] const std::vector<std::string>& notices() const { return notices_; }

  struct counters {
    std::atomic<std::uint64_t> lifetime_allocations{0}, auto_remaps{0}, manual_remaps{0};
    std::atomic<std::uint64_t> saves_tried{0}, saves_done{0};
    std::atomic<std::uint64_t> lost_sectors{0}, by_hand_units{0};
  };
  [[nodiscard]] counters& counts() { return counters_; }
  [[nodiscard]] const counters& counts() const { return counters_; }

private:
  explicit remap_set(const commit_rules& rules) : rules_(rules) {}

  struct pool_spare {
    explicit pool_spare(std::unique_ptr<spare_metadata> m)
        : io(m->share_io()), meta(std::move(m)), space(meta->places()), held(meta->super.session),
          present(meta->present()) {}
    const std::shared_ptr<store> io;      // null: absent from the start
    std::unique_ptr<spare_metadata> meta; // under metadata_mutex_
    spare_space space;                    // under allocation_mutex_
    std::uint64_t held = 0;               // the session that it surely holds
    bool returned = false;                // until start_session has brought it up to date
    std::atomic<bool> present, draining{false};
    std::atomic<bool> joining{false}; // until a durable record lists it; it may be dropped before: no places
    bool replaces_lone = false;       // while it joins: the set's only other spare takes no writes
    [[nodiscard]] bool gives_places() const { return present && !joining; }
  };
  struct request {
    std::span<const slot_change> changes;
    const std::optional<flush_marks>* data_since = nullptr;
    bool finished = false;
    commit_reply reply;
  };

  // set_add_remove.cpp; all with the metadata mutex
  [[nodiscard]] result<void> check_removal(unsigned spare, std::uint64_t failed) const;
  [[nodiscard]] result<unsigned> place_for_spare(const std::string& path);
  void forget_place(unsigned place);
  [[nodiscard]] bool others_take_writes(unsigned but);

  // set_open.cpp
  [[nodiscard]] result<void> load_spares(std::vector<std::unique_ptr<spare_metadata>> loaded,
                                         const set_record& record, bool degraded);
  [[nodiscard]] result<void> load_away(unsigned index, std::unique_ptr<spare_metadata> loaded,
                                       const set_record& record);
  void attach_sixths(const set_record& record);
  void host_guests(unsigned index);
  void build_map();
  [[nodiscard]] io_result keep_what_was_found();
  [[nodiscard]] io_result mend(pool_spare& p);
  [[nodiscard]] io_result release_losers();
  [[nodiscard]] io_result take_back_returned();

  // set_spares.cpp; all with the metadata mutex
  [[nodiscard]] spare_metadata& leader() const;
  [[nodiscard]] io_result record_session();
  [[nodiscard]] tl::expected<std::unique_ptr<pool_spare>, io_error> record_without(unsigned spare);
  [[nodiscard]] io_result write_supers();
  bool vanish(unsigned spare);
  [[nodiscard]] bool may_go(unsigned spare);
  [[nodiscard]] bool matters_in_doubt(unsigned spare) const;
  void stay_away(unsigned spare, bool readable);
  [[nodiscard]] bool can_be_written(unsigned spare);
  void doubt_is_absent(const slot_change& c);
  void return_doubted(unsigned spare);
  [[nodiscard]] bool goes_with(main_unit u, unsigned spare) const;
  void leave_doubt_to_absent();
  /// Of a superblock that could not be written: the spare as a whole takes no writes. Room on its host comes
  /// back.
  [[nodiscard]] static bool is_dead(io_error e) {
    return e == io_error::gone || e == io_error::medium || e == io_error::read_only;
  }
  [[nodiscard]] io_result settle_protection();
  [[nodiscard]] io_result settle();
  void unlist(unsigned guest);
  void unlist(unsigned guest, unsigned host);
  void note_map(unsigned spare, unsigned where);
  void ensure_protected(bool wait = false);
  void give_up_sixth(unsigned guest);
  bool keep_maps_of_absent();
  void unlist_moved_maps();
  [[nodiscard]] result<void> move_maps_off(unsigned spare);
  [[nodiscard]] bool keep_map(unsigned absent);
  [[nodiscard]] bool map_is_away(unsigned spare) const;
  [[nodiscard]] bool protect(unsigned guest, unsigned host);
  [[nodiscard]] std::optional<std::uint32_t> host_run(unsigned host, std::uint64_t units);
  void list_guest(unsigned host, unsigned guest, std::uint32_t start);
  [[nodiscard]] unsigned count_present() const;

  // remap_set.cpp
  void run_batch(std::span<request* const> batch);
  [[nodiscard]] io_result make_ready(const request& r);
  [[nodiscard]] io_result flush_data(std::span<request* const> batch, unsigned spare);
  [[nodiscard]] io_result write_slots(std::span<request* const> batch, unsigned spare);
  [[nodiscard]] io_result reserve_sequences(std::uint64_t needed);
  void fresh_range();
  void store_counters(superblock& s);
  void remember_doubt(const request& r);
  void supersede_doubt();
  enum class block_end { written, withdrawn, open };
  block_end finish_block(unsigned spare, std::uint32_t block);
  void take_back(const slot_change& c);
  void prepare_ahead();
  void note_old_place(main_unit u, map_entry before, map_entry after);
  void note_chunks(unsigned spare, std::span<const std::uint32_t> blocks);

  const commit_rules& rules_;
  counters counters_;
  std::vector<std::string> notices_;

  std::mutex queue_mutex_; // the requests that wait for the next batch
  std::vector<request*> queue_;

  // The array changes under metadata_mutex_ and allocation_mutex_ both, so that either is enough to read it.
  std::array<std::unique_ptr<pool_spare>, max_spares> spares_;
  std::atomic<unsigned> place_count_{0};

  mutable std::mutex metadata_mutex_; // metadata of spares_, sequences_, doubt_: one batch at a time
  sequence_counter sequences_;
  std::vector<slot_change> doubt_;
  std::vector<slot_change> losers_; // found at the open
  std::atomic<std::size_t> doubt_count_{0};
  unsigned stale_lists_ = 0;    ///< bit a spare: on disk it may list a replica that is given up
  bool record_pending_ = false; ///< a spare is gone and no record says so yet: no table change before
  std::uint64_t session_ = 0;   ///< of the last record,
  unsigned session_for_ = 0;    ///< and the spares that were present, bit a spare
  bool writable_ = false;
  bool degraded_ = false;
  unsigned protect_tries_ = 0; // a host that fails again and again is not tried for ever,
  unsigned protect_wait_ = 0; ///< and one that is full not at every batch: so many go by before the next try,
  unsigned protect_pause_ = 0; ///< and as many the time before
  struct hosted_run {
    unsigned host = 0;
    std::uint32_t start = 0, units = 0;
  };
  std::vector<hosted_run> to_unhost_; ///< given up for want of space only, and perhaps still listed on disk

  mutable std::mutex map_mutex_; // writers of map_
  remap_map map_;
  old_slots old_; // under map_mutex_
  /// Units whose move was in doubt when the spare went that they were to move to, and what they were before;
  /// nothing where that was such a unit, too. Until one gets a place for sure, an old slot may be what holds
  /// it. Under map_mutex_.
  std::unordered_map<std::uint64_t, std::optional<map_entry>> doubted_;

  mutable std::mutex allocation_mutex_;
};

} // namespace dmremap
