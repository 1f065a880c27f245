// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/deep_resume.h"

#include "engine/codec.h"
#include "engine/durable_file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <fstream>
#include <iterator>
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

/// Takes the fields out of the file. After the first one that no search writes all it says is worth nothing.
class field_reader {
public:
  [[nodiscard]] const std::string& damaged() const { return damaged_; } ///< name of that field

  const json& part(const json& object, const char* key) {
    static const json none;
    const auto at = object.find(key); // the end of what is no object
    return at != object.end() ? *at : reject(key, none);
  }

  /// At most `most`; never negative: the library would make a large number of such a one.
  std::uint64_t number(const json& object, const char* key, std::uint64_t most) {
    const json& value = part(object, key);
    const bool good = value.is_number_unsigned() && value.get<std::uint64_t>() <= most;
    return good ? value.get<std::uint64_t>() : reject(key, 0u);
  }

  std::string text(const json& object, const char* key) {
    const json& value = part(object, key);
    return value.is_string() ? value.get<std::string>() : reject(key, std::string());
  }

  uuid_bytes uuid(const json& object, const char* key) {
    const auto parsed = parse_uuid(text(object, key));
    return parsed ? *parsed : reject(key, uuid_bytes{});
  }

  /// `done`: bytes of the device that were searched: what was found begins in them.
  deep_find find(const json& value, std::uint64_t done) {
    constexpr std::uint64_t any = UINT64_MAX;
    deep_find f;
    f.last = number(value, "last", done);
    f.first = number(value, "first", f.last);
    f.start = start(value, f.first);
    f.owner_low = number(value, "owner", any);
    f.supers = static_cast<unsigned>(number(value, "supers", (1u << (sixth_super_copy + 1)) - 1));
    f.table_blocks = number(value, "table_blocks", any);
    if (f.supers != 0) {
      f.spare = uuid(value, "spare");
      f.set = uuid(value, "set");
      f.set_name = text(value, "name");
      f.units = number(value, "units", any);
      f.sequence = number(value, "sequence", sequence_limit - 1);
    }
    return f;
  }

  deep_state state(const json& device, std::uint64_t bytes) {
    deep_state state;
    state.done = number(device, "done", bytes);
    state.unreadable = number(device, "unreadable", bytes);
    state.left_out = number(device, "left_out", UINT64_MAX);
    const json& finds = part(device, "finds");
    if (!finds.is_array())
      return reject("finds", state);
    for (const auto& one : finds) {
      const auto f = find(one, state.done);
      if (!state.finds.try_emplace({f.start, f.owner_low}, f).second)
        return reject("finds", state);
    }
    return state;
  }

private:
  /// A spare begins before its first block, by no more than a spare can have.
  std::int64_t start(const json& find, std::uint64_t first) {
    constexpr auto longest = static_cast<std::int64_t>(UINT32_MAX * unit_bytes);
    const json& value = part(find, "start");
    if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<std::uint64_t>() > first))
      return reject("start", std::int64_t{0});
    const auto begin = value.get<std::int64_t>();
    return begin >= static_cast<std::int64_t>(first) - longest ? begin : reject("start", std::int64_t{0});
  }

  template <class Value>
  const Value& reject(const char* key, const Value& instead) {
    if (damaged_.empty())
      damaged_ = key;
    return instead;
  }

  std::string damaged_;
};

tl::unexpected<error> refused(const std::string& path, const std::string& why) {
  return fail("resume-file", path, why);
}

} // namespace

result<resume_file> resume_file::open(const std::string& path) {
  resume_file none;
  none.path_ = path;
  struct stat st {};
  if (path.empty() || (::lstat(path.c_str(), &st) != 0 && errno == ENOENT))
    return none;
  if (!S_ISREG(st.st_mode))
    return refused(path, "is no regular file; name a file of its own, which need not exist");
  std::ifstream in(path, std::ios::binary);
  if (!in)
    return refused(path, std::string("cannot be read: ") + std::strerror(errno));
  return parse(std::string(std::istreambuf_iterator<char>(in), {}), path);
}

result<resume_file> resume_file::parse(std::string_view text, const std::string& path) {
  resume_file file;
  file.path_ = path;
  const auto doc = json::parse(text, nullptr, false);
  const auto said = doc.find("kind");
  if (said == doc.end() || *said != kind)
    return refused(path, "is there, but was not written by a search; it is left alone");
  field_reader read;
  const json& devices = read.part(doc, "devices");
  if (!devices.is_object())
    return refused(path, "is damaged (it has no list of devices); remove it to begin anew");
  for (const auto& [member, device] : devices.items()) {
    entry& e = file.devices_[member];
    e.mark = {read.number(device, "bytes", INT64_MAX), read.text(device, "who")};
    e.state = read.state(device, e.mark.bytes);
  }
  if (!read.damaged().empty())
    return refused(path,
                   fmt::format("is damaged (`{}` is missing, or is impossible); remove it to begin anew",
                               read.damaged()));
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
  if (const auto written = write_in_folder(path_, text(), existing_file::replace); !written)
    return refused(path_, std::string("cannot ") + written.error().action + ": " +
                              std::strerror(written.error().number));
  return {};
}

std::string resume_file::text() const {
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
  return doc.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
}

} // namespace dmremap::recover
