// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/device_identity.h"

#include "engine/unique_fd.h"
#include "engine/units.h"

#include <algorithm>
#include <array>
#include <blkid.h>
#include <boost/filesystem.hpp>
#include <charconv>
#include <fcntl.h>
#include <libudev.h>
#include <memory>
#include <sys/sysmacros.h>

namespace dmremap {
namespace {

namespace fs = boost::filesystem;

std::string sys_path(dev_t device) {
  return "/sys/dev/block/" + dev_text(device);
}

/// First bytes of a small sysfs file; empty where it cannot be read.
std::string read_small(const std::string& path) {
  const unique_fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::array<char, 4096> buffer{};
  const ssize_t n = fd ? ::read(fd.get(), buffer.data(), buffer.size()) : -1;
  return n > 0 ? std::string(buffer.data(), static_cast<std::size_t>(n)) : std::string();
}

/// What a file "dev" of sysfs says; 0 where it does not.
dev_t read_device_number(const std::string& path) {
  const std::string text = read_small(path);
  unsigned major_number = 0, minor_number = 0;
  const auto [rest, bad] = std::from_chars(text.data(), text.data() + text.size(), major_number);
  const char* const end = text.data() + text.size();
  const bool both = bad == std::errc{} && rest != end && *rest == ':' &&
                    std::from_chars(rest + 1, end, minor_number).ec == std::errc{};
  return both ? makedev(major_number, minor_number) : 0;
}

std::uint64_t read_number(const std::string& path) {
  const std::string text = read_small(path);
  std::uint64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

/// Printable ASCII, runs of blanks as one, trimmed, at most `limit` bytes.
std::string cleaned(const std::string& text, std::size_t limit) {
  std::string out;
  for (const char c : text) {
    if (c > ' ' && c < 0x7f)
      out += c;
    else if (!out.empty() && out.back() != ' ')
      out += ' ';
  }
  if (out.size() > limit)
    out.resize(limit);
  while (!out.empty() && out.back() == ' ')
    out.pop_back();
  return out;
}

/// The unit serial number page of a SCSI or SATA drive: 4 bytes of header, then text.
std::string serial_of_page_80(const std::string& page) {
  return page.size() > 4 ? page.substr(4) : std::string();
}

/// Kernel and udev write the same name as "naa.5000c5..." and "0x5000c5...": one form for both.
std::string plain_wwn(std::string wwn) {
  for (const std::string_view prefix : {"naa.", "eui.", "0x"}) {
    if (wwn.starts_with(prefix)) {
      wwn.erase(0, prefix.size());
      break;
    }
  }
  std::transform(wwn.begin(), wwn.end(), wwn.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
  return wwn;
}

/// One property of udev's database; empty without udev.
class udev_properties {
public:
  explicit udev_properties(dev_t device)
      : udev_(udev_new(), udev_unref),
        device_(udev_ ? udev_device_new_from_devnum(udev_.get(), 'b', device) : nullptr, udev_device_unref) {}
  [[nodiscard]] std::string get(const char* key) const {
    const char* value = device_ ? udev_device_get_property_value(device_.get(), key) : nullptr;
    return value != nullptr ? value : "";
  }

private:
  std::unique_ptr<udev, decltype(&udev_unref)> udev_;
  std::unique_ptr<udev_device, decltype(&udev_device_unref)> device_;
};

template <class... Sources>
std::string first_known(std::size_t limit, Sources... sources) {
  std::string found;
  ((found.empty() ? void(found = cleaned(sources(), limit)) : void()), ...);
  return found;
}

std::string partuuid_from_uevent(dev_t device) {
  const std::string text = read_small(sys_path(device) + "/uevent");
  const std::string key = "PARTUUID=";
  const auto at = text.starts_with(key) ? 0 : text.find("\n" + key);
  if (at == std::string::npos)
    return {};
  const auto from = text.find('=', at) + 1;
  return text.substr(from, text.find('\n', from) - from);
}

/// Reads the partition table of the whole disk: for a system without udev and an older kernel.
std::string partuuid_from_table(dev_t device) {
  std::array<char, 256> name{};
  dev_t whole = 0;
  if (blkid_devno_to_wholedisk(device, name.data(), name.size(), &whole) != 0)
    return {};
  const unique_fd fd(::open(("/dev/" + std::string(name.data())).c_str(), O_RDONLY | O_CLOEXEC));
  const std::unique_ptr<blkid_struct_probe, decltype(&blkid_free_probe)> probe(
      fd ? blkid_new_probe() : nullptr, blkid_free_probe);
  if (!probe || blkid_probe_set_device(probe.get(), fd.get(), 0, 0) != 0)
    return {};
  blkid_probe_enable_partitions(probe.get(), 1);
  blkid_partlist list = blkid_probe_get_partitions(probe.get());
  blkid_partition part = list != nullptr ? blkid_partlist_devno_to_partition(list, device) : nullptr;
  const char* uuid = part != nullptr ? blkid_partition_get_uuid(part) : nullptr;
  return uuid != nullptr ? uuid : "";
}

} // namespace

std::string dev_text(dev_t device) {
  return std::to_string(major(device)) + ":" + std::to_string(minor(device));
}

device_extent extent_of(dev_t device) {
  device_extent extent;
  extent.disk = device;
  boost::system::error_code ec;
  const fs::path base = fs::canonical(sys_path(device), ec);
  if (ec)
    return extent;
  extent.length = read_number(base.string() + "/size") * sector_bytes;
  if (!fs::exists(base / "partition", ec) || ec)
    return extent;
  extent.partition = true;
  extent.start = read_number(base.string() + "/start") * sector_bytes;
  if (const dev_t disk = read_device_number(base.parent_path().string() + "/dev"); disk != 0)
    extent.disk = disk;
  return extent;
}

std::map<unsigned, dev_t> partitions_of(dev_t disk) {
  std::map<unsigned, dev_t> found;
  boost::system::error_code ec;
  for (fs::directory_iterator at(sys_path(disk), ec), end; !ec && at != end; at.increment(ec)) {
    const std::string folder = at->path().string();
    if (const auto number = read_number(folder + "/partition"); number != 0)
      found[static_cast<unsigned>(number)] = read_device_number(folder + "/dev");
  }
  return found;
}

std::vector<dev_t> all_block_devices() {
  std::vector<dev_t> found;
  boost::system::error_code ec;
  for (fs::directory_iterator at("/sys/class/block", ec), end; !ec && at != end; at.increment(ec))
    if (const dev_t device = read_device_number(at->path().string() + "/dev"); device != 0)
      found.push_back(device);
  return found;
}

std::string node_of(dev_t device) {
  boost::system::error_code ec;
  std::string name = fs::canonical(sys_path(device), ec).filename().string();
  std::replace(name.begin(), name.end(), '!', '/'); // sysfs' way to write a slash
  return ec || name.empty() ? "" : "/dev/" + name;
}

std::string udev_property(dev_t device, const char* key) {
  return udev_properties(device).get(key);
}

void fill_device_identity(dev_t device, store_identity& identity) {
  const device_extent extent = extent_of(device);
  const std::string disk = sys_path(extent.disk);
  const udev_properties udev(extent.disk);
  identity.serial = first_known(
      63, [&] { return read_small(disk + "/serial"); }, [&] { return read_small(disk + "/device/serial"); },
      [&] { return serial_of_page_80(read_small(disk + "/device/vpd_pg80")); },
      [&] { return udev.get("ID_SERIAL_SHORT"); }, [&] { return udev.get("ID_SERIAL"); });
  identity.wwn = plain_wwn(first_known(
      63, [&] { return read_small(disk + "/wwid"); }, [&] { return read_small(disk + "/device/wwid"); },
      [&] { return udev.get("ID_WWN_WITH_EXTENSION"); }, [&] { return udev.get("ID_WWN"); }));
  if (!extent.partition)
    return;
  const udev_properties part(device);
  identity.partuuid = first_known(
      39, [&] { return partuuid_from_uevent(device); }, [&] { return part.get("ID_PART_ENTRY_UUID"); },
      [&] { return partuuid_from_table(device); });
}

} // namespace dmremap
