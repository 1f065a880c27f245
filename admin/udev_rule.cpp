// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/udev_rule.h"

#include "engine/device_identity.h"
#include "engine/durable_file.h"
#include "engine/loop_control.h"
#include "engine/paths.h"
#include "engine/run_program.h"
#include "engine/units.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <fstream>
#include <iterator>
#include <sys/stat.h>
#include <unistd.h>

namespace dmremap::admin {
namespace {

constexpr const char* system_dir = "/etc/udev/rules.d";
constexpr const char* loop_label = "LABEL=\"dmremap_loop\"\n";

// udev 252 knows no `SYMLINK-=`, so the links are made anew without those that name what is on main. They
// hold letters, digits and "#+-.:=@_/\" only (udev replaces the rest), so a shell may take them as they are.
constexpr const char* hide_lines =
    R"(ENV{{SYSTEMD_READY}}="0", ENV{{UDISKS_IGNORE}}="1", ENV{{ID_FS_TYPE}}="", ENV{{ID_FS_USAGE}}=""
PROGRAM=="/bin/sh -c 'for l do case $$l in {}) ;; *) echo $$l;; esac; done' sh $links", SYMLINK="$result"
)";

/// Nothing in it means anything in a rule: neither quotes nor escapes nor patterns.
bool is_plain(const std::string& value) {
  return !value.empty() && std::all_of(value.begin(), value.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::strchr(" -_.:/+,=@", c) != nullptr;
  });
}

/// "0000000", "1": what makers write who write none.
bool tells_something(const std::string& serial) {
  return serial.size() >= 4 && serial.find_first_not_of(serial.front()) != std::string::npos;
}

/// Links that name a device by what it shows. A partition keeps those of the partition table: they name it
/// alone.
std::vector<std::string> link_kinds(bool partition) {
  std::vector<std::string> kinds{"disk/by-uuid/", "disk/by-label/"};
  if (!partition)
    kinds.insert(kinds.end(), {"disk/by-partuuid/", "disk/by-partlabel/"});
  return kinds;
}

std::string first_line(const std::string& name) {
  return "# The set " + name +
         " of dmremap(8): kept by create, rename, attach and destroy, which drop changes made here.\n";
}

std::string link_lines(const std::string& name, const std::vector<std::string>& images) {
  std::string text = loop_label;
  for (const auto& image : images)
    if (is_plain(image))
      text += fmt::format("KERNEL==\"loop*\", ENV{{DEVTYPE}}==\"disk\", ATTR{{loop/backing_file}}==\"{0}\", "
                          "SYMLINK+=\"dmremap/{1}\"\n"
                          "KERNEL==\"loop*\", ENV{{DEVTYPE}}==\"partition\", "
                          "ATTRS{{loop/backing_file}}==\"{0}\", SYMLINK+=\"dmremap/{1}-part%n\"\n",
                          image, name);
  return text + "LABEL=\"dmremap_end\"\n";
}

std::string usual_image(const std::string& name) {
  return run_dir() + "/" + name + "/disk.img";
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// The same rule with other links.
std::string with_links(const std::string& text, const std::string& name,
                       const std::vector<std::string>& images) {
  const auto from = text.find('\n') + 1, to = text.find(loop_label);
  if (to == std::string::npos || to < from) // not as it was written
    return udev_rule_text(name, {}, false, images);
  return first_line(name) + text.substr(from, to - from) + link_lines(name, images);
}

tl::expected<void, std::string> write_text(const std::string& path, const std::string& text) {
  const auto done = write_durably(path, text, existing_file::replace);
  if (!done)
    return tl::make_unexpected(fmt::format("the udev rule was not written: cannot {} {}: {}",
                                           done.error().action, done.error().path,
                                           std::strerror(done.error().number)));
  return {};
}

/// The block device, or 0.
dev_t device_at(const std::string& path) {
  struct stat facts {};
  return ::stat(path.c_str(), &facts) == 0 && S_ISBLK(facts.st_mode) ? facts.st_rdev : 0;
}

/// Has a udev that runs look at the device and its partitions again, by the rules as they are now.
void tell_udev(dev_t device) {
  if (udev_rule_dir() != system_dir || ::access("/run/udev/control", F_OK) != 0)
    return;
  static_cast<void>(run_program({"udevadm", "control", "--reload", "--timeout=5"}));
  if (device == 0)
    return;
  std::vector<std::string> words{"udevadm", "trigger", "--action=change",
                                 "/sys/dev/block/" + dev_text(device)};
  for (const auto& [number, partition] : partitions_of(device))
    words.push_back("/sys/dev/block/" + dev_text(partition));
  static_cast<void>(run_program(words));
}

/// Another device that the same conditions hold for; a copy of main has its partition UUIDs, too.
std::string double_of(dev_t device, const std::vector<std::string>& conditions) {
  const auto own = extent_of(device);
  for (const dev_t other : all_block_devices()) {
    const auto extent = extent_of(other);
    if (other == device || extent.partition != own.partition || extent.length != own.length)
      continue;
    if (const auto same = udev_match(marks_of(other)); same && *same == conditions)
      return node_of(other);
  }
  return "";
}

/// Fills rule.hides_main and the conditions, or says why not.
tl::expected<std::vector<std::string>, std::string> conditions_for(const member_spec& main, dev_t device,
                                                                   const device_marks& marks) {
  if (main.start)
    return tl::make_unexpected(std::string("it is a range of a device that others use, too"));
  for (const auto& kind : link_kinds(marks.partition))
    if (main.path.starts_with("/dev/" + kind))
      return tl::make_unexpected("it is named by a link that would go: create the set with its name under "
                                 "/dev/disk/by-id or, of a partition, by-partuuid");
  auto conditions = udev_match(marks);
  if (!conditions)
    return conditions;
  if (const auto other = double_of(device, *conditions); !other.empty())
    return tl::make_unexpected("nothing tells it from " + other);
  return conditions;
}

} // namespace

