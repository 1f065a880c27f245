// SPDX-License-Identifier: GPL-2.0-or-later
// What this host keeps of a set, wherever the machine stops: never newer than what lies durably on the
// spares, or a healthy set would be refused; never so old that spares from before an acknowledged flush would
// pass.
#include "engine/set_members.h"
#include "engine/spare_metadata.h"
#include "tests/support/crash_replay.h"
#include "tests/support/pool_fixture.h"
#include "tests/support/pool_operations.h"
#include "tests/support/sanitized.h"
#include "tests/support/temp_dir.h"

#include <cstdlib>

using namespace dmremap;
using namespace dmremap::test;

namespace {

/// All spares as they were at a moment at which everything was acknowledged and flushed.
struct old_copy {
  set_state state;
  std::uint64_t seen = 0;
  std::string when;
};

/// The session that the newest superblock on the set's spares names.
std::uint64_t session_of(const set_state& state) {
  superblock newest;
  for (unsigned n = 0; n < state.spares.size(); ++n)
    if (state.spares[n].role == spare_role::member)
      if (const auto meta = spare_metadata::load_supers(make_spare(state.spares[n], n), {});
          meta && (*meta)->super.sequence > newest.sequence)
        newest = (*meta)->super;
  return newest.session;
}

/// A run of which the host keeps records.
class watched_run {
public:
  explicit watched_run(const std::string& start) : run(pool_start(start), options()) {
    before_ = {run.state(), 0, "before"};
    if (!run.open())
      FAIL(run.violations().front());
    acknowledged("open");
  }
  void carry_out(const std::string& name) {
    find_pool_operation(name).run(run);
    run.flush();
    acknowledged(name);
  }
  /// What the host knows after so many events of the log.
  [[nodiscard]] std::uint64_t seen_at(std::size_t point) const {
    std::uint64_t seen = 0;
    for (const auto& [at, end] : records_)
      if (at <= point)
        seen = end;
    return seen;
  }

  std::vector<std::pair<std::size_t, std::uint64_t>> records_; ///< events before it, what was kept
  old_copy before_;
  std::vector<old_copy> copies;
  crash_run run;

private:
  open_options options() {
    open_options with;
    with.on_record = [this](std::uint64_t end) { records_.emplace_back(run.position(), end); };
    return with;
  }
  void acknowledged(const std::string& when) {
    copies.push_back({run.state(), seen_at(run.position()), when});
  }
};

/// The error's id, or nothing where the set opens.
std::string open_with(const set_state& state, std::uint64_t last_seen) {
  std::vector<std::shared_ptr<store>> given;
  open_options options;
  options.last_seen = last_seen;
  options.read_only = true;
  for (unsigned n = 0; n < state.spares.size(); ++n) {
    if (state.spares[n].role == spare_role::member)
      given.push_back(make_spare(state.spares[n], n));
    options.degraded = options.degraded || state.spares[n].role == spare_role::away;
  }
  const auto opened = disk::open(std::make_shared<memory_store>(state.main), given, options);
  return opened ? "" : opened.error().id;
}

set_state after_crash(const watched_run& of, const crash_state& crash) {
  set_state state = of.run.at_epoch(crash.epoch);
  state.main = crash.devices[0]->content;
  for (std::size_t n = 0; n < state.spares.size(); ++n) {
    state.spares[n].content = crash.devices[1 + n]->content;
    state.spares[n].faults = {};
  }
  return state;
}

const std::vector<std::pair<std::string, std::vector<std::string>>>& runs() {
  static const std::vector<std::pair<std::string, std::vector<std::string>>> all{
      {"spread", {"write error A", "kill", "write A whole", "close"}},
      {"spread", {"vanish 1", "write B whole", "all back"}},
      {"spread", {"add", "evacuate 0", "remove 0"}},
      {"gone", {"forget", "remap A", "kill"}},
      {"one", {"remap A", "close", "add"}},
      {"three", {"without 1", "write B whole", "all back", "remove 1"}},
  };
  return all;
}

} // namespace

