// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/set_daemon.h"

#include "engine/loop_control.h"
#include "engine/run_lock.h"
#include "engine/run_program.h"
#include "engine/unique_fd.h"

#include <algorithm>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <optional>
#include <poll.h>
#include <sstream>
#include <strings.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/syscall.h>

namespace dmremap {
namespace {

constexpr std::chrono::seconds loop_limit{20};
constexpr std::chrono::seconds ping_limit{5};
constexpr int stop_limit_ms = 120'000;

/// The error that `fusedisk --json` printed, with its own identifier.
std::optional<error> reported_error(const std::string& output) {
  std::istringstream lines(output);
  for (std::string line; std::getline(lines, line);) {
    const auto object = nlohmann::json::parse(line, nullptr, false);
    if (!object.is_object() || !object.contains("error") || !object["error"].is_object())
      continue;
    const auto& said = object["error"];
    error reported;
    for (const auto& [key, field] :
         {std::pair{"id", &reported.id}, {"what", &reported.what}, {"why", &reported.why}})
      *field = said.value(key, std::string());
    return reported;
  }
  return std::nullopt;
}

/// "fusedisk: what: why" without the program's name; the last line, which says why it gave up.
std::string last_message(std::string output) {
  while (!output.empty() && output.back() == '\n')
    output.pop_back();
  output = output.substr(output.rfind('\n') + 1); // npos + 1 is 0
  const std::string prefix = "fusedisk: ";
  return output.compare(0, prefix.size(), prefix) == 0 ? output.substr(prefix.size()) : output;
}

result<void> wait_for_end(const running_set& set, const unique_fd& process) {
  if (!process) // it was gone, or is one that we may not watch
    return {};
  pollfd gone{process.get(), POLLIN, 0};
  int ready = 0;
  do
    ready = ::poll(&gone, 1, stop_limit_ms);
  while (ready < 0 && errno == EINTR);
  if (ready == 0)
    return fail("no-answer", set.name,
                fmt::format("was told to stop, but process {} is still there; it may be waiting for a device",
                            set.pid));
  return {};
}

/// Not stat(): the kernel keeps the attributes of a FUSE mount and answers from them though its server is
/// gone.
bool is_dead_mount(const std::string& path) {
  struct statfs facts {};
  return ::statfs(path.c_str(), &facts) != 0 && errno == ENOTCONN;
}

result<void> unmount_dead(const std::string& path) {
  if (path.empty() || !is_dead_mount(path))
    return {};
  if (::umount2(path.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
    return {};
  if (errno == EPERM)
    if (const auto done = run_program({"fusermount3", "-u", "-z", path}); done && done->status == 0)
      return {};
  return fail("unmount-failed", path,
              "the mount that the dead daemon left cannot be taken away; try `umount -l " + path + "`");
}

} // namespace

std::string fusedisk_path() {
  if (const char* named = std::getenv("DMREMAP_FUSEDISK"); named != nullptr && *named != '\0')
    return named;
  boost::system::error_code failed;
  const auto here = boost::filesystem::read_symlink("/proc/self/exe", failed).parent_path();
  for (const auto* place : {"fusedisk", "../fusedisk/fusedisk"})
    if (const auto path = (here / place).string(); ::access(path.c_str(), X_OK) == 0)
      return path;
  return "fusedisk";
}

result<set_members> claim_configured(const set_config& config, access_mode mode) {
  const auto main = TRY(parse_member(config.main));
  std::vector<member_spec> spares;
  for (const auto& spare : config.spares)
    spares.push_back(TRY(parse_member(spare)));
  return open_set_members(main, spares, mode);
}

result<void> check_same_set(const set_config& config, const set_members& opened) {
  const auto& members = opened.members;
  for (std::size_t i = 1; i < members.size(); ++i) {
    for (const auto& one : probe_set_signatures(*members[i].io))
      if (one.type == "dmremap" && strcasecmp(one.set_uuid.c_str(), config.uuid.c_str()) != 0)
        return fail("wrong-set", members[i].spec.text(),
                    "holds the set " + one.detail + " (" + one.set_uuid + "), not " + config.name + " (" +
                        config.uuid +
                        "); have the names of the devices changed? Correct the configuration of " +
                        config.name);
  }
  return {};
}

result<running_set> start_daemon(const set_config& config, const std::string& mountpoint,
                                 const std::vector<std::string>& further_options) {
  // Before the daemon gets to write to it; the claims go again with the temporary.
  CHECK_OK(check_same_set(config, TRY(claim_configured(config, access_mode::read_only))));
  std::vector<std::string> words{fusedisk_path(), "--json"};
  for (const auto* options : {&config.options, &further_options})
    if (!options->empty()) {
      words.emplace_back("-o");
      words.push_back(fmt::format("{}", fmt::join(*options, ",")));
    }
  words.emplace_back("--");
  words.push_back(config.main);
  words.insert(words.end(), config.spares.begin(), config.spares.end());
  words.push_back(mountpoint);
  const auto done = TRY(run_program(words));
  if (auto said = reported_error(done.output); said && done.status != 0) {
    said->code = done.status == 4 ? exit_code::damaged : exit_code::failed;
    return tl::make_unexpected(std::move(*said));
  }
  if (done.status != 0)
    return fail("fusedisk-failed", config.name,
                done.output.empty() ? fmt::format("fusedisk ended with status {}", done.status)
                                    : last_message(done.output),
                done.status == 4 ? exit_code::damaged : exit_code::failed);
  auto set = find_running_set(config.uuid);
  if (!set || !set->alive)
    return fail("fusedisk-failed", config.name, "fusedisk started, but is gone again; its log says why");
  return std::move(*set);
}

result<nlohmann::json> ask(const running_set& set, const std::string& command, const nlohmann::json& args) {
  const auto named = [&](error failure) -> tl::unexpected<error> {
    if (failure.what == set.dir)
      failure.what = set.name;
    if (failure.id == "no-answer")
      failure.why += " (process " + std::to_string(set.pid) + "); `dmremap status " + set.name +
                     "` shows its last figures";
    return tl::unexpected<error>(std::move(failure));
  };
  if (auto ping = control_request(set.dir, "ping", {}, ping_limit); !ping)
    return named(std::move(ping).error());
  auto reply = control_request(set.dir, command, args, std::nullopt);
  if (!reply)
    return named(std::move(reply).error());
  return reply;
}

result<void> stop_daemon(const running_set& set) {
  const unique_fd process(static_cast<int>(::syscall(SYS_pidfd_open, set.pid, 0)));
  static_cast<void>(TRY(ask(set, "stop", {})));
  return wait_for_end(set, process);
}

result<void> wait_until_closed(const running_set& set) {
  const unique_fd process(static_cast<int>(::syscall(SYS_pidfd_open, set.pid, 0)));
  return wait_for_end(set, process);
}

result<void> clear_dead(const running_set& set) {
  unique_fd lock; // a daemon that lives keeps all of this, and none starts meanwhile
  if (::access(set.dir.c_str(), F_OK) == 0)
    lock = TRY(lock_pid_file(set.dir, set.name));
  const auto all = list_running_sets();
  const bool served_anew = std::any_of(all.begin(), all.end(), [&](const running_set& other) {
    return other.dir != set.dir && other.alive &&
           (other.image == set.image || other.mountpoint == set.mountpoint);
  });
  if (!served_anew) { // else what is there now is another set's
    for (const auto& loop : loops_on(set.image))
      CHECK_OK(detach_loop(loop, loop_limit));
    CHECK_OK(unmount_dead(set.mountpoint));
  }
  for (const char* name : {"/control", "/stats", "/info.json", "/info.json.new", "/pid"})
    ::unlink((set.dir + name).c_str());
  ::rmdir(set.dir.c_str());
  return {};
}

} // namespace dmremap
