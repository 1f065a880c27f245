// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/import_plan.h"

#include "engine/units.h"

#include <algorithm>
#include <fmt/format.h>
#include <set>

namespace dmremap::recover {
namespace {

/// Units that the table maps already, and those that it could still take; guests' tables take room, too.
struct room {
  std::set<std::uint64_t> mapped;
  std::uint64_t free = 0;
};

room room_of(const set_dump& set) {
  room r;
  for (const auto& d : set.spares) {
    const std::uint64_t first =
        d.super.places.first_automatic().value; // below, nothing is given out by itself
    std::uint64_t usable = d.super.places.data_units(), used = 0;
    for (std::uint64_t u = 0; u < first; ++u)
      usable -= d.super.places.is_metadata(spare_unit(u)) ? 0 : 1;
    for (const auto& one : d.slots) {
      if (one.value.serves())
        r.mapped.insert(one.value.main().value);
      used += one.unit >= first && (one.value.serves() || one.value.kind() == slot_kind::retired) ? 1 : 0;
    }
    for (unsigned g = 0; g < max_spares; ++g)
      used += d.super.hosted_start[g] != 0 ? std::uint64_t{d.super.hosted_blocks[g]} + 1 : 0;
    r.free += !d.away && usable > used ? usable - used : 0;
  }
  return r;
}

/// In sectors of main, which begins at 0: of what a list is about, some may lie before it or behind it.
struct listed_run {
  std::int64_t first = 0, end = 0;
};

/// Ascending and apart.
std::vector<listed_run> joined(const std::vector<byte_range>& listed, std::int64_t offset) {
  std::vector<listed_run> runs;
  for (const auto& bytes : listed) {
    const std::uint64_t end = bytes.end / sector_bytes + (bytes.end % sector_bytes != 0 ? 1 : 0);
    runs.push_back({static_cast<std::int64_t>(bytes.start / sector_bytes) + offset,
                    static_cast<std::int64_t>(end) + offset});
  }
  std::sort(runs.begin(), runs.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<listed_run> out;
  for (const auto& run : runs)
    if (!out.empty() && run.first <= out.back().end)
      out.back().end = std::max(out.back().end, run.end);
    else
      out.push_back(run);
  return out;
}

void add_run(const listed_run& run, import_plan& plan) {
  const auto main_end = static_cast<std::int64_t>(plan.main_sectors);
  const auto low = std::clamp<std::int64_t>(run.first, 0, main_end);
  const auto high = std::clamp<std::int64_t>(run.end, 0, main_end);
  plan.outside += static_cast<std::uint64_t>((run.end - run.first) - (high - low));
  if (high > low)
    plan.ranges.push_back({static_cast<std::uint64_t>(low), static_cast<std::uint64_t>(high - low)});
}

} // namespace

result<import_plan> make_import_plan(const std::vector<byte_range>& listed, std::int64_t offset,
                                     const set_dump& set, const std::string& name,
                                     std::optional<std::uint64_t> free_now) {
  import_plan plan;
  plan.main_sectors = set.newest().main_sectors;
  for (const auto& run : joined(listed, offset))
    add_run(run, plan);
  if (plan.ranges.empty() && !listed.empty())
    return fail("list-outside", name,
                fmt::format("all that it lists lies outside main, which has {} sectors; check --offset and "
                            "--block-size",
                            plan.main_sectors));
  const room r = room_of(set);
  std::uint64_t next = 0; // the first unit that is not counted yet
  for (const auto& run : plan.ranges) {
    plan.sectors += run.count;
    const std::uint64_t end = (run.first + run.count - 1) / unit_sectors + 1;
    const std::uint64_t first = std::max(next, run.first / unit_sectors);
    // Not unit by unit: a list may say that all of a large disk is bad.
    std::uint64_t mapped = 0;
    for (auto at = r.mapped.lower_bound(first); at != r.mapped.end() && *at < end; ++at)
      ++mapped;
    plan.already_units += mapped;
    plan.new_units += end - std::min(first, end) - mapped;
    next = std::max(next, end);
  }
  const std::uint64_t free = free_now.value_or(r.free);
  if (plan.new_units > free)
    return fail("no-spare-capacity", set.newest().set_name,
                fmt::format("the list needs {} units more, and {} are free: add a spare (dmremap spare add)",
                            plan.new_units, free));
  return plan;
}

} // namespace dmremap::recover
