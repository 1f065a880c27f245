// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/deep_resume.h"

#include "engine/codec.h"
#include "engine/durable_file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sys/stat.h>

namespace dmremap::recover {
namespace {

using nlohmann::json;

constexpr const char* kind = "dmremap-scan --deep";

json as_json(const deep_find& f) {
  json value{{"start", f.start},   {"owner", f.owner_low},
             {"supers", f.supers}, {"table_blocks", f.table_blocks},
             {"first", f.first},   {"last", f.last}};
  if (f.supers != 0)
    value.update({{"spare", to_text(f.spare)},
                  {"set", to_text(f.set)},
                  {"name", f.set_name},
                  {"units", f.units},
                  {"sequence", f.sequence}});
  return value;
}

deep_find find_of(const json& value) {
  deep_find f;
  f.start = value.at("start").get<std::int64_t>();
  f.owner_low = value.at("owner").get<std::uint64_t>();
  f.supers = value.at("supers").get<unsigned>();
  f.table_blocks = value.at("table_blocks").get<std::uint64_t>();
  f.first = value.at("first").get<std::uint64_t>();
  f.last = value.at("last").get<std::uint64_t>();
  if (f.supers != 0) {
    f.spare = parse_uuid(value.at("spare").get<std::string>()).value_or(uuid_bytes{});
    f.set = parse_uuid(value.at("set").get<std::string>()).value_or(uuid_bytes{});
    f.set_name = value.at("name").get<std::string>();
    f.units = value.at("units").get<std::uint64_t>();
    f.sequence = value.at("sequence").get<std::uint64_t>();
  }
  return f;
}

tl::unexpected<error> refused(const std::string& path, const std::string& why) {
  return fail("resume-file", path, why);
}

} // namespace

result<resume_file> resume_file::open(const std::string& path) {
  resume_file file;
  file.path_ = path;
  struct stat st {};
  if (path.empty() || (::lstat(path.c_str(), &st) != 0 && errno == ENOENT))
    return file;
  if (!S_ISREG(st.st_mode))
    return refused(path, "is no regular file; name a file of its own, which need not exist");
  std::ifstream in(path);
  if (!in)
    return refused(path, std::string("cannot be read: ") + std::strerror(errno));
  const auto doc = json::parse(in, nullptr, false);
  try { // a field that is missing or of another type
    if (!doc.is_object() || doc.value("kind", "") != kind)
      return refused(path, "is there, but was not written by a search; it is left alone");
    for (const auto& [member, device] : doc.at("devices").items()) {
      entry& e = file.devices_[member];
      e.mark = {device.at("bytes").get<std::uint64_t>(), device.at("who").get<std::string>()};
      e.state.done = device.at("done").get<std::uint64_t>();
      e.state.unreadable = device.at("unreadable").get<std::uint64_t>();
      e.state.left_out = device.at("left_out").get<std::uint64_t>();
      for (const auto& one : device.at("finds")) {
        const auto f = find_of(one);
        e.state.finds[{f.start, f.owner_low}] = f;
      }
    }
  } catch (const json::exception& bad) {
    return refused(path, std::string("is damaged (") + bad.what() + "); remove it to begin anew");
  }
  return file;
}

device_mark mark_of(store& device) {
  const store_identity& id = device.identity();
  if (!id.serial.empty() || !id.wwn.empty())
    return {device.size(), fmt::format("serial {}, wwn {}, partition {}", id.serial, id.wwn, id.partuuid)};
  std::vector<std::byte> samples(std::size_t{16} * unit_bytes);
  const std::uint64_t units = device.size() / unit_bytes;
  for (std::uint64_t n = 0; n < 16 && units != 0; ++n) {
    const auto into = std::span(samples).subspan(n * unit_bytes, unit_bytes);
    if (!device.read(into, n * units / 16 * unit_bytes))
      std::fill(into.begin(), into.end(), std::byte{0xBA}); // not what a transfer that failed left there
  }
  return {device.size(), fmt::format("crc32 {:08x}", crc32_of(samples))};
}

deep_state resume_file::state_of(const std::string& member, const device_mark& mark) const {
  const auto at = devices_.find(member);
  return at != devices_.end() && at->second.mark == mark ? at->second.state : deep_state{};
}

result<void> resume_file::keep(const std::string& member, const device_mark& mark, const deep_state& state,
                               std::chrono::milliseconds interval) {
  const auto now = std::chrono::steady_clock::now();
  if (path_.empty() || (interval.count() != 0 && now - kept_ < interval))
    return {};
  devices_[member] = {mark, state};
  kept_ = now;
  json devices = json::object();
  for (const auto& [name, e] : devices_) {
    json finds = json::array();
    for (const auto& [key, f] : e.state.finds)
      finds.push_back(as_json(f));
    devices[name] = {{"bytes", e.mark.bytes},        {"who", e.mark.who},
                     {"done", e.state.done},         {"unreadable", e.state.unreadable},
                     {"left_out", e.state.left_out}, {"finds", std::move(finds)}};
  }
  const json doc{{"kind", kind}, {"devices", std::move(devices)}};
  const auto text = doc.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
  if (const auto written = write_in_folder(path_, text, existing_file::replace); !written)
    return refused(path_, std::string("cannot ") + written.error().action + ": " +
                              std::strerror(written.error().number));
  return {};
}

} // namespace dmremap::recover
