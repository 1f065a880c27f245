// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/disk.h"
#include "engine/error.h"
#include "fusedisk/log.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace dmremap {

class dust_control; // engine/dust_store.h

/// What is known about the daemon without asking any drive.
struct daemon_facts {
  std::string mountpoint, image;
  std::uint64_t pid = 0;
  std::uint64_t requests_away = 0; ///< requests that left the fast path and are not answered yet
  std::uint64_t oldest_request_ns = 0;
};

/// What disk::info() last said, and how long ago that was.
struct dated_info {
  disk_info info;
  double age_seconds = 0;
};

/// A member that is to become a spare.
struct spare_add_request {
  std::string member;            ///< as parse_member() takes it, with a whole path
  std::vector<std::string> wipe; ///< types of signatures that may go
  std::string destroy_set;       ///< UUID of a set that may go
  bool sparse = false;           ///< a file is left with the space that it has
  bool dry_run = false;
};

struct spare_add_reply {
  std::string member, uuid; ///< no UUID in a dry run
  unsigned index = 0;
  std::uint64_t units = 0;        ///< that it gives to the set
  std::vector<std::string> wiped; ///< types of what went, or would go
  std::string configuration;      ///< what could not be kept, in words; empty: all is well
};

struct spare_change_reply {
  std::string member, uuid;
  std::string configuration; ///< as above
  bool erased = true;        ///< else some of its superblocks are still on it
  bool freed = true;         ///< else other members of the set lie on the same device, and its claim is one
};

struct spare_forget_reply : forget_reply {
  std::string configuration; ///< as above
};

/// Of the salvage that runs, or of the last one.
struct salvage_state {
  bool running = false;
  std::uint64_t done = 0, all = 0; ///< units
};

/// An evacuation that runs, or the last one that ran.
struct evacuation_state {
  std::uint64_t number = 0; ///< counts them; 0: there was none
  bool running = false;
  std::string uuid, path;          ///< of the spare
  std::uint64_t done = 0, all = 0; ///< units
  evacuate_reply moved;            ///< of one that came to its end
  std::optional<error> failed;     ///< of one that did not; "cancelled" among them
};

/// A running set as messages and commands see it; a test puts a fake here. Thread-safe.
class control_target {
public:
  virtual ~control_target() = default;
  control_target() = default;
  control_target(const control_target&) = delete;
  control_target& operator=(const control_target&) = delete;

  // These never wait for a drive.
  [[nodiscard]] virtual disk_stats stats() const = 0;
  [[nodiscard]] virtual daemon_facts facts() const = 0;
  /// Asks the disk, but waits no longer than `limit`: then what it said last (at the latest when it was
  /// opened).
  [[nodiscard]] virtual dated_info info(std::chrono::milliseconds limit) = 0;
  virtual void for_each_remap(const std::function<void(const remap_entry&)>& visit) const = 0;
  [[nodiscard]] virtual std::vector<lost_range> lost() const = 0;
  [[nodiscard]] virtual std::shared_ptr<const set_dump>
  dump() const = 0; ///< waits for a table change under way
  [[nodiscard]] virtual unsigned read_retries() const = 0;
  [[nodiscard]] virtual log_level logging() const = 0;
  virtual void set_auto_remap(bool on) = 0;
  virtual void set_read_retries(unsigned n) = 0;
  virtual void set_logging(log_level level) = 0;
  virtual void clear_stats() = 0;
  virtual void reset_breaker() = 0;

  // These may take as long as a drive does.
  [[nodiscard]] virtual std::vector<std::string> loops() const = 0;
  [[nodiscard]] virtual result<remap_reply> remap(sector_number sector, std::uint64_t sectors) = 0;
  [[nodiscard]] virtual result<void> unmap(sector_number sector) = 0;
  [[nodiscard]] virtual result<remap_reply> add_remap(sector_number dest, std::optional<sector_number> source,
                                                      std::uint64_t sectors, unsigned spare_index) = 0;
  [[nodiscard]] virtual result<salvage_reply> salvage(std::optional<sector_number> sector) = 0;
  [[nodiscard]] virtual result<void> sync() = 0;
  [[nodiscard]] virtual result<void> save() = 0;
  [[nodiscard]] virtual result<void> rename(const std::string& new_name) = 0;
  /// The dust member called "main", "spare0" (its place in the set) or by its path. Errors: "no-such-store",
  /// "not-dust".
  [[nodiscard]] virtual result<std::shared_ptr<dust_control>> dust(const std::string& store) = 0;

  /// Checks the member as `create` does, claims it, formats it and takes it into the set and its
  /// configuration. Errors: those of parse_member, open_members, probe_signatures, check_spare,
  /// check_surroundings, check_configured, preallocation::take, disk::add_spare and of the configuration;
  /// "member-is-image".
  [[nodiscard]] virtual result<spare_add_reply> spare_add(const spare_add_request& request) = 0;
  // A spare is meant by its UUID: its place may be another one's by the time that the change is made. Where
  // the set has it no more: "no-such-spare".

  /// Errors: those of disk::remove_spare, "evacuation-running".
  [[nodiscard]] virtual result<spare_change_reply> spare_remove(const std::string& uuid, bool dry_run) = 0;
  /// Errors: those of disk::forget_spare.
  [[nodiscard]] virtual result<spare_forget_reply> spare_forget(const std::string& uuid, bool dry_run) = 0;
  /// Begins to empty a spare, in a thread of its own. Errors: "evacuation-running", and what
  /// disk::evacuate_spare refuses at once. `dry_run`: nothing begins; the state that it would have, not
  /// running. `partial`: as many units as the other spares have room for.
  [[nodiscard]] virtual result<evacuation_state> spare_evacuate(const std::string& uuid, bool dry_run,
                                                                bool partial) = 0;
  /// Returns when it has stopped. Errors: "no-evacuation".
  [[nodiscard]] virtual result<void> stop_evacuation() = 0;
  /// Lets a spare take new data again. Errors: "evacuation-running".
  [[nodiscard]] virtual result<void> spare_refill(const std::string& uuid) = 0;
  [[nodiscard]] virtual evacuation_state evacuation() const = 0; ///< waits for no drive
  [[nodiscard]] virtual salvage_state salvaging() const = 0;     ///< waits for no drive
  /// Takes the mount away; the daemon then ends. Errors: "image-in-use", "unmount-failed".
  [[nodiscard]] virtual result<void> stop() = 0;
};

} // namespace dmremap
