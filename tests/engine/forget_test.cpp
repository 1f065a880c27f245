// SPDX-License-Identifier: GPL-2.0-or-later
// Many units of an absent spare become lost: in few table changes, and whole wherever the machine goes down.
#include "tests/support/pool_fixture.h"

#include <mutex>
#include <set>
#include <thread>

using namespace dmremap;
using namespace dmremap::test;

namespace {

/// Units on spare 0, which is then absent.
void lose_spare_with(pool_fixture& f, std::uint64_t first, std::uint64_t count, std::uint64_t step) {
  for (std::uint64_t n = 0; n < count; ++n)
    put_on(f, first + n * step, 0, one);
  f.kill();
  f.there[0] = false;
  f.open(true);
}

struct effort {
  std::uint64_t changes = 0, flushes = 0; ///< table changes; flushes of both remaining spares
};

effort forget_spare_0(pool_fixture& f) {
  const auto flushes = [&] { return f.spares[1]->counts().flushes + f.spares[2]->counts().flushes; };
  const effort before{f.set->stats().saves_tried, flushes()};
  REQUIRE(f.set->forget_spare(0));
  return {f.set->stats().saves_tried - before.changes, flushes() - before.flushes};
}

std::string shown_by(disk& set, io_context& context, std::uint64_t unit) {
  std::vector<std::byte> got(unit_bytes);
  if (auto read = set.read(context, got, unit * unit_bytes); !read)
    return std::string(name_of(read.error()));
  for (const std::byte b : got)
    if (b != one)
      return "other bytes";
  return "its own bytes";
}

} // namespace

TEST_CASE("units of a forgotten spare become lost together") {
  const std::uint64_t step = GENERATE(1u, 2u); // neighbours are frozen as one; of others 32 at once
  pool_fixture one_unit(3), many(3);
  lose_spare_with(one_unit, 3, 1, 1);
  lose_spare_with(many, 3, 100, step);
  const effort least = forget_spare_0(one_unit), all = forget_spare_0(many);
  CHECK(least.changes == 1);
  CHECK(all.changes == (step == 1 ? 1u : 4u));
  CHECK(all.flushes < 5 * least.flushes); // some of those are for the record without the spare
  for (std::uint64_t n = 0; n < 100; ++n)
    CHECK(many.shows(3 + n * step) == "lost sector");
  CHECK(many.original_unit(2));
  many.close();
  many.open();
  for (std::uint64_t n = 0; n < 100; ++n)
    CHECK(many.shows(3 + n * step) == "lost sector");
  CHECK(many.set->stats().lost_sectors == 100 * unit_sectors);
}

TEST_CASE("requests for units that become lost wait, and find them so") {
  pool_fixture f(3);
  lose_spare_with(f, 3, 8, 2);
  f.spares[1]->close_gate(0, f.spares[1]->size() / sector_bytes, direction::write);
  result<forget_reply> forgotten;
  std::thread forgetting([&] { forgotten = f.set->forget_spare(0); });
  f.spares[1]->wait_for_blocked(); // in its table change
  CHECK(f.original_unit(4));       // a unit between two of them is not held up
  std::string shown;
  std::thread reading([&] {
    const auto context = f.set->make_context();
    shown = shown_by(*f.set, *context, 9);
  });
  f.spares[1]->open_gate();
  forgetting.join();
  reading.join();
  CHECK(forgotten);
  CHECK((shown == "lost sector" || shown == "its spare is absent")); // it came first
  CHECK(f.shows(9) == "lost sector");
}

TEST_CASE("a set that goes down while a spare is forgotten has each unit on the spare or lost") {
  constexpr std::uint64_t first = 3, count = 80, step = 3; // three changes
  pool_fixture f(3);
  put_on(f, 1, 1, two);
  lose_spare_with(f, first, count, step);
  struct write {
    unsigned spare;
    std::uint64_t offset;
    std::vector<std::byte> bytes;
  };
  std::vector<write> writes;
  std::mutex mutex;
  std::vector<page_image> now;
  for (unsigned n = 0; n < 3; ++n) {
    now.push_back(f.spares[n]->image());
    f.spares[n]->on_change([&, n](std::uint64_t offset, std::uint64_t length, const std::byte* bytes) {
      const std::lock_guard lock(mutex);
      writes.push_back(
          {n, offset,
           bytes == nullptr ? std::vector<std::byte>(length) : std::vector(bytes, bytes + length)});
      return true;
    });
  }
  REQUIRE(f.set->forget_spare(0));
  f.kill();
  for (const auto& spare : f.spares)
    spare->on_change({});
  std::set<std::uint64_t> states; // numbers of units that were lost
  bool forgotten = false;
  for (std::size_t at = 0; at <= writes.size(); ++at) {
    INFO("after write " << at << " of " << writes.size());
    const auto open = [&](bool with_it, bool degraded) {
      std::vector<std::shared_ptr<store>> given;
      for (unsigned n = with_it ? 0 : 1; n < 3; ++n)
        given.push_back(std::make_shared<memory_store>(now[n], f.spares[n]->block_size()));
      open_options options;
      options.degraded = degraded;
      return disk::open(std::make_shared<memory_store>(f.main->image()), given, options);
    };
    auto back = open(true, false); // with the spare: it still serves what is not lost
    REQUIRE(back);
    auto opened = open(false, true);
    REQUIRE(opened);
    const auto plan = (*opened)->plan_forget(0);
    REQUIRE((plan || plan.error().id == "no-such-spare"));
    forgotten = !plan;
    const auto context = (*opened)->make_context();
    std::uint64_t lost = 0;
    for (std::uint64_t u = first; u < first + count * step; u += step) {
      const std::string shown = shown_by(**opened, *context, u);
      REQUIRE((shown == "lost sector" || (!forgotten && shown == "its spare is absent")));
      lost += shown == "lost sector" ? 1 : 0;
      const auto its_context = (*back)->make_context();
      REQUIRE(shown_by(**back, *its_context, u) == (shown == "lost sector" ? shown : "its own bytes"));
    }
    states.insert(lost);
    if (!forgotten) { // and it can be forgotten to the end
      const auto rest = (*opened)->forget_spare(0);
      REQUIRE(rest);
      REQUIRE(rest->units == count - lost);
    }
    REQUIRE((*opened)->stats().lost_sectors == count * unit_sectors);
    if (at == writes.size())
      break;
    const write& w = writes[at];
    memory_store next(now[w.spare], f.spares[w.spare]->block_size());
    REQUIRE(next.write(w.bytes, w.offset));
    now[w.spare] = next.image();
  }
  CHECK(forgotten);
  CHECK(states.size() >= 4); // none, each change, all
}
