// SPDX-License-Identifier: GPL-2.0-or-later
// Several spares under threads: requests that straddle units, and remaps by hand, while spares are added (in
// vain, too), emptied and removed, and, in the second test, while sectors of main and of the spares go bad,
// and spares vanish and are forgotten, or return at the next open. A request may fail where a named cause put
// one of its sectors at risk, and nowhere else. In the end all is compared, the set is closed, opened again
// from the stores, and compared once more. Under ThreadSanitizer this is also the test of the pool's locking.
//
// DMREMAP_MODEL_OPS sets the number of operations of all threads together, DMREMAP_MODEL_SEED the seed.
#include "tests/support/pool_fixture.h"
#include "tests/support/risky_store.h"
#include "tests/support/sanitized.h"

#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <thread>

using namespace dmremap;
using namespace dmremap::test;

namespace {

constexpr unsigned thread_count = 4;
constexpr std::uint64_t units_each = 16, sectors_each = units_each * unit_sectors;
constexpr std::uint64_t data_units = thread_count * units_each;
constexpr std::uint64_t main_units = 2 * data_units; ///< the upper half is never bad: main always answers
constexpr std::uint64_t longest = 3 * unit_sectors;  ///< request

std::uint64_t number_from(const char* variable, std::uint64_t otherwise) {
  const char* const value = std::getenv(variable);
  return value != nullptr ? std::strtoull(value, nullptr, 0) : otherwise;
}

/// One set, its stores, and what happened to it. Catch2's macros are not thread-safe: what is wrong is kept.
struct arena {
  arena(std::uint64_t seed_of, bool errors)
      : seed(seed_of), with_errors(errors), risk(std::make_shared<risks>(main_units * unit_sectors)) {
    main = std::make_shared<risky_store>(std::make_shared<memory_store>(main_units * unit_bytes), risk, true);
    for (std::uint64_t s = 0; s < data_units * unit_sectors; ++s) {
      std::array<std::uint64_t, sector_bytes / 8> words;
      words.fill(tag::make(s, 0));
      REQUIRE(main->write(std::as_bytes(std::span(words)), s * sector_bytes));
    }
    std::vector<store*> plain;
    for (int n = 0; n < 3; ++n)
      plain.push_back(new_store().get());
    format_options naming;
    naming.name = "threads";
    REQUIRE(disk::format(*main, plain, naming).has_value());
    std::vector<std::shared_ptr<store>> given;
    for (const auto& store : stores)
      given.push_back(store);
    open(given);
    const auto info = set->info();
    for (const spare_status& s : info->spares)
      for (const auto& store : stores)
        if (store->identity().path == s.path)
          of_uuid[s.uuid] = store;
  }
  void open(const std::vector<std::shared_ptr<store>>& given) {
    open_options options;
    options.breaker_remaps = UINT32_MAX; // more writes may fail here in ten seconds than is usual
    auto opened = disk::open(main, given, options);
    if (!opened)
      FAIL(opened.error().id + ": " + opened.error().text());
    set = std::move(*opened);
  }
  std::shared_ptr<risky_store> new_store() {
    const std::lock_guard lock(stores_mutex);
    const auto n = static_cast<unsigned>(stores.size());
    stores.push_back(std::make_shared<risky_store>(pool_fixture::new_spare(n), risk, false));
    return stores.back();
  }
  /// Where an add has just listed it, waits for its end.
  std::shared_ptr<risky_store> with_uuid(const std::string& uuid) {
    {
      const std::lock_guard lock(stores_mutex);
      if (const auto at = of_uuid.find(uuid); at != of_uuid.end())
        return at->second;
    }
    const std::lock_guard end_of_add(add_mutex);
    const std::lock_guard lock(stores_mutex);
    const auto at = of_uuid.find(uuid);
    return at != of_uuid.end() ? at->second : nullptr;
  }
  result<unsigned> add(const std::shared_ptr<risky_store>& fresh) {
    const std::lock_guard adding(add_mutex);
    auto place = set->add_spare(fresh);
    if (const auto info = set->info(); place && info)
      for (const spare_status& s : info->spares)
        if (const std::lock_guard lock(stores_mutex); s.index == *place)
          of_uuid[s.uuid] = fresh;
    return place;
  }
  std::map<unsigned, std::shared_ptr<risky_store>> listed() {
    std::map<unsigned, std::shared_ptr<risky_store>> found;
    if (const auto info = set->info())
      for (const spare_status& s : info->spares)
        found[s.index] = with_uuid(s.uuid);
    return found;
  }
  std::vector<std::pair<unsigned, std::shared_ptr<risky_store>>> alive() {
    std::vector<std::pair<unsigned, std::shared_ptr<risky_store>>> found;
    if (const auto info = set->info())
      for (const spare_status& s : info->spares)
        if (const auto store = with_uuid(s.uuid); s.present && store && !store->dead())
          found.emplace_back(s.index, store);
    return found;
  }
  bool dead_and_present() {
    const auto info = set->info();
    return info && std::any_of(info->spares.begin(), info->spares.end(), [&](const spare_status& s) {
             const auto store = with_uuid(s.uuid);
             return s.present && store && store->dead();
           });
  }
  bool some_spare_died() {
    const std::lock_guard end_of_add(add_mutex);
    const std::lock_guard lock(stores_mutex);
    return std::any_of(of_uuid.begin(), of_uuid.end(), [](const auto& one) { return one.second->dead(); });
  }
  /// Some unit of these sectors is on a spare that died. One whose place was in doubt when that happened is
  /// in no table: its data is on the spare then.
  bool on_dead_spare(std::uint64_t first, std::uint64_t count) {
    const std::uint64_t begin = first / unit_sectors, end = (first + count - 1) / unit_sectors + 1;
    const auto spares = listed();
    std::set<std::uint64_t> nowhere;
    for (std::uint64_t u = begin; u < end; ++u)
      nowhere.insert(u);
    bool found = false;
    set->for_each_remap([&](const remap_entry& e) {
      if (e.main.value < begin || e.main.value >= end)
        return;
      const auto at = spares.find(e.spare_index);
      found = found || (at != spares.end() && at->second && at->second->dead());
      nowhere.erase(e.main.value);
    });
    for (const auto& [index, store] : spares)
      if (!found && store && store->dead())
        for (const std::uint64_t s : store->sectors_found())
          found = found || nowhere.contains(s / unit_sectors);
    return found;
  }
  /// What is on an absent spare becomes lost.
  bool forget(unsigned index) {
    const std::lock_guard one_at_a_time(forget_mutex);
    const auto spares = listed();
    const auto before = lost();
    const auto done = set->forget_spare(index);
    const auto after = lost();
    if (const auto at = spares.find(index); at != spares.end() && at->second)
      for (const std::uint64_t s : at->second->sectors_found())
        if (!before.contains(s) && after.contains(s))
          risk->mark(s);
    forgotten += done ? 1 : 0;
    return done.has_value();
  }
  std::set<std::uint64_t> lost() {
    std::set<std::uint64_t> all;
    for (const lost_range& r : set->lost())
      for (std::uint64_t n = 0; n < r.count; ++n)
        all.insert(r.first.value + n);
    return all;
  }
  bool may_fail(std::uint64_t first, std::uint64_t count) {
    const auto risky = [&] {
      for (std::uint64_t s = first; s < first + count; ++s)
        if (risk->at_risk(s))
          return true;
      return false;
    };
    if (risky() || on_dead_spare(first, count))
      return true;
    const std::lock_guard end_of_forget(forget_mutex); // then it says what became lost
    return risky();
  }
  void note_wrong(const std::string& what) {
    const std::lock_guard lock(stores_mutex);
    wrong += wrong.empty() ? what : "";
    stop = true;
  }
  void count_operation() {
    ++operations;
    operations.notify_all();
  }
  /// False: the workers have come to their end before.
  bool wait_for(std::uint64_t more) {
    const std::uint64_t until = operations + more;
    for (std::uint64_t now = operations; now < until && !stop; now = operations)
      operations.wait(now);
    return !stop;
  }

