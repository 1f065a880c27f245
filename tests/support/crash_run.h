// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/disk.h"
#include "engine/uuid.h"
#include "tests/support/crash_store.h"
#include "tests/support/oracle.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace dmremap::test {

/// What a device that may be a spare is to the set.
enum class spare_role : std::uint8_t {
  member,
  away,     ///< a member that does not answer, or is not given to the open; the next open may have it back
  adding,   ///< is just being taken in: a crash leaves it in or out
  removing, ///< is just being taken out
  none,     ///< not of the set
};

struct spare_part {
  page_image content;
  fault_table faults;
  std::uint32_t block = 512;
  spare_role role = spare_role::member;
  unsigned place = 0; ///< in the set's list, while it is a member
};

/// A set as it lies on its devices, what is wrong with them, and what a reader may see.
struct set_state {
  page_image main;
  fault_table main_faults;
  std::uint32_t main_block = 512;
  std::vector<spare_part> spares;
  oracle truth{0};
  std::set<std::uint64_t> mapped;               ///< main units
  std::set<std::uint64_t> away_units;           ///< of them: on a spare that is away
  std::map<std::uint64_t, version> lost_values; ///< lost sectors: what main held when they were lost
  std::set<std::uint64_t> chosen_units; ///< spare units that an add_remap has named: no zeros any more

  std::uint64_t drawn = 0; ///< numbers that were drawn on the way here where a program draws random ones

  [[nodiscard]] page_image& spare() { return spares.front().content; }
  [[nodiscard]] const page_image& spare() const { return spares.front().content; }
  [[nodiscard]] bool pool() const { return spares.size() > 1; }
  [[nodiscard]] bool degraded() const {
    return std::any_of(spares.begin(), spares.end(),
                       [](const spare_part& p) { return p.role == spare_role::away; });
  }
};

/// The path by which a run's spare is known.
[[nodiscard]] std::string spare_name(std::size_t n);
[[nodiscard]] std::shared_ptr<memory_store> make_spare(const spare_part& of, std::size_t n);

/// A fresh set: `units` main units whose sectors all hold version 1, a spare, fixed UUIDs.
[[nodiscard]] set_state format_set(std::uint64_t units, std::uint32_t main_block = 512,
                                   std::uint32_t spare_block = 512, std::uint64_t spare_bytes = 16 << 20);
/// The same with several spares, and so many blank devices that could become spares.
[[nodiscard]] set_state format_pool(std::uint64_t units, unsigned spares, unsigned blanks);

/// Numbers for what is tried on the disks of a state alone: none that those who made it may have drawn, nor
/// what they draw later on.
[[nodiscard]] inline std::uint64_t numbers_apart(const set_state& state) {
  return state.drawn + (std::uint64_t{1} << 32);
}

/// Opens a set on crash stores and carries out operations, telling the oracle beforehand and afterwards what
/// may be seen. Whatever goes otherwise than expected is noted in violations(). One thread, whose session
/// numbers and UUIDs are counted from the start's until finish(): runs that begin alike write alike.
class crash_run {
public:
  crash_run(const set_state& start, const open_options& options);
  crash_run(const crash_run&) = delete;
  crash_run& operator=(const crash_run&) = delete;
  ~crash_run();

  /// Decides on writes to a member from now on; see write_fate.
  void set_spare_fate(crash_store::fate_rule rule) { spares_.front()->set_fate(std::move(rule)); }
  void set_main_fate(crash_store::fate_rule rule) { main_->set_fate(std::move(rule)); }
  /// Requests may fail from now on, and be completed later: nothing is noted for that, what is remapped is
  /// asked of the disk, and only the data are judged.
  void tolerate_failures() { tolerant_ = true; }
  /// False where the set does not open; noted.
  bool open();
  /// After the open of what a crash left behind: reads everything, and takes what is seen for what is there.
  void adopt();

  void write(std::uint64_t first, std::uint64_t count);
  void zero(std::uint64_t first, std::uint64_t count);
  void flush();
  void read(std::uint64_t first, std::uint64_t count);
  void remap(std::uint64_t unit);
  void unmap(std::uint64_t unit);
  void salvage();
  void sync();
  /// Spare unit `source` or, where that was named before, one behind it must never have been used: it shows
  /// zeros.
  void add_remap(std::uint64_t unit, std::uint64_t source);
  void close_and_reopen();
  /// As if the process was killed: the drives keep what is in their caches.
  void kill_and_reopen();
  /// After so many good ones, so many flushes of a member (0 main, 1 the spare) fail, and lose what they
  /// should have made durable.
  void fail_flushes(unsigned device, std::uint64_t good, std::uint64_t times);
  /// One of spare `n` that somebody else asks for; see crash_store.
  void fail_flush_between(unsigned n, std::uint64_t asked) { spares_.at(n)->fail_flush_between(asked); }
  [[nodiscard]] bool has_failed_between(unsigned n) const { return spares_.at(n)->has_failed_between(); }
  /// Main cannot write the unit from now on.
  void break_writes(std::uint64_t unit);
  /// Main cannot read the sectors until they are written there.
  void break_reads(std::uint64_t first, std::uint64_t count);
  /// Main can read again.
  void heal_reads();
  /// Sectors of a spare that fail from now on.
  void break_spare(bad_range range, unsigned n = 0);
  /// No sector of the spare fails any more.
  void heal_spare(unsigned n = 0);

