// SPDX-License-Identifier: GPL-2.0-or-later
// Random operations against an array that knows for each sector its bytes, or that it is lost; main fails at
// random.
//
// DMREMAP_MODEL_OPS sets the number of operations, DMREMAP_MODEL_SEED the first seed ("random": any).
#include "tests/support/memory_store.h"
#include "tests/support/sanitized.h"
#include "tests/support/spare_check.h"

#include "engine/disk.h"
#include "engine/units.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>

using namespace dmremap;
using namespace dmremap::test;

namespace {

constexpr std::uint64_t main_units = 64, sectors = main_units * unit_sectors;
/// Two of the units by which the engine tells a dead path from a bad place: they stay good, and where they
/// are.
constexpr bool keep_well(std::uint64_t unit) {
  return unit == 0 || unit == 21;
}

std::uint64_t operations_wanted() {
  const char* const value = std::getenv("DMREMAP_MODEL_OPS");
  return value != nullptr ? std::strtoull(value, nullptr, 0) : sanitized ? 50000 : 800000;
}

std::uint64_t first_seed() {
  const char* const value = std::getenv("DMREMAP_MODEL_SEED");
  if (value != nullptr && std::string(value) == "random")
    return std::random_device{}();
  return value != nullptr ? std::strtoull(value, nullptr, 0) : 1;
}

/// The set under test.
struct tested_set {
  std::shared_ptr<memory_store> main, spare;
  std::unique_ptr<disk> live;

  tested_set(std::uint32_t main_block, std::uint32_t spare_block)
      : main(std::make_shared<memory_store>(main_units * unit_bytes, main_block)),
        spare(std::make_shared<memory_store>(16u << 20, spare_block)) {
    store* const spares[] = {spare.get()};
    format_options options;
    options.name = "model";
    const auto made = disk::format(*main, spares, options);
    if (!made)
      FAIL(made.error().text());
    open();
  }
  void open() {
    auto opened = disk::open(main, {spare}, {});
    if (!opened)
      FAIL(opened.error().text());
    live = std::move(*opened);
  }
  /// Empty: every copy of everything is right.
  [[nodiscard]] std::string damage() const {
    spare_checker checker;
    std::string text;
    for (const std::string& each : checker.check(spare->image()).damage)
      text += each + "; ";
    return text;
  }
};

/// One thread, exact comparison.
class model {
public:
  model(std::uint64_t seed, std::uint32_t main_block, std::uint32_t spare_block)
      : random_(seed), set_(main_block, spare_block), bytes_(sectors * sector_bytes), lost_(sectors) {
    fault_table broken; // of the spare: places that new remaps must step over
    for (unsigned i = 0; i < 20; ++i)
      broken.bad.push_back({(1043 + pick(300)) * unit_sectors + pick(8), 1, direction::write});
    set_.spare->set_faults(broken);
    context_ = set_.live->make_context();
  }
  ~model() { context_.reset(); }

  void run(std::uint64_t operations) {
    for (done_ = 0; done_ < operations; ++done_)
      step();
    compare_all();
    reopen(true);
    compare_all();
  }
  [[nodiscard]] std::uint64_t done() const { return done_; }
  /// How often the interesting things happened: a model that meets none of them proves nothing.
  struct tally {
    std::uint64_t failed_reads = 0, failed_writes = 0, lost = 0, salvaged = 0, remaps = 0, unmaps = 0,
                  by_hand = 0;
    std::uint64_t moved_by_errors = 0;
  };
  [[nodiscard]] const tally& counts() const { return counts_; }

private:
  struct fault_view {
    bool any = false; ///< something fails there
    bool beyond_medium = false;
  };

  std::uint64_t pick(std::uint64_t below) { return random_() % below; }

