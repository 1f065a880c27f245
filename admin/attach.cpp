// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/commands.h"
#include "admin/figures.h"
#include "admin/lookup.h"
#include "admin/open_set.h"
#include "admin/reply.h"
#include "admin/udev_rule.h"
#include "engine/loop_control.h"
#include "engine/loop_users.h"
#include "engine/paths.h"
#include "engine/run_lock.h"
#include "engine/set_attach.h"
#include "engine/set_daemon.h"

#include <algorithm>
#include <boost/filesystem.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <ostream>
#include <unistd.h>

namespace dmremap::admin {
namespace {

using nlohmann::json;

constexpr std::chrono::seconds loop_limit{20};
constexpr std::chrono::minutes sync_limit{2};

json as_json(const attached_set& one) {
  return {{"name", one.set.name},   {"uuid", one.set.uuid},
          {"loop", one.loop},       {"mountpoint", one.set.mountpoint},
          {"image", one.set.image}, {"direct_io", one.direct}};
}

/// The set is known by its configuration: what says of a member alone that it is no spare, or not there, says
/// here that the set is damaged or incomplete.
error of_a_known_set(error e) {
  static const std::vector<std::string> damage{"no-superblock", "spare-unreadable", "duplicate-spare",
                                               "not-found",     "open-failed",      "empty-member"};
  if (std::count(damage.begin(), damage.end(), e.id) != 0)
    e.code = exit_code::damaged;
  return e;
}

/// Without links, but does not ask what is mounted there: its daemon may hang.
boost::filesystem::path place_of(const std::string& mountpoint) {
  auto path = boost::filesystem::absolute(mountpoint).lexically_normal();
  if (path.filename().empty() || path.filename() == ".") // "dir/"
    path = path.parent_path();
  boost::system::error_code failed;
  const auto folder = boost::filesystem::canonical(path.parent_path(), failed);
  return failed ? path : folder / path.filename();
}

/// A set that runs is not moved to another mount point by the way.
result<void> check_place(const running_set& set, const std::string& asked) {
  if (!asked.empty() && place_of(asked) != place_of(set.mountpoint))
    return fail("served-elsewhere", set.name,
                "is served at " + set.mountpoint + " already; `dmremap detach " + set.name + "` first");
  return {};
}

/// Nobody else attaches, detaches or renames this set while it is held.
result<unique_fd> take_turn(const context& c, const std::string& name, const std::string& uuid) {
  return lock_set(name, uuid, [&](const std::string& text) { c.note(text); });
}

/// A set that is closing is done when its daemon is gone.
result<void> let_it_close(const context& c, const running_set& set) {
  c.note(fmt::format("{}: its daemon (process {}) is stopping; waiting for its end", set.name, set.pid));
  return wait_until_closed(set);
}

/// The set served on a loop device, by a daemon that was there or by a new one.
result<attached_set> attach_one(const context& c, const attach_options& options) {
  CHECK_OK(check_loop_access());
  auto running = find_served(options.name);
  unique_fd turn;
  if (running) {
    turn = TRY(take_turn(c, running->name, running->uuid));
  } else {
    const auto config = TRY(find_set_config(options.name));
    turn = TRY(take_turn(c, config.name, config.uuid));
  }
  running = find_served(options.name); // as it is now that nobody else changes it
  if (running && running->closing) {
    CHECK_OK(let_it_close(c, *running));
    running = find_served(options.name);
  }
  result<attached_set> made;
  if (running && running->alive) {
    CHECK_OK(check_place(*running, options.mountpoint));
    made = put_on_loop(std::move(*running));
  } else {
    if (running) {
      CHECK_OK(clear_dead(*running));
      c.note(running->name + ": its daemon had died; what it left is cleared away");
    }
    std::vector<std::string> further, notices;
    for (const auto& [asked, option] : {std::pair{options.degraded, "degraded"},
                                        {options.accept_older, "accept_older"},
                                        {options.accept_main, "accept_main"}})
      if (asked)
        further.emplace_back(option);
    made = start_on_loop(TRY(find_set_config(options.name)), options.mountpoint, further, notices)
               .map_error(of_a_known_set);
    for (const auto& notice : notices)
      c.note(notice);
  }
  if (made && !made->direct)
    c.note(made->loop + ": the kernel refuses direct I/O; it works, slower");
  if (made)
    if (const auto shown = show_image_to_udev(made->set.name, made->set.image, made->loop); !shown)
      c.note(shown.error());
  return made;
}

/// What a dry run says of one set: for programs, and for a person.
struct plan {
  json row;
  std::string text;
};

/// Refused where attach_one would be, as far as that can be seen without opening anything for writing.
result<plan> plan_attach(const context& c, const attach_options& options) {
  CHECK_OK(check_loop_access());
  const auto running = find_served(options.name);
  json row{{"loop", nullptr}, {"dry_run", true}};
  if (running && running->alive) {
    CHECK_OK(check_place(*running, options.mountpoint));
    const auto loop = TRY(loop_of(*running));
    row.update({{"name", running->name}, {"uuid", running->uuid}, {"mountpoint", running->mountpoint}});
    if (!loop)
      return plan{row, fmt::format("{}: {} would be put on a loop device", running->name, running->image)};
    row["loop"] = loop->device;
    return plan{row, fmt::format("{}: is on {} already: nothing would change", running->name, loop->device)};
  }
  const auto config = TRY(find_set_config(options.name));
  const auto place = TRY(attach_place(options.mountpoint, config.name));
  std::vector<std::string> notices;
  const auto opened =
      TRY(open_to_look(config, {options.degraded, options.accept_older, options.accept_main}, notices)
              .map_error(of_a_known_set));
  for (const auto& notice : notices)
    c.note(notice);
  const auto left_out = opened.members.left_out.size(), spares = opened.members.members.size() - 1;
  row.update({{"name", config.name}, {"uuid", config.uuid}, {"mountpoint", place}});
  return plan{row,
              fmt::format("{}: {}would be served at {} from main and {}{}, and put on a loop device",
                          config.name, running ? "what its dead daemon left would be cleared away; it " : "",
                          place, counted(spares, "spare"),
                          left_out == 0 ? "" : fmt::format(" ({} left out)", left_out))};
}

/// The daemon cannot tell how its last flush went: nobody listens any more. So it is asked for one before.
result<void> sync_before_stop(const running_set& set) {
  auto synced = control_request(set.dir, "sync", {}, sync_limit);
  if (synced)
    return {};
  error e = std::move(synced).error();
  e.what = set.name;
  e.why = "cannot be synced: " + e.why +
          "; it is stopped all the same, but not everything is known to be on its devices";
  return tl::unexpected<error>(std::move(e));
}

/// Nothing left of it afterwards: returns the loop devices that went. An error of sync_before_stop() does not
/// keep the set from being stopped.
result<std::vector<std::string>> detach_one(const context& c, const running_set& seen) {
  const auto turn = TRY(take_turn(c, seen.name, seen.uuid));
  auto found = find_running_set(seen.name);
  if (!found) // under a new name, or gone
    found = find_running_set(seen.uuid);
  if (!found)
    return std::vector<std::string>{};
  const auto& set = *found;
  const auto loops = loops_on(set.image);
  result<void> synced;
  if (set.closing) {
    CHECK_OK(let_it_close(c, set));
    CHECK_OK(clear_dead(set)); // if it did not come so far
  } else if (!set.alive) {
    CHECK_OK(clear_dead(set));
    c.note(set.name + ": its daemon had died; what it left is cleared away");
  } else {
    static_cast<void>(TRY(ask(set, "ping", {}))); // a loop device on a daemon that hangs would hang us, too
    for (const auto& loop : loops)
      CHECK_OK(detach_loop(loop, loop_limit));
    synced = sync_before_stop(set);
    CHECK_OK(stop_daemon(set));
  }
  // Made by attach, perhaps under an earlier name of the set; stays where somebody put something into it.
  if (boost::filesystem::path(set.mountpoint).parent_path() == run_dir())
    ::rmdir(set.mountpoint.c_str());
  CHECK_OK(synced);
  return loops;
}

json as_json(const running_set& set, const std::vector<std::string>& loops) {
  return {{"name", set.name}, {"uuid", set.uuid}, {"loop", loops}, {"running", false}};
}

void say_detached(const context& c, const running_set& set, const std::vector<std::string>& loops) {
  c.out << fmt::format("{}: {}stopped\n", set.name,
                       loops.empty() ? "" : fmt::format("{} detached, ", fmt::join(loops, " ")));
}

json error_json(const std::string& name, const error& failure) {
  return {{"name", name}, {"error", {{"id", failure.id}, {"what", failure.what}, {"why", failure.why}}}};
}

/// Refused where detach_one would be for a loop device that is used.
result<plan> plan_detach(const running_set& set) {
  const auto loops = loops_on(set.image);
  if (set.alive && !set.closing)
    static_cast<void>(TRY(ask(set, "ping", {})));
  for (const auto& loop : loops)
    if (const auto users = loop_users(loop); !users.empty())
      return fail("loop-in-use", loop, fmt::format("is in use: {}", fmt::join(users, ", ")));
  auto row = as_json(set, loops);
  row.update({{"running", set.alive}, {"dry_run", true}});
  return plan{row,
              fmt::format("{}: {}{}", set.name,
                          loops.empty() ? "" : fmt::format("{} would be detached, ", fmt::join(loops, " ")),
                          set.closing ? fmt::format("fusedisk (process {}) is stopping", set.pid)
                          : set.alive ? fmt::format("fusedisk (process {}) would be stopped", set.pid)
                                      : "what its dead daemon left would be cleared away")};
}

/// Does one set after the other, whatever happens to one; the worst exit status counts.
class all_sets {
public:
  explicit all_sets(const context& c) : c_(c) {}
  void failed(const std::string& name, const error& failure) {
    c_.note(failure.text());
    rows_.push_back(error_json(name, failure));
    worst_ = std::max(worst_, failure.code);
  }
  void done(json row) { rows_.push_back(std::move(row)); }
  void planned(const std::string& name, const result<plan>& one) {
    if (!one)
      return failed(name, one.error());
    rows_.push_back(one->row);
    if (!c_.json)
      c_.out << one->text << '\n';
  }
  exit_code finish() {
    if (c_.json)
      c_.print({{"sets", rows_}});
    return worst_;
  }

private:
  const context& c_;
  json rows_ = json::array();
  exit_code worst_ = exit_code::ok;
};

exit_code attach_all(const context& c, attach_options options) {
  all_sets all(c);
  const auto configured = list_set_configs();
  for (const auto& bad : configured.bad)
    all.failed(bad.what, bad);
  for (const auto& config : configured.sets) {
    options.name = config.name;
    if (options.dry_run) {
      all.planned(config.name, plan_attach(c, options));
      continue;
    }
    const auto made = attach_one(c, options);
    if (!made) {
      all.failed(config.name, made.error());
      continue;
    }
    all.done(as_json(*made));
    if (!c.json)
      c.out << config.name << ' ' << made->loop << '\n';
  }
  return all.finish();
}

exit_code detach_all(const context& c, bool dry_run) {
  all_sets all(c);
  for (const auto& set : list_running_sets()) {
    if (dry_run) {
      all.planned(set.name, plan_detach(set));
      continue;
    }
    const auto loops = detach_one(c, set);
    if (!loops) {
      all.failed(set.name, loops.error());
      continue;
    }
    all.done(as_json(set, *loops));
    if (!c.json)
      say_detached(c, set, *loops);
  }
  return all.finish();
}

} // namespace

result<exit_code> attach(context& c, const attach_options& options) {
  if (options.name.empty())
    return attach_all(c, options);
  if (options.dry_run) {
    const auto one = TRY(plan_attach(c, options));
    return show_plan(c, one.row, one.text);
  }
  const auto made = TRY(attach_one(c, options));
  if (c.json)
    c.print(as_json(made));
  else
    c.out << made.loop << '\n';
  return exit_code::ok;
}

result<exit_code> detach(context& c, const attach_options& options) {
  if (options.name.empty())
    return detach_all(c, options.dry_run);
  const auto set = find_served(options.name);
  if (!set) {
    const auto config = TRY(find_set_config(options.name));
    return fail("not-running", config.name, "is not running: there is nothing to detach");
  }
  if (options.dry_run) {
    const auto one = TRY(plan_detach(*set));
    return show_plan(c, one.row, one.text);
  }
  const auto loops = TRY(detach_one(c, *set));
  if (c.json)
    c.print(as_json(*set, loops));
  else
    say_detached(c, *set, loops);
  return exit_code::ok;
}

} // namespace dmremap::admin
