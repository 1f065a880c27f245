// SPDX-License-Identifier: GPL-2.0-or-later
#include "fsck/repair_file.h"

#include "engine/durable_file.h"
#include "engine/input_file.h"
#include "engine/paths.h"

#include <algorithm>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <fmt/format.h>
#include <limits>
#include <nlohmann/json.hpp>
#include <unistd.h>

namespace dmremap::fsck {
namespace {

using nlohmann::json;

constexpr unsigned file_version = 2;
constexpr const char* digits = "0123456789abcdef";

std::string to_hex(const block_bytes& b) {
  std::size_t length = unit_bytes;
  while (length > 0 && b.bytes[length - 1] == std::byte{0})
    --length;
  std::string out;
  out.reserve(length * 2);
  for (std::size_t i = 0; i < length; ++i) {
    const auto value = std::to_integer<unsigned>(b.bytes[i]);
    out += digits[value >> 4];
    out += digits[value & 15];
  }
  return out;
}

bool from_hex(const std::string& text, block_bytes& b) {
  if (text.size() % 2 != 0 || text.size() > unit_bytes * 2)
    return false;
  b.bytes.fill(std::byte{0});
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char* at = text[i] == '\0' ? nullptr : std::strchr(digits, text[i]);
    if (at == nullptr)
      return false;
    b.bytes[i / 2] |= static_cast<std::byte>((at - digits) << (i % 2 == 0 ? 4 : 0));
  }
  return true;
}

std::string line_of(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

std::uint32_t checksum(std::string_view text) {
  return crc32_of(std::as_bytes(std::span(text.data(), text.size())));
}

/// One line, so that nothing in it can end the comment.
std::string comment(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c == '\n' || c == '\r'; }, '?');
  return "# " + text + "\n";
}

/// At most `most`; the library would make a number of one with a sign, a fraction or too many digits, too.
template <class Number>
bool read_number(const json& j, const char* key, Number& out,
                 std::uint64_t most = std::numeric_limits<Number>::max()) {
  const json& value = j.at(key);
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > most)
    return false;
  out = static_cast<Number>(value.get<std::uint64_t>());
  return true;
}

bool read_header(const json& j, repair_plan& plan) {
  unsigned version = 0;
  if (!j.is_object() || !j.contains("dmremap_repair") || !read_number(j, "dmremap_repair", version) ||
      version != file_version || !read_number(j, "fingerprint", plan.fingerprint) ||
      !read_number(j, "supers", plan.supers))
    return false;
  plan.set_name = j.at("set").get<std::string>();
  plan.set_uuid = j.at("uuid").get<std::string>();
  plan.marks_chunks = j.at("marks_chunks").get<bool>();
  for (const auto& m : j.at("members"))
    plan.members.push_back({m.at("uuid").get<std::string>(), m.at("path").get<std::string>()});
  plan.summary = j.at("summary").get<std::vector<std::string>>();
  return !plan.members.empty() && plan.members.size() <= max_spares;
}

bool read_write(const json& j, const repair_plan& plan, block_write& w) {
  unsigned step = 0;
  if (!read_number(j, "member", w.member, plan.members.size() - 1) ||
      !read_number(j, "unit", w.unit, UINT32_MAX) || !read_number(j, "group", w.group) ||
      !read_number(j, "step", step, static_cast<std::uint64_t>(repair_step::record_rest)) || step < 1)
    return false;
  w.reason = j.at("reason").get<std::string>();
  w.step = static_cast<repair_step>(step);
  w.readable = !j.at("old").is_null();
  return (!w.readable || from_hex(j.at("old").get<std::string>(), w.old)) &&
         from_hex(j.at("new").get<std::string>(), w.now);
}

} // namespace

