// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/status_format.h"

#include "admin/figures.h"
#include "engine/units.h"

#include <algorithm>
#include <fmt/format.h>
#include <iterator>
#include <nlohmann/json.hpp>

namespace dmremap::admin {
namespace {

using nlohmann::json;

class lines {
public:
  template <class... Args>
  void add(const char* label, fmt::format_string<Args...> form, Args&&... args) {
    fmt::format_to(std::back_inserter(text_), "  {:<12} ", label);
    fmt::format_to(std::back_inserter(text_), form, std::forward<Args>(args)...);
    text_ += '\n';
  }
  void raw(const std::string& line) { text_ += line + "\n"; }
  [[nodiscard]] std::string take() { return std::move(text_); }

private:
  std::string text_;
};

std::string joined(const json& texts) {
  std::string all;
  if (texts.is_array())
    for (const auto& one : texts)
      if (one.is_string())
        all += (all.empty() ? "" : " ") + one.get<std::string>();
  return all;
}

void add_place(lines& out, const json& status) {
  const auto loops = joined(part_of(status, "loop"));
  out.add("image", "{}", text_in(status, "image"));
  out.add("loop device", "{}", loops.empty() ? "none" : loops);
  out.add("daemon", "process {}{}", number_in(status, "pid"),
          flag_in(status, "read_only") ? ", read-only" : "");
}

void add_members(lines& out, const json& status) {
  const auto& main = part_of(status, "main");
  const auto sectors = number_in(main, "sectors");
  const auto buffered = [](const json& member) {
    return flag_in(member, "direct", true) ? "" : ", buffered (no O_DIRECT)";
  };
  if (sectors != 0)
    out.add("main", "{}, {} sectors ({}){}", text_in(main, "path"), sectors,
            size_text(sectors * sector_bytes), buffered(main));
  else
    out.add("main", "{}", text_in(main, "path"));
  const auto& spares = part_of(status, "spares");
  for (std::size_t i = 0; spares.is_array() && i < spares.size(); ++i) {
    const auto& spare = spares[i];
    if (spare.is_string()) { // all that is known without the daemon's answer
      out.add(fmt::format("spare {}", i).c_str(), "{}", spare.get<std::string>());
      continue;
    }
    const auto usable = number_in(spare, "usable_units"), used = number_in(spare, "allocated_units");
    out.add(fmt::format("spare {}", i).c_str(), "{}, {} of {} units used, {} free{}", text_in(spare, "path"),
            used, usable, size_text((usable - std::min(used, usable)) * unit_bytes), buffered(spare));
    out.add("", "metadata: {} of 5 superblocks, {} of 5 at replicas, every table block in at least {} copies",
            number_in(spare, "super_copies_valid"), number_in(spare, "head_copies_valid"),
            number_in(spare, "weakest_block_copies"));
  }
}

void add_figures(lines& out, const json& stats) {
  const auto n = [&](const char* key) { return number_in(stats, key); };
  out.add("remapped", "{} ({}): {} automatic, {} by hand", counted(n("remapped_units"), "unit"),
          size_text(n("remapped_units") * unit_bytes), n("auto_remapped_units"), n("manual_remapped_units"));
  out.add("lost", "{}{}", counted(n("lost_sectors"), "sector"),
          n("lost_sectors") != 0 ? "; `dmremap lost` lists them, `dmremap salvage` tries them again" : "");
  out.add("errors", "main {} read, {} write; spare {} read, {} write; {} flush", n("main_read_errors"),
          n("main_write_errors"), n("spare_read_errors"), n("spare_write_errors"), n("flush_errors"));
  out.add("requests", "{} reads ({}), {} writes ({}), {} flushes, {} zeroes", n("reads"),
          size_text(n("read_bytes")), n("writes"), size_text(n("written_bytes")), n("flushes"), n("zeroes"));
}

} // namespace

std::string status_text(const json& status) {
  lines out;
  const auto& stats = part_of(status, "stats");
  out.raw(fmt::format("{} ({})", text_in(status, "name"), text_in(status, "uuid")));
  out.add("state", "{}", text_in(status, "state", "unknown"));
  add_place(out, status);
  add_members(out, status);
  if (stats.is_object()) {
    add_figures(out, stats);
    out.add("auto remap", "{}{}",
            flag_in(status, "auto_remap", flag_in(stats, "auto_remap", true)) ? "on" : "off",
            flag_in(stats, "breaker_open")
                ? ", stopped by the breaker until `dmremap message NAME 0 reset_breaker`"
                : "");
  }
  const auto& notices = part_of(status, "notices");
  if (notices.is_array())
    for (const auto& notice : notices)
      if (notice.is_string())
        out.add("note", "{}", notice.get<std::string>());
  return out.take();
}

std::string status_dm(const json& status) {
  const auto line = text_in(status, "dm");
  return line.empty() ? "" : line + "\n";
}

std::string stats_text(const json& stats) {
  std::string text;
  if (stats.is_object())
    for (const auto& [key, value] : stats.items())
      fmt::format_to(std::back_inserter(text), "{:<24} {}\n", key,
                     value.is_string() ? value.get<std::string>() : value.dump());
  return text;
}

exit_code status_exit(const json& status) {
  const auto& stats = part_of(status, "stats");
  if (flag_in(stats, "main_gone") || flag_in(stats, "breaker_open"))
    return exit_code::damaged;
  const auto& spares = part_of(status, "spares");
  if (spares.is_array())
    for (const auto& spare : spares)
      if (spare.is_object() &&
          (text_in(spare, "path").empty() || number_in(spare, "super_copies_valid", 5) < 2 ||
           number_in(spare, "weakest_block_copies", 5) < 2))
        return exit_code::damaged;
  return exit_code::ok;
}

} // namespace dmremap::admin
