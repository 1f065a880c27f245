// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/loop_control.h"

#include "engine/loop_users.h"
#include "engine/unique_fd.h"

#include <algorithm>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <fstream>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <thread>

namespace dmremap {
namespace {

namespace fs = boost::filesystem;

tl::unexpected<error> loop_failure(const std::string& what, const char* action) {
  const int number = errno;
  const std::string id = number == EACCES || number == EPERM ? "no-permission" : "loop-failed";
  return fail(id, what, fmt::format("cannot {}: {}", action, std::strerror(number)));
}

std::string sys_folder(const std::string& device) {
  return "/sys/block/" + device.substr(device.rfind('/') + 1);
}

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

result<unique_fd> free_device(std::string& device) {
  const unique_fd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (!control && errno == ENOENT)
    return fail("no-loop", "/dev/loop-control",
                "does not exist; load the kernel's loop module (modprobe loop)");
  if (!control)
    return loop_failure("/dev/loop-control", "open");
  const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
  if (number < 0)
    return loop_failure("/dev/loop-control", "get a free loop device");
  device = fmt::format("/dev/loop{}", number);
  unique_fd loop(::open(device.c_str(), O_RDWR | O_CLOEXEC));
  if (!loop)
    return loop_failure(device, "open");
  return loop;
}

loop_config make_config(int file, const std::string& image, const loop_options& options) {
  loop_config config{};
  config.fd = static_cast<__u32>(file);
  config.block_size = options.block_size;
  config.info.lo_flags =
      LO_FLAGS_DIRECT_IO | LO_FLAGS_PARTSCAN | (options.read_only ? __u32{LO_FLAGS_READ_ONLY} : 0U);
  const auto length = std::min<std::size_t>(image.size(), LO_NAME_SIZE - 1);
  std::memcpy(config.info.lo_file_name, image.data(), length);
  return config;
}

/// Configures the first free device; what it keeps open is the caller's.
result<passing_loop> configure_free(const std::string& image, const loop_config& config) {
  for (unsigned attempt = 0; attempt < 64; ++attempt) {
    passing_loop made;
    made.held = TRY(free_device(made.device));
    if (::ioctl(made.held.get(), LOOP_CONFIGURE, &config) == 0)
      return made;
    if (errno != EBUSY) // else somebody else took this one between the two calls
      return loop_failure(made.device, "configure the loop device");
  }
  return fail("loop-failed", image, "every free loop device was taken by somebody else; try again");
}

} // namespace

result<loop_attachment> attach_loop(const std::string& image, const loop_options& options) {
  const unique_fd file(::open(image.c_str(), (options.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC));
  if (!file)
    return loop_failure(image, "open");
  auto loop = TRY(configure_free(image, make_config(file.get(), image, options)));
  loop_attachment made{std::move(loop.device), false};
  const auto dio = sys_folder(made.device) + "/loop/dio";
  if (first_line(dio) != "1")
    static_cast<void>(::ioctl(loop.held.get(), LOOP_SET_DIRECT_IO, 1UL));
  made.direct = first_line(dio) == "1";
  return made;
}

result<passing_loop> show_on_loop(const std::string& image, std::uint64_t offset, std::uint64_t length) {
  const unique_fd file(::open(image.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file)
    return loop_failure(image, "open");
  loop_options options;
  options.read_only = true;
  auto config = make_config(file.get(), image, options);
  config.info.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR;
  config.info.lo_offset = offset;
  config.info.lo_sizelimit = length;
  return configure_free(image, config);
}

std::vector<std::string> loops_on(const std::string& image) {
  std::vector<std::pair<unsigned long, std::string>> found;
  boost::system::error_code failed;
  for (fs::directory_iterator at("/sys/block", failed), end; !failed && at != end; at.increment(failed)) {
    const auto name = at->path().filename().string();
    if (name.compare(0, 4, "loop") != 0)
      continue;
    const auto backing = first_line(at->path().string() + "/loop/backing_file");
    if (!backing.empty() && backing == image)
      found.emplace_back(std::strtoul(name.c_str() + 4, nullptr, 10), "/dev/" + name);
  }
  std::sort(found.begin(), found.end());
  std::vector<std::string> devices;
  for (auto& [number, device] : found)
    devices.push_back(std::move(device));
  return devices;
}

std::optional<loop_attachment> whole_loop_on(const std::string& image, bool read_only) {
  for (const auto& device : loops_on(image)) {
    const auto sys = sys_folder(device);
    if (first_line(sys + "/loop/offset") == "0" && first_line(sys + "/loop/sizelimit") == "0" &&
        first_line(sys + "/ro") == (read_only ? "1" : "0"))
      return loop_attachment{device, first_line(sys + "/loop/dio") == "1"};
  }
  return std::nullopt;
}

result<void> detach_loop(const std::string& device, std::chrono::milliseconds limit) {
  const auto backing = sys_folder(device) + "/loop/backing_file";
  const auto before = first_line(backing);
  {
    const unique_fd loop(::open(device.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC));
    if (!loop && errno != EBUSY)
      return loop_failure(device, "open");
    // Held exclusively: whoever is not here now (a mount, a dm device, swap) cannot come before the device is
    // gone.
    auto users = loop_users(device);
    if (!loop && users.empty())
      users.emplace_back(
          "opened exclusively by somebody who cannot be seen from here (another mount namespace?)");
    if (!users.empty())
      return fail("loop-in-use", device, fmt::format("is in use: {}", fmt::join(users, ", ")));
    if (::ioctl(loop.get(), LOOP_CLR_FD, 0) != 0 && errno != ENXIO)
      return loop_failure(device, "detach");
  }
  // The kernel takes it down when the last one closes it (a probing udev worker may be that one).
  const auto until = std::chrono::steady_clock::now() + limit;
  while (!before.empty() && first_line(backing) == before) {
    if (std::chrono::steady_clock::now() > until)
      return fail("loop-failed", device, "is still there: somebody has it open; it goes when they close it");
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return {};
}

} // namespace dmremap