  void step() {
    switch (pick(40)) {
    case 0:
      return inject();
    case 1:
      return pick(4) == 0 ? set_.main->clear_faults() : heal_some();
    case 2:
      return remap();
    case 3:
    case 10:
    case 11:
    case 12:
      return unmap();
    case 13:
      return inject();
    case 4:
      return pick(4) == 0 ? salvage() : add_remap();
    case 5:
      REQUIRE(set_.live->flush().has_value());
      return;
    case 6:
      return pick(20) == 0 ? reopen(pick(2) == 0) : remap();
    case 7:
      REQUIRE(set_.live->sync().has_value());
      return;
    case 8:
    case 9:
      return write(true);
    default:
      return pick(2) == 0 ? read() : write(false);
    }
  }

  struct span_of_bytes {
    std::uint64_t offset, length;
    [[nodiscard]] std::uint64_t first() const { return offset / sector_bytes; }
    [[nodiscard]] std::uint64_t end() const { return (offset + length + sector_bytes - 1) / sector_bytes; }
  };
  span_of_bytes pick_range() {
    const std::uint64_t grain = std::array<std::uint64_t, 4>{1, 512, 512, 4096}[pick(4)];
    const std::uint64_t offset = align_down(pick(bytes_.size()), grain);
    const std::uint64_t most =
        std::min<std::uint64_t>(bytes_.size() - offset, pick(8) == 0 ? 12 * unit_bytes : 9000);
    return {offset, std::max<std::uint64_t>(align_down(1 + pick(most), grain), std::min(grain, most))};
  }

  [[nodiscard]] std::vector<bool> mapped() const {
    std::vector<bool> map(main_units);
    set_.live->for_each_remap([&](const remap_entry& e) { map[e.main.value] = true; });
    return map;
  }
  /// What main would fail of [first, end), widened to its blocks, in units that it still serves.
  [[nodiscard]] fault_view faults_in(std::uint64_t first, std::uint64_t end, direction when) const {
    fault_view view;
    const std::uint64_t block = set_.main->block_size() / sector_bytes;
    const auto map = mapped();
    for (const bad_range& bad : set_.main->faults().bad) {
      if (when != direction::both && bad.when != direction::both && bad.when != when)
        continue;
      for (std::uint64_t s = align_down(bad.first, block); s < align_up(bad.first + bad.count, block); ++s)
        if (s >= first && s < end && !map[s / unit_sectors]) {
          view.any = true;
          view.beyond_medium |= bad.error != io_error::medium;
        }
    }
    return view;
  }
  [[nodiscard]] bool lost_in(std::uint64_t first, std::uint64_t end) const {
    return std::any_of(lost_.begin() + static_cast<std::ptrdiff_t>(first),
                       lost_.begin() + static_cast<std::ptrdiff_t>(end), [](bool lost) { return lost; });
  }

  /// Which sectors main cannot read now, in units that it serves: these, and no others, may be lost by an
  /// operation.
  [[nodiscard]] std::vector<bool> losable() const {
    std::vector<bool> can(sectors);
    const std::uint64_t block = set_.main->block_size() / sector_bytes;
    const auto map = mapped();
    for (const bad_range& bad : set_.main->faults().bad)
      for (std::uint64_t s = align_down(bad.first, block);
           s < std::min(align_up(bad.first + bad.count, block), sectors); ++s)
        if (bad.when != direction::write && bad.error == io_error::medium && !map[s / unit_sectors])
          can[s] = true;
    return can;
  }
  /// Takes over what the engine says it has lost; it may have lost only what it could not read.
  void follow_losses(const std::vector<bool>& could) {
    std::vector<bool> now(sectors);
    for (const lost_range& range : set_.live->lost())
      for (std::uint64_t s = range.first.value; s < range.first.value + range.count; ++s)
        now[s] = true;
    for (std::uint64_t s = 0; s < sectors; ++s) {
      if (now[s] == lost_[s])
        continue;
      INFO("sector " << s);
      REQUIRE(now[s]); // a lost sector does not come back by itself
      REQUIRE(could[s]);
      lost_[s] = true;
      ++counts_.lost;
    }
  }