  /// All that a round is about has happened in it.
  [[nodiscard]] bool enough() const {
    return changes != 0 && failed_adds != 0 && (!with_errors || (forgotten != 0 && explained != 0));
  }

  const std::uint64_t seed;
  const bool with_errors;
  const std::shared_ptr<risks> risk;
  std::shared_ptr<risky_store> main;
  std::vector<std::shared_ptr<risky_store>> stores;            ///< with stores_mutex, as what follows
  std::map<std::string, std::shared_ptr<risky_store>> of_uuid; ///< those that are, or were, of the set
  std::mutex stores_mutex, add_mutex, forget_mutex;
  std::mutex members_mutex; ///< held by who takes a spare away: two live ones stay
  std::unique_ptr<disk> set;
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> operations{0};
  std::atomic<std::uint64_t> changes{0}, failed_adds{0}, deaths{0}, forgotten{0}, returned{0}, explained{0};
  std::string wrong;
};

/// One thread's part: sixteen units in a row are its own.
class worker {
public:
  worker(arena& a, unsigned number)
      : arena_(a), first_(number * sectors_each), random_(a.seed * 16 + number),
        context_(a.set->make_context()) {
    for (std::uint64_t s = first_; s < first_ + sectors_each; ++s)
      versions_.push_back({tag::make(s, 0)});
  }

