// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"
#include "engine/store.h"
#include "engine/units.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace dmremap {

struct set_dump;     // engine/set_dump.h
struct commit_rules; // engine/commit_rules.h: switches the crash tests use to break the order of writes on
                     // purpose

/// A unit that went to a spare because main failed. `lost`: bit i says that sector i of it could not be read.
struct remap_event {
  main_unit main;
  unsigned spare_index = 0;
  spare_unit spare;
  std::uint8_t lost = 0;
  bool writing = false; ///< main failed to write, not to read
};

/// How a set is opened. The defaults are what `fusedisk` uses.
struct open_options {
  bool read_only = false;   ///< nothing at all is written to any member
  bool degraded = false;    ///< open with spares absent
  bool accept_main = false; ///< go on although main does not match what the spare remembers
  /// What this host saw last of the set, disk_info::sequence_end: spares that are older are refused. Nothing:
  /// never seen, or accepted by hand.
  std::optional<std::uint64_t> last_seen;
  bool auto_remap = true;    ///< remap on I/O errors
  unsigned read_retries = 1; ///< times a single sector that failed to read is read again before it is lost
  /// Called with the set's UUID and name once it could be opened, before anything is written: an error ends
  /// the open.
  std::function<result<void>(const std::string&, const std::string&)> check_set;
  /// Called in the thread of the request, after the remap is durable. Must not wait, nor call the disk.
  std::function<void(const remap_event&)> on_remap;
  /// Called with disk_info::sequence_end once a session record is durable on all spares present, before
  /// anything is written under it: at the open and whenever a spare comes or goes. Further, with a higher
  /// number than any before, once the clean mark of close() is durable. What it keeps is
  /// `last_seen` of the next open. At the open it is waited for; later it runs in a thread of its own, and
  /// table changes wait for it no longer than record_wait: what it writes may come back to this very disk.
  /// Then they go on, and info() has a notice until it has returned. It may outlive the disk.
  std::function<void(std::uint64_t)> on_record;
  std::chrono::milliseconds record_wait{5000};
  /// Promise 8: more remaps than this for writes that main failed stop automatic remapping, where they came
  /// within breaker_seconds with fewer writes that main took than failed ones, or, however slowly, without
  /// one between them that it took.
  unsigned breaker_remaps = 64;
  unsigned breaker_seconds = 10;
  const commit_rules* rules = nullptr; ///< tests only
};

/// What `create` puts on a spare.
struct format_options {
  std::string name; ///< 1 to 63 bytes: letters, digits, '-', '_', '.', '+'; not starting with '-' or '.'
  std::optional<std::string> set_uuid;   ///< tests only: fixed instead of random
  std::optional<std::string> spare_uuid; ///< tests only
};

/// One remapped unit, as `table` shows it.
struct remap_entry {
  main_unit main;
  unsigned spare_index = 0;
  spare_unit spare;
  std::uint8_t lost = 0;            ///< bit i: sector i of the unit is lost
  std::uint8_t main_may_answer = 0; ///< bit i: salvage may read sector i from main
  bool by_hand = false;             ///< made by remap or add_remap, not by an error
  std::uint64_t sequence = 0; ///< 0: its last change is in doubt on a spare that went in the middle of it
};

/// Snapshot of the counters. All since open but where noted.
struct disk_stats {
  std::uint64_t reads = 0, writes = 0, flushes = 0, zeroes = 0; ///< requests
  std::uint64_t read_bytes = 0, written_bytes = 0;
  std::uint64_t main_read_errors = 0, main_write_errors = 0, spare_read_errors = 0, spare_write_errors = 0;
  std::uint64_t spare_host_full_errors =
      0; ///< writes to a spare whose host had no space: its hardware is well
  std::uint64_t flush_errors = 0, lost_reads = 0, slow_requests = 0;
  std::uint64_t remapped_units = 0, auto_remapped_units = 0,
                manual_remapped_units = 0; ///< active now: all, by errors, by hand
  std::uint64_t auto_remaps = 0, manual_remaps = 0, lifetime_allocations = 0; ///< over the life of the set
  std::uint64_t lost_sectors = 0;                                             ///< now
  std::uint64_t saves_tried = 0, saves_done = 0; ///< commits of metadata, over the life of the set
  bool auto_remap = true;
  bool breaker_open = false; ///< automatic remapping stopped (promise 8) until reset_breaker
  bool main_gone = false;
  std::string state; ///< "ok", "lost sectors", "read-only", "main does not answer", "breaker open", ...
};

struct spare_status {
  unsigned index = 0; ///< its place in the set's list
  std::string uuid, path;
  bool present = true;            ///< false: its units answer EIO, but where it is
  bool readable = false;          ///< not present because it takes no writes: what it holds is read
  bool draining = false;          ///< takes no new data
  bool host_full = false;         ///< a write failed for want of space on its host; none has shown room since
  int protected_by = -1;          ///< index of the spare that holds a copy of its map; -1: none
  std::uint64_t units = 0;        ///< all
  std::uint64_t usable_units = 0; ///< less metadata and retired
  std::uint64_t allocated_units = 0;
  /// That a remap can be given now: behind the spare's head, which is for add_remap by hand, in parts of the
  /// table that can be written; 0 where it takes no new data.
  std::uint64_t free_units = 0;
  std::uint64_t sequence = 0;        ///< of the newest superblock
  unsigned super_copies_valid = 0;   ///< of the five fixed ones, read from the medium now
  unsigned head_copies_valid = 0;    ///< of the five at the replicas' heads
  unsigned weakest_block_copies = 0; ///< the fewest good replicas that any initialised chunk has
  bool clean = false;
  bool direct = true;
};

