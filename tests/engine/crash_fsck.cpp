// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/engine/crash_fsck.h"

#include "fsck/apply.h"

#include <algorithm>

namespace dmremap::test {
namespace {

using fsck::damage_kind;

bool has(const fsck::set_findings& f, damage_kind kind) {
  return std::any_of(f.found.begin(), f.found.end(), [&](const auto& d) { return d.kind == kind; });
}

/// Notices that a set may be in order with, after a crash and after a repair.
bool worth_knowing(damage_kind kind) {
  switch (kind) {
  case damage_kind::spare_returned:
  case damage_kind::returned_slots:
  case damage_kind::spare_removed:
  case damage_kind::unprotected:
    return true;
  default:
    return false;
  }
}

/// What a power cut may leave behind: changes that have not reached all copies, or not both of the spares
/// that they are about. All other damage would mean that something is lost, or was never right.
bool left_by_a_crash(damage_kind kind, bool some_missing) {
  switch (kind) {
  case damage_kind::superblock_copy: // torn
  case damage_kind::superblock_old:
  case damage_kind::table_copy:
  case damage_kind::table_old:
  case damage_kind::slot_superseded: // the winner is durable, the loser was to be released
  case damage_kind::sixth_listing:   // one side has been told
    return true;
  case damage_kind::spare_missing:
    return some_missing;
  default:
    return worth_knowing(kind);
  }
}

/// And is there after a repair: with a spare missing, what is said of several spares stays as it is.
bool left_by_a_repair(damage_kind kind, bool some_missing) {
  switch (kind) {
  case damage_kind::slot_superseded:
  case damage_kind::sixth_listing:
  case damage_kind::spare_missing:
    return some_missing;
  default:
    return worth_knowing(kind);
  }
}

std::string text_of(const fsck::damage& d) {
  return std::string(fsck::facts_of(d.kind).id) + ": " + d.member + ": " + d.text;
}

struct members {
  std::shared_ptr<memory_store> main;
  std::vector<std::shared_ptr<memory_store>> all;
  std::vector<std::shared_ptr<store>> given;

  explicit members(const set_state& state)
      : main(std::make_shared<memory_store>(state.main, state.main_block, state.main_faults)) {
    for (std::size_t n = 0; n < state.spares.size(); ++n)
      all.push_back(make_spare(state.spares[n], n));
  }
  /// Of the set's spares but the absent ones. Those that were just being added or removed may be none, not
  /// yet or no more: an open refuses them then, too, and is given the others.
  result<fsck::set_findings> look(const set_state& state, const absent_spares& absent) {
    auto all_given = look(state, absent, true);
    if (all_given ? has(*all_given, damage_kind::record) || has(*all_given, damage_kind::no_superblock) ||
                        has(*all_given, damage_kind::mixed_superblocks)
                  : all_given.error().id == "not-a-spare")
      return look(state, absent, false);
    return all_given;
  }
  [[nodiscard]] std::vector<std::uint64_t> hashes() const {
    std::vector<std::uint64_t> of{main->image().hash()};
    for (const auto& each : all)
      of.push_back(each->image().hash());
    return of;
  }

private:
  result<fsck::set_findings> look(const set_state& state, const absent_spares& absent, bool in_flight) {
    given.clear();
    std::vector<fsck::spare_input> inputs;
    for (unsigned n = 0; n < all.size(); ++n) {
      const spare_role role = state.spares[n].role;
      if (role == spare_role::none || std::find(absent.begin(), absent.end(), n) != absent.end() ||
          (!in_flight && (role == spare_role::adding || role == spare_role::removing)))
        continue;
      given.push_back(all[n]);
      inputs.push_back({spare_name(n), all[n]});
    }
    fsck::inspect_options options;
    options.main = main;
    return fsck::inspect(inputs, options);
  }
};

} // namespace

std::string check_and_repair(set_state& state, const absent_spares& absent) {
  members on(state);
  const auto before = on.hashes();
  const auto first = on.look(state, absent);
  if (!first)
    return "fsck -n: " + first.error().id + ": " + first.error().text();
  const auto plan = fsck::make_plan(*first, fsck::is_repairable);
  if (on.hashes() != before)
    return "fsck -n has written";
  for (const auto& d : first->found)
    if (!left_by_a_crash(d.kind, !absent.empty()))
      return "fsck -n finds what no crash leaves behind: " + text_of(d);
  const auto applied = fsck::apply_plan(plan, on.given);
  if (!applied)
    return "fsck -y: " + applied.error().text();
  if (!applied->failures.empty())
    return "fsck -y: " + applied->failures.front();
  const auto second = on.look(state, absent);
  if (!second)
    return "fsck -n after -y: " + second.error().text();
  for (const auto& d : second->found)
    if (!left_by_a_repair(d.kind, !absent.empty()))
      return "fsck -y has not repaired: " + text_of(d);
  if (!fsck::make_plan(*second, fsck::is_repairable).empty())
    return "fsck -y has left something to repair";
  if (on.hashes().front() != before.front())
    return "fsck -y has written to main";
  for (std::size_t n = 0; n < state.spares.size(); ++n)
    state.spares[n].content = on.all[n]->image();
  return {};
}

} // namespace dmremap::test
