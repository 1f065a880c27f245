// SPDX-License-Identifier: GPL-2.0-or-later
// Random operations on sets of several spares against a model in memory: main and spares fail, spares vanish
// in the middle of anything or take no writes any more, stay away, come back, are added, emptied, removed and
// forgotten.
//
// DMREMAP_MODEL_OPS sets the number of operations, DMREMAP_MODEL_SEED the first seed ("random": any).
#include "tests/support/mortal_store.h"
#include "tests/support/pool_fixture.h"
#include "tests/support/sanitized.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <set>

using namespace dmremap;
using namespace dmremap::test;

namespace {

constexpr std::uint64_t main_units = 48, sectors = main_units * unit_sectors;
constexpr bool keep_well(std::uint64_t unit) { // by these the engine tells a dead path from a bad place
  return unit == 0 || unit == 16;
}

std::uint64_t number_from(const char* variable, std::uint64_t otherwise) {
  const char* const value = std::getenv(variable);
  if (value != nullptr && std::string(value) == "random")
    return std::random_device{}();
  return value != nullptr ? std::strtoull(value, nullptr, 0) : otherwise;
}

/// What a sector may show: its last version that was answered, or that of a write that failed since.
struct sector_model {
  std::uint64_t sure = 0;
  std::optional<std::uint64_t> perhaps;
  bool at_risk = false; ///< something that holds it failed or was given up: it may be lost
};

class pool_model {
public:
  explicit pool_model(std::uint64_t seed) : random_(seed), model_(sectors) {
    main_ = std::make_shared<memory_store>(main_units * unit_bytes, pick(2) == 0 ? 512u : 4096u);
    std::vector<store*> all;
    const unsigned count = 2 + static_cast<unsigned>(pick(2));
    for (unsigned n = 0; n < count; ++n)
      all.push_back(make_spare().get());
    format_options options;
    options.name = "model";
    REQUIRE(disk::format(*main_, all, options).has_value());
    open(true);
  }
  ~pool_model() { context_.reset(); }

  void run(std::uint64_t operations) {
    for (done_ = 0; done_ < operations; ++done_)
      step();
    main_->clear_faults();
    for (auto& s : spares_) {
      s->inner().clear_faults();
      s->revive();
    }
    open(true);
    compare_all();
    REQUIRE(set_->close().has_value());
    open(true);
    const auto info = set_->info();
    for (const std::string& n : info->notices)
      FAIL_CHECK(n);
    compare_all();
  }
  [[nodiscard]] std::uint64_t done() const { return done_; }
  struct tally {
    std::uint64_t vanished = 0, returned = 0, degraded = 0, refused = 0, added = 0, removed = 0,
                  evacuated = 0, forgotten = 0, lost = 0, absent_reads = 0, failed_writes = 0, moved = 0,
                  rejecting = 0, read_only = 0, opened_read_only = 0;
  };
  [[nodiscard]] const tally& counts() const { return counts_; }

private:
  std::uint64_t pick(std::uint64_t below) { return random_() % below; }

  std::shared_ptr<mortal_store> make_spare() {
    auto inner = std::make_shared<memory_store>(16u << 20, pick(3) == 0 ? 4096u : 512u);
    store_identity identity;
    identity.path = "/spare" + std::to_string(made_++);
    inner->set_identity(identity);
    spares_.push_back(std::make_shared<mortal_store>(inner));
    return spares_.back();
  }

  void step() {
    switch (pick(64)) {
    case 0:
      return kill_spare();
    case 1:
      return reopen();
    case 2:
      return add_spare();
    case 3:
      return remove_spare();
    case 4:
      return evacuate();
    case 5:
      return forget();
    case 6:
    case 7:
      return break_main();
    case 8:
      return break_spare_place();
    case 9:
      return heal();
    case 10:
    case 11:
    case 12:
      return (void)set_->remap(sector_number(some_unit() * unit_sectors));
    case 13:
    case 14:
    case 15:
      return (void)set_->unmap(sector_number(some_unit() * unit_sectors));
    case 16:
    case 17:
      return add_remap();
    case 18:
      return (void)set_->flush();
    case 19:
      return (void)set_->sync();
    case 20:
      return salvage();
    case 21:
      return reject_writes();
    default:
      return pick(2) == 0 ? read() : write(pick(8) == 0);
    }
  }

