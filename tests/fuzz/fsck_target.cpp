// SPDX-License-Identifier: GPL-2.0-or-later
// Checks and repairs a damaged set. Whatever its metadata says: looking writes nothing, a second repair has
// nothing to do, what was shown before is shown after or is an error, and the undo log brings every byte
// back.
#include "engine/disk.h"
#include "fsck/apply.h"
#include "fsck/repair_file.h"
#include "tests/fuzz/set_script.h"

#include <algorithm>
#include <optional>

namespace dmremap::fuzz {
namespace {

using test::memory_store;
using spares = std::vector<std::shared_ptr<memory_store>>;

spares stores_of(const std::vector<test::page_image>& images, const set_case& c, bool with_faults) {
  spares out;
  for (std::size_t n = 0; n < images.size(); ++n)
    out.push_back(std::make_shared<memory_store>(images[n], c.block_size,
                                                 with_faults ? c.spare_faults[n] : test::fault_table{}));
  if (c.absent_spare)
    out.pop_back();
  return out;
}

std::vector<test::page_image> images_of(const spares& on) {
  std::vector<test::page_image> out;
  for (const auto& s : on)
    out.push_back(s->image());
  return out;
}

bool same(const std::vector<test::page_image>& a, const std::vector<test::page_image>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const auto& x, const auto& y) { return x.hash() == y.hash(); });
}

/// Nothing: an error of the environment, which says what it is.
std::optional<fsck::set_findings> look(const spares& on) {
  std::vector<fsck::spare_input> inputs;
  for (std::size_t n = 0; n < on.size(); ++n)
    inputs.push_back({"/spare" + std::to_string(n), on[n]});
  const auto before = images_of(on);
  auto found = fsck::inspect(inputs, {});
  require(same(images_of(on), before), "looking leaves every byte as it was");
  if (found)
    return std::move(*found);
  require(!found.error().id.empty() && !found.error().why.empty(), "an error says what it is");
  return std::nullopt;
}

using sectors = std::vector<std::optional<std::uint32_t>>; ///< checksum of each that can be read

/// Nothing: refused.
std::optional<sectors> show(const set_case& c, const spares& on) {
  open_options options;
  options.read_only = true;
  options.accept_main = true;
  auto set = disk::open(std::make_shared<memory_store>(c.images.main, 512), {on.begin(), on.end()}, options);
  if (!set)
    return std::nullopt;
  sectors seen;
  const auto context = (*set)->make_context();
  std::vector<std::byte> data(sector_bytes);
  for (std::uint64_t s = 0; s < set_main_sectors; ++s)
    seen.push_back((*set)->read(*context, data, s * sector_bytes) ? std::optional(crc32_of(data))
                                                                  : std::nullopt);
  return seen;
}

void require_same_bytes(const sectors& before, const sectors& now) {
  for (std::size_t s = 0; s < before.size(); ++s)
    require(!now[s] || !before[s] || *now[s] == *before[s],
            "a repair changes no byte of the disk: sector " + std::to_string(s));
}

fsck::repair_plan through_text(const fsck::repair_plan& plan) {
  auto back = fsck::parse_plan(fsck::format_plan(plan), "plan");
  require(back.has_value() && back->writes.size() == plan.writes.size(),
          "a plan survives being written and read");
  return std::move(*back);
}

/// What follows from what is there (-p) changes nothing that can be read, whatever else is wrong.
void repair_safely(const set_case& c, const std::vector<test::page_image>& damaged,
                   const fsck::set_findings& found, const sectors& shown) {
  const auto plan = fsck::make_plan(found, fsck::is_safe);
  if (plan.empty())
    return;
  const spares on = stores_of(damaged, c, false);
  const auto done = fsck::apply_plan(plan, {on.begin(), on.end()});
  require(done.has_value() && done->failures.empty(), "a safe repair that nothing hinders is carried out");
  if (const auto now = show(c, on))
    require_same_bytes(shown, *now);
}

} // namespace

void run_fsck(input_bytes bytes) {
  const auto c = read_set_case(bytes);
  const auto damaged = images_of(stores_of(c->images.spares, *c, false));
  const spares on = stores_of(c->images.spares, *c, true);
  const auto found = look(on);
  if (!found)
    return;
  const auto plan = fsck::make_plan(*found, fsck::is_repairable);
  require(!found->clean() || plan.empty(), "nothing is repaired on a clean set");
  const auto undo = through_text(plan);
  const std::vector<std::shared_ptr<store>> members(on.begin(), on.end());
  require(fsck::check_blocks(undo, members).has_value(), "a plan fits what it was made from");
  const auto shown = show(*c, stores_of(damaged, *c, false));
  const auto done = fsck::apply_plan(plan, members);
  if (c->faults) { // whatever could be written: it must still be a set that can be looked at
    static_cast<void>(look(stores_of(images_of(on), *c, false)));
    return;
  }
  require(done.has_value() && done->failures.empty(), "a repair that nothing hinders is carried out");
  const auto after = look(on);
  require(after.has_value(), "a repaired set can be looked at");
  // What was in doubt only because of what is repaired now can be repaired next.
  const bool doubt = std::any_of(found->found.begin(), found->found.end(), [](const fsck::damage& d) {
    return fsck::facts_of(d.kind).fix == fsck::remedy::impossible;
  });
  require(doubt || fsck::make_plan(*after, fsck::is_repairable).empty(), "a second repair has nothing to do");
  const auto now = show(*c, on);
  // What was decided may count entries that were not served before: those of a chunk that no copy is marked
  // of, and newer ones in a copy that lies where the superblock did not say.
  const bool more = std::any_of(found->found.begin(), found->found.end(), [](const fsck::damage& d) {
    return d.kind == fsck::damage_kind::chunk_unmarked || d.kind == fsck::damage_kind::geometry;
  });
  if (shown && now && !more)
    require_same_bytes(*shown, *now);
  const bool decided = std::any_of(found->found.begin(), found->found.end(), [](const fsck::damage& d) {
    return fsck::facts_of(d.kind).fix == fsck::remedy::decide;
  });
  if (shown && decided) // else the repair above was as safe
    repair_safely(*c, damaged, *found, *shown);
  require(fsck::undo_plan(undo, members).has_value() && same(images_of(on), damaged),
          "the undo log brings every byte back");
}

} // namespace dmremap::fuzz