std::string format_plan(const repair_plan& plan) {
  std::string out = comment(fmt::format("dmremap-fsck: repair of set {} ({}): {} blocks of 4096 bytes",
                                        plan.set_name, plan.set_uuid, plan.writes.size()));
  for (const auto& line : plan.summary)
    out += comment(line);
  for (const auto& w : plan.writes)
    out += comment(fmt::format("{}: unit {}: {}", plan.members[w.member].path, w.unit, w.reason));
  json members = json::array();
  for (const auto& m : plan.members)
    members.push_back({{"uuid", m.uuid}, {"path", m.path}});
  out += line_of({{"dmremap_repair", file_version},
                  {"set", plan.set_name},
                  {"uuid", plan.set_uuid},
                  {"fingerprint", plan.fingerprint},
                  {"supers", plan.supers},
                  {"marks_chunks", plan.marks_chunks},
                  {"members", members},
                  {"summary", plan.summary}});
  for (const auto& w : plan.writes)
    out += line_of({{"member", w.member},
                    {"unit", w.unit},
                    {"step", static_cast<unsigned>(w.step)},
                    {"group", w.group},
                    {"reason", w.reason},
                    {"old", w.readable ? json(to_hex(w.old)) : json(nullptr)},
                    {"new", to_hex(w.now)}});
  return out + line_of({{"end", plan.writes.size()}, {"crc32", checksum(out)}});
}

result<repair_plan> parse_plan(const std::string& text, const std::string& path) {
  const auto bad = [&](const std::string& why) {
    return fail("bad-repair-file", path, why + "; nothing was written");
  };
  repair_plan plan;
  bool header = false;
  try { // the library reports by exception
    for (std::size_t at = 0, next; at < text.size(); at = next) {
      next = std::min(text.find('\n', at), text.size() - 1) + 1;
      const std::string_view line(text.data() + at, next - at);
      if (line.front() == '#' || line == "\n")
        continue;
      const json j = json::parse(line);
      if (!header) {
        if (!read_header(j, plan))
          return bad("is no plan or undo log of this version of dmremap-fsck");
        header = true;
      } else if (j.contains("end")) {
        std::size_t writes = 0;
        std::uint32_t crc = 0;
        if (next != text.size() || !read_number(j, "end", writes) || writes != plan.writes.size() ||
            !read_number(j, "crc32", crc) || crc != checksum(std::string_view(text).substr(0, at)))
          return bad("is damaged");
        return plan;
      } else {
        block_write w;
        if (!read_write(j, plan, w))
          return bad("is damaged");
        plan.writes.push_back(std::move(w));
      }
    }
  } catch (const json::exception&) {
    return bad("is damaged");
  }
  return bad("is not complete");
}

result<repair_plan> load_plan(const std::string& path) {
  const auto text = read_input_file(path);
  if (!text)
    return fail(text.error().no_file ? "not-a-file" : "not-found", path, text.error().why);
  return parse_plan(*text, path);
}

result<void> save_plan(const repair_plan& plan, const std::string& path) {
  boost::system::error_code no_cwd;
  const auto whole = boost::filesystem::path(path).is_absolute()
                         ? path
                         : (boost::filesystem::current_path(no_cwd) / path).string();
  const bool ours = path.starts_with(state_dir() + "/"); // what somebody typed must be there
  if (const auto written =
          (ours ? write_durably : write_in_folder)(whole, format_plan(plan), existing_file::keep);
      !written)
    return fail("repair-file-unwritable", written.error().path,
                written.error().number == EEXIST
                    ? "is there already; name another file. Nothing was written"
                    : std::string("cannot ") + written.error().action + ": " +
                          std::strerror(written.error().number) + "; nothing was written");
  return {};
}

std::string new_undo_path(const repair_plan& plan) {
  std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  char when[32];
  std::strftime(when, sizeof when, "%Y%m%dT%H%M%SZ", &utc);
  const std::string name = valid_set_name(plan.set_name) ? plan.set_name : "set";
  const std::string stem = fmt::format("{}/undo/{}-{}-{}", state_dir(), name, when, ::getpid());
  boost::system::error_code unknown;
  std::string path = stem + ".undo";
  for (unsigned n = 2; boost::filesystem::exists(path, unknown); ++n) // two repairs within a second
    path = fmt::format("{}-{}.undo", stem, n);
  return path;
}

} // namespace dmremap::fsck