  std::uint64_t some_unit() {
    for (;;)
      if (const std::uint64_t unit = pick(main_units); !keep_well(unit))
        return unit;
  }

  // --- reading and writing

  static void fill(std::byte* sector, std::uint64_t number, std::uint64_t version) {
    const std::uint64_t words[2] = {version == 0 ? 0 : number, version};
    for (std::size_t at = 0; at < sector_bytes; at += sizeof words)
      std::memcpy(sector + at, words, sizeof words);
  }
  /// Must be a version that the sector may show; from now on it is the only one.
  void settle(std::uint64_t number, const std::byte* got) {
    sector_model& m = model_[number];
    std::array<std::byte, sector_bytes> expected;
    std::vector<std::uint64_t> allowed = maybe_[number];
    allowed.push_back(m.sure);
    if (m.perhaps)
      allowed.push_back(*m.perhaps);
    for (const std::uint64_t version : allowed) {
      fill(expected.data(), number, version);
      if (std::memcmp(got, expected.data(), sector_bytes) == 0) {
        m.sure = version;
        m.perhaps.reset();
        maybe_[number].clear();
        return;
      }
    }
    std::uint64_t words[2];
    std::memcpy(words, got, sizeof words);
    FAIL("sector " << number << " shows sector " << words[0] << " version " << words[1] << ", not version "
                   << m.sure << (m.perhaps ? " or " + std::to_string(*m.perhaps) : ""));
  }

  std::pair<std::uint64_t, std::uint64_t> pick_range() {
    const std::uint64_t first = pick(2) == 0 ? pick(sectors) : pick(main_units) * unit_sectors;
    const std::uint64_t most = std::min(sectors - first, 1 + pick(40));
    return {first, pick(3) == 0 ? std::min<std::uint64_t>(sectors - first, unit_sectors) : most};
  }
  void read() {
    const auto [first, count] = pick_range();
    std::vector<std::byte> got(count * sector_bytes, std::byte{0xA5});
    const auto done = set_->read(*context_, got, first * sector_bytes);
    if (!done) {
      counts_.absent_reads += done.error() == io_error::absent ? 1 : 0;
      return;
    }
    for (std::uint64_t s = 0; s < count; ++s)
      settle(first + s, got.data() + s * sector_bytes);
  }
  void write(bool zeros) {
    const auto [first, count] = pick_range();
    std::vector<std::byte> data(count * sector_bytes);
    const std::uint64_t version = zeros ? 0 : ++version_;
    for (std::uint64_t s = 0; s < count; ++s)
      fill(data.data() + s * sector_bytes, first + s, version);
    const auto done = zeros ? set_->zero(*context_, first * sector_bytes, data.size())
                            : set_->write(*context_, data, first * sector_bytes);
    counts_.failed_writes += done ? 0 : 1;
    for (std::uint64_t s = first; s < first + count; ++s) {
      sector_model& m = model_[s];
      if (done) {
        m.sure = version;
        m.perhaps.reset();
        maybe_[s].clear();
      } else {
        ask_again(s, version);
      }
    }
  }
  /// After a failed write the sector is old or new. One that cannot say now keeps both in mind; should it
  /// have two already, it is written until one stands.
  void ask_again(std::uint64_t s, std::uint64_t version) {
    sector_model& m = model_[s];
    std::vector<std::byte> got(sector_bytes);
    if (set_->read(*context_, got, s * sector_bytes)) {
      std::uint64_t words[2];
      std::memcpy(words, got.data(), sizeof words);
      if (words[1] == version) {
        m.perhaps = version;
      }
      settle(s, got.data());
      return;
    }
    if (!m.perhaps || *m.perhaps == version) {
      m.perhaps = version;
      return;
    }
    maybe_[s].push_back(*m.perhaps);
    m.perhaps = version;
  }
  void compare_all() {
    std::vector<bool> lost(sectors);
    for (const lost_range& r : set_->lost())
      for (std::uint64_t s = r.first.value; s < r.first.value + r.count; ++s)
        lost[s] = true;
    std::vector<std::byte> got(sector_bytes);
    for (std::uint64_t s = 0; s < sectors; ++s) {
      const auto done = set_->read(*context_, got, s * sector_bytes);
      INFO("sector " << s);
      REQUIRE(done.has_value() == !lost[s]);
      if (done) {
        settle(s, got.data());
      } else {
        ++counts_.lost;
        REQUIRE(model_[s].at_risk);
      }
    }
  }
  void salvage() { (void)set_->salvage(std::nullopt); }

