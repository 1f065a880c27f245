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

/// In sectors of main; nothing of it may lie there.
void add_run(const byte_range& bytes, std::int64_t offset, std::uint64_t main_sectors, import_plan& plan) {
  const auto first = static_cast<std::int64_t>(bytes.start / sector_bytes) + offset;
  const auto end = static_cast<std::int64_t>(align_up(bytes.end, sector_bytes) / sector_bytes) + offset;
  const auto low = std::clamp<std::int64_t>(first, 0, static_cast<std::int64_t>(main_sectors));
  const auto high = std::clamp<std::int64_t>(end, 0, static_cast<std::int64_t>(main_sectors));
  plan.outside += static_cast<std::uint64_t>((end - first) - (high - low));
  if (high > low)
    plan.ranges.push_back({static_cast<std::uint64_t>(low), static_cast<std::uint64_t>(high - low)});
}

void join(std::vector<sector_run>& runs) {
  std::sort(runs.begin(), runs.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<sector_run> joined;
  for (const auto& run : runs)
    if (!joined.empty() && run.first <= joined.back().first + joined.back().count)
      joined.back().count =
          std::max(joined.back().first + joined.back().count, run.first + run.count) - joined.back().first;
    else
      joined.push_back(run);
  runs = std::move(joined);
}

} // namespace

result<import_plan> make_import_plan(const std::vector<byte_range>& listed, std::int64_t offset,
                                     const set_dump& set, const std::string& name,
                                     std::optional<std::uint64_t> free_now) {
  import_plan plan;
  plan.main_sectors = set.newest().main_sectors;
  for (const auto& bytes : listed)
    add_run(bytes, offset, plan.main_sectors, plan);
  join(plan.ranges);
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
    for (std::uint64_t unit = std::max(next, run.first / unit_sectors); unit < end; ++unit)
      ++(r.mapped.count(unit) != 0 ? plan.already_units : plan.new_units);
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
