// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/units.h"

#include <cstdint>
#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

namespace dmremap {

/// Slots that name a unit which is served from elsewhere by now, and are still in a table: of spares that are
/// absent, or where the release could not be written. Were the unit's newest slot released, they would bring
/// old data back. Not thread-safe: its owner serialises (remap_set).
class old_slots {
public:
  void add(main_unit main, unsigned spare, spare_unit unit) {
    if (slots_.try_emplace({spare, unit.value}, main.value).second)
      ++count_[main.value];
  }
  void remove(unsigned spare, spare_unit unit) {
    if (const auto at = slots_.find({spare, unit.value}); at != slots_.end())
      erase(at);
  }
  void remove_all(unsigned spare) {
    for (auto at = slots_.lower_bound({spare, 0}); at != slots_.end() && at->first.first == spare;)
      at = erase(at);
  }
  [[nodiscard]] bool any_of(main_unit main) const { return count_.contains(main.value); }
  /// The units that such slots of the spare name.
  [[nodiscard]] std::vector<main_unit> on(unsigned spare) const {
    std::vector<main_unit> units;
    for (auto at = slots_.lower_bound({spare, 0}); at != slots_.end() && at->first.first == spare; ++at)
      units.emplace_back(at->second);
    return units;
  }

private:
  using places = std::map<std::pair<unsigned, std::uint64_t>, std::uint64_t>; // place: main unit

  places::iterator erase(places::iterator at) {
    if (const auto of = count_.find(at->second); --of->second == 0)
      count_.erase(of);
    return slots_.erase(at);
  }

  places slots_;
  std::unordered_map<std::uint64_t, unsigned> count_; // by main unit
};

} // namespace dmremap