  // Sets of several spares. Spares are numbered as in the state, not by their place in the set's list.
  /// Serves the unit from the spare and writes all of it; only where the spare's free units were never used.
  void put_on(unsigned n, std::uint64_t unit);
  void add_spare();
  void remove_spare(unsigned n);
  void evacuate(unsigned n);
  /// From now on the spare does not answer; after so many more writes. Nothing is done where no spare would
  /// be left.
  void vanish(unsigned n, std::uint64_t good_writes = 0);
  /// Killed, and opened again with every spare that was away.
  void reopen_with_all();
  /// Killed, and opened again with this one of those that were away.
  void reopen_with(unsigned n);
  /// Killed, and opened again without the spare. Nothing is done where no spare would be left.
  void reopen_without(unsigned n);
  /// The first spare that is away will not come back.
  void forget();
  /// The place that serves the unit cannot be written (read) from now on; then the sectors are written
  /// (read).
  void write_on_bad_place(std::uint64_t unit, std::uint64_t first, std::uint64_t count);
  void read_from_bad_place(std::uint64_t unit);

  /// Ends the part of the log that is replayed, then reads every sector once and compares.
  void finish();
  /// Events so far: the replay of a later operation starts here.
  [[nodiscard]] std::size_t position() const { return log_->size(); }
  [[nodiscard]] std::size_t last_position() const { return last_; }

  [[nodiscard]] const crash_log& log() const { return *log_; }
  [[nodiscard]] bool flush_has_failed(unsigned device) const { return memory(device).failed_flushes() != 0; }
  /// The state of affairs in an epoch of the log, without images.
  [[nodiscard]] const set_state& at_epoch(std::size_t epoch) const { return epochs_.at(epoch); }
  /// Everything as it is now, images too.
  [[nodiscard]] set_state state() const;
  [[nodiscard]] const std::vector<std::string>& violations() const { return violations_; }

private:
  enum class change { none, table, impossible };
  struct place {
    unsigned spare = 0; ///< number in the state
    std::uint64_t unit = 0;
    unsigned lost = 0;
    bool operator==(const place&) const = default;
  };
  using place_map = std::map<std::uint64_t, place>;
  [[nodiscard]] memory_store& memory(unsigned device) const {
    return device == 0 ? *main_memory_ : *spare_memory_.at(device - 1);
  }
  [[nodiscard]] std::vector<unsigned> given() const;
  [[nodiscard]] result<void> try_open(bool with_in_flight);
  void settle_roles();
  void look_where();
  void settle_moved(const place_map& before);
  [[nodiscard]] bool may_fail(std::uint64_t first, std::uint64_t count) const;
  [[nodiscard]] bool some_away() const { return now_.degraded(); }
  [[nodiscard]] bool is_away(unsigned n) const { return now_.spares.at(n).role == spare_role::away; }
  [[nodiscard]] bool is_member(unsigned n) const {
    return n < now_.spares.size() && now_.spares[n].role == spare_role::member;
  }
  void come_back(unsigned n);
  void leave_caches_behind();
  [[nodiscard]] bool refused_rightly(const error& why) const;
  [[nodiscard]] bool named_by_one_away(std::uint64_t unit) const;
  [[nodiscard]] bool on_a_dying_spare(std::uint64_t unit) const;
  [[nodiscard]] bool others_take_data(unsigned n) const;
  [[nodiscard]] bool meets_a_vanishing(const std::string& what);
  [[nodiscard]] change foresee_write(std::uint64_t unit, std::uint64_t first, std::uint64_t count) const;
  [[nodiscard]] bool is_lost_now(std::uint64_t first, std::uint64_t count) const;
  [[nodiscard]] bool write_bad(std::uint64_t unit) const;
  [[nodiscard]] result<void> open_what_is_there();
  void mark(const std::string& label);
  void note(const std::string& what);
  void note_failure(const std::string& what);
  void ask_what_is_mapped();
  void settle_write(std::uint64_t first, std::uint64_t count, bool done, bool expected);
  void lose(std::uint64_t sector);

  std::shared_ptr<crash_log> log_ = std::make_shared<crash_log>();
  std::shared_ptr<memory_store> main_memory_;
  std::vector<std::shared_ptr<memory_store>> spare_memory_;
  std::shared_ptr<crash_store> main_;
  std::vector<std::shared_ptr<crash_store>> spares_;
  open_options options_;
  set_state now_; // its images are not kept up: the stores have them
  std::vector<set_state> epochs_;
  std::unique_ptr<disk> disk_;
  std::unique_ptr<io_context> context_;
  std::size_t last_ = 0;
  bool tolerant_ = false;
  place_map where_; ///< of sets of several spares
  std::set<unsigned> draining_;
  unsigned vanishings_ = 0;                ///< since the open
  std::map<std::string, unsigned> met_at_; ///< by kind of request: how many there were when one failed last
  std::vector<std::string> violations_;
  std::optional<counted_numbers> numbers_; // into now_
};

} // namespace dmremap::test