struct disk_info {
  std::string set_name, set_uuid, main_path;
  std::uint64_t main_sectors = 0;
  std::uint32_t main_block_bytes = 512; ///< logical block of a device; a file has 512
  bool read_only = false;
  bool main_direct = true;
  std::uint64_t sequence_end = 0; ///< no number at or above it was ever used; grows with every session
  std::vector<spare_status> spares;
  std::vector<std::string> notices; ///< what happened at the open and what protection is left, in plain words
};

struct remap_reply {
  std::uint64_t units = 0;        ///< newly remapped
  std::uint64_t already = 0;      ///< were mapped so before
  std::uint64_t lost_sectors = 0; ///< of the new ones
  sector_number spare_sector;     ///< where the first unit is now
};

/// What is newer than what main holds: fills in sectors of a unit's data, and tells which (bit i: sector i).
using newer_data = std::function<result<std::uint8_t>(main_unit, std::span<std::byte> data)>;

struct evacuate_reply {
  std::uint64_t moved = 0;        ///< units
  std::uint64_t lost_sectors = 0; ///< that the spare could not give any more
};

struct forget_reply {
  std::uint64_t units = 0;        ///< that become lost
  std::uint64_t lost_sectors = 0; ///< in them, newly
  std::uint64_t free_units = 0;   ///< on the remaining spares, that a remap can be given
};

struct salvage_reply {
  std::uint64_t tried = 0; ///< lost sectors read from main
  std::uint64_t recovered = 0;
  std::uint64_t not_allowed = 0; ///< lost sectors for which main may not answer
  std::uint64_t still_lost = 0;
};

struct lost_range {
  sector_number first;
  std::uint64_t count = 0;
};

/// What one thread needs to do I/O: its published range and its buffers. One thread at a time.
class io_context {
public:
  /// Called when a request leaves the fast path (an error, a frozen unit, a table change), before anything
  /// that may wait long; and when it is back. fusedisk puts another thread in the receiver's place meanwhile.
  std::function<void()> on_slow, on_fast;
  ~io_context();
  io_context(const io_context&) = delete;
  io_context& operator=(const io_context&) = delete;

  struct impl; ///< the engine's own

private:
  friend class disk;
  io_context();
  std::unique_ptr<impl> impl_;
};

/// The virtual disk: one open set. Thread-safe but for close(). Offsets and lengths are bytes of any
/// alignment; a request that leaves [0, size()) fails with io_error::invalid and changes nothing.
class disk {
public:
  /// Formats `spare` for `main`. The caller has checked that both may be used (engine/safety.h). Returns the
  /// set's UUID. Durable on return. On an error nothing that was there stays recognisable as half a set.
  [[nodiscard]] static result<std::string> format(store& main, std::span<store* const> spares,
                                                  const format_options& options);
  /// Opens a set: reads all metadata, chooses, mends (unless read_only), and is ready for I/O on return.
  [[nodiscard]] static result<std::unique_ptr<disk>>
  open(std::shared_ptr<store> main, std::vector<std::shared_ptr<store>> spares, const open_options& options);
  /// As close(), ignoring errors, but does not write "clean" where close() was not called.
  ~disk();

  [[nodiscard]] std::uint64_t size() const;       ///< bytes
  [[nodiscard]] std::uint32_t block_size() const; ///< the largest block size of a member: best alignment
  [[nodiscard]] std::unique_ptr<io_context> make_context();

  /// Promise 1 and 2. On an error the buffer's content means nothing.
  [[nodiscard]] io_result read(io_context&, std::span<std::byte> buffer, std::uint64_t offset);
  /// Promise 3. Durable after the next flush(); what went through a table change is durable already.
  [[nodiscard]] io_result write(io_context&, std::span<const std::byte> buffer, std::uint64_t offset);
  /// On success every write answered before the call is durable on every member that it went to.
  [[nodiscard]] io_result flush();
  /// The range reads as zeros afterwards, or io_error::unsupported and nothing was changed.
  [[nodiscard]] io_result zero(io_context&, std::uint64_t offset, std::uint64_t length);