  // --- faults

  void break_main() {
    const std::uint64_t first = pick(sectors), count = std::min(1 + pick(3), sectors - first);
    for (std::uint64_t s = first; s < first + count; ++s)
      if (keep_well(s / unit_sectors))
        return;
    const std::uint64_t block = main_->block_size() / sector_bytes;
    for (std::uint64_t s = align_down(first, block); s < align_up(first + count, block); ++s)
      model_[s].at_risk = true;
    main_->add_bad({first, count, std::array{direction::read, direction::write, direction::both}[pick(3)],
                    io_error::medium, pick(3) == 0 ? 1 + pick(2) : always, pick(2) == 0});
  }
  void break_spare_place() {
    std::vector<remap_entry> all;
    set_->for_each_remap([&](const remap_entry& e) { all.push_back(e); });
    if (all.empty())
      return;
    const remap_entry e = all[pick(all.size())];
    for (std::uint64_t s = 0; s < unit_sectors; ++s)
      model_[e.main.value * unit_sectors + s].at_risk = true;
    for (auto& each : spares_)
      if (each.get() == in_place_[e.spare_index])
        each->inner().add_bad({e.spare.value * unit_sectors + pick(8), 1,
                               std::array{direction::read, direction::write, direction::both}[pick(3)]});
    for (auto& m : model_) // whatever comes to lie there next
      m.at_risk = true;
  }
  void heal() {
    main_->clear_bad(pick(sectors), 60);
    for (auto& s : spares_)
      if (pick(3) == 0) {
        counts_.read_only += read_only_spares();
        s->inner().clear_faults(); // one that rejected writes may be out of the record until the next open
      }
  }
  [[nodiscard]] unsigned alive() const {
    unsigned n = 0;
    for (const auto& s : spares_)
      n += !s->dead() && !dying_.contains(s.get()) && !rejecting_.contains(s.get()) ? 1 : 0;
    return n;
  }
  void kill_spare() {
    if (alive() < 2)
      return;
    mortal_store& s = *spares_[pick(spares_.size())];
    if (s.dead() || dying_.contains(&s))
      return;
    s.die_after(pick(3) == 0 ? 0 : pick(60), pick(2) == 0 ? io_error::gone : io_error::medium);
    dying_.insert(&s);
    ++counts_.vanished;
  }

  /// The spare takes no writes from now on, but answers reads.
  void reject_writes() {
    mortal_store& s = *spares_[pick(spares_.size())];
    if (pick(3) != 0 || alive() < 2 || s.dead() || dying_.contains(&s))
      return;
    s.inner().add_bad({0, s.size() / sector_bytes, direction::write});
    rejecting_.insert(&s);
    ++counts_.rejecting;
  }
  void take_writes_again() {
    for (mortal_store* s : rejecting_)
      s->inner().clear_faults();
  }
  /// How many are only read: all that they hold must be there.
  std::uint64_t read_only_spares() {
    std::uint64_t n = 0;
    const auto info = set_->info();
    for (const spare_status& i : info->spares)
      n += i.readable ? 1 : 0;
    return n;
  }

  // --- spares

