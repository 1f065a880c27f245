// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/replies.h"

#include "engine/stats_fields.h"
#include "engine/units.h"

#include <algorithm>
#include <fmt/format.h>

namespace dmremap {
namespace {

/// Away, without writes, or with metadata that cannot be read: nothing more goes to it.
bool has_failed(const spare_status& spare) {
  const auto state = spare_state(spare);
  return state == "absent" || state == "unwritable" || state == "failed";
}

std::uint64_t usable_units(const disk_info& info) {
  std::uint64_t sum = 0;
  for (const auto& spare : info.spares)
    sum += has_failed(spare) ? spare.allocated_units : spare.usable_units;
  return sum;
}

std::uint64_t allocated_units(const disk_info& info) {
  std::uint64_t sum = 0;
  for (const auto& spare : info.spares)
    sum += spare.allocated_units;
  return sum;
}

constexpr std::uint64_t mib(std::uint64_t units) {
  return units * unit_bytes / (std::uint64_t{1} << 20U);
}

std::uint64_t free_units(const disk_info& info) {
  std::uint64_t sum = 0;
  for (const auto& spare : info.spares)
    sum += has_failed(spare) ? 0 : spare.free_units;
  return sum;
}

/// No remap can be put on it; what is free in its head is for add_remap by hand.
bool is_full(const spare_status& spare) {
  return spare.present && !spare.draining && spare.usable_units != 0 && spare.free_units == 0;
}

/// What a person needs to know beside the figures of one spare.
std::string spare_remarks(const spare_status& s, const disk_info& info) {
  std::string out;
  const auto state = spare_state(s);
  if (state != "present")
    out += ", " + state;
  if (const auto* host = s.protected_by < 0 ? nullptr : spare_at(info, static_cast<unsigned>(s.protected_by)))
    out += ", protected by spare " + std::to_string(host->index);
  else if (info.spares.size() > 1)
    out += ", not protected against the loss of this spare";
  return out;
}

} // namespace

const spare_status* spare_at(const disk_info& info, unsigned index) {
  const auto at = std::find_if(info.spares.begin(), info.spares.end(),
                               [&](const spare_status& s) { return s.index == index; });
  return at != info.spares.end() ? &*at : nullptr;
}

std::string spare_state(const spare_status& spare) {
  if (!spare.present)
    return spare.readable ? "unwritable" : "absent";
  if (spare.super_copies_valid + spare.head_copies_valid == 0)
    return "failed";
  if (spare.draining)
    return "draining";
  if (spare.host_full)
    return "host-full";
  return is_full(spare) ? "full" : "present";
}

bool is_healthy(const disk_stats& stats, const disk_info& info) {
  return std::all_of(info.spares.begin(), info.spares.end(),
                     [](const spare_status& s) { return !has_failed(s); }) &&
         !stats.breaker_open && !stats.main_gone && stats.lost_sectors == 0 && stats.flush_errors == 0;
}

std::uint64_t sectors_of(main_unit unit, std::uint64_t main_sectors) {
  const std::uint64_t first = first_sector(unit).value;
  return first >= main_sectors ? 0 : std::min(unit_sectors, main_sectors - first);
}

std::string dm_line(const disk_stats& s, const disk_info& info) {
  const std::uint64_t capacity = usable_units(info);
  return fmt::format(
      "0 {} remap v5.0 {}/{} {}/{} {}/{} health={} errors=W{}:R{} auto_remaps={} manual_remaps={} "
      "scan=0% metadata=enabled autosave={} saves={}/{}",
      info.main_sectors, s.remapped_units, capacity, s.auto_remapped_units, capacity, s.manual_remapped_units,
      capacity, is_healthy(s, info) ? 1 : 0, s.main_write_errors + s.spare_write_errors,
      s.main_read_errors + s.spare_read_errors, s.auto_remaps, s.manual_remaps,
      info.read_only ? "off" : "active", s.saves_done, s.saves_tried);
}

std::string spare_stats_text(const disk_stats& stats, const disk_info& info) {
  unsigned available = 0, in_use = 0, full = 0, failed = 0;
  for (const auto& spare : info.spares) {
    if (has_failed(spare))
      ++failed;
    else if (is_full(spare))
      ++full;
    else if (spare.allocated_units != 0)
      ++in_use;
    else
      ++available;
  }
  const std::uint64_t all = usable_units(info), used = allocated_units(info);
  return fmt::format("Spare Pool Statistics:\n"
                     "  Devices: {} total ({} available, {} in-use, {} full, {} failed)\n"
                     "  Capacity: {} MB total, {} MB allocated, {} MB free\n"
                     "  Allocations: {} active, {} lifetime",
                     info.spares.size(), available, in_use, full, failed, mib(all), mib(used),
                     mib(free_units(info)), used, stats.lifetime_allocations);
}

std::string metadata_status_text(const disk_info& info) {
  std::string out;
  for (const auto& s : info.spares) {
    if (!s.present) {
      const std::string state = spare_state(s);
      out += fmt::format("{}spare {} ({}): {}, sequence {}, {} allocated{}", out.empty() ? "" : "\n", s.uuid,
                         s.path.empty() ? "path not known" : s.path, state, s.sequence, s.allocated_units,
                         spare_remarks(s, info).substr(state.size() + 2));
      continue;
    }
    out += fmt::format(
        "{}spare {} ({}): superblock copies {}/5 valid, heads {}/5 valid, table copies {}/5 at the least, "
        "sequence {}, {}, capacity {} units ({} MB), {} allocated{}",
        out.empty() ? "" : "\n", s.uuid, s.path, s.super_copies_valid, s.head_copies_valid,
        s.weakest_block_copies, s.sequence, s.clean ? "clean" : "dirty", s.usable_units, mib(s.usable_units),
        s.allocated_units, spare_remarks(s, info));
  }
  return out;
}

std::string stats_text(const disk_stats& s) {
  std::string out;
  for_each_figure(
      s, [&](const char* name, auto value) { out += fmt::format("{} {}\n", name, std::uint64_t{value}); });
  return out + "state " + s.state;
}

std::string state_words(const disk_stats& stats, const disk_info& info) {
  const auto some = [&](const char* state) {
    return std::any_of(info.spares.begin(), info.spares.end(),
                       [&](const spare_status& s) { return spare_state(s) == state; });
  };
  return stats.main_gone || stats.breaker_open || some("absent") || !some("failed")
             ? stats.state
             : "a spare cannot be read";
}

std::string health_text(const disk_stats& s, const disk_info& info) {
  std::string out = fmt::format("health={} state={}", is_healthy(s, info) ? 1 : 0, state_words(s, info));
  const auto add = [&](bool when, const std::string& text) { out += when ? "\n" + text : ""; };
  add(s.main_gone, fmt::format("main {} does not answer", info.main_path));
  add(s.breaker_open, "automatic remapping has stopped: too many errors at once; reset_breaker goes on");
  add(s.lost_sectors != 0,
      fmt::format("{} lost sectors answer EIO until they are written or salvaged", s.lost_sectors));
  add(s.main_read_errors + s.main_write_errors != 0,
      fmt::format("main {}: {} read errors, {} write errors", info.main_path, s.main_read_errors,
                  s.main_write_errors));
  add(s.spare_read_errors + s.spare_write_errors != 0,
      fmt::format("spares: {} read errors, {} write errors", s.spare_read_errors, s.spare_write_errors));
  for (const auto& spare : info.spares)
    add(spare.host_full,
        fmt::format("spare {}: no space left on the file system that it lies on: writes that need "
                    "some fail with EIO until there is room",
                    spare.path));
  add(s.flush_errors != 0, fmt::format("{} flushes failed", s.flush_errors));
  add(s.saves_done < s.saves_tried,
      fmt::format("{} of {} saves of metadata failed", s.saves_tried - s.saves_done, s.saves_tried));
  for (const auto& spare : info.spares)
    if (const auto room = spare.free_units, all = spare.allocated_units + room;
        spare.present && !spare.draining && room * 10 <= all && spare.usable_units != 0)
      add(true, fmt::format("spare {} is {} % full", spare.path,
                            all == 0 ? 100 : spare.allocated_units * 100 / all));
  for (const auto& notice : info.notices)
    out += "\n" + notice;
  return out;
}

std::string remap_line(const remap_entry& e, std::uint64_t main_sectors) {
  return fmt::format("main {} spare {} sectors {} lost 0x{:02x} {}", first_sector(e.main).value,
                     e.spare.value * unit_sectors, sectors_of(e.main, main_sectors), unsigned{e.lost},
                     e.by_hand ? "explicit" : "remap");
}

} // namespace dmremap
