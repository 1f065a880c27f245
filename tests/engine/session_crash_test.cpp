// SPDX-License-Identifier: GPL-2.0-or-later
// Two power cuts, then a set of several spares is used without some of them, then all are there again. It
// must open, wherever the cuts fell in the writing of session records and whichever spares were missing at
// which open; only where two parts that share no spare were each in use is it a fork, and refused.
#include "engine/spare_metadata.h"
#include "tests/support/pool_fixture.h"
#include "tests/support/sanitized.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <functional>
#include <mutex>
#include <set>

using namespace dmremap;
using namespace dmremap::test;

namespace {

constexpr unsigned all_spares = 3;
using images = std::vector<page_image>; ///< main, then the spares
using subset = unsigned;                ///< bit a spare

struct moment {
  images on;
  std::string when;
};

std::vector<std::shared_ptr<memory_store>> stores_of(const images& on) {
  std::vector<std::shared_ptr<memory_store>> made;
  for (unsigned n = 0; n < on.size(); ++n) {
    made.push_back(std::make_shared<memory_store>(on[n]));
    store_identity identity;
    identity.path = n == 0 ? "/main" : "/spare" + std::to_string(n - 1);
    made.back()->set_identity(identity);
  }
  return made;
}

images images_of(const std::vector<std::shared_ptr<memory_store>>& stores) {
  images on;
  for (const auto& s : stores)
    on.push_back(s->image());
  return on;
}

/// A superblock copy under a sequence that the device has not had yet, or 0.
std::uint64_t new_record(const std::byte* bytes, std::uint64_t length) {
  constexpr std::uint32_t magic = 0x01534D44;
  std::uint32_t word = 0;
  std::uint64_t sequence = 0;
  if (bytes == nullptr || length != unit_bytes)
    return 0;
  std::memcpy(&word, bytes + 4, sizeof word);
  std::memcpy(&sequence, bytes + 8, sizeof sequence);
  return word == magic ? sequence : 0;
}

/// What is on the devices before, after each change of a superblock (its first copy), and at the end of what
/// is done.
std::vector<moment> cuts_in(const images& before,
                            const std::function<void(std::vector<std::shared_ptr<memory_store>>&)>& done) {
  auto stores = stores_of(before);
  std::vector<moment> found{{before, "before"}};
  images now = before;
  std::vector<std::uint64_t> newest(stores.size(), 0);
  std::mutex mutex;
  for (unsigned n = 0; n < stores.size(); ++n)
    stores[n]->on_change([&, n](std::uint64_t offset, std::uint64_t length, const std::byte* bytes) {
      const std::lock_guard lock(mutex);
      if (bytes != nullptr)
        now[n].write(std::span(bytes, length), offset);
      else
        now[n].zero(offset, length);
      if (const std::uint64_t sequence = new_record(bytes, length); sequence > newest[n]) {
        newest[n] = sequence;
        found.push_back({now, "record " + std::to_string(found.size()) + " on " + std::to_string(n - 1)});
      }
      return true;
    });
  done(stores);
  for (const auto& s : stores)
    s->on_change({});
  found.push_back({images_of(stores), "after"});
  return found;
}

std::vector<std::shared_ptr<store>> chosen(const std::vector<std::shared_ptr<memory_store>>& stores,
                                           subset of) {
  std::vector<std::shared_ptr<store>> given;
  for (unsigned n = 0; n < all_spares; ++n)
    if ((of >> n & 1) != 0)
      given.push_back(stores[n + 1]);
  return given;
}

/// Degraded where that is needed. A device that was just coming or going is left out where it is none of the
/// set's, as an administrator would.
result<std::unique_ptr<disk>> open_some(const std::vector<std::shared_ptr<memory_store>>& stores, subset& of,
                                        subset in_flight) {
  open_options options;
  options.degraded = of != (1u << all_spares) - 1;
  auto opened = disk::open(stores[0], chosen(stores, of), options);
  if (opened || (of & in_flight) == 0 ||
      (opened.error().id != "no-superblock" && opened.error().id != "foreign-spare" &&
       opened.error().id != "mixed-superblocks"))
    return opened;
  of &= ~in_flight;
  if (of == 0)
    return opened;
  return disk::open(stores[0], chosen(stores, of), options);
}

/// Which spares know of which times that the set was in use. Shares no code with the engine's choice.
class history {
public:
  /// The spares were opened together under the newest record on them: in use, unless nobody confirms it yet.
  void note(const std::vector<std::shared_ptr<memory_store>>& stores, subset of) {
    std::vector<superblock> supers;
    for (unsigned n = 0; n < all_spares; ++n)
      if ((of >> n & 1) != 0)
        if (const auto meta = spare_metadata::load_supers(stores[n + 1], {}))
          supers.push_back((*meta)->super);
    if (supers.empty())
      return;
    const superblock& newest =
        *std::max_element(supers.begin(), supers.end(),
                          [](const superblock& a, const superblock& b) { return a.sequence < b.sequence; });
    subset given = 0;
    unsigned confirmed = 0;
    for (unsigned i = 0; i < all_spares; ++i)
      given |= newest.sessions[i].given == newest.session ? 1u << i : 0u;
    for (const superblock& s : supers)
      confirmed += s.sessions[s.spare_index].held == newest.session ? 1 : 0;
    const bool alone = std::has_single_bit(given);
    unclear_ = false;
    if (!alone && confirmed == 0)
      return; // being given out: nothing can have been changed
    // Some of them confirm it: nothing was changed yet, but it need not be told from that.
    unclear_ = !alone && confirmed != static_cast<unsigned>(std::popcount(given));
    std::set<unsigned> all{uses_++};
    for (unsigned i = 0; i < all_spares; ++i)
      if ((given >> i & 1) != 0)
        all.insert(knows_[i].begin(), knows_[i].end());
    for (unsigned i = 0; i < all_spares; ++i)
      if ((given >> i & 1) != 0)
        knows_[i] = all;
  }
  /// One of the spares knows of everything that any of them does.
  [[nodiscard]] bool fit(subset of) const {
    std::set<unsigned> all;
    for (unsigned i = 0; i < all_spares; ++i)
      if ((of >> i & 1) != 0)
        all.insert(knows_[i].begin(), knows_[i].end());
    for (unsigned i = 0; i < all_spares; ++i)
      if ((of >> i & 1) != 0 && knows_[i] == all)
        return true;
    return false;
  }
  [[nodiscard]] bool unclear() const { return unclear_ || was_unclear_; }
  /// A cut: what comes is another open.
  void cut() { was_unclear_ = unclear(); }

private:
  std::array<std::set<unsigned>, all_spares> knows_;
  unsigned uses_ = 0;
  bool unclear_ = false, was_unclear_ = false;
};

/// For a failure's message: "0 at 1a2b of {1a2b,1a2b}..." in short.
std::string sessions_on(const std::vector<std::shared_ptr<memory_store>>& stores) {
  const auto brief = [](std::uint64_t session) { return std::to_string(session % 10000); };
  std::string text;
  for (unsigned n = 0; n < all_spares; ++n) {
    const auto meta = spare_metadata::load_supers(stores[n + 1], {});
    text += "\n" + std::to_string(n) + ": ";
    if (!meta) {
      text += meta.error().id;
      continue;
    }
    text += brief((*meta)->super.session);
    for (unsigned i = 0; i < all_spares; ++i) {
      const session_pair& pair = (*meta)->super.sessions[i];
      text += " {" + brief(pair.held) + " " + brief(pair.given) + "}";
    }
  }
  return text;
}

struct figures {
  std::uint64_t opened = 0, refused = 0, forks = 0, ends = 0;
};

std::string name_of(subset of) {
  std::string text;
  for (unsigned n = 0; n < all_spares; ++n)
    if ((of >> n & 1) != 0)
      text += std::to_string(n);
  return text;
}

void all_again(const moment& second, subset used, subset in_flight, history past, figures& seen) {
  const auto stores = stores_of(second.on);
  {
    subset with = used;
    const auto opened = open_some(stores, with, in_flight);
    if (!opened) {
      ++seen.refused;
      if (opened.error().id == "forked-set" && !past.unclear() && past.fit(with))
        FAIL_CHECK(opened.error().text() << "\nThere was:" << sessions_on(stores));
      return;
    }
    past.cut();
    past.note(stores, with);
    ++seen.opened;
  }
  subset with = (1u << all_spares) - 1;
  const auto opened = open_some(stores, with, in_flight);
  ++seen.ends;
  if (past.unclear())
    return;
  if (past.fit(with)) {
    if (!opened)
      FAIL_CHECK(opened.error().text() << "\nThere was:" << sessions_on(stores_of(second.on))
                                       << "\nAfter the use:" << sessions_on(stores));
  } else {
    if (opened)
      FAIL_CHECK("a fork is opened. There was:" << sessions_on(stores_of(second.on)));
    ++seen.forks;
  }
}

/// `done` is cut at each of its records, and so is the open after it, with each choice of spares.
figures cut_twice(const images& start, subset in_flight,
                  const std::function<void(std::vector<std::shared_ptr<memory_store>>&)>& done) {
  constexpr subset all = (1u << all_spares) - 1;
  figures seen;
  history so_far;
  so_far.note(stores_of(start), all);
  std::size_t number = 0;
  for (const moment& first : cuts_in(start, done)) {
    so_far.note(stores_of(first.on), all);
    if (sanitized && number++ % 9 != 0)
      continue;
    for (subset cut = 1; cut <= all; ++cut) {
      subset with = cut;
      bool opens = false;
      const auto seconds =
          cuts_in(first.on, [&](auto& stores) { opens = open_some(stores, with, in_flight).has_value(); });
      if (!opens)
        continue;
      history past = so_far;
      past.cut();
      for (const moment& second : seconds) {
        if (second.when != "before")
          past.note(stores_of(second.on), with);
        for (subset used = 1; used < all; ++used) {
          INFO(first.when << "; " << name_of(with) << ": " << second.when << "; then " << name_of(used)
                          << " in use; then all");
          all_again(second, used, in_flight, past, seen);
        }
      }
    }
  }
  WARN(seen.ends << " ends, " << seen.forks << " of them forks; " << seen.opened << " opened in part, "
                 << seen.refused << " refused so");
  CHECK(seen.ends > (sanitized ? 20 : 2000));
  return seen;
}

images start_with(unsigned spares) {
  pool_fixture f(spares);
  for (unsigned n = 0; n < spares; ++n)
    REQUIRE(f.set->add_remap(sector_number((3 + n) * unit_sectors), std::nullopt, unit_sectors, n));
  f.close();
  images on{f.main->image()};
  for (const auto& s : f.spares)
    on.push_back(s->image());
  while (on.size() < all_spares + 1)
    on.emplace_back(16 << 20);
  return on;
}

/// Opens the set with the spares, then does it.
auto in_set(subset of, std::function<void(disk&, std::vector<std::shared_ptr<memory_store>>&)> then) {
  return [=](std::vector<std::shared_ptr<memory_store>>& stores) {
    open_options options;
    options.degraded = true;
    auto opened = disk::open(stores[0], chosen(stores, of), options);
    if (!opened)
      FAIL(opened.error().text());
    then(**opened, stores);
  };
}

} // namespace

