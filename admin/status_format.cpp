// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/status_format.h"

#include "admin/figures.h"
#include "admin/spare_status.h"
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

/// What is said of a spare behind its path: nothing where all is well.
std::string state_words(const json& spare) {
  const auto state = text_in(spare, "state", "present");
  if (state == "absent")
    return ", ABSENT: its units answer EIO";
  if (state == "unwritable")
    return ", TAKES NO WRITES: what it holds is read";
  if (state == "failed")
    return ", FAILED: none of its superblocks can be read";
  if (state == "draining")
    return ", draining: takes no new data";
  if (state == "host-full")
    return ", HOST FULL: no space is left on the file system that it lies on";
  return state == "full" ? ", full" : "";
}

void add_spare(lines& out, const json& spare, std::size_t place, std::size_t count) {
  const auto usable = number_in(spare, "usable_units"), used = number_in(spare, "allocated_units");
  const auto room = free_units(spare); // for remaps
  const bool unwritable = text_in(spare, "state") == "unwritable";
  const bool absent = text_in(spare, "state") == "absent";
  const auto path = text_in(spare, "path"), uuid = text_in(spare, "uuid");
  out.add(fmt::format("spare {}", number_in(spare, "index", place)).c_str(),
          "{}{}, {} of {} units used, {} free{}", path.empty() ? uuid : path, state_words(spare), used,
          usable, size_text(room * unit_bytes),
          flag_in(spare, "direct", true) ? "" : ", buffered (no O_DIRECT)");
  if (absent)
    out.add("", "UUID {}; `dmremap spare forget` gives it up, if it will not come back", uuid);
  else if (unwritable)
    out.add("", "UUID {}; `dmremap spare evacuate` moves what it holds, then `dmremap spare forget`", uuid);
  else
    out.add("", "metadata: {} of 5 superblocks, {} of 5 at replicas, every table block in at least {} copies",
            number_in(spare, "super_copies_valid"), number_in(spare, "head_copies_valid"),
            number_in(spare, "weakest_block_copies"));
  if (count > 1) {
    const auto host = text_in(spare, "protected_by");
    out.add("", "{}",
            host.empty() ? "not protected against the loss of " + (path.empty() ? uuid : path)
                         : "protected by spare " + host);
  }
}

void add_evacuation(lines& out, const json& evacuation) {
  if (flag_in(evacuation, "running"))
    out.add("evacuating", "{}: {} of {} units moved", text_in(evacuation, "path"),
            number_in(evacuation, "done"), number_in(evacuation, "all"));
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
    add_spare(out, spare, i, spares.size());
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

/// Told with the spare itself.
bool said_of_a_spare(const std::string& notice) {
  return notice.rfind("not protected against the loss of ", 0) == 0;
}

} // namespace

std::string status_text(const json& status) {
  lines out;
  const auto& stats = part_of(status, "stats");
  out.raw(fmt::format("{} ({})", text_in(status, "name"), text_in(status, "uuid")));
  out.add("state", "{}", text_in(status, "state", "unknown"));
  add_place(out, status);
  add_members(out, status);
  add_evacuation(out, part_of(status, "evacuation"));
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
      if (notice.is_string() && !said_of_a_spare(notice.get<std::string>()))
        out.add("note", "{}", notice.get<std::string>());
  return out.take();
}

std::string status_dm(const json& status) {
  const auto line = text_in(status, "dm");
  return line.empty() ? "" : line + "\n";
}

std::string stats_text(const json& stats, const json& spares) {
  std::string text;
  const auto add = [&](const std::string& name, const std::string& value) {
    fmt::format_to(std::back_inserter(text), "{:<24} {}\n", name, value);
  };
  if (stats.is_object())
    for (const auto& [key, value] : stats.items())
      add(key, value.is_string() ? value.get<std::string>() : value.dump());
  for (std::size_t i = 0; spares.is_array() && i < spares.size(); ++i) {
    if (!spares[i].is_object())
      continue;
    const auto name = fmt::format("spare{}_", number_in(spares[i], "index", i));
    add(name + "state", text_in(spares[i], "state", "present"));
    add(name + "allocated_units", std::to_string(number_in(spares[i], "allocated_units")));
    add(name + "usable_units", std::to_string(number_in(spares[i], "usable_units")));
    add(name + "free_units", std::to_string(free_units(spares[i])));
  }
  return text;
}

exit_code status_exit(const json& status) {
  const auto& stats = part_of(status, "stats");
  if (flag_in(status, "hangs") || flag_in(stats, "main_gone") || flag_in(stats, "breaker_open"))
    return exit_code::damaged;
  const auto& spares = part_of(status, "spares");
  if (spares.is_array())
    for (const auto& spare : spares)
      if (spare.is_object() &&
          (text_in(spare, "path").empty() || text_in(spare, "state") == "absent" ||
           number_in(spare, "super_copies_valid", 5) < 2 || number_in(spare, "weakest_block_copies", 5) < 2))
        return exit_code::damaged;
  return exit_code::ok;
}

} // namespace dmremap::admin
