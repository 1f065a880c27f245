// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/loop_users.h"

#include "engine/mount_table.h"

#include <algorithm>
#include <boost/filesystem.hpp>
#include <chrono>
#include <fmt/format.h>
#include <fstream>
#include <thread>
#include <unistd.h>

namespace dmremap {
namespace {

namespace fs = boost::filesystem;
using namespace std::chrono_literals;

constexpr std::chrono::seconds opener_patience{1};

/// The device and its partitions, with their "major:minor".
struct node {
  std::string path, number, sys;
};

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

template <class Visit>
void for_each_entry(const std::string& folder, const Visit& visit) {
  boost::system::error_code failed;
  for (fs::directory_iterator at(folder, failed), end; !failed && at != end; at.increment(failed))
    visit(at->path());
}

std::vector<node> nodes_of(const std::string& device) {
  const auto name = device.substr(device.rfind('/') + 1);
  const std::string sys = "/sys/block/" + name;
  std::vector<node> nodes{{"/dev/" + name, first_line(sys + "/dev"), sys}};
  for_each_entry(sys, [&](const fs::path& entry) {
    const auto part = entry.filename().string();
    if (part.compare(0, name.size() + 1, name + "p") == 0)
      nodes.push_back({"/dev/" + part, first_line(entry.string() + "/dev"), entry.string()});
  });
  std::sort(nodes.begin(), nodes.end(), [](const auto& a, const auto& b) { return a.path < b.path; });
  return nodes;
}

void add_mounts(const std::vector<node>& nodes, std::vector<std::string>& users) {
  for (const auto& mount : read_mount_table()) // btrfs has a number of its own: its source names the device
    for (const auto& one : nodes)
      if (one.number == mount.device || one.path == mount.source)
        users.push_back(fmt::format("{} is mounted on {}", one.path, mount.point));
}

void add_swaps(const std::vector<node>& nodes, std::vector<std::string>& users) {
  std::ifstream swaps("/proc/swaps");
  for (std::string line; std::getline(swaps, line);)
    for (const auto& one : nodes)
      if (unescape_mount_text(line.substr(0, line.find_first_of(" \t"))) == one.path)
        users.push_back(one.path + " is swap");
}

void add_holders(const std::vector<node>& nodes, std::vector<std::string>& users) {
  for (const auto& one : nodes)
    for_each_entry(one.sys + "/holders", [&](const fs::path& entry) {
      const auto name = first_line(entry.string() + "/dm/name");
      users.push_back(fmt::format("{} is held by {}{}", one.path, entry.filename().string(),
                                  name.empty() ? "" : " (" + name + ")"));
    });
}

void add_loops_on_top(const std::vector<node>& nodes, std::vector<std::string>& users) {
  for_each_entry("/sys/block", [&](const fs::path& entry) {
    const auto backing = first_line(entry.string() + "/loop/backing_file");
    for (const auto& one : nodes)
      if (!backing.empty() && backing == one.path)
        users.push_back(
            fmt::format("the loop device /dev/{} stands on {}", entry.filename().string(), one.path));
  });
}

void add_openers(const std::vector<node>& nodes, std::vector<std::string>& users) {
  const auto self = std::to_string(::getpid());
  for_each_entry("/proc", [&](const fs::path& process) {
    const auto pid = process.filename().string();
    if (pid.find_first_not_of("0123456789") != std::string::npos || pid == self)
      return;
    std::string opened;
    for_each_entry(process.string() + "/fd", [&](const fs::path& entry) {
      boost::system::error_code failed;
      const auto target = fs::read_symlink(entry, failed).string();
      for (const auto& one : nodes)
        if (!failed && target == one.path)
          opened = one.path;
    });
    if (!opened.empty())
      users.push_back(
          fmt::format("{} is opened by process {} ({})", opened, pid, first_line("/proc/" + pid + "/comm")));
  });
}

} // namespace

std::vector<std::string> loop_users(const std::string& device) {
  const auto nodes = nodes_of(device);
  std::vector<std::string> users;
  add_mounts(nodes, users);
  add_swaps(nodes, users);
  add_holders(nodes, users);
  add_loops_on_top(nodes, users);
  const auto until = std::chrono::steady_clock::now() + (users.empty() ? opener_patience : 0s);
  for (auto all = users;; all = users) {
    add_openers(nodes, all);
    if (all.empty() || std::chrono::steady_clock::now() >= until)
      return all;
    std::this_thread::sleep_for(20ms);
  }
}

} // namespace dmremap
