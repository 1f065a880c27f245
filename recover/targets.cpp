// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/targets.h"

#include "engine/config.h"
#include "engine/control_client.h"
#include "engine/host_state.h"
#include "engine/loop_control.h"
#include "engine/paths.h"
#include "engine/units.h"

#include <algorithm>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <libudev.h>
#include <memory>
#include <set>

namespace dmremap::recover {
namespace {

namespace fs = boost::filesystem;

std::uint64_t number_in(const std::string& path) {
  std::ifstream file(path);
  std::uint64_t value = 0;
  file >> value;
  return value;
}

template <class Handle, Handle* (*release)(Handle*)>
struct udev_unref_with {
  void operator()(Handle* h) const { release(h); }
};
template <class Handle, Handle* (*release)(Handle*)>
using udev_handle = std::unique_ptr<Handle, udev_unref_with<Handle, release>>;

/// "/a/./b/" as "/a/b". What goes up stays: behind a link it goes elsewhere.
fs::path without_dots(const fs::path& path) {
  fs::path plain;
  for (const auto& part : path)
    if (part != "." && !part.empty())
      plain /= part;
  return plain;
}

/// Held by device-mapper or RAID: what is on it is seen through them.
bool has_holders(const std::string& sys) {
  boost::system::error_code failed;
  const fs::directory_iterator at(sys + "/holders", failed);
  return !failed && at != fs::directory_iterator();
}

/// Loop devices on the images of this host's sets: behind them are the sets themselves, and where a daemon
/// has died or hangs, a read hangs, too.
std::vector<std::string> own_loops() {
  std::vector<std::string> loops;
  for (const auto& set : list_running_sets())
    for (auto& loop : loops_on(set.image))
      loops.push_back(std::move(loop));
  return loops;
}

bool is_one_of(const std::string& device, const std::vector<std::string>& loops) {
  return std::any_of(loops.begin(), loops.end(), [&](const std::string& whole) {
    return device == whole || device.compare(0, whole.size() + 1, whole + "p") == 0;
  });
}

std::vector<std::string> block_devices() {
  std::vector<std::string> devices;
  const udev_handle<udev, udev_unref> context(udev_new());
  const udev_handle<udev_enumerate, udev_enumerate_unref> list(context ? udev_enumerate_new(context.get())
                                                                       : nullptr);
  if (!list || udev_enumerate_add_match_subsystem(list.get(), "block") < 0 ||
      udev_enumerate_scan_devices(list.get()) < 0)
    return devices;
  const auto skipped = own_loops();
  udev_list_entry* entry = nullptr;
  udev_list_entry_foreach(entry, udev_enumerate_get_list_entry(list.get())) {
    const std::string sys = udev_list_entry_get_name(entry);
    const udev_handle<udev_device, udev_device_unref> device(
        udev_device_new_from_syspath(context.get(), sys.c_str()));
    const char* node = device ? udev_device_get_devnode(device.get()) : nullptr;
    // Size 0: a loop device that is not bound, a drive without medium. A floppy drive says 8 and takes ages.
    if (node == nullptr || number_in(sys + "/size") <= unit_sectors || has_holders(sys) ||
        is_one_of(node, skipped))
      continue;
    devices.emplace_back(node);
  }
  std::sort(devices.begin(), devices.end());
  return devices;
}

/// Members that this host knows by name: ranges, and files, which no list of devices has.
std::vector<std::string> known_members() {
  std::vector<std::string> members;
  for (const auto& config : list_set_configs().sets) {
    members.push_back(config.main);
    members.insert(members.end(), config.spares.begin(), config.spares.end());
  }
  boost::system::error_code failed;
  for (fs::directory_iterator at(state_dir() + "/sets", failed), end; !failed && at != end;
       at.increment(failed)) {
    std::string trouble;
    if (const auto state = read_host_state(at->path().stem().string(), trouble))
      for (const auto& [uuid, member] : state->spares)
        members.push_back(member);
  }
  return members;
}

class collector {
public:
  explicit collector(target_list& out) : out_(out) {}

  void add(const member_spec& spec, bool named) {
    const auto place = find_storage(spec);
    if (!place) {
      if (named)
        out_.failed.push_back(place.error());
      return;
    }
    auto plain = spec; // "dust:" makes no other member of it
    plain.dust = false;
    if (seen_.insert(plain.text()).second)
      out_.targets.push_back({spec, *place, named, {}});
  }

  void add_text(const std::string& text, bool named) {
    const auto spec = parse_member(text);
    if (spec)
      add(*spec, named);
    else if (named)
      out_.failed.push_back(spec.error());
  }

  /// Regular files below the folder, on its own file system: not the images that running sets show there.
  void add_folder(const std::string& name) {
    boost::system::error_code failed;
    const auto folder = without_dots(fs::absolute(name)).string();
    struct stat top {};
    if (::stat(folder.c_str(), &top) != 0)
      return;
    std::vector<std::string> files;
    fs::recursive_directory_iterator at(folder, fs::directory_options::skip_permission_denied, failed);
    for (const fs::recursive_directory_iterator end; !failed && at != end; at.increment(failed)) {
      struct stat st {};
      const auto path = at->path().string();
      if (::lstat(path.c_str(), &st) != 0 || st.st_dev != top.st_dev) {
        at.disable_recursion_pending();
        continue;
      }
      if (S_ISREG(st.st_mode) && static_cast<std::uint64_t>(st.st_size) >= unit_bytes)
        files.push_back(path);
    }
    if (failed)
      out_.failed.push_back(
          {"no-permission", folder, "cannot be looked through: " + failed.message(), exit_code::failed});
    std::sort(files.begin(), files.end());
    for (const auto& file : files) {
      const auto spec = parse_member(file);
      if (spec && spec->path == file) // a name that looks like a range cannot be told from one
        add(*spec, false);
    }
  }

private:
  target_list& out_;
  std::set<std::string> seen_;
};

/// A search through a disk leaves out what is searched as a partition.
void note_partitions(std::vector<target>& targets) {
  for (auto& disk : targets) {
    if (!disk.place.block || disk.spec.start)
      continue;
    for (const auto& part : targets)
      if (&part != &disk && !part.spec.start && part.place.overlaps(disk.place) &&
          part.place.bytes.end - part.place.bytes.start < disk.place.bytes.end - disk.place.bytes.start)
        disk.partitions.push_back(
            {part.place.bytes.start - disk.place.bytes.start, part.place.bytes.end - disk.place.bytes.start});
  }
}

} // namespace

target_list find_targets(const std::vector<std::string>& paths, const std::string& image_dir) {
  target_list out;
  collector add(out);
  for (const auto& path : paths) {
    boost::system::error_code failed;
    if (fs::is_directory(path, failed))
      add.add_folder(path);
    else
      add.add_text(path, true);
  }
  if (paths.empty()) {
    for (const auto& member : known_members()) // first: as they were named
      add.add_text(member, false);
    for (const auto& device : block_devices())
      add.add_text(device, false);
  }
  if (!image_dir.empty()) {
    boost::system::error_code failed;
    if (fs::is_directory(image_dir, failed))
      add.add_folder(image_dir);
    else
      out.failed.push_back({"not-found", image_dir, "is no folder", exit_code::failed});
  }
  note_partitions(out.targets);
  return out;
}

} // namespace dmremap::recover
