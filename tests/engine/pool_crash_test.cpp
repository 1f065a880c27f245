// SPDX-License-Identifier: GPL-2.0-or-later
// Sets of several spares, killed after each single write while spares come and go: with all members the set
// opens and shows what was acknowledged; with any one missing it does so or answers an error, never old
// bytes; and what is written then outlives the return of the missing one.
#include "tests/support/pool_fixture.h"
#include "tests/support/spare_check.h"

#include <functional>
#include <mutex>
#include <set>

using namespace dmremap;
using namespace dmremap::test;

namespace {

struct logged_write {
  unsigned store;
  std::uint64_t offset;
  std::vector<std::byte> bytes;
};

/// All members of a set: 0 is main.
struct members_log {
  explicit members_log(pool_fixture& f) {
    stores.push_back(f.main);
    stores.insert(stores.end(), f.spares.begin(), f.spares.end());
    for (unsigned n = 0; n < stores.size(); ++n) {
      before.push_back(stores[n]->image());
      stores[n]->on_change([this, n](std::uint64_t offset, std::uint64_t length, const std::byte* bytes) {
        const std::lock_guard lock(mutex);
        writes.push_back(
            {n, offset,
             bytes == nullptr ? std::vector<std::byte>(length) : std::vector(bytes, bytes + length)});
        return true;
      });
    }
  }
  void stop() {
    for (const auto& s : stores)
      s->on_change({});
  }
  std::vector<std::shared_ptr<memory_store>> stores;
  std::vector<page_image> before;
  std::vector<logged_write> writes;
  std::mutex mutex;
};

constexpr std::uint64_t units_used[] = {3, 4, 5};
constexpr std::size_t stride = 7; // of the moments at which a spare is missing, for the time that each takes

std::string wanted(std::uint64_t unit) {
  return "byte " + std::to_string(100 + unit);
}

struct copy_of_set {
  copy_of_set(const std::vector<page_image>& images, const members_log& log) {
    for (unsigned n = 0; n < images.size(); ++n) {
      stores.push_back(std::make_shared<memory_store>(images[n], log.stores[n]->block_size()));
      store_identity identity;
      identity.path = "/member" + std::to_string(n);
      stores.back()->set_identity(identity);
    }
  }
  [[nodiscard]] std::vector<std::shared_ptr<memory_store>> all_but(unsigned without) const {
    std::vector<std::shared_ptr<memory_store>> given;
    for (unsigned n = 1; n < stores.size(); ++n)
      if (n != without && in_set.contains(n))
        given.push_back(stores[n]);
    return given;
  }
  result<void> open(unsigned without, bool degraded) {
    context.reset();
    set.reset();
    const auto there = all_but(without);
    const std::vector<std::shared_ptr<store>> given(there.begin(), there.end());
    open_options options;
    options.degraded = degraded;
    auto opened = disk::open(stores[0], given, options);
    if (!opened)
      return tl::make_unexpected(opened.error());
    set = std::move(*opened);
    context = set->make_context();
    return {};
  }
  /// A set without that spare, where those that are there do not know the map of each that needs one.
  [[nodiscard]] bool refused_rightly(const error& why, unsigned without) const {
    std::vector<page_image> images;
    for (const auto& each : all_but(without))
      images.push_back(each->image());
    std::vector<const page_image*> present;
    for (const page_image& each : images)
      present.push_back(&each);
    return (why.id == "spare-unprotected" || why.id == "spare-missing") &&
           !spare_checker().maps_are_known(present, {without - 1});
  }
  std::string shows(std::uint64_t unit) {
    std::vector<std::byte> got(unit_bytes);
    if (auto r = set->read(*context, got, unit * unit_bytes); !r)
      return std::string(name_of(r.error()));
    for (const std::byte b : got)
      if (b != got.front())
        return "mixed";
    return "byte " + std::to_string(std::to_integer<unsigned>(got.front()));
  }
  ~copy_of_set() { context.reset(); }
  std::vector<std::shared_ptr<memory_store>> stores;
  std::set<unsigned> in_set;
  std::unique_ptr<disk> set;
  std::unique_ptr<io_context> context;
};

/// `members`: which stores are given at a reopen after so many writes. `may_be_lost`: units that may have
/// become lost.
void check_all(const members_log& log, const std::function<std::set<unsigned>(const copy_of_set&)>& members,
               const std::set<std::uint64_t>& may_be_lost = {}) {
  std::vector<page_image> now = log.before;
  unsigned opened_without = 0, refused = 0, rejoined = 0;
  for (std::size_t at = 0; at <= log.writes.size(); ++at) {
    for (unsigned without = 0; without < log.stores.size(); ++without) {
      copy_of_set c(now, log);
      c.in_set = members(c);
      if (without != 0 && (!c.in_set.contains(without) || (at + without) % stride != 0))
        continue;
      INFO("after write " << at << " of " << log.writes.size() << ", without " << without);
      const auto opened = c.open(without, without != 0);
      if (!opened && without != 0 && c.refused_rightly(opened.error(), without))
        continue;
      if (!opened)
        FAIL(opened.error().id + ": " + opened.error().text());
      opened_without += without != 0 ? 1 : 0;
      std::set<std::uint64_t> rewritten;
      for (const std::uint64_t unit : units_used) {
        const std::string shown = c.shows(unit);
        if (shown != wanted(unit) && !(shown == "lost sector" && may_be_lost.contains(unit)) &&
            !(without != 0 && shown == name_of(io_error::absent)))
          FAIL("unit " << unit << " shows " << shown);
        if (without == 0)
          continue;
        if (c.set->write(*c.context, std::vector<std::byte>(unit_bytes, std::byte(200 + unit)),
                         unit * unit_bytes))
          rewritten.insert(unit);
        if (rewritten.contains(unit) && unit == 4)
          (void)c.set->unmap(sector_number(unit * unit_sectors));
      }
      if (without == 0)
        continue;
      REQUIRE(c.set->flush());
      if (const auto again = c.open(0, false); !again) {
        // The missing one alone held a record that was on its way: nobody can tell what else it did.
        if (again.error().id != "forked-set")
          FAIL("with all again: " + again.error().id + ": " + again.error().text());
        ++refused;
        continue;
      }
      ++rejoined;
      for (const std::uint64_t unit : units_used) {
        const std::string shown = c.shows(unit);
        const std::string expected =
            rewritten.contains(unit) ? "byte " + std::to_string(200 + unit) : wanted(unit);
        if (shown != expected && !(shown == "lost sector" && may_be_lost.contains(unit)))
          FAIL("with all again unit " << unit << " shows " << shown << ", not " << expected);
      }
    }
    if (at < log.writes.size()) {
      const logged_write& w = log.writes[at];
      now[w.store].write(w.bytes, w.offset);
    }
  }
  REQUIRE(opened_without > 0);
  REQUIRE(rejoined > refused);
}

void fill(pool_fixture& f) {
  unsigned spare = 0;
  for (const std::uint64_t unit : units_used) {
    REQUIRE(
        f.set->add_remap(sector_number(unit * unit_sectors), std::nullopt, unit_sectors, spare).has_value());
    REQUIRE(f.write(unit, std::byte(100 + unit)));
    spare = (spare + 1) % static_cast<unsigned>(f.spares.size());
  }
  REQUIRE(f.set->flush());
}

std::set<unsigned> all_three(const copy_of_set&) {
  return {1, 2, 3};
}

} // namespace

