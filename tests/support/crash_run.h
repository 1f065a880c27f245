// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/disk.h"
#include "tests/support/crash_store.h"
#include "tests/support/oracle.h"

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

namespace dmremap::test {

/// A set as it lies on its two devices, what is wrong with them, and what a reader may see.
struct set_state {
  page_image main, spare;
  fault_table main_faults, spare_faults;
  oracle truth{0};
  std::set<std::uint64_t> mapped;               ///< main units
  std::map<std::uint64_t, version> lost_values; ///< lost sectors: what main held when they were lost
  std::uint32_t main_block = 512, spare_block = 512;
};

/// A fresh set: `units` main units whose sectors all hold version 1, a spare of 16 MiB, fixed UUIDs.
[[nodiscard]] set_state format_set(std::uint64_t units, std::uint32_t main_block = 512,
                                   std::uint32_t spare_block = 512);

/// Opens a set on crash stores and carries out operations, telling the oracle beforehand and afterwards what
/// may be seen. Whatever goes otherwise than expected is noted in violations(). One thread.
class crash_run {
public:
  crash_run(const set_state& start, const open_options& options);
  ~crash_run();

  /// Decides on writes to a member from now on; see write_fate.
  void set_spare_fate(crash_store::fate_rule rule) { spare_->set_fate(std::move(rule)); }
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
  /// Spare unit `source` must never have been used: it shows zeros.
  void add_remap(std::uint64_t unit, std::uint64_t source);
  void close_and_reopen();
  /// As if the process was killed: the drives keep what is in their caches.
  void kill_and_reopen();
  /// After so many good ones, so many flushes of a member (0 main, 1 the spare) fail, and lose what they
  /// should have made durable.
  void fail_flushes(unsigned device, std::uint64_t good, std::uint64_t times);
  /// Main cannot write the unit from now on.
  void break_writes(std::uint64_t unit);
  /// Main cannot read the sectors until they are written there.
  void break_reads(std::uint64_t first, std::uint64_t count);
  /// Main can read again.
  void heal_reads();
  /// Sectors of the spare that fail from now on.
  void break_spare(bad_range range);

  /// Ends the part of the log that is replayed, then reads every sector once and compares.
  void finish();
  /// Events so far: the replay of a later operation starts here.
  [[nodiscard]] std::size_t position() const { return log_->size(); }
  [[nodiscard]] std::size_t last_position() const { return last_; }

  [[nodiscard]] const crash_log& log() const { return *log_; }
  [[nodiscard]] bool flush_has_failed(unsigned device) const {
    return (device == 0 ? main_memory_ : spare_memory_)->failed_flushes() != 0;
  }
  /// The state of affairs in an epoch of the log, without images.
  [[nodiscard]] const set_state& at_epoch(std::size_t epoch) const { return epochs_.at(epoch); }
  /// Everything as it is now, images too.
  [[nodiscard]] set_state state() const;
  [[nodiscard]] const std::vector<std::string>& violations() const { return violations_; }

private:
  enum class change { none, table, impossible };
  [[nodiscard]] change foresee_write(std::uint64_t unit, std::uint64_t first, std::uint64_t count) const;
  [[nodiscard]] bool touches_lost(std::uint64_t first, std::uint64_t count) const;
  [[nodiscard]] bool write_bad(std::uint64_t unit) const;
  void mark(const std::string& label);
  void note(const std::string& what);
  void note_failure(const std::string& what);
  void ask_what_is_mapped();
  void settle_write(std::uint64_t first, std::uint64_t count, bool done, bool expected);
  void lose(std::uint64_t sector);

  std::shared_ptr<crash_log> log_ = std::make_shared<crash_log>();
  std::shared_ptr<memory_store> main_memory_, spare_memory_;
  std::shared_ptr<crash_store> main_, spare_;
  open_options options_;
  set_state now_; // its images are not kept up: the stores have them
  std::vector<set_state> epochs_;
  std::unique_ptr<disk> disk_;
  std::unique_ptr<io_context> context_;
  std::size_t last_ = 0;
  bool tolerant_ = false;
  std::vector<std::string> violations_;
};

} // namespace dmremap::test