device_marks marks_of(dev_t device) {
  const auto extent = extent_of(device);
  store_identity identity;
  fill_device_identity(device, identity);
  device_marks marks{extent.partition,
                     extent.length / sector_bytes,
                     identity.partuuid,
                     identity.wwn,
                     identity.serial,
                     "",
                     ""};
  std::vector<const char*> keys{"ID_WWN_WITH_EXTENSION", "ID_WWN"};
  if (!identity.serial.empty()) // else ID_SERIAL is the model alone
    keys.insert(keys.end(), {"ID_SERIAL", "ID_SERIAL_SHORT"});
  for (const char* key : keys) {
    marks.udev_key = key;
    if (marks.udev_value = udev_property(extent.disk, key); !marks.udev_value.empty())
      break;
  }
  return marks;
}

tl::expected<std::vector<std::string>, std::string> udev_match(const device_marks& marks) {
  std::vector<std::string> lines;
  const auto odd = [](const std::string& what, const std::string& value) {
    return tl::make_unexpected(fmt::format("its {} '{}' cannot stand in a udev rule", what, value));
  };
  const auto add = [&](const char* key, const std::string& value) {
    lines.push_back(fmt::format("ENV{{{}}}==\"{}\", ATTRS{{size}}==\"{}\"", key, value, marks.sectors));
  };
  if (marks.partition) {
    std::string uuid = marks.partuuid;
    std::transform(uuid.begin(), uuid.end(), uuid.begin(),
                   [](char c) { return c >= 'A' && c <= 'F' ? static_cast<char>(c + 32) : c; });
    if (uuid.empty())
      return tl::make_unexpected(std::string("it is a partition without a UUID"));
    if (uuid.find_first_not_of("0123456789abcdef-") != std::string::npos)
      return odd("partition UUID", uuid);
    lines.push_back(fmt::format("ENV{{DEVTYPE}}==\"partition\", ENV{{ID_PART_ENTRY_UUID}}==\"{}\", "
                                "ATTR{{size}}==\"{}\"",
                                uuid, marks.sectors));
    return lines;
  }
  if (!marks.udev_value.empty()) {
    if (!is_plain(marks.udev_value))
      return odd(marks.udev_key, marks.udev_value);
    add(marks.udev_key.c_str(), marks.udev_value);
    return lines;
  }
  // Without udev's database: the spellings that udev has for what sysfs says.
  const bool hex =
      marks.wwn.size() >= 16 && marks.wwn.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (hex) {
    for (const char* key : {"ID_WWN_WITH_EXTENSION", "ID_WWN"})
      add(key, fmt::format("0x{0}|naa.{0}|eui.{0}", marks.wwn));
    return lines;
  }
  if (!tells_something(marks.serial))
    return tl::make_unexpected(std::string("it has no serial number or WWN"));
  if (!is_plain(marks.serial))
    return odd("serial number", marks.serial);
  std::string joined = marks.serial;
  std::replace(joined.begin(), joined.end(), ' ', '_');
  for (const char* key : {"ID_SERIAL_SHORT", "ID_SERIAL", "ID_SCSI_SERIAL"})
    add(key, joined == marks.serial ? joined : marks.serial + "|" + joined);
  return lines;
}