  void inject() {
    const std::uint64_t first = pick(sectors), count = std::min(1 + pick(3), sectors - first);
    for (std::uint64_t s = first; s < first + count; ++s)
      if (keep_well(s / unit_sectors))
        return;
    bad_range bad{first, count, direction::read, io_error::medium, always, pick(2) == 0};
    if (pick(2) == 0)
      bad.when = pick(3) == 0 ? direction::both : direction::write;
    if (pick(3) == 0)
      bad.times = 1 + pick(3);
    if (pick(5) == 0) {
      bad.error = std::array{io_error::transient, io_error::no_space}[pick(2)];
      bad.times = 1 + pick(2);
    }
    set_.main->add_bad(bad);
  }
  void heal_some() { set_.main->clear_bad(pick(sectors), 40); }

  void read() {
    const span_of_bytes r = pick_range();
    const fault_view faults = faults_in(r.first(), r.end(), direction::read);
    const auto could = losable();
    std::vector<std::byte> got(r.length, std::byte{0xA5});
    const io_result done = set_.live->read(*context_, got, r.offset);
    INFO("read " << r.offset << "+" << r.length);
    if (done) {
      REQUIRE_FALSE(lost_in(r.first(), r.end()));
      REQUIRE(std::memcmp(got.data(), bytes_.data() + r.offset, r.length) == 0);
    } else {
      INFO(name_of(done.error()));
      ++counts_.failed_reads;
      REQUIRE((faults.any || lost_in(r.first(), r.end())));
    }
    follow_losses(could);
  }

  void write(bool zeros) {
    const span_of_bytes r = pick_range();
    std::vector<std::byte> data(r.length);
    for (std::byte& b : data)
      b = zeros ? std::byte{0} : static_cast<std::byte>(random_());
    // Half a sector needs its other half.
    const bool head = r.offset % sector_bytes != 0, tail = (r.offset + r.length) % sector_bytes != 0;
    const auto hard = [&](std::uint64_t s) { return lost_[s] || faults_in(s, s + 1, direction::read).any; };
    const bool may_fail =
        (head && hard(r.first())) || (tail && hard(r.end() - 1)) ||
        faults_in(align_down(r.first(), unit_sectors), align_up(r.end(), unit_sectors), direction::both)
            .beyond_medium;
    const auto could = losable();
    const auto was_lost = lost_;
    const io_result done =
        zeros ? set_.live->zero(*context_, r.offset, r.length) : set_.live->write(*context_, data, r.offset);
    INFO((zeros ? "zero " : "write ") << r.offset << "+" << r.length);
    if (!done) {
      INFO(name_of(done.error()));
      ++counts_.failed_writes;
      REQUIRE(may_fail);
      return settle(r, data, could);
    }
    REQUIRE_FALSE((head && was_lost[r.first()]));
    REQUIRE_FALSE((tail && was_lost[r.end() - 1]));
    std::memcpy(bytes_.data() + r.offset, data.data(), r.length);
    for (std::uint64_t s = r.first(); s < r.end(); ++s)
      lost_[s] = false;
    follow_losses(could);
  }

  /// After a failure each sector is old or new; which, is asked of the disk.
  void settle(const span_of_bytes& r, const std::vector<std::byte>& data, const std::vector<bool>& could) {
    const fault_table faults = set_.main->faults();
    std::vector<bool> now(sectors);
    for (const lost_range& range : set_.live->lost())
      for (std::uint64_t s = range.first.value; s < range.first.value + range.count; ++s)
        now[s] = true;
    for (std::uint64_t s = r.first(); s < r.end(); ++s)
      if (!now[s])
        lost_[s] = false; // written after all
    follow_losses(could);
    set_.main->set_faults({}); // look without touching anything
    for (std::uint64_t s = r.first(); s < r.end(); ++s) {
      const std::uint64_t from = std::max(r.offset, s * sector_bytes);
      const std::uint64_t to = std::min(r.offset + r.length, (s + 1) * sector_bytes);
      std::vector<std::byte> fresh(bytes_.begin() + static_cast<std::ptrdiff_t>(s * sector_bytes),
                                   bytes_.begin() + static_cast<std::ptrdiff_t>((s + 1) * sector_bytes));
      std::memcpy(fresh.data() + (from - s * sector_bytes), data.data() + (from - r.offset), to - from);
      if (lost_[s])
        continue;
      std::vector<std::byte> got(sector_bytes);
      INFO("sector " << s << " after a failed write");
      REQUIRE(set_.live->read(*context_, got, s * sector_bytes).has_value());
      const bool old = std::memcmp(got.data(), bytes_.data() + s * sector_bytes, sector_bytes) == 0;
      REQUIRE((old || got == fresh));
      std::memcpy(bytes_.data() + s * sector_bytes, got.data(), sector_bytes);
    }
    set_.main->set_faults(faults);
  }

