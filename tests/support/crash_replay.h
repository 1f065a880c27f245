// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "tests/support/crash_store.h"

#include <cstdint>
#include <functional>
#include <string>
#include <unordered_set>
#include <vector>

namespace dmremap::test {

/// How far a replay goes at each crash point.
struct replay_limits {
  unsigned exhaustive = 6; ///< up to this many unflushed writes of a device: every subset
  unsigned samples = 24; ///< beyond: none, all, prefixes, all but one, only one, and this many random subsets
  unsigned random_tears = 2;  ///< random masks of sectors for each torn write, besides prefixes and suffixes
  unsigned torn_together = 8; ///< states in which every unflushed write is torn, each at a place of its own
  std::size_t combinations = 256; ///< of the states of several devices, at most
  bool tears = true;
  std::size_t first_event = 0; ///< crash points before this many events are left out
  std::size_t last_event = static_cast<std::size_t>(-1);
  std::uint64_t seed = 1;
};

/// What one device may hold after a crash, and how that came about.
struct device_state {
  page_image content;
  std::uint64_t hash = 0;
  std::string how; ///< which unflushed writes are there: "+12 -13 ~14" (kept, gone, torn), numbers of the log
};

struct crash_state {
  std::size_t point = 0; ///< the crash came after this many events of the log
  std::size_t epoch = 0; ///< markers before the crash
  std::vector<const device_state*> devices;
  std::uint64_t hash = 0; ///< of all devices together
  bool fresh = true;      ///< this content was not seen in this replay before (then only the epoch is new)

  [[nodiscard]] std::string describe() const;
};

struct replay_counts {
  std::uint64_t points = 0;          ///< crash points
  std::uint64_t generated = 0;       ///< states, before equal ones were thrown away
  std::uint64_t distinct_images = 0; ///< contents of all devices together
  std::uint64_t checks = 0;          ///< calls of the checker: distinct (image, epoch)
  std::uint64_t sampled_points = 0;  ///< points at which not every subset was tried
};

class state_collector;

/// Walks a log and hands every disk state that a crash may leave behind to a checker.
///
/// At each point a device holds what was flushed, and any subset of what was not, applied in the order of the
/// log: a later write over an earlier one wins where both are there, and "only the later", "only the earlier"
/// and "none" are subsets of their own, so reorderings add no state. On top writes are torn at 512-byte
/// boundaries: one at a time, with none, the earlier or all of the others there; and all together. Devices
/// are independent of each other.
class crash_replay {
public:
  /// The log must outlive the replay and not grow.
  crash_replay(const crash_log& log, replay_limits limits);

  /// Stops early where the checker returns false; then returns false.
  using checker = std::function<bool(const crash_state&)>;
  bool run(const checker& check);

  [[nodiscard]] const replay_counts& counts() const { return counts_; }

private:
  struct pending_write {
    std::size_t event = 0;
    std::vector<write_piece> pieces;
    bool limbo = false; ///< a failed flush gave it up: no later one covers it
  };
  struct device {
    page_image durable;
    std::vector<pending_write> pending;
    std::vector<device_state> states; ///< of `pending`; empty: to be made anew
    bool sampled = false;
  };

  void take_write(std::size_t index, const log_event& event);
  void take_flush(const log_event& event);
  void make_states(device& of);
  void make_subsets(device& of, state_collector& into);
  void make_tears(device& of, state_collector& into);
  void make_torn_together(device& of, state_collector& into);
  bool crash_at(std::size_t point, const checker& check);
  bool hand_out(crash_state& state, const checker& check);
  [[nodiscard]] std::uint64_t random();

  const crash_log& log_;
  const replay_limits limits_;
  std::vector<device> devices_;
  std::size_t epoch_ = 0;
  std::uint64_t random_state_;
  std::unordered_set<std::uint64_t> images_;
  std::unordered_set<std::uint64_t> checked_;
  replay_counts counts_;
};

} // namespace dmremap::test
