// SPDX-License-Identifier: GPL-2.0-or-later
// add_remap: units of main served from given units of a spare without copying, by hand (dmremap(8),
// MESSAGES).
#include "engine/disk_impl.h"

#include <cstring>

namespace dmremap {
namespace {

constexpr std::uint64_t units_per_freeze = 1024; // one commit for so many

/// The units of an add_remap and which bytes of its ends come from main.
struct explicit_plan {
  std::uint64_t first_main = 0, first_spare = 0, count = 0; // units
  std::uint64_t dest = 0, end = 0; // sectors of main that the spare's own bytes serve
};

} // namespace

/// Copies main's sectors of a unit outside [dest, end) onto the spare's unit. What main cannot give is lost.
static io_result complete_edge(disk::impl& i, const explicit_plan& plan, std::uint64_t n,
                               slot_change& change) {
  const main_unit u(plan.first_main + n);
  std::uint8_t from_main = 0;
  for (std::uint64_t s = 0; s < i.valid_sectors(u); ++s) {
    const std::uint64_t sector = first_sector(u).value + s;
    if (sector < plan.dest || sector >= plan.end)
      from_main = static_cast<std::uint8_t>(from_main | 1u << s);
  }
  if (from_main == 0)
    return {};
  unit_image image{}, merged{};
  CHECK_OK(i.spares[change.spare]->io->read(merged.data.span(), byte_of(change.unit)));
  CHECK_OK(i.read_image_from_main(u, image, from_main));
  for (std::uint64_t s = 0; s < unit_sectors; ++s)
    if ((from_main >> s & 1) != 0)
      std::memcpy(merged.data.bytes.data() + s * sector_bytes, image.data.bytes.data() + s * sector_bytes,
                  sector_bytes);
  change.lost = change.main_may_answer = image.lost;
  return i.spares[change.spare]->io->write(merged.data.span(), byte_of(change.unit));
}

/// Why a range is refused, and where else it could be.
static std::string with_nearest(disk::impl& i, unsigned spare, spare_unit first, std::uint64_t count,
                                const std::string& why) {
  const auto near = i.set->nearest_free(spare, first, count);
  return why + (near ? "; the nearest free range of this length starts at spare sector " +
                           std::to_string(near->value * unit_sectors)
                     : "; no free range of this length is left on the spare");
}

/// Free units may be left all the same: not so many next to each other, or in the head of the spare only.
static tl::unexpected<error> no_run(disk::impl& i, const std::string& what, unsigned spare,
                                    std::uint64_t count) {
  const std::uint64_t longest = i.set->longest_run(spare);
  return fail("no-spare-capacity", what,
              "No spare capacity available" +
                  (longest == 0 ? ""
                                : " for " + std::to_string(count) +
                                      " units next to each other: the longest free run on spare " +
                                      std::to_string(spare) + " has " + std::to_string(longest) + " units (" +
                                      std::to_string(longest * unit_sectors) + " sectors)"));
}

/// The groups before unit `n` of the plan are in the table: they cannot be undone, as they may have been
/// written since.
static tl::unexpected<error> partly_done(const explicit_plan& plan, std::uint64_t n, error why) {
  const std::uint64_t next = (plan.first_main + n) * unit_sectors;
  const std::string nothing = "; nothing changed";
  if (const auto at = why.why.find(nothing); at != std::string::npos)
    why.why.erase(at, nothing.size());
  why.why += "; of this command sectors " + std::to_string(plan.dest) + " to " + std::to_string(next - 1) +
             " are remapped and stay so; the rest begins at main sector " + std::to_string(next) +
             ", spare sector " + std::to_string((plan.first_spare + n) * unit_sectors);
  return tl::unexpected<error>(std::move(why));
}

result<remap_reply> disk::add_remap(sector_number dest, std::optional<sector_number> source,
                                    std::uint64_t sectors, unsigned spare_index) {
  impl& i = *impl_;
  const std::string what = "add_remap " + std::to_string(dest.value);
  const std::uint64_t disk_sectors = i.bytes / sector_bytes;
  if (i.options.read_only)
    return fail("read-only", what, "the set is open read-only");
  if (!i.set->listed(spare_index))
    return fail("no-such-spare", what, "the set has no spare " + std::to_string(spare_index));
  if (!i.set->present(spare_index))
    return fail("spare-absent", what, "spare " + std::to_string(spare_index) + " is absent");
  if (sectors == 0)
    return fail("out-of-range", what, "0 sectors are none to remap");
  if (dest.value >= disk_sectors || sectors > disk_sectors - dest.value)
    return fail("out-of-range", what, "the disk has " + std::to_string(disk_sectors) + " sectors");
  if (source && source->value % unit_sectors != dest.value % unit_sectors)
    return fail("misaligned", what,
                "main sector " + std::to_string(dest.value) + " and spare sector " +
                    std::to_string(source->value) + " are not congruent modulo 8");
  const std::lock_guard admin(i.admin_mutex);
  if (i.stopping)
    return stopped(what, "; nothing changed");
  explicit_plan plan;
  plan.dest = dest.value;
  plan.end = dest.value + sectors;
  plan.first_main = dest.value / unit_sectors;
  plan.count = (plan.end + unit_sectors - 1) / unit_sectors - plan.first_main;

  if (plan.count > i.set->usable(spare_index)) // before anything is made in memory for so many
    return no_run(i, what, spare_index, plan.count);

  // What is mapped already: only to the very same units.
  std::vector<bool> mapped(plan.count, false);
  remap_reply answer;
  for (std::uint64_t n = 0; n < plan.count; ++n) {
    const map_entry e = i.set->lookup(main_unit(plan.first_main + n));
    if (!e.present())
      continue;
    if (!source || e.in_doubt() || e.spare() != spare_index ||
        e.unit().value != source->value / unit_sectors + n)
      return fail("contradicts-remap", what,
                  with_nearest(
                      i, spare_index, source ? spare_unit(source->value / unit_sectors) : e.unit(),
                      plan.count,
                      sector_text(main_unit(plan.first_main + n)) + " is remapped already, to spare sector " +
                          std::to_string(e.unit().value * unit_sectors) + "; remove that remap first"));
    mapped[n] = true;
    ++answer.already;
  }

  // Take all spare units, or none.
  std::vector<spare_unit> taken;
  const auto give_back = [&](std::span<const spare_unit> units) {
    for (const spare_unit u : units)
      i.set->release_unit({spare_index, u});
  };
  if (source) {
    plan.first_spare = source->value / unit_sectors;
    std::string why;
    i.set->with_metadata(spare_index, [&](spare_metadata& m) {
      if (plan.first_spare >= m.places().units || plan.count > m.places().units - plan.first_spare)
        why = "leaves the spare, which has " + std::to_string(m.places().units * unit_sectors) + " sectors";
      for (std::uint64_t n = 0; why.empty() && n < plan.count; ++n)
        if (m.places().is_metadata(spare_unit(plan.first_spare + n)))
          why = "hits metadata at spare sector " + std::to_string((plan.first_spare + n) * unit_sectors);
    });
    for (std::uint64_t n = 0; why.empty() && n < plan.count; ++n) {
      if (mapped[n])
        continue;
      if (i.set->claim_units(spare_index, spare_unit(plan.first_spare + n), 1))
        taken.push_back(spare_unit(plan.first_spare + n));
      else
        why = "spare sector " + std::to_string((plan.first_spare + n) * unit_sectors) + " is in use";
    }
    if (!why.empty()) {
      give_back(taken);
      return fail("spare-range-taken", what,
                  with_nearest(i, spare_index, spare_unit(plan.first_spare), plan.count, why));
    }
  } else {
    const auto run = i.set->allocate_run(spare_index, plan.count);
    if (!run)
      return no_run(i, what, spare_index, plan.count);
    plan.first_spare = run->value;
    for (std::uint64_t n = 0; n < plan.count; ++n)
      taken.push_back(run->plus(n));
  }
  answer.spare_sector = sector_number(plan.first_spare * unit_sectors + dest.value % unit_sectors);

  std::size_t used = 0; // of `taken`: what is committed stays, the rest goes back on a failure
  for (std::uint64_t n = 0; n < plan.count; n += units_per_freeze) {
    if (n != 0 && i.stopping) {
      give_back(std::span(taken).subspan(used));
      return partly_done(plan, n, stopped(what).value());
    }
    const std::uint64_t count = std::min(units_per_freeze, plan.count - n);
    const unsigned mark = i.gate.freeze({plan.first_main + n, count});
    const flush_marks data_since = i.set->marks();
    std::vector<slot_change> changes;
    io_result edges;
    for (std::uint64_t k = n; k < n + count && edges; ++k) {
      if (mapped[k])
        continue;
      if (i.set->lookup(main_unit(plan.first_main + k)).present()) { // an error moved it since the check
        edges = io_fail(io_error::invalid);
        break;
      }
      changes.push_back({spare_index, spare_unit(plan.first_spare + k), slot_kind::explicit_remap,
                         main_unit(plan.first_main + k), 0, 0});
      edges = complete_edge(i, plan, k, changes.back());
    }
    commit_reply reply{commit_outcome::refused, io_error::medium};
    if (!edges)
      reply.why = edges.error();
    else if (changes.empty())
      reply.outcome = commit_outcome::done;
    else
      reply = i.set->commit(changes, data_since);
    if (reply.outcome != commit_outcome::done) {
      i.gate.thaw(mark, [] {});
      if (reply.outcome == commit_outcome::in_doubt)
        used += changes.size();
      give_back(std::span(taken).subspan(used));
      return n == 0 ? not_committed(what, reply) : partly_done(plan, n, not_committed(what, reply).value());
    }
    used += changes.size();
    for (const slot_change& c : changes)
      answer.lost_sectors += sectors_in(c.lost);
    i.set->counts().manual_remaps += changes.size();
    i.set->counts().lifetime_allocations += changes.size();
    answer.units += changes.size();
    i.gate.thaw(mark, [&] { i.set->publish(changes); });
  }
  return answer;
}

} // namespace dmremap
