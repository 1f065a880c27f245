// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "tests/support/crash_replay.h"
#include "tests/support/crash_run.h"
#include "tests/support/spare_check.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace dmremap::test {

using absent_spares = std::vector<unsigned>; ///< numbers in the state

struct judge_options {
  open_options open;
  replay_limits limits;
  unsigned mending_every =
      40; ///< of every so many new images, crashes during the open itself are replayed; 0: none
  /// What is done after such an open, before it crashes again; the number varies it. Nothing: only the open.
  std::function<void(crash_run&, std::uint64_t)> after_open;
  /// Checks and repairs the spares but those absent; returns what is wrong with that. What it leaves behind
  /// is then opened and held against the oracle like the image itself.
  std::function<std::string(set_state&, const absent_spares&)> repair;
  unsigned repair_every = 0; ///< of every so many new images; 0: none
  unsigned reopen_every = 4; ///< every so many new images are opened a second time; 0: none
  bool expect_full_copies =
      true;                  ///< all copies of everything are good after an open (no faults on the spare)
  unsigned absent_every = 2; ///< of sets of several spares, every so many new images are opened without one
  std::optional<unsigned> only_absent; ///< then without this one; else without each in turn
  std::size_t most_violations = 3;     ///< then the judge stops
  /// Gathers the images that were checked, by 64 bits of hash over what the disks hold: the same one left by
  /// two sequences counts once, whatever sectors fail then. Not those of crashes after a crash. Nothing: not
  /// gathered.
  std::unordered_set<std::uint64_t>* images = nullptr;
};

struct judge_counts {
  std::uint64_t degraded_opens = 0, refused_opens = 0; ///< without a spare; refused: it has no protection
  std::uint64_t repairs = 0;                           ///< images that were checked and repaired, too
  std::uint64_t distinct_images = 0, checks = 0, mending_images = 0, sampled_points = 0, points = 0;
  judge_counts& operator+=(const judge_counts& more);
};

/// Opens what a crash left behind and holds it against the oracle, and the metadata against the format.
/// Not thread-safe.
class crash_judge {
public:
  explicit crash_judge(judge_options options) : options_(std::move(options)) {}

  /// Replays the log from event `from` on. False where something was found, now or before.
  bool judge(const crash_run& run, const std::string& name, std::size_t from = 0);

  [[nodiscard]] const std::vector<std::string>& violations() const { return violations_; }
  [[nodiscard]] const judge_counts& counts() const { return counts_; }

private:
  struct observation {
    std::string failure; ///< what is wrong whatever the oracle says
    std::vector<version> sectors;
    // and without some of the spares, then with them again
    std::vector<version> without;
    std::set<std::uint64_t> may_fail; ///< units that the tables of those spares name
    std::uint64_t written = no_unit;  ///< unit that was written as a whole meanwhile
    std::vector<version> back;
    std::string which;
    std::shared_ptr<const observation> repaired; ///< of a copy of the image
  };
  static constexpr std::uint64_t no_unit = static_cast<std::uint64_t>(-1);
  struct devices;
  [[nodiscard]] set_state state_after(const crash_run& run, const crash_state& crash) const;
  const observation& observe(const set_state& state, std::uint64_t key);
  [[nodiscard]] observation look(const set_state& state);
  [[nodiscard]] observation repair_and_look(set_state state);
  [[nodiscard]] bool may_do_without(const set_state& state, const absent_spares& absent);
  void look_without(const set_state& state, const absent_spares& absent, observation& seen);
  [[nodiscard]] bool maps_known_without(const set_state& state, const absent_spares& absent);
  void choose_who_comes(set_state& state);
  [[nodiscard]] std::string check_metadata(const set_state& state, const devices& on, disk& opened);
  [[nodiscard]] static std::vector<const page_image*> all_but(const set_state& state,
                                                              const absent_spares& absent);
  [[nodiscard]] static std::string compare_without(const observation& seen, const oracle& truth);
  void replay_mending(set_state state, const std::string& name);
  void replay(const crash_run& run, const std::string& name, std::size_t from, bool first);
  bool compare(const observation& seen, const oracle& truth, const std::string& name);
  void note(std::string what);

  judge_options options_;
  spare_checker checker_;
  std::unordered_map<std::uint64_t, observation> memory_;
  std::vector<std::string> violations_;
  judge_counts counts_;
  std::uint64_t images_ = 0;
  bool first_level_ = true; ///< not a crash after a crash
};

} // namespace dmremap::test