  std::uint64_t pick_unit() {
    for (;;)
      if (const std::uint64_t unit = pick(main_units); !keep_well(unit))
        return unit;
  }

  void remap() {
    const std::uint64_t unit = pick_unit();
    const bool may_fail =
        faults_in(unit * unit_sectors, (unit + 1) * unit_sectors, direction::read).beyond_medium;
    const auto could = losable();
    const bool was = mapped()[unit];
    const auto reply = set_.live->remap(sector_number(unit * unit_sectors + pick(8)));
    INFO("remap of unit " << unit << (reply ? "" : ": " + reply.error().text()));
    REQUIRE((reply || may_fail));
    if (reply) {
      counts_.remaps += reply->units;
      REQUIRE(reply->units == (was ? 0u : 1u));
      REQUIRE(mapped()[unit]);
    }
    follow_losses(could);
  }

  void unmap() {
    const std::uint64_t unit = pick_unit();
    const bool was = mapped()[unit], lost = lost_in(unit * unit_sectors, (unit + 1) * unit_sectors);
    bool bad = false; // main is asked whether or not it serves the unit now
    for (const bad_range& b : set_.main->faults().bad)
      bad |= b.first < (unit + 1) * unit_sectors && b.first + b.count > unit * unit_sectors;
    const auto done = set_.live->unmap(sector_number(unit * unit_sectors));
    INFO("unmap of unit " << unit << (done ? "" : ": " + done.error().text()));
    if (!was || lost)
      REQUIRE_FALSE(done.has_value());
    else
      REQUIRE((done.has_value() || bad));
    REQUIRE(mapped()[unit] == (was && !done));
    counts_.unmaps += done ? 1 : 0;
  }

  void salvage() {
    const auto before = set_.live->lost();
    const auto reply = set_.live->salvage(std::nullopt);
    REQUIRE((reply.has_value() || !set_.main->faults().bad.empty()));
    std::vector<bool> now(sectors);
    for (const lost_range& range : set_.live->lost())
      for (std::uint64_t s = range.first.value; s < range.first.value + range.count; ++s)
        now[s] = true;
    for (std::uint64_t s = 0; s < sectors; ++s) {
      REQUIRE((!now[s] || lost_[s]));
      if (!lost_[s] || now[s])
        continue;
      ++counts_.salvaged;
      lost_[s] = false; // and shows what it had
      std::vector<std::byte> got(sector_bytes);
      REQUIRE(set_.live->read(*context_, got, s * sector_bytes).has_value());
      INFO("salvaged sector " << s);
      REQUIRE(std::memcmp(got.data(), bytes_.data() + s * sector_bytes, sector_bytes) == 0);
    }
  }

