// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/disk.h"

#include <nlohmann/json_fwd.hpp>

namespace dmremap {

/// Calls `each(name, value)` for every figure of `s`, in the order and under the names that people and
/// programs see; values are std::uint64_t, and bool for what is on or off. `s.state` is not among them.
template <class Each>
void for_each_figure(const disk_stats& s, Each&& each) {
  each("reads", s.reads);
  each("writes", s.writes);
  each("flushes", s.flushes);
  each("zeroes", s.zeroes);
  each("read_bytes", s.read_bytes);
  each("written_bytes", s.written_bytes);
  each("main_read_errors", s.main_read_errors);
  each("main_write_errors", s.main_write_errors);
  each("spare_read_errors", s.spare_read_errors);
  each("spare_write_errors", s.spare_write_errors);
  each("spare_host_full_errors", s.spare_host_full_errors);
  each("flush_errors", s.flush_errors);
  each("lost_reads", s.lost_reads);
  each("slow_requests", s.slow_requests);
  each("remapped_units", s.remapped_units);
  each("auto_remapped_units", s.auto_remapped_units);
  each("manual_remapped_units", s.manual_remapped_units);
  each("auto_remaps", s.auto_remaps);
  each("manual_remaps", s.manual_remaps);
  each("lifetime_allocations", s.lifetime_allocations);
  each("lost_sectors", s.lost_sectors);
  each("saves_tried", s.saves_tried);
  each("saves_done", s.saves_done);
  each("auto_remap", s.auto_remap);
  each("breaker_open", s.breaker_open);
  each("main_gone", s.main_gone);
}

/// All of them and "state", as programs see them.
[[nodiscard]] nlohmann::json stats_json(const disk_stats& s);

} // namespace dmremap
