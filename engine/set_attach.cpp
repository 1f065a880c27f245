// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/set_attach.h"

#include "engine/loop_control.h"
#include "engine/member.h"
#include "engine/paths.h"
#include "engine/set_daemon.h"
#include "engine/unique_fd.h"

#include <boost/filesystem.hpp>
#include <cerrno>
#include <fcntl.h>
#include <linux/fs.h>
#include <nlohmann/json.hpp>
#include <sys/ioctl.h>

namespace dmremap {
namespace {

/// Of main, whose file systems and partition tables count in its sectors; FUSE tells loop nothing of them.
/// Not of the spares, which come and go: what a spare of larger sectors needs, the engine reads around a
/// write. 0: as loop has it.
std::uint32_t logical_block_size(const running_set& set) {
  const auto spec = parse_member(set.main);
  const unique_fd fd(spec ? ::open(spec->path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1);
  int bytes = 0;
  return fd && ::ioctl(fd.get(), BLKSSZGET, &bytes) == 0 && bytes > 512 ? static_cast<std::uint32_t>(bytes)
                                                                        : 0;
}

bool is_read_only(const running_set& set) {
  const auto reply = ask(set, "status", {});
  if (!reply || !reply->contains("result") || !(*reply)["result"].is_object())
    return false;
  const auto& status = (*reply)["result"];
  return status.contains("read_only") && status["read_only"] == true;
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
  if (const auto loops = loops_on(made.set.image); !loops.empty()) {
    made.loop = loops.front();
    return made;
  }
  const auto loop = TRY(attach_loop(made.set.image, {is_read_only(made.set), logical_block_size(made.set)}));
  made.loop = loop.device;
  made.direct = loop.direct;
  return made;
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