  /// Moves the units that hold these sectors to spares with their data; those that are there already are
  /// counted. 16 units go in one table change, durable before the next; what was moved before an error stays.
  /// `newer`: asked for each unit that is moved, before it is; its error ends the move.
  [[nodiscard]] result<remap_reply> remap(sector_number sector, std::uint64_t sectors = 1,
                                          const newer_data& newer = {});
  /// Writes the unit back to main, reads it back and forgets it. Durable on return.
  [[nodiscard]] result<void> unmap(sector_number sector);
  /// Message add_remap of product.md; `source` nothing: "auto". Checked whole before anything changes.
  [[nodiscard]] result<remap_reply> add_remap(sector_number dest, std::optional<sector_number> source,
                                              std::uint64_t sectors, unsigned spare_index = 0);
  /// Lost sectors of the unit that holds `sector`, or all. `progress(done, all)` of units is called before
  /// each of them and at the end.
  [[nodiscard]] result<salvage_reply>
  salvage(std::optional<sector_number> sector,
          const std::function<void(std::uint64_t, std::uint64_t)>& progress = {});
  /// Metadata written (all good copies) and every member flushed.
  [[nodiscard]] result<void> sync();
  /// Superblock written anew with the counters of now.
  [[nodiscard]] result<void> save();
  [[nodiscard]] result<void> rename(const std::string& new_name);

  /// Whether the set can take a spare now, for whoever is to change `path` first: a record that is on its way
  /// is durable on return. Errors: "too-many-spares", "format-failed" (nothing changed), "read-only",
  /// "stopping".
  [[nodiscard]] result<void> ready_for_spare(const std::string& path);
  /// Formats a member and takes it into the set; the caller has checked that it may be used. Its place in the
  /// list. Durable on return. Errors: "too-many-spares", "spare-too-small", "format-failed", "add-in-doubt"
  /// (the set may list it: it is asked for at the next open), "read-only".
  [[nodiscard]] result<unsigned> add_spare(std::shared_ptr<store> io);
  /// Takes a spare that serves nothing out of the set and erases its metadata. Durable on return. Errors:
  /// "spare-in-use" ("Cannot remove spare PATH: N active allocations"), "last-spare", "no-such-spare". False:
  /// it is out of the set, but not all of its superblocks could be erased.
  [[nodiscard]] result<bool> remove_spare(unsigned index);
  /// What that would refuse at once; nothing is changed.
  [[nodiscard]] result<void> plan_remove(unsigned index) const;
  /// How many units evacuate_spare() would move. Errors: as that one's, found before anything is moved.
  [[nodiscard]] result<std::uint64_t> plan_evacuate(unsigned index, bool partial = false);
  /// Moves all that a spare holds to the others; from now on it takes no new data. Unit by unit, I/O goes on.
  /// `progress(done, all)` is called before each unit; false ends the work: what was moved stays moved, and
  /// calling again goes on. Errors: "read-only", "no-such-spare", "spare-absent", "last-spare", "cancelled";
  /// "no-spare-capacity" with the shortfall: nothing was changed, or, where other remaps took the room
  /// meanwhile, or where it was to move as many as fit (`partial`), how far it came.
  [[nodiscard]] result<evacuate_reply>
  evacuate_spare(unsigned index, const std::function<bool(std::uint64_t, std::uint64_t)>& progress = {},
                 bool partial = false);
  /// Ends evacuation's ban on new data.
  void refill_spare(unsigned index);
  /// What forget_spare() would do. Errors: as that one's, found before anything is lost.
  [[nodiscard]] result<forget_reply> plan_forget(unsigned index);
  /// An absent spare that will not come back: each of its units becomes lost on the remaining spares, many in
  /// one table change, then the set does not list it any more. The places for all of them are taken before
  /// the first becomes lost: "no-spare-capacity" (with the shortfall) means that none did. Durable on return.
  /// A failure of a spare, or the end of the process, may leave some lost and the others on the absent spare:
  /// the error says how many, and to call again goes on. Further errors: "spare-present", "last-spare",
  /// "no-such-spare".
  [[nodiscard]] result<forget_reply> forget_spare(unsigned index);
  /// The set is about to be closed: changes by hand that are under way end before their next unit, all others
  /// are refused from now on (remap, unmap, add_remap, salvage, and those of spares), each with "stopping".
  /// What they had done by then is whole and durable, and the error says how much that was. Returns at once.
  /// I/O, flush(), sync(), save(), rename() and close() are as before.
  void end_changes();
  /// Place of the spare with this UUID or path; nothing where there is none.
  [[nodiscard]] std::optional<unsigned> find_spare(const std::string& uuid_or_path);

  void set_auto_remap(bool on);
  void set_read_retries(unsigned n);
  void set_breaker(unsigned remaps, unsigned seconds);
  void clear_stats();
  void reset_breaker();

  [[nodiscard]] disk_stats stats() const; ///< never waits for I/O
  [[nodiscard]] result<disk_info> info(); ///< reads superblock copies: may wait for the spare
  /// In ascending order of main. A snapshot unit by unit, not of one instant.
  void for_each_remap(const std::function<void(const remap_entry&)>& visit) const;
  [[nodiscard]] std::vector<lost_range> lost() const;

  /// All metadata at one instant; table changes wait while it is copied (24 bytes a remap).
  [[nodiscard]] std::shared_ptr<const set_dump> dump() const;

  /// Flushes all, makes every copy equal, writes "clean". No I/O may be under way. Idempotent.
  [[nodiscard]] result<void> close();

  struct impl; ///< the engine's own

private:
  disk();
  std::unique_ptr<impl> impl_;
};

} // namespace dmremap