  void note_places() {
    in_place_.fill(nullptr);
    const auto info = set_->info();
    for (const spare_status& i : info->spares)
      for (const auto& s : spares_)
        if (s->identity().path == i.path || (!i.present && uuid_of_[s.get()] == i.uuid)) {
          in_place_[i.index] = s.get();
          uuid_of_[s.get()] = i.uuid;
        }
  }
  std::optional<unsigned> some_place() {
    note_places();
    std::vector<unsigned> all;
    for (unsigned n = 0; n < in_place_.size(); ++n)
      if (in_place_[n] != nullptr)
        all.push_back(n);
    if (all.empty())
      return std::nullopt;
    return all[pick(all.size())];
  }
  void drop(mortal_store* gone) {
    dying_.erase(gone);
    rejecting_.erase(gone);
    uuid_of_.erase(gone);
    std::erase_if(spares_, [&](const auto& s) { return s.get() == gone; });
  }
  void add_spare() {
    if (spares_.size() >= 5)
      return;
    const auto fresh = make_spare();
    if (pick(4) == 0 && alive() > 2) {
      fresh->die_after(pick(30));
      dying_.insert(fresh.get());
    }
    const auto place = set_->add_spare(fresh);
    if (!place) {
      drop(fresh.get());
      return;
    }
    ++counts_.added;
    note_places();
  }
  void remove_spare() {
    const auto place = some_place();
    if (!place)
      return;
    mortal_store* const which = in_place_[*place];
    if (alive() < 2 && !which->dead())
      return;
    if (set_->remove_spare(*place)) {
      ++counts_.removed;
      drop(which);
    }
  }
  void evacuate() {
    const auto place = some_place();
    if (!place)
      return;
    const auto stop_at = pick(30);
    const auto done =
        set_->evacuate_spare(*place, [&](std::uint64_t moved, std::uint64_t) { return moved < stop_at; });
    if (done) {
      ++counts_.evacuated;
      counts_.moved += done->moved;
    }
    if (pick(2) == 0)
      set_->refill_spare(*place);
  }
  void forget() {
    const auto place = some_place();
    if (!place || pick(3) != 0)
      return;
    const auto plan = set_->plan_forget(*place);
    if (!plan)
      return;
    set_->for_each_remap([&](const remap_entry& e) {
      if (e.spare_index == *place)
        for (std::uint64_t s = 0; s < unit_sectors; ++s)
          model_[e.main.value * unit_sectors + s].at_risk = true;
    });
    mortal_store* const which = in_place_[*place];
    if (set_->forget_spare(*place)) {
      ++counts_.forgotten;
      drop(which);
    }
  }
  void add_remap() {
    const auto place = some_place();
    const std::uint64_t unit = some_unit();
    if (!place)
      return;
    const auto now = set_->add_remap(sector_number(unit * unit_sectors), std::nullopt, unit_sectors, *place);
    if (!now)
      return doubtful_unit(unit, now.error().id == "commit-in-doubt");
    if (now->units == 0)
      return;
    // It shows what the spare held: written at once, so that the model knows it.
    for (std::uint64_t s = unit * unit_sectors; s < (unit + 1) * unit_sectors; ++s)
      model_[s].perhaps.reset();
    known_by_writing(unit);
  }
  /// A remap by hand that failed may yet come to stand; what the unit shows then is the spare's old content.
  void doubtful_unit(std::uint64_t unit, bool in_doubt) {
    std::vector<std::byte> got(unit_bytes);
    if (in_doubt || !set_->read(*context_, got, unit * unit_bytes))
      known_by_writing(unit);
  }
  void known_by_writing(std::uint64_t unit) {
    std::vector<std::byte> data(unit_bytes);
    const std::uint64_t version = ++version_;
    for (std::uint64_t s = 0; s < unit_sectors; ++s)
      fill(data.data() + s * sector_bytes, unit * unit_sectors + s, version);
    for (unsigned tries = 0; tries < 3; ++tries)
      if (set_->write(*context_, data, unit * unit_bytes)) {
        for (std::uint64_t s = 0; s < unit_sectors; ++s) {
          model_[unit * unit_sectors + s] = {version, std::nullopt, model_[unit * unit_sectors + s].at_risk};
          maybe_[unit * unit_sectors + s].clear();
        }
        return;
      } else {
        main_->clear_faults();
        for (auto& each : spares_)
          each->inner().clear_faults();
        if (tries == 1) {
          for (auto& s : spares_)
            s->revive();
          dying_.clear();
          open(true);
        }
      }
    FAIL("unit " << unit << " cannot be written although nothing fails");
  }

  // --- opening