  /// Whole units, to units of the spare that automatic allocation does not reach.
  void add_remap() {
    const std::uint64_t unit = pick_unit(), count = 1 + pick(3), source = 2600 + pick(100);
    if (unit + count > main_units ||
        std::any_of(well_.begin() + unit, well_.begin() + unit + count, [](bool b) { return b; }))
      return;
    const page_image spare = set_.spare->image();
    const auto map = mapped();
    bool taken = false;
    std::vector<bool> same(count);
    set_.live->for_each_remap([&](const remap_entry& e) {
      const bool ours = e.main.value >= unit && e.main.value < unit + count;
      if (ours && e.spare.value == source + (e.main.value - unit))
        same[e.main.value - unit] = true;
      else if (ours || (e.spare.value >= source && e.spare.value < source + count))
        taken = true;
    });
    const auto reply = set_.live->add_remap(sector_number(unit * unit_sectors),
                                            sector_number(source * unit_sectors), count * unit_sectors);
    INFO("add_remap of " << count << " units at " << unit << (reply ? "" : ": " + reply.error().text()));
    REQUIRE(reply.has_value() == !taken);
    for (std::uint64_t n = 0; reply && n < count; ++n)
      if (!same[n]) {
        ++counts_.by_hand;
        spare.read(std::span(bytes_).subspan((unit + n) * unit_bytes, unit_bytes), (source + n) * unit_bytes);
        for (std::uint64_t s = 0; s < unit_sectors; ++s)
          lost_[(unit + n) * unit_sectors + s] = false;
      }
    follow_losses(losable());
  }

  void reopen(bool clean) {
    context_.reset();
    counts_.moved_by_errors += set_.live->stats().auto_remaps - moved_before_;
    if (clean) {
      const auto closed = set_.live->close();
      INFO((closed ? "" : closed.error().text()));
      REQUIRE(closed.has_value());
      REQUIRE(set_.damage() == "");
    }
    set_.live.reset();
    set_.open();
    moved_before_ = set_.live->stats().auto_remaps;
    context_ = set_.live->make_context();
    follow_losses(std::vector<bool>(sectors));
  }

  void compare_all() {
    set_.main->clear_faults();
    std::vector<std::byte> got(sector_bytes);
    for (std::uint64_t s = 0; s < sectors; ++s) {
      INFO("sector " << s);
      REQUIRE(set_.live->read(*context_, got, s * sector_bytes).has_value() == !lost_[s]);
      REQUIRE((lost_[s] || std::memcmp(got.data(), bytes_.data() + s * sector_bytes, sector_bytes) == 0));
    }
  }

  static constexpr auto well_ = [] {
    std::array<bool, main_units> all{};
    for (std::uint64_t u = 0; u < main_units; ++u)
      all[u] = keep_well(u);
    return all;
  }();

  std::mt19937_64 random_;
  tested_set set_;
  std::unique_ptr<io_context> context_;
  std::vector<std::byte> bytes_; ///< of lost sectors: what they held when they were lost
  std::vector<bool> lost_;
  std::uint64_t done_ = 0;
  tally counts_;
  std::uint64_t moved_before_ = 0; ///< what the counter said when the set was opened
};

constexpr std::pair<std::uint32_t, std::uint32_t> block_sizes[] = {
    {512, 512}, {4096, 512}, {512, 4096}, {4096, 4096}};

} // namespace

TEST_CASE("random operations agree with an array in memory") {
  const std::uint64_t all = operations_wanted(), each = 5000;
  std::uint64_t salvaged = 0;
  for (std::uint64_t round = 0; round * each < all; ++round) {
    const std::uint64_t seed = first_seed() + round;
    const auto [main_block, spare_block] = block_sizes[round % std::size(block_sizes)];
    model m(seed, main_block, spare_block);
    try {
      INFO("DMREMAP_MODEL_SEED=" << seed << " with blocks of " << main_block << " and " << spare_block);
      m.run(each);
      const auto& one = m.counts();
      CHECK(std::min({one.failed_reads, one.failed_writes, one.lost, one.remaps, one.unmaps, one.by_hand,
                      one.moved_by_errors}) > 0);
      salvaged += one.salvaged;
    } catch (...) {
      UNSCOPED_INFO("seed " << seed << ", operation " << m.done());
      throw;
    }
  }
  CHECK(salvaged >= all / each); // a few a seed, in some none
}