std::string udev_rule_dir() {
  if (const char* moved = std::getenv("DMREMAP_UDEV_DIR"); moved != nullptr && *moved != '\0')
    return moved;
  const bool ours = ::geteuid() == 0 && std::getenv("DMREMAP_CONF_DIR") == nullptr;
  return ours && ::access(system_dir, F_OK) == 0 ? system_dir : "";
}

// 62: behind 60-persistent-storage, which makes the links and reads serial numbers, and before what puts file
// systems, RAID and LVM together (63-md-raid-arrays, 64-btrfs, 69-lvm).
std::string udev_rule_path(const std::string& name) {
  const auto dir = udev_rule_dir();
  return dir.empty() ? "" : dir + "/62-dmremap-" + name + ".rules";
}

std::string udev_rule_text(const std::string& name, const std::vector<std::string>& conditions,
                           bool partition, const std::vector<std::string>& images) {
  std::string text = first_line(name) + "SUBSYSTEM!=\"block\", GOTO=\"dmremap_end\"\n"
                                        "ACTION==\"remove\", GOTO=\"dmremap_end\"\n";
  if (!conditions.empty()) {
    for (const auto& condition : conditions)
      text += condition + ", GOTO=\"dmremap_main\"\n";
    std::string links;
    for (const auto& kind : link_kinds(partition))
      links += (links.empty() ? "" : "|") + kind + "*";
    text += "GOTO=\"dmremap_loop\"\nLABEL=\"dmremap_main\"\n" + fmt::format(hide_lines, links);
  }
  return text + link_lines(name, images);
}

udev_rule plan_udev_rule(const std::string& name, const member_spec& main) {
  udev_rule rule;
  rule.path = udev_rule_path(name);
  if (rule.path.empty())
    return rule;
  std::vector<std::string> conditions;
  const dev_t device = device_at(main.path);
  const auto marks = device != 0 ? marks_of(device) : device_marks{};
  if (device != 0) { // a file shows nothing
    if (auto found = conditions_for(main, device, marks))
      conditions = std::move(*found);
    else
      rule.warnings.push_back("main is not hidden, because " + found.error() +
                              "; mount nothing by a UUID or label that is on it while the set is detached");
  }
  rule.hides_main = !conditions.empty();
  rule.text = udev_rule_text(name, conditions, marks.partition, {usual_image(name)});
  return rule;
}

tl::expected<void, std::string> write_udev_rule(const udev_rule& rule, const member_spec& main) {
  if (auto written = write_text(rule.path, rule.text); !written)
    return written;
  tell_udev(rule.hides_main ? device_at(main.path) : 0);
  return {};
}

tl::expected<std::string, std::string> remove_udev_rule(const std::string& name, const std::string& main,
                                                        bool dry_run) {
  const auto path = udev_rule_path(name);
  if (path.empty() || ::access(path.c_str(), F_OK) != 0)
    return "";
  if (dry_run)
    return path;
  if (::unlink(path.c_str()) != 0)
    return tl::make_unexpected(
        fmt::format("the udev rule {} was not removed: {}", path, std::strerror(errno)));
  if (const auto synced = sync_folder(udev_rule_dir()); !synced)
    return tl::make_unexpected(fmt::format("the folder of the udev rule {} was not synced", path));
  const auto spec = parse_member(main);
  tell_udev(spec ? device_at(spec->path) : 0);
  return path;
}

tl::expected<std::string, std::string> move_udev_rule(const std::string& name, const std::string& new_name,
                                                      const std::string& image) {
  const auto old_path = udev_rule_path(name), new_path = udev_rule_path(new_name);
  const auto text = old_path.empty() ? "" : read_file(old_path);
  if (text.empty())
    return "";
  std::vector<std::string> images{usual_image(new_name)};
  if (!image.empty() && image != images.front())
    images.push_back(image);
  if (auto written = write_text(new_path, with_links(text, new_name, images)); !written)
    return tl::make_unexpected(written.error());
  if (auto removed = remove_udev_rule(name, "", false); !removed)
    return removed;
  for (const auto& loop : image.empty() ? std::vector<std::string>{} : loops_on(image))
    tell_udev(device_at(loop));
  return new_path;
}

tl::expected<void, std::string> show_image_to_udev(const std::string& name, const std::string& image,
                                                   const std::string& loop) {
  const auto path = udev_rule_path(name);
  const auto text = path.empty() ? "" : read_file(path);
  if (text.empty() || text.find("==\"" + image + "\"") != std::string::npos)
    return {};
  if (!is_plain(image))
    return tl::make_unexpected("there is no /dev/dmremap/" + name + ": '" + image +
                               "' cannot stand in a udev rule");
  if (auto written = write_text(path, with_links(text, name, {usual_image(name), image})); !written)
    return written;
  tell_udev(device_at(loop));
  return {};
}

} // namespace dmremap::admin
