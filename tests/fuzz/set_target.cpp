// SPDX-License-Identifier: GPL-2.0-or-later
// Opens a damaged set. Whatever its metadata says: an error that says so, or a set that can be read wholly; a
// read-only open writes nothing; what one open shows the next one shows, too.
#include "engine/disk.h"
#include "engine/uuid.h"
#include "tests/fuzz/set_script.h"
#include "tests/support/spare_check.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

namespace dmremap::fuzz {
namespace {

using test::memory_store;

constexpr std::uint64_t zeroed_unit = 28;
constexpr std::uint64_t main_bytes = set_main_sectors * sector_bytes;

/// Compared by memcmp: byte by byte it would be most of the time of a run.
struct sector_bytes_array : std::array<std::byte, sector_bytes> {
  friend bool operator==(const sector_bytes_array& a, const sector_bytes_array& b) {
    return std::memcmp(a.data(), b.data(), sector_bytes) == 0;
  }
};

struct members {
  std::shared_ptr<memory_store> main;
  std::vector<std::shared_ptr<memory_store>> spares;

  members(const set_images& images, const set_case& c, bool with_faults)
      : main(std::make_shared<memory_store>(images.main, 512,
                                            with_faults ? c.main_faults : test::fault_table{})) {
    for (std::size_t i = 0; i < images.spares.size(); ++i)
      spares.push_back(std::make_shared<memory_store>(images.spares[i], c.block_size,
                                                      with_faults ? c.spare_faults[i] : test::fault_table{}));
  }
  [[nodiscard]] result<std::unique_ptr<disk>> open(const set_case& c, bool read_only) const {
    open_options options;
    options.read_only = read_only;
    options.degraded = c.degraded;
    options.accept_main = c.accept_main;
    if (!c.accept_older)
      options.last_seen = 2;
    options.auto_remap = c.auto_remap;
    std::vector<std::shared_ptr<store>> present(spares.begin(), spares.end());
    if (c.absent_spare)
      present.pop_back();
    auto opened = disk::open(main, std::move(present), options);
    if (!opened)
      require(!opened.error().id.empty() && !opened.error().why.empty(), "an error says what it is");
    return opened;
  }
  [[nodiscard]] set_images images() const {
    set_images now{main->image(), {}};
    for (const auto& spare : spares)
      now.spares.push_back(spare->image());
    return now;
  }
};

/// What a set shows: each sector's bytes, or nothing where it cannot be read; and where it is.
struct view {
  std::vector<std::optional<sector_bytes_array>> sectors;
  std::vector<remap_entry> remaps;
};

/// All but the sequence: mending gives new ones.
bool same_place(const remap_entry& a, const remap_entry& b) {
  return a.main == b.main && a.spare_index == b.spare_index && a.spare == b.spare && a.lost == b.lost &&
         a.main_may_answer == b.main_may_answer && a.by_hand == b.by_hand;
}

void require_same(const view& a, const view& b, const std::string& when) {
  require(std::equal(a.remaps.begin(), a.remaps.end(), b.remaps.begin(), b.remaps.end(), same_place),
          "the same remaps " + when);
  require(a.sectors == b.sectors, "the same bytes " + when);
}

view look_at(disk& set) {
  view seen;
  require(set.size() == main_bytes, "the disk is as large as main");
  set.for_each_remap([&](const remap_entry& e) {
    require(seen.remaps.empty() || seen.remaps.back().main < e.main, "remaps ascend, one a unit");
    require(e.main.value * unit_sectors < set_main_sectors, "a remap is for a unit of main");
    require(e.spare.value < set_spare_units, "a remap is on the spare");
    seen.remaps.push_back(e);
  });
  const auto context = set.make_context();
  for (std::uint64_t s = 0; s < set_main_sectors; ++s) {
    sector_bytes_array data{};
    if (set.read(*context, data, s * sector_bytes))
      seen.sectors.emplace_back(data);
    else
      seen.sectors.emplace_back(std::nullopt);
  }
  std::vector<std::byte> all(main_bytes);
  if (set.read(*context, all, 0)) {
    for (std::uint64_t s = 0; s < set_main_sectors; ++s)
      require(!seen.sectors[s] ||
                  std::memcmp(seen.sectors[s]->data(), all.data() + s * sector_bytes, sector_bytes) == 0,
              "one large read gives what small ones give");
  }
  std::uint64_t lost = 0;
  for (const auto& range : set.lost())
    lost += range.count;
  require(set.stats().lost_sectors == lost, "the counter of lost sectors is that of the list");
  static_cast<void>(set.info());
  return seen;
}

/// Each sector is that of main, or that of the spare where a remap says so; a lost one is not readable.
void check_content(const view& seen, const set_images& on, bool absent_spare) {
  std::vector<const remap_entry*> by_unit(set_main_units + 1);
  for (const auto& e : seen.remaps)
    by_unit[e.main.value] = &e;
  for (std::uint64_t s = 0; s < set_main_sectors; ++s) {
    const remap_entry* e = by_unit[s / unit_sectors];
    sector_bytes_array there{};
    if (e == nullptr) {
      on.main.read(there, s * sector_bytes);
      require(seen.sectors[s] == there, "an unremapped sector is that of main");
      continue;
    }
    if ((e->lost >> (s % unit_sectors) & 1U) != 0) {
      require(!seen.sectors[s], "a lost sector cannot be read");
      continue;
    }
    if (absent_spare)
      continue;
    require(e->spare_index < on.spares.size(), "the remap's spare exists");
    on.spares[e->spare_index].read(there, e->spare.value * unit_bytes + s % unit_sectors * sector_bytes);
    require(seen.sectors[s] == there, "a remapped sector is that of the spare");
  }
}

bool same_images(const set_images& a, const set_images& b) {
  return a.main.hash() == b.main.hash() &&
         std::equal(a.spares.begin(), a.spares.end(), b.spares.begin(), b.spares.end(),
                    [](const auto& x, const auto& y) { return x.hash() == y.hash(); });
}

/// Nothing where the set is refused.
std::optional<view> look_read_only(const set_images& images, const set_case& c, bool with_faults) {
  const members on(images, c, with_faults);
  std::optional<view> seen;
  {
    auto set = on.open(c, true);
    if (set) {
      seen = look_at(**set);
      sector_bytes_array data{};
      const auto context = (*set)->make_context();
      require(!(*set)->write(*context, data, 0), "a set that is open read-only takes no write");
      require(!(*set)->remap(sector_number(8)), "nor a remap");
      static_cast<void>((*set)->close());
    }
  }
  require(same_images(on.images(), images), "a read-only open leaves every byte as it was");
  for (const auto& spare : on.spares)
    require(spare->counts().writes + spare->counts().zeroes == 0,
            "a read-only open does not write to a spare");
  require(on.main->counts().writes + on.main->counts().zeroes == 0,
          "a read-only open does not write to main");
  return seen;
}

/// Writes, moves and frees some units. What is written goes into `expected`; the sectors of whose content
/// nothing can be said are returned.
std::vector<bool> work(disk& set, view& expected) {
  std::vector<bool> open(set_main_sectors);
  for (std::uint64_t s = 0; s < set_main_sectors; ++s) // may be salvaged
    open[s] = !expected.sectors[s];
  const auto context = set.make_context();
  std::vector<std::uint64_t> units{0, 1, set_main_units - 1};
  for (std::size_t i = 0; i < expected.remaps.size() && i < 6; ++i)
    units.push_back(expected.remaps[i].main.value);
  std::uint8_t stamp = 0x40;
  for (const std::uint64_t unit : units) {
    const std::uint64_t first = unit * unit_sectors, count = std::min(unit_sectors, set_main_sectors - first);
    const std::uint64_t from = stamp % 2 != 0 ? 1 : 0, sectors = count > 2 ? count - 2 * from : count - from;
    std::vector<std::byte> data(sectors * sector_bytes, std::byte(stamp++));
    const bool good = set.write(*context, data, (first + from) * sector_bytes).has_value();
    for (std::uint64_t s = first + from; s < first + from + sectors; ++s) {
      sector_bytes_array wanted{};
      wanted.fill(data.front());
      expected.sectors[s] = wanted;
      open[s] = !good;
    }
  }
  static_cast<void>(set.remap(sector_number(5 * unit_sectors)));
  static_cast<void>(set.unmap(sector_number(units.back() * unit_sectors)));
  static_cast<void>(set.salvage(std::nullopt));
  static_cast<void>(set.zero(*context, zeroed_unit * unit_bytes, unit_bytes));
  std::fill_n(open.begin() + zeroed_unit * unit_sectors, unit_sectors, true);
  static_cast<void>(set.flush());
  static_cast<void>(set.sync());
  return open;
}

void check_spares(const set_images& images) {
  for (const auto& spare : images.spares) {
    test::spare_checker checker;
    const auto report = checker.check(spare);
    require(report.damage.empty(), "metadata is whole after an open that mends: " +
                                       (report.damage.empty() ? "" : report.damage.front()));
  }
}

/// The set is open for writing and nothing that is done to it can fail.
void use_sound_set(disk& set, const members& on, const set_case& c, const std::optional<view>& before) {
  const view first = look_at(set);
  if (before)
    require_same(*before, first, "read-only and writable");
  check_content(first, on.images(), c.absent_spare);
  // The checker goes by the fixed copies; a set may say of itself that it has given them up.
  const auto info = set.info();
  const bool all_copies =
      info && std::all_of(info->spares.begin(), info->spares.end(), [](const spare_status& one) {
        return one.super_copies_valid == 5 && one.head_copies_valid == 5;
      });
  if (all_copies && !c.absent_spare)
    check_spares(on.images());
  view expected = first;
  const auto unknown = work(set, expected);
  const view now = look_at(set);
  for (std::uint64_t s = 0; s < set_main_sectors; ++s)
    require(unknown[s] || now.sectors[s] == expected.sectors[s],
            "sectors hold what was written last: " + std::to_string(s));
  const auto closed = set.close();
  require(closed.has_value() || c.near_limit, "a sound set closes");
  if (!closed)
    return;
  const auto after = look_read_only(on.images(), c, false);
  require(after.has_value(), "a set that was closed opens again");
  require_same(now, *after, "before and after a close");
}

void use_failing_set(disk& set) {
  view expected = look_at(set);
  static_cast<void>(work(set, expected));
  static_cast<void>(look_at(set));
  static_cast<void>(set.close());
}

} // namespace

void run_set(input_bytes bytes) {
  std::uint64_t next = std::uint64_t{1} << 32U;
  const counted_numbers same(next); // sessions and UUIDs: what was found once is found again
  const auto c = read_set_case(bytes);
  const auto before = look_read_only(c->images, *c, true);
  if (before && !c->faults)
    check_content(*before, c->images, c->absent_spare);
  const members on(c->images, *c, true);
  bool opened = false;
  {
    auto set = on.open(*c, false);
    opened = set.has_value();
    if (opened && c->faults)
      use_failing_set(**set);
    else if (opened)
      use_sound_set(**set, on, *c, before);
  }
  if (c->faults) { // whatever they did: the set is refused, or read without them
    static_cast<void>(look_read_only(on.images(), *c, false));
  } else if (!opened && before) {
    const auto after = look_read_only(on.images(), *c, false);
    require(after.has_value(), "an open for writing that is refused makes nothing worse");
    require_same(*before, *after, "before and after an open that was refused");
  }
}

} // namespace dmremap::fuzz