TEST_CASE("whatever moment the machine stops, the host never knows a newer session than the spares") {
  std::uint64_t images = 0, compared = 0;
  for (const auto& each_run : runs()) {
    const auto& start = each_run.first; // clang 14 lets no lambda capture a structured binding
    const auto& operations = each_run.second;
    watched_run of(start);
    for (const std::string& each : operations)
      of.carry_out(each);
    of.run.finish();
    INFO((of.run.violations().empty() ? "" : of.run.violations().front()));
    REQUIRE(of.run.violations().empty());
    replay_limits limits;
    limits.exhaustive = 3;
    limits.samples = 2;
    limits.combinations = 8;
    limits.tears = false;
    limits.last_event = of.run.last_position();
    if (sanitized)
      limits.first_event = limits.last_event - 40;
    crash_replay states(of.run.log(), limits);
    states.run([&](const crash_state& crash) {
      const std::uint64_t seen = of.seen_at(crash.point);
      const set_state state = after_crash(of, crash);
      ++compared;
      if (open_with(state, seen) == "spare-older")
        FAIL_CHECK(start << ", " << crash.describe() << ": the host has seen " << seen);
      return true;
    });
    images += states.counts().distinct_images;
  }
  WARN(images << " distinct images, " << compared << " compared");
  CHECK(compared > (sanitized ? 100 : 2000));
}

TEST_CASE("spares from before a session do not pass for today's once something was flushed in it") {
  unsigned refused = 0, same = 0;
  for (const auto& [start, operations] : runs()) {
    watched_run of(start);
    for (const std::string& each : operations)
      of.carry_out(each);
    of.copies.insert(of.copies.begin(), of.before_);
    for (std::size_t later = 1; later < of.copies.size(); ++later)
      for (std::size_t earlier = 0; earlier < later; ++earlier) {
        const old_copy &then = of.copies[earlier], &now = of.copies[later];
        INFO(start << ": " << then.when << " for " << now.when << ", host has seen " << now.seen);
        if (session_of(then.state) == session_of(now.state)) { // nobody can tell
          ++same;
          continue;
        }
        CHECK(open_with(then.state, now.seen) == "spare-older");
        CHECK(open_with(now.state, now.seen).empty());
        ++refused;
      }
    of.run.finish();
  }
  WARN(refused << " old copies refused, " << same << " of the same session");
  CHECK(refused >= 30);
}

TEST_CASE("a session record that failed is not what the host remembers") {
  const temp_dir folder;
  const char* const before = std::getenv("DMREMAP_STATE_DIR");
  const std::string restore = before != nullptr ? before : "";
  ::setenv("DMREMAP_STATE_DIR", folder.path().c_str(), 1);
  {
    pool_fixture f(2);
    std::string trouble;
    const std::string uuid = f.set->info()->set_uuid;
    host_keeper keeper(uuid, trouble);
    open_options options;
    options.on_record = [&](std::uint64_t end) { keeper.note_record(end); };
    REQUIRE(f.try_open(options));
    f.remap(3);
    const auto durable = f.spares[0]->image();
    f.break_spare(1);
    f.spares[0]->fail_flushes(1000, io_error::medium); // so its going cannot be recorded
    (void)f.set->remap(sector_number(9 * unit_sectors));
    (void)f.set->sync();
    REQUIRE(keeper.remember(*f.set->info(), {}));
    f.kill();
    f.mend_spare(0);
    f.mend_spare(1);
    f.spares[0]->set_image(durable); // what failed flushes left undone
    const auto kept = read_host_state(uuid, trouble);
    REQUIRE(kept);
    options = {};
    options.last_seen = kept->sequence_end;
    const auto opened = f.try_open(options);
    INFO((opened ? "" : opened.error().text()));
    CHECK(opened);
  }
  if (before != nullptr)
    ::setenv("DMREMAP_STATE_DIR", restore.c_str(), 1);
  else
    ::unsetenv("DMREMAP_STATE_DIR");
}
