// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/set_attach.h"

#include "engine/paths.h"
#include "engine/set_daemon.h"
#include "engine/unique_fd.h"

#include <boost/filesystem.hpp>
#include <cerrno>
#include <fcntl.h>
#include <nlohmann/json.hpp>

namespace dmremap {
namespace {

/// As the daemon has it: without its word the loop device could take writes that nobody wants, or show the
/// wrong sectors. Their size is main's, whose file systems and partition tables count in them; FUSE tells
/// loop nothing of it. Not of the spares, which come and go: what a spare of larger sectors needs, the engine
/// reads around a write.
result<loop_options> loop_options_of(const running_set& set) {
  const auto reply = TRY(ask(set, "status", {}));
  try { // the library reports by exception
    const auto& status = reply.at("result");
    const auto block = status.at("main").at("block_bytes").get<std::uint32_t>();
    return loop_options{status.at("read_only").get<bool>(), block > 512 ? block : 0};
  } catch (const nlohmann::json::exception&) {
    return fail("no-answer", set.name, "its daemon does not say what it serves");
  }
}

} // namespace

result<std::string> attach_place(const std::string& asked, const std::string& name) {
  if (asked.empty())
    return run_dir() + "/" + name;
  const auto path = boost::filesystem::absolute(asked).string();
  boost::system::error_code failed;
  if (!boost::filesystem::exists(path, failed))
    return fail("mountpoint", path, "does not exist; make a folder (or an empty file) there first");
  return path;
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

result<attached_set> put_on_loop(running_set set) {
  attached_set made;
  made.set = std::move(set);
  const auto options = TRY(loop_options_of(made.set));
  auto there = whole_loop_on(made.set.image, options.read_only);
  const auto loop = there ? std::move(*there) : TRY(attach_loop(made.set.image, options));
  made.loop = loop.device;
  made.direct = loop.direct;
  return made;
}

result<std::optional<loop_attachment>> loop_of(const running_set& set) {
  return whole_loop_on(set.image, TRY(loop_options_of(set)).read_only);
}

error with_long_options(error e) {
  for (const auto& [option, words] :
       {std::pair<std::string, const char*>{"-o accept_older", "--accept-older"},
        {"-o accept_main", "--accept-main"},
        {"-o degraded", "--degraded"}})
    for (auto at = e.why.find(option); at != std::string::npos; at = e.why.find(option, at))
      e.why.replace(at, option.size(), words);
  return e;
}

result<attached_set> start_on_loop(const set_config& config, const std::string& mountpoint,
                                   const std::vector<std::string>& further_options,
                                   std::vector<std::string>& notices) {
  CHECK_OK(check_loop_access());
  const auto place = TRY(attach_place(mountpoint, config.name));
  boost::system::error_code failed;
  if (mountpoint.empty())
    boost::filesystem::create_directories(place, failed);
  if (failed)
    return fail("mountpoint", place, "cannot be made: " + failed.message());
  const auto set = TRY(start_daemon(config, place, further_options).map_error(with_long_options));
  auto made = put_on_loop(set);
  if (!made) // leave no daemon behind that nobody asked for alone
    if (const auto stopped = stop_daemon(set); !stopped)
      notices.push_back(stopped.error().text());
  return made;
}

} // namespace dmremap
