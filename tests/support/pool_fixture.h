// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/disk.h"
#include "tests/support/memory_store.h"

#include <catch2/catch.hpp>
#include <memory>
#include <vector>

namespace dmremap::test {

/// A set of several spares in memory. Sector s of main begins filled with the byte s % 251 + 1. Spares are
/// numbered as they were made; which of them are there is the test's to say.
struct pool_fixture {
  explicit pool_fixture(unsigned count, std::uint64_t main_bytes = 1u << 20)
      : main(std::make_shared<memory_store>(main_bytes)), there(count, true) {
    std::vector<std::byte> content(main_bytes);
    for (std::uint64_t i = 0; i < main_bytes; ++i)
      content[i] = original(i / sector_bytes);
    REQUIRE(main->write(content, 0));
    std::vector<store*> all;
    for (unsigned n = 0; n < count; ++n) {
      spares.push_back(new_spare(n));
      all.push_back(spares.back().get());
    }
    format_options options;
    options.name = "pool";
    const auto made = disk::format(*main, all, options);
    if (!made)
      FAIL(made.error().text());
    open();
  }
  ~pool_fixture() { context.reset(); }

  static std::byte original(std::uint64_t sector) { return std::byte(sector % 251 + 1); }
  static std::shared_ptr<memory_store> new_spare(unsigned n) {
    auto s = std::make_shared<memory_store>(16u << 20, n % 2 == 0 ? 512u : 4096u);
    store_identity identity;
    identity.path = "/spare" + std::to_string(n);
    s->set_identity(identity);
    return s;
  }

  /// Ends the daemon without a close.
  void kill() {
    context.reset();
    set.reset();
  }
  result<void> try_open(const open_options& options = {}) {
    kill();
    std::vector<std::shared_ptr<store>> present;
    for (unsigned n = 0; n < spares.size(); ++n)
      if (there[n])
        present.push_back(spares[n]);
    auto opened = disk::open(main, present, options);
    if (!opened)
      return tl::make_unexpected(opened.error());
    set = std::move(*opened);
    context = set->make_context();
    return {};
  }
  void open(bool degraded = false) {
    open_options options;
    options.degraded = degraded;
    const auto opened = try_open(options);
    if (!opened)
      FAIL(opened.error().id + ": " + opened.error().text());
  }
  void close() {
    const auto closed = set->close();
    if (!closed)
      FAIL(closed.error().text());
    kill();
  }
  /// The next spare gets the lowest free place, though another one has had that before: none is left that
  /// none has had.
  void use_up_places() {
    std::vector<unsigned> used;
    for (bool more = true; more;) {
      const auto passing = new_spare(0);
      const auto place = set->add_spare(passing);
      more = place.has_value();
      if (!more)
        break;
      used.push_back(*place);
      fault_table faults; // it goes without having been erased
      faults.all = io_error::gone;
      passing->set_faults(faults);
      (void)set->save();
    }
    for (const unsigned place : used)
      REQUIRE(set->forget_spare(place).has_value());
  }
  /// The spare stops answering now.
  void break_spare(unsigned n, io_error how = io_error::gone) {
    fault_table faults;
    faults.all = how;
    spares[n]->set_faults(faults);
  }
  void mend_spare(unsigned n) { spares[n]->clear_faults(); }

  void remap(std::uint64_t unit) {
    const auto done = set->remap(sector_number(unit * unit_sectors));
    if (!done)
      FAIL(done.error().text());
  }
  io_result write(std::uint64_t unit, std::byte value) {
    return set->write(*context, std::vector<std::byte>(unit_bytes, value), unit * unit_bytes);
  }
  io_result write_sector(std::uint64_t sector, std::byte value) {
    return set->write(*context, std::vector<std::byte>(sector_bytes, value), sector * sector_bytes);
  }
  /// What a unit reads as: one byte throughout, or why not ("mixed": several).
  std::string shows(std::uint64_t unit) { return shows_range(unit * unit_bytes, unit_bytes); }
  std::string shows_sector(std::uint64_t sector) { return shows_range(sector * sector_bytes, sector_bytes); }
  std::string shows_range(std::uint64_t offset, std::uint64_t length) {
    std::vector<std::byte> got(length, std::byte{0xEE});
    if (auto r = set->read(*context, got, offset); !r)
      return std::string(name_of(r.error()));
    for (const std::byte b : got)
      if (b != got.front())
        return "mixed";
    return "byte " + std::to_string(std::to_integer<unsigned>(got.front()));
  }
  [[nodiscard]] bool original_unit(std::uint64_t unit) {
    for (std::uint64_t s = unit * unit_sectors; s < (unit + 1) * unit_sectors; ++s)
      if (shows_sector(s) != "byte " + std::to_string(std::to_integer<unsigned>(original(s))))
        return false;
    return true;
  }
  [[nodiscard]] std::optional<remap_entry> entry(std::uint64_t unit) const {
    std::optional<remap_entry> found;
    set->for_each_remap([&](const remap_entry& e) {
      if (e.main.value == unit)
        found = e;
    });
    return found;
  }
  [[nodiscard]] spare_status status(unsigned index) const {
    const auto info = set->info();
    for (const spare_status& s : info->spares)
      if (s.index == index)
        return s;
    return {};
  }

  std::shared_ptr<memory_store> main;
  std::vector<std::shared_ptr<memory_store>> spares;
  std::vector<bool> there;
  std::unique_ptr<disk> set;
  std::unique_ptr<io_context> context;
};

inline constexpr std::byte one{101}, two{102}, three{103};

/// Remaps the unit, makes sure that it went to the spare, and fills it.
inline void put_on(pool_fixture& f, std::uint64_t unit, unsigned spare, std::byte value) {
  const auto made = f.set->add_remap(sector_number(unit * unit_sectors), std::nullopt, unit_sectors, spare);
  if (!made)
    FAIL(made.error().text());
  REQUIRE(f.write(unit, value));
  REQUIRE(f.entry(unit)->spare_index == spare);
}

} // namespace dmremap::test
