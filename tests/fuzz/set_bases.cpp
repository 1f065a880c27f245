// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/disk.h"
#include "engine/uuid.h"
#include "tests/fuzz/set_script.h"

#include <array>

namespace dmremap::fuzz {
namespace {

using test::memory_store;
using test::page_image;

constexpr const char* set_uuid = "5e700000-0000-4000-8000-000000000001";
constexpr const char* spare_uuid = "5ba4e000-0000-4000-8000-000000000002";

struct live_set {
  std::shared_ptr<memory_store> main;
  std::vector<std::shared_ptr<memory_store>> spares;
  std::unique_ptr<disk> set;

  [[nodiscard]] set_images images() const {
    set_images now{main->image(), {}};
    for (const auto& spare : spares)
      now.spares.push_back(spare->image());
    return now;
  }
  void open() {
    auto opened = disk::open(main, {spares.begin(), spares.end()}, {});
    require(opened.has_value(), "a good set opens" + (opened ? "" : ": " + opened.error().text()));
    set = std::move(*opened);
  }
};

live_set make_live(const set_images& from) {
  live_set live{std::make_shared<memory_store>(from.main), {}, nullptr};
  for (const auto& spare : from.spares)
    live.spares.push_back(std::make_shared<memory_store>(spare));
  return live;
}

/// Sector s of main begins filled with the byte s % 251 + 1.
page_image fresh_main() {
  page_image main(set_main_sectors * sector_bytes);
  for (std::uint64_t s = 0; s < set_main_sectors; ++s)
    main.write(std::vector<std::byte>(sector_bytes, std::byte(s % 251 + 1)), s * sector_bytes);
  return main;
}

bool format(live_set& live) {
  std::vector<store*> spares;
  for (const auto& spare : live.spares)
    spares.push_back(spare.get());
  format_options options;
  options.name = "fuzz";
  options.set_uuid = set_uuid;
  if (spares.size() == 1)
    options.spare_uuid = spare_uuid;
  return disk::format(*live.main, spares, options).has_value();
}

set_images formatted(unsigned spares) {
  set_images images{fresh_main(), std::vector<page_image>(spares, page_image(set_spare_units * unit_bytes))};
  live_set live = make_live(images);
  if (!format(live))
    return {page_image(), {}};
  return live.images();
}

void work(live_set& live, std::uint64_t unit) {
  const auto context = live.set->make_context();
  std::vector<std::byte> unit_data(unit_bytes, std::byte(0xA0 + unit));
  live.main->add_bad({unit * 8 + 2, 2, test::direction::read});    // lost by a read
  live.main->add_bad({(unit + 2) * 8, 8, test::direction::write}); // moved by a write
  static_cast<void>(live.set->read(*context, unit_data, unit * unit_bytes));
  std::vector<std::byte> other(unit_bytes, std::byte(0xB0 + unit));
  require(live.set->write(*context, other, (unit + 2) * unit_bytes).has_value(), "a write that main refuses");
  require(live.set->remap(sector_number((unit + 4) * 8)).has_value(), "a remap by hand");
  require(live.set->write(*context, other, (unit + 4) * unit_bytes).has_value(),
          "a write to a remapped unit");
  require(live.set->flush().has_value(), "a flush");
  live.main->clear_faults();
}

set_images worked(const set_images& from, std::uint64_t unit, bool closed) {
  live_set live = make_live(from);
  live.open();
  work(live, unit);
  if (closed)
    require(live.set->close().has_value(), "a good set closes");
  return live.images(); // as after a power cut where it was not closed
}

set_images of_two_spares() {
  const set_images fresh = formatted(2);
  return fresh.spares.empty() ? base_set(2) : worked(fresh, 10, true);
}

} // namespace

const set_images& base_set(unsigned number) {
  static std::uint64_t next = 1;
  const counted_numbers same(next); // in every process: what was found once is found again
  static const set_images fresh = formatted(1);
  static const set_images closed = worked(fresh, 3, true);
  static const set_images cut = worked(closed, 20, false);
  if (number == 0)
    return fresh;
  if (number == 1)
    return closed;
  if (number == 2)
    return cut;
  static const set_images two = of_two_spares();
  return two;
}

} // namespace dmremap::fuzz
