// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/mutant_states.h"

#include "tests/support/spare_check.h"

#include <cstring>
#include <map>
#include <vector>

namespace dmremap::test {

std::uint64_t sequence_of(const page* block) {
  std::uint64_t sequence = 0;
  if (block != nullptr)
    std::memcpy(&sequence, block->data.data() + 8, sizeof sequence);
  return sequence;
}

std::optional<unsigned> ahead_of_all(const page_image& spare, std::uint32_t number) {
  std::map<std::uint64_t, std::vector<unsigned>> holders;
  for (unsigned r = 0; r < 5; ++r)
    holders[sequence_of(spare.at(unit_of_block(spare, r, number)))].push_back(r);
  if (holders.size() != 2 || holders.rbegin()->second.size() != 1)
    return std::nullopt;
  return holders.rbegin()->second.front();
}

std::optional<set_state> state_where(const crash_run& run, std::size_t from,
                                     const std::function<bool(const crash_state&)>& is_it) {
  std::optional<set_state> found;
  replay_limits limits;
  limits.tears = false;
  limits.first_event = from;
  crash_replay replay(run.log(), limits);
  replay.run([&](const crash_state& crash) {
    if (!is_it(crash))
      return true;
    found = run.at_epoch(crash.epoch);
    found->main = crash.devices[0]->content;
    for (std::size_t n = 0; n < found->spares.size(); ++n)
      found->spares[n].content = crash.devices[1 + n]->content;
    return false;
  });
  return found;
}

} // namespace dmremap::test
