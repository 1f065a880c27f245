// SPDX-License-Identifier: GPL-2.0-or-later
// A spare that is being added, while errors move units: nothing is put on it before a record lists it, for it
// may be dropped again until then.
#include "tests/support/forwarding_store.h"
#include "tests/support/pool_fixture.h"

#include <algorithm>
#include <condition_variable>
#include <thread>

using namespace dmremap;
using namespace dmremap::test;

namespace {

/// Where the data of a moved unit is written first. It waits there until it is let go.
class data_in_flight {
public:
  void arrived(const std::string& where) {
    std::unique_lock lock(mutex_);
    if (where_.empty())
      where_ = where;
    changed_.notify_all();
    changed_.wait(lock, [&] { return let_go_; });
  }
  std::string wait_for_it() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !where_.empty(); });
    return where_;
  }
  void let_go() {
    const std::lock_guard lock(mutex_);
    let_go_ = true;
    changed_.notify_all();
  }

private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string where_;
  bool let_go_ = false;
};

/// Data is what is filled with the byte `two`; metadata never is.
class spare_watched final : public forwarding_store {
public:
  spare_watched(std::shared_ptr<store> inner, data_in_flight& data)
      : forwarding_store(std::move(inner)), data_(data) {}
  [[nodiscard]] io_result write(std::span<const std::byte> b, std::uint64_t at) override {
    if (std::all_of(b.begin(), b.end(), [](std::byte each) { return each == two; }))
      data_.arrived(identity().path);
    return inner().write(b, at);
  }

private:
  data_in_flight& data_;
};

} // namespace

TEST_CASE("no unit is put on a spare before it is one of the set") {
  const bool fails = GENERATE(true, false);
  pool_fixture f(2);
  put_on(f, 3, 1, one);
  REQUIRE(f.set->remove_spare(0)); // its place is the first that allocation looks at
  f.close();
  data_in_flight data;
  auto opened = disk::open(f.main, {std::make_shared<spare_watched>(f.spares[1], data)}, {});
  REQUIRE(opened);
  f.set = std::move(*opened);
  f.context = f.set->make_context();
  f.main->add_bad({5 * unit_sectors, unit_sectors, direction::write});

  const auto fresh = pool_fixture::new_spare(0);
  fresh->close_gate(0, fresh->size() / sector_bytes, direction::write);
  std::optional<result<unsigned>> added;
  std::thread adding([&] { added = f.set->add_spare(std::make_shared<spare_watched>(fresh, data)); });
  fresh->wait_for_blocked(); // its first superblock
  io_result written;
  std::thread writing([&] { written = f.write(5, two); });
  CHECK(data.wait_for_it() == "/spare1");
  if (fails) {
    fault_table faults;
    faults.bad.push_back({0, fresh->size() / sector_bytes, direction::write});
    fresh->set_faults(faults);
  }
  fresh->open_gate();
  adding.join();
  data.let_go(); // the data is in flight for longer than it takes to drop the spare
  writing.join();

  CHECK(written);
  CHECK(added->has_value() == !fails);
  f.spares[0] = fresh;
  f.there[0] = !fails;
  if (!fails)
    put_on(f, 6, 0, three); // and now it takes data
  CHECK(f.shows(3) == "byte 101");
  CHECK(f.shows(5) == "byte 102");
  f.close();
  f.open();
  CHECK(f.shows(3) == "byte 101");
  CHECK(f.shows(5) == "byte 102");
  CHECK((fails ? f.original_unit(6) : f.shows(6) == "byte 103"));
}
