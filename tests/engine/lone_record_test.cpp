// SPDX-License-Identifier: GPL-2.0-or-later
// A spare goes while a record is being written, found out only as its guest's listing is taken back; the
// record of its going cannot be written at once. It must not count as made.
#include "engine/spare_metadata.h"
#include "tests/support/forwarding_store.h"
#include "tests/support/pool_fixture.h"

using namespace dmremap;
using namespace dmremap::test;

namespace {

superblock super_of(const std::shared_ptr<memory_store>& s) {
  const auto m = spare_metadata::load_supers(s, {});
  if (!m)
    FAIL(m.error().text());
  return (*m)->super;
}

/// When its first superblock is written for the first time, another spare goes; the third time it fails once.
class scripted final : public forwarding_store {
public:
  scripted(std::shared_ptr<store> inner, std::function<void()> first)
      : forwarding_store(std::move(inner)), first_(std::move(first)) {}
  [[nodiscard]] io_result write(std::span<const std::byte> b, std::uint64_t at) override {
    if (at == 0) {
      if (++times_ == 1)
        first_();
      if (times_ == 3)
        return io_fail(io_error::transient); // ENOMEM
    }
    return inner().write(b, at);
  }

private:
  std::function<void()> first_;
  unsigned times_ = 0;
};

} // namespace

TEST_CASE("a record that is on no spare is not told to the host, nor relied on") {
  pool_fixture f(2);
  put_on(f, 3, 0, one);
  put_on(f, 5, 1, one);
  f.close();
  f.kill();
  std::uint64_t seen = 0;
  open_options o;
  o.on_record = [&](std::uint64_t end) { seen = std::max(seen, end); };
  const auto second = std::make_shared<scripted>(f.spares[1], [&] { f.break_spare(0); });
  auto opened = disk::open(f.main, {f.spares[0], second}, o);
  if (!opened)
    FAIL(opened.error().text());
  f.set = std::move(*opened);
  f.context = f.set->make_context();
  const auto s = super_of(f.spares[1]);
  CHECK(s.sequence_end >= seen);           // the session record is on the spare that is left
  CHECK(s.sessions[0].given != s.session); // and says that spare 0 is away
  CHECK_FALSE(f.status(0).present);
  put_on(f, 7, 1, two);       // a table changes, is acknowledged and flushed
  REQUIRE(f.write(3, three)); // was on spare 0: goes to spare 1
  REQUIRE(f.set->flush());
  const auto after = super_of(f.spares[1]);
  CHECK(after.sessions[0].given != after.session); // still in no record
  f.kill();
  f.mend_spare(0);
  SECTION("the next open, with both") {
    open_options again;
    again.last_seen = seen;
    const auto back = f.try_open(again);
    if (!back)
      FAIL(back.error().text());
    CHECK(f.shows(7) == "byte 102");
    CHECK(f.shows(3) == "byte 103");
  }
  SECTION("spare 0 alone somewhere else, then both: spare 1 has changes that spare 0 lacks") {
    f.there = {true, false};
    open_options degraded;
    degraded.degraded = true;
    REQUIRE(f.try_open(degraded));
    CHECK(f.write(9, one));
    f.close();
    f.there = {true, true};
    const auto both = f.try_open();
    REQUIRE_FALSE(both);
    CHECK(both.error().id == "forked-set");
  }
}
