// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/commands.h"
#include "admin/daemon.h"
#include "admin/figures.h"
#include "admin/lookup.h"
#include "engine/loop_control.h"
#include "engine/member.h"
#include "engine/paths.h"
#include "engine/unique_fd.h"

#include <algorithm>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <nlohmann/json.hpp>
#include <ostream>
#include <sys/ioctl.h>

namespace dmremap::admin {
namespace {

using nlohmann::json;

constexpr std::chrono::seconds loop_limit{20};

struct attached {
  running_set set;
  std::string loop;
  bool direct = true;
  bool was_running = false;
};

json as_json(const attached& one) {
  return {{"name", one.set.name},   {"uuid", one.set.uuid},
          {"loop", one.loop},       {"mountpoint", one.set.mountpoint},
          {"image", one.set.image}, {"direct_io", one.direct}};
}

/// FUSE tells loop nothing of the members' sectors: a 4Kn drive below would be read, changed and written for
/// every sector that a file system of 512-byte sectors writes.
std::uint32_t logical_block_size(const running_set& set) {
  std::uint32_t largest = 0;
  std::vector<std::string> members = set.spares;
  members.push_back(set.main);
  for (const auto& member : members) {
    const auto spec = parse_member(member);
    const unique_fd fd(spec ? ::open(spec->path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1);
    int bytes = 0;
    if (fd && ::ioctl(fd.get(), BLKSSZGET, &bytes) == 0 && bytes > 512)
      largest = std::max(largest, static_cast<std::uint32_t>(bytes));
  }
  return largest;
}

bool is_read_only(const running_set& set) {
  const auto reply = ask(set, "status", {});
  return reply && flag_in(part_of(*reply, "result"), "read_only");
}

result<void> check_loop_access() {
  const unique_fd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (!control && (errno == EACCES || errno == EPERM))
    return fail("no-permission", "/dev/loop-control",
                "loop devices are root's; run this as root, or fusedisk alone");
  if (!control)
    return fail("no-loop", "/dev/loop-control",
                "is not there; load the kernel's loop module (modprobe loop)");
  return {};
}

result<std::string> make_mountpoint(const std::string& asked, const std::string& name) {
  boost::system::error_code failed;
  if (asked.empty()) {
    const auto folder = run_dir() + "/" + name;
    boost::filesystem::create_directories(folder, failed);
    if (failed)
      return fail("mountpoint", folder, "cannot be made: " + failed.message());
    return folder;
  }
  const auto path = boost::filesystem::absolute(asked).string();
  if (!boost::filesystem::exists(path, failed))
    return fail("mountpoint", path, "does not exist; make a folder (or an empty file) there first");
  return path;
}

/// The set served, by a daemon that was there or by a new one.
result<attached> serve(const context& c, const attach_options& options) {
  attached made;
  auto running = find_running_set(options.name);
  if (running && running->alive) {
    made.was_running = true;
    made.set = std::move(*running);
    return made;
  }
  if (running) {
    CHECK_OK(clear_dead(*running));
    c.note(running->name + ": its daemon had died; what it left is cleared away");
  }
  const auto config = TRY(find_set_config(options.name));
  const auto mountpoint = TRY(make_mountpoint(options.mountpoint, config.name));
  std::vector<std::string> further;
  for (const auto& [asked, option] : {std::pair{options.degraded, "degraded"},
                                      {options.accept_older, "accept_older"},
                                      {options.accept_main, "accept_main"}})
    if (asked)
      further.emplace_back(option);
  made.set = TRY(start_daemon(config, mountpoint, further));
  return made;
}

result<attached> attach_one(const context& c, const attach_options& options) {
  CHECK_OK(check_loop_access());
  auto made = TRY(serve(c, options));
  if (const auto loops = loops_on(made.set.image); !loops.empty()) {
    made.loop = loops.front();
    return made;
  }
  auto loop = attach_loop(made.set.image, {is_read_only(made.set), logical_block_size(made.set)});
  if (!loop) {
    if (!made.was_running) // leave no daemon behind that nobody asked for alone
      if (const auto stopped = stop_daemon(made.set); !stopped)
        c.note(stopped.error().text());
    return tl::unexpected<error>(std::move(loop).error());
  }
  made.loop = loop->device;
  made.direct = loop->direct;
  if (!made.direct)
    c.note(made.loop + ": the kernel refuses direct I/O; it works, slower");
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
  if (set.mountpoint == run_dir() + "/" + set.name)
    ::rmdir(set.mountpoint.c_str()); // made by attach; stays where somebody put something into it
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
