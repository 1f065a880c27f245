// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/events.h"

#include "engine/units.h"
#include "fusedisk/replies.h"

namespace dmremap {

std::string text_of(const remap_event& e, const disk_info& info) {
  const auto* where = spare_at(info, e.spare_index);
  const std::string spare = where != nullptr ? where->path : std::to_string(e.spare_index);
  std::string text = "main " + info.main_path + ": " + (e.writing ? "write" : "read") +
                     " error in the unit at sector " + std::to_string(first_sector(e.main).value) +
                     "; moved to spare " + spare + " sector " + std::to_string(e.spare.value * unit_sectors);
  std::string lost;
  for (std::uint64_t i = 0; i < unit_sectors; ++i)
    if ((e.lost >> i & 1) != 0)
      lost += (lost.empty() ? "" : ", ") + std::to_string(first_sector(e.main).value + i);
  return lost.empty() ? text : text + "; lost sectors: " + lost;
}

std::vector<noticed_event> compare_stats(const disk_stats& a, const disk_stats& b,
                                         const std::string& main_path) {
  std::vector<noticed_event> out;
  const auto more = [&](std::uint64_t before, std::uint64_t after, log_level level, const std::string& text) {
    if (after > before)
      out.push_back({level, std::to_string(after - before) + " " + text});
  };
  more(a.main_read_errors, b.main_read_errors, log_level::warn, "failed reads of main " + main_path);
  more(a.main_write_errors, b.main_write_errors, log_level::warn, "failed writes of main " + main_path);
  more(a.spare_read_errors, b.spare_read_errors, log_level::error, "failed reads of a spare");
  more(a.spare_write_errors, b.spare_write_errors, log_level::error, "failed writes of a spare");
  more(a.spare_host_full_errors, b.spare_host_full_errors, log_level::error,
       "writes of a spare failed: no space left on the file system that it lies on; make room there");
  more(a.flush_errors, b.flush_errors, log_level::error, "failed flushes: what was written last may be lost");
  more(a.lost_sectors, b.lost_sectors, log_level::error,
       "more sectors lost: they answer EIO until written or salvaged");
  more(b.lost_sectors, a.lost_sectors, log_level::info, "fewer sectors lost");
  if (b.breaker_open && !a.breaker_open)
    out.push_back({log_level::error, "too many errors at once: automatic remapping has stopped; "
                                     "reset_breaker goes on"});
  if (b.main_gone != a.main_gone)
    out.push_back(
        {log_level::error, "main " + main_path + (b.main_gone ? " does not answer" : " answers again")});
  return out;
}

} // namespace dmremap