  /// More where a busy machine did not come to all that is to happen beside it.
  void run(std::uint64_t operations) {
    for (std::uint64_t i = 0; (i < operations || !arena_.enough()) && !arena_.stop; ++i) {
      if (i == 100 * operations)
        return arena_.note_wrong("nothing happens beside the requests");
      step();
      arena_.count_operation();
    }
  }
  void reopened() { context_ = arena_.set->make_context(); }
  void leave() { context_.reset(); }
  /// Sectors that do not read.
  std::vector<std::uint64_t> compare() {
    std::vector<std::uint64_t> unreadable;
    for (std::uint64_t s = first_; s < first_ + sectors_each; ++s)
      if (!read(s, 1))
        unreadable.push_back(s);
    return unreadable;
  }

private:
  void step() {
    const std::uint64_t first = first_ + random_() % sectors_each;
    const std::uint64_t count = std::min(1 + random_() % longest, first_ + sectors_each - first);
    switch (random_() % 16) {
    case 0:
      return (void)arena_.set->remap(sector_number(first));
    case 1:
      return (void)arena_.set->unmap(sector_number(first));
    case 2:
      if (!arena_.set->flush() && !arena_.some_spare_died())
        arena_.note_wrong("a flush failed");
      return;
    case 3:
    case 4:
    case 5:
    case 6:
    case 7:
      return write(first, count);
    default:
      (void)read(first, count);
    }
  }
  void write(std::uint64_t first, std::uint64_t count) {
    std::array<std::uint64_t, longest * sector_bytes / 8> data;
    ++last_;
    for (std::uint64_t n = 0; n < count; ++n)
      std::fill_n(data.begin() + static_cast<std::ptrdiff_t>(n * 64), 64, tag::make(first + n, last_));
    const std::uint64_t since = arena_.risk->now();
    const auto done = arena_.set->write(*context_, std::as_bytes(std::span(data)).first(count * sector_bytes),
                                        first * sector_bytes);
    if (!done && !arena_.may_fail(first, count))
      return arena_.note_wrong(text(first, count) +
                               " cannot be written: " + std::string(name_of(done.error())));
    arena_.explained += done ? 0 : 1;
    for (std::uint64_t n = 0; n < count; ++n) {
      auto& allowed = versions_[first + n - first_];
      if (done) {
        allowed = {data[n * 64]};
        arena_.risk->well(first + n, since);
      } else {
        allowed.push_back(data[n * 64]);
      }
    }
  }
  bool read(std::uint64_t first, std::uint64_t count) {
    std::array<std::uint64_t, longest * sector_bytes / 8> data{};
    const std::uint64_t since = arena_.risk->now();
    const auto done = arena_.set->read(
        *context_, std::as_writable_bytes(std::span(data)).first(count * sector_bytes), first * sector_bytes);
    if (!done) {
      if (!arena_.may_fail(first, count))
        arena_.note_wrong(text(first, count) + " cannot be read: " + std::string(name_of(done.error())));
      ++arena_.explained;
      return false;
    }
    for (std::uint64_t n = 0; n < count; ++n) {
      const auto* words = data.data() + n * 64;
      const auto& allowed = versions_[first + n - first_];
      if (std::any_of(words, words + 64, [&](std::uint64_t w) { return w != words[0]; }) ||
          std::find(allowed.begin(), allowed.end(), words[0]) == allowed.end())
        arena_.note_wrong(text(first + n, 1) + " shows " + std::to_string(words[0]) + " where " +
                          std::to_string(allowed[0]) + " was written");
      arena_.risk->well(first + n, since);
    }
    return true;
  }
  static std::string text(std::uint64_t first, std::uint64_t count) {
    return "sectors " + std::to_string(first) + "+" + std::to_string(count);
  }

