// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/fsck/images.h"

#include "fsck/apply.h"
#include "tests/support/pool_fixture.h"
#include "tests/support/spare_check.h"

#include <random>
#include <zlib.h>

namespace dmremap::test {
namespace {

constexpr unsigned table_blocks = 17; // of a spare of 16 MiB

set_images build(unsigned spares, bool closed) {
  pool_fixture p(spares);
  p.close();
  p.open(); // so that spares are protected by each other
  p.remap(3);
  REQUIRE(p.write(3, std::byte{0xA3}));
  p.main->add_bad({10 * 8 + 2, 2, direction::read});
  std::vector<std::byte> buffer(unit_bytes);
  REQUIRE_FALSE(p.set->read(*p.context, buffer, 10 * unit_bytes));
  p.main->add_bad({12 * 8, 8, direction::write});
  REQUIRE(p.write(12, std::byte{0xAC}));
  p.main->clear_faults();
  for (std::uint64_t unit = 40; unit < 52; ++unit) {
    p.remap(unit);
    REQUIRE(p.write(unit, std::byte(unit)));
  }
  REQUIRE(p.set->unmap(sector_number(45 * 8)));
  REQUIRE(p.set->flush());
  if (closed)
    p.close();
  set_images out{p.main->image(), {}};
  for (const auto& s : p.spares)
    out.spares.push_back(s->image());
  p.kill();
  return out;
}

std::vector<std::shared_ptr<memory_store>> stores_of(const set_images& images) {
  std::vector<std::shared_ptr<memory_store>> out;
  for (unsigned n = 0; n < images.spares.size(); ++n) {
    auto s = std::make_shared<memory_store>(images.spares[n], n % 2 == 0 ? 512u : 4096u);
    store_identity identity;
    identity.path = "/spare" + std::to_string(n);
    s->set_identity(identity);
    out.push_back(std::move(s));
  }
  return out;
}

fsck_run examine(const std::vector<std::shared_ptr<memory_store>>& stores) {
  fsck_run run;
  std::vector<fsck::spare_input> spares;
  for (const auto& s : stores)
    spares.push_back({s->identity().path, s});
  auto found = fsck::inspect(spares, {});
  if (found)
    run.before = std::move(*found);
  else
    run.refused = found.error().id;
  return run;
}

} // namespace

std::vector<std::uint64_t> set_images::hashes() const {
  std::vector<std::uint64_t> out{main.hash()};
  for (const auto& s : spares)
    out.push_back(s.hash());
  return out;
}

const set_images& base_set(unsigned spares, bool closed) {
  static std::map<std::pair<unsigned, bool>, set_images> made;
  auto& kept = made[{spares, closed}];
  if (kept.spares.empty())
    kept = build(spares, closed);
  return kept;
}

shown_set show(const set_images& images) {
  shown_set out;
  std::vector<std::shared_ptr<store>> spares;
  for (const auto& s : stores_of(images))
    spares.push_back(s);
  open_options options;
  options.read_only = true;
  auto opened = disk::open(std::make_shared<memory_store>(images.main), spares, options);
  if (!opened) {
    out.refused = opened.error().id;
    return out;
  }
  const auto context = (*opened)->make_context();
  std::vector<std::byte> sector(sector_bytes);
  for (std::uint64_t at = 0; at < images.main.size(); at += sector_bytes) {
    const bool good = (*opened)->read(*context, sector, at).has_value();
    out.sectors.push_back(good ? std::to_string(crc32_of(sector)) : "error");
  }
  (*opened)->for_each_remap([&](const remap_entry& e) {
    out.table.push_back(std::to_string(e.main.value) + " on " + std::to_string(e.spare_index) + ":" +
                        std::to_string(e.spare.value) + " lost " + std::to_string(e.lost) + " may " +
                        std::to_string(e.main_may_answer));
  });
  std::sort(out.table.begin(), out.table.end());
  return out;
}

used_set use(const set_images& images) {
  used_set out;
  out.unit = main_unit(200);
  const auto main = std::make_shared<memory_store>(images.main);
  const auto stores = stores_of(images);
  auto opened = disk::open(main, {stores.begin(), stores.end()}, {});
  if (!opened) {
    out.refused = opened.error().id;
    return out;
  }
  const std::vector<std::byte> content(unit_bytes, std::byte{0x5C});
  out.written = std::to_string(crc32_of(std::span(content).first(sector_bytes)));
  auto context = (*opened)->make_context();
  REQUIRE((*opened)->remap(first_sector(out.unit)));
  REQUIRE((*opened)->write(*context, content, out.unit.value * unit_bytes));
  context.reset();
  REQUIRE((*opened)->close());
  opened->reset();
  out.after.main = main->image();
  for (const auto& s : stores)
    out.after.spares.push_back(s->image());
  return out;
}

bool no_wrong_byte(const shown_set& oracle, const shown_set& now) {
  if (!now.refused.empty())
    return true; // nothing is shown
  for (std::size_t n = 0; n < oracle.sectors.size(); ++n)
    if (now.sectors[n] != "error" && now.sectors[n] != oracle.sectors[n])
      return false;
  return true;
}

// --- the editor

std::uint64_t spare_editor::super(unsigned copy) const {
  static constexpr std::uint64_t units[] = {0, 128, 256, 512, 1024, 1025, 819, 1638, 2457, 3276};
  return units[copy]; // the format's example for 16 MiB
}

std::uint64_t spare_editor::block(unsigned replica, std::uint32_t number) const {
  return super(5 + replica) + 1 + number;
}

std::uint64_t spare_editor::get(std::uint64_t unit, unsigned offset, unsigned size) const {
  std::array<std::byte, 8> bytes{};
  spare_.read(std::span(bytes).first(size), unit * unit_bytes + offset);
  std::uint64_t value = 0;
  for (unsigned i = size; i-- > 0;)
    value = value << 8 | std::to_integer<std::uint64_t>(bytes[i]);
  return value;
}

void spare_editor::put(std::uint64_t unit, unsigned offset, unsigned size, std::uint64_t value) {
  std::array<std::byte, unit_bytes> bytes;
  spare_.read(bytes, unit * unit_bytes);
  for (unsigned i = 0; i < size; ++i)
    bytes[offset + i] = std::byte(value >> (8 * i) & 0xFF);
  const auto crc = ::crc32(0, reinterpret_cast<const Bytef*>(bytes.data() + 4), unit_bytes - 4);
  for (unsigned i = 0; i < 4; ++i)
    bytes[i] = std::byte(crc >> (8 * i) & 0xFF);
  spare_.write(bytes, unit * unit_bytes);
}

void spare_editor::put_supers(unsigned offset, unsigned size, std::uint64_t value) {
  for (unsigned copy = 0; copy < 10; ++copy)
    put(super(copy), offset, size, value);
}

void spare_editor::put_blocks(std::uint32_t number, unsigned offset, unsigned size, std::uint64_t value) {
  for (unsigned r = 0; r < 5; ++r)
    put(block(r, number), offset, size, value);
}

void spare_editor::put_slot(std::uint32_t number, unsigned index, std::uint64_t where, std::uint64_t stamp) {
  put_blocks(number, 32 + 16 * index, 8, where);
  put_blocks(number, 40 + 16 * index, 8, stamp);
}

void spare_editor::flip(std::uint64_t unit, unsigned offset) {
  std::array<std::byte, 1> byte;
  spare_.read(byte, unit * unit_bytes + offset);
  byte[0] ^= std::byte{0x10};
  spare_.write(byte, unit * unit_bytes + offset);
}

void spare_editor::fill(std::uint64_t unit, std::uint64_t units, int byte) {
  std::minstd_rand random(static_cast<unsigned>(unit + 7));
  std::vector<std::byte> bytes(units * unit_bytes, std::byte(byte));
  if (byte < 0)
    for (auto& b : bytes)
      b = std::byte(random() >> 8 & 0xFF);
  spare_.write(bytes, unit * unit_bytes);
}

void spare_editor::tear(std::uint64_t unit, unsigned sectors) {
  spare_.zero(unit * unit_bytes, sectors * sector_bytes);
}

void spare_editor::copy(std::uint64_t from, std::uint64_t to) {
  std::array<std::byte, unit_bytes> bytes;
  spare_.read(bytes, from * unit_bytes);
  spare_.write(bytes, to * unit_bytes);
}

std::vector<std::pair<std::uint32_t, unsigned>> spare_editor::serving() const {
  std::vector<std::pair<std::uint32_t, unsigned>> out;
  for (std::uint32_t b = 0; b < table_blocks; ++b)
    for (unsigned i = 0; i < 254 && get(block(0, b), 4, 4) == 0x01544D44; ++i) {
      const auto kind = get(block(0, b), 40 + 16 * i + 6, 1);
      if (kind == 1 || kind == 2)
        out.emplace_back(b, i);
    }
  return out;
}

std::pair<std::uint32_t, unsigned> spare_editor::free_slot() const {
  for (std::uint32_t b = 0; b < table_blocks; ++b)
    for (unsigned i = 253; i > 0 && get(block(0, b), 4, 4) == 0x01544D44; --i)
      if (get(block(0, b), 40 + 16 * i, 8) == 0)
        return {b, i};
  FAIL("no free slot");
  return {};
}

// --- fsck

bool fsck_run::has(fsck::damage_kind kind) const {
  return std::any_of(before.found.begin(), before.found.end(),
                     [&](const fsck::damage& d) { return d.kind == kind; });
}

fsck_run look(const set_images& images) {
  const auto stores = stores_of(images);
  auto run = examine(stores);
  for (std::size_t n = 0; n < stores.size(); ++n) {
    CHECK(stores[n]->counts().writes == 0);
    CHECK(stores[n]->image().hash() == images.spares[n].hash());
  }
  return run;
}

fsck_run repair(set_images& images, const fsck::repair_choice& chosen) {
  const auto stores = stores_of(images);
  auto run = examine(stores);
  if (!run.refused.empty())
    return run;
  run.plan = fsck::make_plan(run.before, chosen);
  if (!run.plan.empty()) {
    const auto done = fsck::apply_plan(run.plan, {stores.begin(), stores.end()});
    REQUIRE(done);
    CHECK(done->failures.empty());
    run.written = done->written;
  }
  for (std::size_t n = 0; n < stores.size(); ++n)
    images.spares[n] = stores[n]->image();
  run.after = examine(stores_of(images)).before;
  return run;
}

} // namespace dmremap::test