TEST_CASE("a set that is cut off in an open, and again, opens with all its spares") {
  const auto seen = cut_twice(start_with(3), 0, in_set(7, [](disk&, auto&) {}));
  CHECK(seen.forks > 0); // an honest one is still refused
}

TEST_CASE("a set that is cut off while a spare is added, and again, opens with all its spares") {
  cut_twice(start_with(2), 4,
            in_set(3, [](disk& set, auto& stores) { CHECK(set.add_spare(stores[3]).has_value()); }));
}

TEST_CASE("a set that is cut off while a spare is removed, and again, opens with all its spares") {
  cut_twice(start_with(3), 4, in_set(7, [](disk& set, auto&) {
              CHECK(set.evacuate_spare(2).has_value());
              CHECK(set.remove_spare(2).has_value());
            }));
}

TEST_CASE("a set that is cut off while a spare goes, and again, opens with all its spares") {
  for (const unsigned going : {0u, 1u, 2u})
    cut_twice(start_with(3), 0, in_set(7, [&](disk& set, auto& stores) {
                fault_table faults;
                faults.all = io_error::gone;
                stores[going + 1]->set_faults(faults);
                const auto context = set.make_context();
                std::vector<std::byte> data(unit_bytes, std::byte{9});
                (void)set.write(*context, data, (3 + going) * unit_bytes);
                CHECK(set.write(*context, data, (3 + going) * unit_bytes));
              }));
}

TEST_CASE("a set that is cut off while a spare comes back, and again, opens with all its spares") {
  for (const unsigned gone : {0u, 1u, 2u}) {
    images apart;
    {
      auto stores = stores_of(start_with(3));
      in_set(7 & ~(1u << gone), [](disk&, auto&) {})(stores);
      apart = images_of(stores);
    }
    cut_twice(apart, 0, in_set(7, [](disk&, auto&) {}));
  }
}