  arena& arena_;
  const std::uint64_t first_; ///< sector
  std::mt19937_64 random_;
  std::unique_ptr<io_context> context_;
  std::vector<std::vector<std::uint64_t>>
      versions_; ///< of each sector: the last one answered, and those that failed since
  std::uint64_t last_ = 0;
};

/// Adds spares, every other one of which dies at some point of that, empties others and removes them.
void change_spares(arena& a) {
  std::mt19937_64 random(a.seed);
  const auto add = [&] {
    const auto fresh = a.new_store();
    const bool mortal = random() % 2 == 0;
    if (mortal)
      fresh->mortal().die_after(random() % 160, random() % 2 == 0 ? io_error::gone : io_error::medium);
    const auto place = a.add(fresh);
    a.failed_adds += place ? 0 : 1;
    a.changes += place ? 1 : 0;
    if (!place && !fresh->dead() && a.deaths == 0)
      a.note_wrong("add: " + place.error().text());
    if (!place || !mortal || fresh->mortal().outlive())
      return;
    ++a.deaths; // it was one of the set for a moment
    while (!a.stop && a.set->info() && a.alive().size() >= 2 && !a.forget(*place))
      (void)a.set->save(); // until its absence is noticed
  };
  while (!a.stop) {
    const auto alive = a.alive();
    if (alive.empty())
      return a.note_wrong("no spare is left");
    // Often the first one: the next that is added takes its place, where allocation looks first.
    const unsigned victim = alive[random() % 2 == 0 ? 0 : random() % alive.size()].first;
    if (alive.size() < 4 || random() % 4 == 0) {
      if (alive.size() < 8)
        add();
      continue;
    }
    const bool whole =
        a.set->evacuate_spare(victim, [&](std::uint64_t, std::uint64_t) { return !a.stop; }).has_value();
    const std::lock_guard members(a.members_mutex);
    if (!whole || random() % 2 == 0 || a.alive().size() < 4 || !a.set->remove_spare(victim))
      a.set->refill_spare(victim);
    ++a.changes;
  }
}

/// Sectors of main that fail to write for a while, so that units move all the time; and a few of main, and of
/// what spares hold, that fail to read or to write from now on.
void damage_members(arena& a) {
  constexpr std::size_t bad_for_a_while = 32;
  constexpr int often = 8, most_for_good = 24;
  std::mt19937_64 random(a.seed + 1);
  std::deque<std::uint64_t> passing;
  for (int n = 0; a.wait_for(often); ++n) {
    const std::uint64_t sector = random() % (data_units * unit_sectors);
    const std::uint8_t how = random() % 3 == 0 ? risky_store::reads_fail : risky_store::writes_fail;
    if (n % often != 0 || n / often >= most_for_good) {
      if (a.main->is_bad(sector))
        continue;
      passing.push_back(sector);
      a.main->make_bad(sector, risky_store::writes_fail);
      if (passing.size() > bad_for_a_while) {
        a.main->make_bad(passing.front(), 0);
        passing.pop_front();
      }
      continue;
    }
    if (n / often % 2 == 0) {
      a.main->make_bad(sector, how);
      continue;
    }
    const auto spares = a.listed();
    std::vector<remap_entry> all;
    a.set->for_each_remap([&](const remap_entry& e) { all.push_back(e); });
    if (all.empty())
      continue;
    const remap_entry& e = all[random() % all.size()];
    if (const auto at = spares.find(e.spare_index); at != spares.end() && at->second)
      at->second->make_bad(e.spare.value * unit_sectors + random() % unit_sectors, how);
  }
}

/// One spare vanishes, and the set finds out. Nothing: there are too few.
std::optional<unsigned> kill_one(arena& a, std::mt19937_64& random, std::size_t at_least) {
  unsigned victim = 0;
  {
    const std::lock_guard members(a.members_mutex);
    const auto alive = a.alive();
    if (alive.size() < at_least)
      return std::nullopt;
    const auto& [index, store] = alive[random() % alive.size()];
    victim = index;
    ++a.deaths;
    store->mortal().die_after(random() % 60, random() % 2 == 0 ? io_error::gone : io_error::medium);
  }
  const auto present = [&] {
    const auto info = a.set->info();
    return info && std::any_of(info->spares.begin(), info->spares.end(),
                               [&](const spare_status& s) { return s.index == victim && s.present; });
  };
  for (int tries = 0; present(); ++tries) {
    (void)a.set->save(); // writes to every spare
    if (tries == 1000) {
      a.note_wrong("nobody noticed that a spare is gone");
      break;
    }
  }
  return victim;
}

/// Spares vanish and are forgotten.
void kill_spares(arena& a) {
  std::mt19937_64 random(a.seed + 2);
  while (a.wait_for(200 + random() % 800)) {
    const auto victim = kill_one(a, random, 4);
    if (!victim || !a.wait_for(300))
      continue;
    for (int tries = 0; tries < 100 && !a.stop && !a.forget(*victim); ++tries)
      (void)a.wait_for(10);
  }
}

/// All sectors that do not read; each must be at risk (worker::compare).
std::vector<std::uint64_t> compare_all(std::vector<std::unique_ptr<worker>>& workers) {
  std::vector<std::uint64_t> unreadable;
  for (auto& each : workers)
    for (const std::uint64_t s : each->compare())
      unreadable.push_back(s);
  return unreadable;
}

void close_and_open(arena& a, std::vector<std::unique_ptr<worker>>& workers) {
  for (int tries = 0; a.dead_and_present() && tries < 1000; ++tries)
    (void)a.set->save();
  (void)a.set->flush(); // tells once of a spare that is gone
  for (auto& each : workers)
    each->leave();
  const auto closed = a.set->close();
  if (!closed)
    FAIL(closed.error().text());
  std::vector<std::shared_ptr<store>> given;
  for (const auto& [index, store] : a.listed()) {
    REQUIRE(store);
    a.returned += store->dead() ? 1 : 0;
    given.push_back(store);
  }
  a.set.reset();
  a.main->make_all_good();
  for (const auto& store : a.stores)
    store->make_all_good();
  a.open(given);
  for (auto& each : workers)
    each->reopened();
}

struct totals {
  std::uint64_t changes = 0, failed_adds = 0, deaths = 0, forgotten = 0, returned = 0, explained = 0;
};

void run_round(std::uint64_t seed, std::uint64_t operations, bool with_errors, totals& sum) {
  INFO("DMREMAP_MODEL_SEED=" << seed);
  arena a(seed, with_errors);
  {
    std::vector<std::unique_ptr<worker>> workers;
    for (unsigned i = 0; i < thread_count; ++i)
      workers.push_back(std::make_unique<worker>(a, i));
    std::vector<std::thread> threads, others;
    others.emplace_back([&] { change_spares(a); });
    if (with_errors) {
      others.emplace_back([&] { damage_members(a); });
      others.emplace_back([&] { kill_spares(a); });
    }
    for (auto& each : workers)
      threads.emplace_back([&] { each->run(operations / thread_count); });
    for (std::thread& each : threads)
      each.join();
    a.stop = true;
    a.count_operation(); // wakes who waits for one
    for (std::thread& each : others)
      each.join();
    REQUIRE(a.wrong == "");
    std::mt19937_64 random(seed + 3);
    if (with_errors) // it is back at the next open
      REQUIRE(kill_one(a, random, 2));
    (void)compare_all(workers);
    REQUIRE(a.wrong == "");
    if (a.deaths == 0)
      CHECK(a.explained == 0);
    close_and_open(a, workers);
    const auto unreadable = compare_all(workers);
    const auto lost = a.lost(); // all spares are there: what is lost, and nothing else
    CHECK(std::set<std::uint64_t>(unreadable.begin(), unreadable.end()) == lost);
    REQUIRE(a.wrong == "");
  }
  REQUIRE(a.set->close().has_value());
  sum.changes += a.changes;
  sum.failed_adds += a.failed_adds;
  sum.deaths += a.deaths;
  sum.forgotten += a.forgotten;
  sum.returned += a.returned;
  sum.explained += a.explained;
}

totals run_rounds(bool with_errors) {
  const std::uint64_t all = number_from("DMREMAP_MODEL_OPS", sanitized ? 20000 : 100000), each = 10000;
  const std::uint64_t seed = number_from("DMREMAP_MODEL_SEED", 1);
  totals sum;
  for (std::uint64_t round = 0; round * each < all; ++round)
    run_round(seed + round, each, with_errors, sum);
  return sum;
}

} // namespace

TEST_CASE("threads find their own bytes while spares come and go") {
  const totals sum = run_rounds(false);
  CHECK(sum.changes > 0);
  CHECK(sum.failed_adds > 0);
}

TEST_CASE("threads never see other bytes while sectors go bad and spares vanish") {
  const totals sum = run_rounds(true);
  CHECK(sum.changes > 0);
  CHECK(sum.failed_adds > 0);
  CHECK(sum.deaths > 0);
  CHECK(sum.forgotten > 0);
  CHECK(sum.returned > 0);
  CHECK(sum.explained > 0);
}
