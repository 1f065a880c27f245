// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/commands.h"
#include "admin/lookup.h"
#include "admin/udev_rule.h"
#include "engine/loop_control.h"
#include "engine/paths.h"
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

/// The set served on a loop device, by a daemon that was there or by a new one.
result<attached_set> attach_one(const context& c, const attach_options& options) {
  CHECK_OK(check_loop_access());
  auto running = find_running_set(options.name);
  result<attached_set> made;
  if (running && running->alive) {
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

/// Nothing left of it afterwards: returns the loop devices that went.
result<std::vector<std::string>> detach_one(const context& c, const running_set& set) {
  const auto loops = loops_on(set.image);
  if (!set.alive) {
    CHECK_OK(clear_dead(set));
    c.note(set.name + ": its daemon had died; what it left is cleared away");
  } else {
    static_cast<void>(TRY(ask(set, "ping", {}))); // a loop device on a daemon that hangs would hang us, too
    for (const auto& loop : loops)
      CHECK_OK(detach_loop(loop, loop_limit));
    CHECK_OK(stop_daemon(set));
  }
  // Made by attach, perhaps under an earlier name of the set; stays where somebody put something into it.
  if (boost::filesystem::path(set.mountpoint).parent_path() == run_dir())
    ::rmdir(set.mountpoint.c_str());
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

exit_code detach_all(const context& c) {
  all_sets all(c);
  for (const auto& set : list_running_sets()) {
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
  const auto made = TRY(attach_one(c, options));
  if (c.json)
    c.print(as_json(made));
  else
    c.out << made.loop << '\n';
  return exit_code::ok;
}

result<exit_code> detach(context& c, const attach_options& options) {
  if (options.name.empty())
    return detach_all(c);
  const auto set = find_running_set(options.name);
  if (!set) {
    const auto config = TRY(find_set_config(options.name));
    return fail("not-running", config.name, "is not running: there is nothing to detach");
  }
  const auto loops = TRY(detach_one(c, *set));
  if (c.json)
    c.print(as_json(*set, loops));
  else
    say_detached(c, *set, loops);
  return exit_code::ok;
}

} // namespace dmremap::admin