  void kill() {
    context_.reset();
    set_.reset();
  }
  result<void> try_open(const std::vector<std::shared_ptr<store>>& present, bool degraded) {
    kill();
    open_options options;
    options.degraded = degraded;
    options.accept_main = true;
    auto opened = disk::open(main_, present, options);
    if (!opened)
      return tl::make_unexpected(opened.error());
    set_ = std::move(*opened);
    context_ = set_->make_context();
    return {};
  }
  void open(bool must) {
    std::vector<std::shared_ptr<store>> all(spares_.begin(), spares_.end());
    const auto opened = try_open(all, false);
    if (must && !opened)
      FAIL(opened.error().id << ": " << opened.error().text());
    note_places();
  }
  void reopen() {
    if (pick(3) == 0)
      (void)set_->close();
    std::vector<std::shared_ptr<store>> present;
    unsigned back = 0, away = 0;
    kill();
    if (pick(2) == 0)
      take_writes_again();
    for (auto& s : spares_) {
      const bool was_dead = s->dead() || dying_.contains(s.get());
      if (was_dead && pick(2) == 0) {
        ++away;
        continue;
      }
      back += was_dead ? 1 : 0;
      s->revive();
      dying_.erase(s.get());
      present.push_back(s);
    }
    if (!present.empty() && (away != 0 || !rejecting_.empty())) {
      if (const auto opened = try_open(present, true)) {
        counts_.degraded += away != 0 ? 1 : 0;
        counts_.opened_read_only += read_only_spares();
        counts_.returned += back;
        note_places();
        for (auto& s : spares_)
          if (std::find(present.begin(), present.end(), s) == present.end())
            s->die_after(0);
        return;
      } else {
        INFO(opened.error().id << ": " << opened.error().text());
        REQUIRE((opened.error().id == "spare-unprotected" || opened.error().id == "spare-missing" ||
                 opened.error().id == "block-destroyed" ||
                 (opened.error().id == "cannot-mend" && !rejecting_.empty())));
        ++counts_.refused;
      }
    }
    take_writes_again();
    for (auto& s : spares_)
      s->revive();
    dying_.clear();
    counts_.returned += back;
    open(true);
    rejecting_.clear();
  }

  std::mt19937_64 random_;
  std::shared_ptr<memory_store> main_;
  std::vector<std::shared_ptr<mortal_store>> spares_;
  std::set<mortal_store*> dying_, rejecting_;
  std::array<mortal_store*, 16> in_place_{};
  std::map<mortal_store*, std::string> uuid_of_;
  unsigned made_ = 0;
  std::unique_ptr<disk> set_;
  std::unique_ptr<io_context> context_;
  std::vector<sector_model> model_;
  std::map<std::uint64_t, std::vector<std::uint64_t>> maybe_; ///< further versions of writes that failed
  std::uint64_t version_ = 0, done_ = 0;
  tally counts_;
};

} // namespace

TEST_CASE("random operations on several spares agree with a model in memory") {
  const std::uint64_t all = number_from("DMREMAP_MODEL_OPS", sanitized ? 20000 : 200000), each = 2000;
  const std::uint64_t first = number_from("DMREMAP_MODEL_SEED", 1);
  pool_model::tally sum;
  for (std::uint64_t round = 0; round * each < all; ++round) {
    INFO("DMREMAP_MODEL_SEED=" << first + round);
    pool_model m(first + round);
    try {
      m.run(each);
    } catch (...) {
      UNSCOPED_INFO("seed " << first + round << ", operation " << m.done());
      throw;
    }
    const auto& c = m.counts();
    sum.vanished += c.vanished, sum.returned += c.returned, sum.degraded += c.degraded,
        sum.refused += c.refused;
    sum.added += c.added, sum.removed += c.removed, sum.evacuated += c.evacuated,
        sum.forgotten += c.forgotten;
    sum.lost += c.lost, sum.absent_reads += c.absent_reads, sum.failed_writes += c.failed_writes;
    sum.moved += c.moved, sum.rejecting += c.rejecting, sum.read_only += c.read_only;
    sum.opened_read_only += c.opened_read_only;
  }
  CAPTURE(sum.vanished, sum.returned, sum.degraded, sum.refused, sum.added, sum.removed, sum.evacuated,
          sum.forgotten, sum.lost, sum.absent_reads, sum.failed_writes, sum.moved, sum.rejecting,
          sum.read_only, sum.opened_read_only);
  // A model that meets none of them proves nothing.
  CHECK(std::min({sum.vanished, sum.returned, sum.degraded, sum.added, sum.removed, sum.evacuated,
                  sum.forgotten, sum.lost, sum.absent_reads, sum.failed_writes, sum.moved, sum.read_only,
                  sum.opened_read_only}) > 0);
}