TEST_CASE("killed while a set of three is opened and used") {
  pool_fixture f(3);
  fill(f);
  f.kill();
  members_log log(f);
  f.open();
  f.remap(9);
  REQUIRE(f.set->unmap(sector_number(9 * unit_sectors)));
  f.close();
  log.stop();
  check_all(log, all_three);
}

TEST_CASE("killed while a spare vanishes and comes back") {
  pool_fixture f(3);
  fill(f);
  const unsigned gone = GENERATE(0u, 1u, 2u);
  members_log log(f);
  f.break_spare(gone);
  REQUIRE(f.shows(3 + gone) == "its spare is absent");
  f.remap(9);
  f.kill();
  f.mend_spare(gone);
  f.open();
  REQUIRE(f.shows(3 + gone) == wanted(3 + gone));
  f.kill();
  log.stop();
  check_all(log, all_three);
}

TEST_CASE("killed while a set goes on without a spare, and that spare comes back") {
  pool_fixture f(3);
  fill(f);
  f.kill();
  const unsigned gone = GENERATE(0u, 1u, 2u);
  members_log log(f);
  f.there[gone] = false;
  f.open(true);
  f.remap(9);
  f.kill();
  f.there[gone] = true;
  f.open();
  f.kill();
  log.stop();
  check_all(log, all_three);
}

TEST_CASE("killed while a spare is emptied and removed") {
  pool_fixture f(3);
  fill(f);
  const unsigned out = GENERATE(0u, 1u, 2u);
  members_log log(f);
  REQUIRE(f.set->evacuate_spare(out).has_value());
  REQUIRE(f.set->remove_spare(out).has_value());
  f.kill();
  log.stop();
  // The removed one is given as long as it says that it is a spare.
  check_all(log, [&](const copy_of_set& c) {
    std::set<unsigned> given{1, 2, 3};
    std::vector<std::byte> head(unit_bytes);
    REQUIRE(c.stores[out + 1]->read(head, 0));
    if (head == std::vector<std::byte>(unit_bytes))
      given.erase(out + 1);
    return given;
  });
}

TEST_CASE("killed while an absent spare is forgotten") {
  pool_fixture f(3);
  fill(f);
  f.kill();
  f.there[1] = false;
  f.open(true);
  members_log log(f);
  REQUIRE(f.set->forget_spare(1).has_value());
  f.kill();
  log.stop();
  check_all(log, all_three, {4});
}
