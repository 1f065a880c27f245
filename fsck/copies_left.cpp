// SPDX-License-Identifier: GPL-2.0-or-later
// What a repair that is taken back would leave of each block.
#include "fsck/apply.h"

#include "engine/uuid.h"

#include <algorithm>
#include <fmt/format.h>
#include <functional>
#include <map>
#include <optional>
#include <set>

namespace dmremap::fsck {
namespace {

/// A place of one block, and how new the block in such bytes is; nothing: they are no sound copy of it.
struct copy_place {
  store* io = nullptr;
  std::uint64_t unit = 0;
  std::function<std::optional<std::uint64_t>(const block_bytes&)> sequence;
};

class judge {
public:
  judge(const repair_plan& plan, const std::vector<std::shared_ptr<store>>& members, const set_findings& now)
      : members_(members), now_(now) {
    for (const auto& w : plan.writes)
      written_.insert({members[w.member].get(), w.unit});
  }

  /// `writes`: all copies of one block that the plan writes.
  [[nodiscard]] bool stays(const std::vector<const block_write*>& writes) const {
    const auto places = places_of(*writes.front());
    const auto at = [&](const block_write* w) {
      return std::find_if(places.begin(), places.end(), [&](const copy_place& c) {
        return c.io == members_[w->member].get() && c.unit == w->unit;
      });
    };
    if (at(writes.front()) == places.end())
      return true;
    const auto wanted = at(writes.front())->sequence(writes.front()->now);
    bool others = false;
    for (const auto& c : places)
      if (!written_.contains({c.io, c.unit})) {
        others = true;
        block_bytes there;
        if (read_unit(*c.io, spare_unit(c.unit), there) && c.sequence(there) >= wanted)
          return true;
      }
    if (!others) // the plan did not copy: it made a new version of all of them
      return true;
    return std::any_of(writes.begin(), writes.end(), [&](const block_write* w) {
      return w->readable && at(w) != places.end() && at(w)->sequence(w->old) >= wanted;
    });
  }

private:
  /// All that are in use of the block that `w` is a copy of.
  [[nodiscard]] std::vector<copy_place> places_of(const block_write& w) const {
    std::vector<copy_place> places;
    for (unsigned n = 0; n < now_.spares.size(); ++n) {
      if (!now_.spares[n].super)
        continue;
      places = supers_of(n);
      if (holds(places, w))
        return places;
      for (const auto& source : sources_of(now_, n, true))
        if (source.io == members_[w.member].get() && w.unit >= source.first &&
            w.unit - source.first < now_.spares[n].places().table_blocks)
          return blocks_of(n, static_cast<std::uint32_t>(w.unit - source.first));
    }
    return {};
  }

  [[nodiscard]] bool holds(const std::vector<copy_place>& places, const block_write& w) const {
    return std::any_of(places.begin(), places.end(), [&](const copy_place& c) {
      return c.io == members_[w.member].get() && c.unit == w.unit;
    });
  }

  [[nodiscard]] std::vector<copy_place> supers_of(unsigned n) const {
    const spare_state& s = now_.spares[n];
    std::vector<copy_place> places;
    const auto add = [&](store* io, const super_copy& c) {
      places.push_back({io, c.place.value, [c](const block_bytes& bytes) -> std::optional<std::uint64_t> {
                          const auto super = decode_superblock(bytes, c.copy, c.place);
                          return super ? std::optional(super->sequence) : std::nullopt;
                        }});
    };
    for (const auto& c : s.supers)
      if ((s.super->super_good >> c.copy & 1) != 0)
        add(s.io.get(), c);
    if (s.head && !s.sixth_doubtful && s.sixth_host >= 0)
      add(now_.spares[static_cast<std::size_t>(s.sixth_host)].io.get(), *s.head);
    return places;
  }

  [[nodiscard]] std::vector<copy_place> blocks_of(unsigned n, std::uint32_t number) const {
    const superblock& super = *now_.spares[n].super;
    const auto chunk = super.places.chunk_of(number);
    const auto owner = low_half(super.spare_uuid);
    std::vector<copy_place> places;
    for (const auto& source : sources_of(now_, n, true))
      if (super.is_good(source.replica, chunk)) {
        const spare_unit place(source.first + number);
        places.push_back(
            {source.io, place.value, [=](const block_bytes& bytes) -> std::optional<std::uint64_t> {
               table_block t;
               const auto sound = decode_table_block(bytes, owner, number, place, t);
               return sound ? std::optional(t.sequence) : std::nullopt;
             }});
      }
    return places;
  }

  const std::vector<std::shared_ptr<store>>& members_;
  const set_findings& now_;
  std::set<std::pair<store*, std::uint64_t>> written_;
};

} // namespace

result<void> check_copies_left(const repair_plan& plan, const std::vector<std::shared_ptr<store>>& members,
                               const set_findings& now) {
  const judge j(plan, members, now);
  std::map<unsigned, std::vector<const block_write*>> blocks;
  for (const auto& w : plan.writes)
    blocks[w.group].push_back(&w);
  for (const auto& [group, writes] : blocks)
    if (!j.stays(writes))
      return fail(
          "metadata-changed", plan.members[writes.front()->member].path,
          fmt::format("unit {}: the copies that were good before the repair are damaged now: what the "
                      "repair wrote there is all that is left of this block; nothing was written",
                      writes.front()->unit));
  return {};
}

} // namespace dmremap::fsck
