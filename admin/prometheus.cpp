// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/figures.h"
#include "admin/status_format.h"
#include "engine/units.h"

#include <fmt/format.h>
#include <iterator>
#include <nlohmann/json.hpp>

namespace dmremap::admin {
namespace {

using nlohmann::json;

std::string escaped(const std::string& value) {
  std::string text;
  for (const char c : value) {
    if (c == '\n') {
      text += "\\n";
      continue;
    }
    if (c == '\\' || c == '"')
      text += '\\';
    text += c;
  }
  return text;
}

class exposition {
public:
  explicit exposition(const std::string& set) : set_(escaped(set)) {}

  void head(const char* name, const char* type, const char* help) {
    fmt::format_to(std::back_inserter(text_), "# HELP dmremap_{} {}\n# TYPE dmremap_{} {}\n", name, help,
                   name, type);
  }
  template <class Number>
  void sample(const char* name, Number value, const std::string& labels = "") {
    fmt::format_to(std::back_inserter(text_), "dmremap_{}{{set=\"{}\"{}}} {}\n", name, set_, labels, value);
  }
  template <class Number>
  void one(const char* name, const char* type, const char* help, Number value) {
    head(name, type, help);
    sample(name, value);
  }
  [[nodiscard]] std::string take() { return std::move(text_); }

private:
  std::string set_, text_;
};

struct counter {
  const char *key, *name, *help;
};

constexpr counter counters[] = {
    {"reads", "read_requests_total", "Read requests since the set was opened."},
    {"writes", "write_requests_total", "Write requests since the set was opened."},
    {"flushes", "flush_requests_total", "Flush requests since the set was opened."},
    {"zeroes", "zero_requests_total", "Requests to zero a range since the set was opened."},
    {"read_bytes", "read_bytes_total", "Bytes read since the set was opened."},
    {"written_bytes", "written_bytes_total", "Bytes written since the set was opened."},
    {"main_read_errors", "main_read_errors_total", "Read errors of main since the set was opened."},
    {"main_write_errors", "main_write_errors_total", "Write errors of main since the set was opened."},
    {"spare_read_errors", "spare_read_errors_total", "Read errors of spares since the set was opened."},
    {"spare_write_errors", "spare_write_errors_total", "Write errors of spares since the set was opened."},
    {"spare_host_full_errors", "spare_host_full_errors_total",
     "Writes of spares that failed because no space was left where a spare file lies, since the set was "
     "opened."},
    {"flush_errors", "flush_errors_total", "Failed flushes of a member since the set was opened."},
    {"lost_reads", "lost_reads_total", "Reads that failed on a lost sector since the set was opened."},
    {"slow_requests", "slow_requests_total", "Requests that left the fast path since the set was opened."},
    {"auto_remaps", "auto_remaps_total", "Units remapped automatically over the life of the set."},
    {"manual_remaps", "manual_remaps_total", "Units remapped by hand over the life of the set."},
    {"lifetime_allocations", "allocations_total", "Spare units allocated over the life of the set."},
    {"saves_tried", "metadata_saves_tried_total", "Metadata commits begun over the life of the set."},
    {"saves_done", "metadata_saves_done_total", "Metadata commits completed over the life of the set."},
};

constexpr counter gauges[] = {
    {"remapped_units", "remapped_units", "Units of main that a spare serves now."},
    {"auto_remapped_units", "auto_remapped_units", "Of these, units remapped automatically."},
    {"manual_remapped_units", "manual_remapped_units", "Of these, units remapped by hand."},
    {"lost_sectors", "lost_sectors", "Sectors whose data is lost now."},
};

struct flag {
  const char *key, *name, *help;
};

constexpr flag flags[] = {
    {"auto_remap", "auto_remap", "1 where I/O errors lead to remaps."},
    {"breaker_open", "breaker_open", "1 where automatic remapping was stopped after a burst of errors."},
    {"main_gone", "main_gone", "1 where main does not answer."},
};

struct spare_figure {
  const char *key, *name, *help;
};

constexpr spare_figure spare_figures[] = {
    {"units", "spare_units", "All units of the spare."},
    {"usable_units", "spare_usable_units", "Units that can hold data."},
    {"allocated_units", "spare_allocated_units", "Units that hold data."},
    {"free_units", "spare_free_units", "Units that a remap can be given now."},
    {"super_copies_valid", "spare_superblock_copies", "Valid superblock copies of the five at fixed places."},
    {"head_copies_valid", "spare_head_copies", "Valid superblock copies of the five at the table replicas."},
    {"weakest_block_copies", "spare_weakest_block_copies", "The fewest valid copies that a table block has."},
};

} // namespace

std::string status_prometheus(const json& status) {
  exposition out(text_in(status, "name"));
  const auto& stats = part_of(status, "stats");
  out.one("up", "gauge", "1 where the daemon of the set answers.", flag_in(status, "answers") ? 1 : 0);
  out.one("age_seconds", "gauge", "Age of these figures.", real_in(status, "age_seconds"));
  out.one("read_only", "gauge", "1 where the set is open read-only.", flag_in(status, "read_only") ? 1 : 0);
  if (stats.is_object()) {
    for (const auto& [key, name, help] : counters)
      out.one(name, "counter", help, number_in(stats, key));
    for (const auto& [key, name, help] : gauges)
      out.one(name, "gauge", help, number_in(stats, key));
    for (const auto& [key, name, help] : flags)
      out.one(name, "gauge", help, flag_in(stats, key) ? 1 : 0);
  }
  if (const auto sectors = number_in(part_of(status, "main"), "sectors"); sectors != 0)
    out.one("main_bytes", "gauge", "Size of the disk that is shown.", sectors * sector_bytes);
  if (const auto& evacuation = part_of(status, "evacuation"); flag_in(evacuation, "running")) {
    out.one("evacuation_units_done", "gauge", "Units moved off the spare that is being emptied.",
            number_in(evacuation, "done"));
    out.one("evacuation_units", "gauge", "Units to be moved in all.", number_in(evacuation, "all"));
  }
  const auto& spares = part_of(status, "spares");
  if (!spares.is_array() || spares.empty() || !spares.front().is_object())
    return out.take();
  const auto flag_of = [&](const char* name, const char* help, auto&& is_set) {
    out.head(name, "gauge", help);
    for (const auto& spare : spares)
      out.sample(name, is_set(spare) ? 1 : 0, fmt::format(",spare=\"{}\"", escaped(text_in(spare, "uuid"))));
  };
  const auto in_state = [](const char* state) {
    return [state](const json& spare) { return text_in(spare, "state", "present") == state; };
  };
  flag_of("spare_present", "0 where the spare is absent or failed: its units answer EIO.",
          [&](const json& spare) { return !in_state("absent")(spare) && !in_state("failed")(spare); });
  flag_of("spare_draining", "1 where the spare takes no new data.",
          [](const json& spare) { return flag_in(spare, "draining"); });
  flag_of("spare_full", "1 where the spare has no unit free for remaps.", in_state("full"));
  flag_of("spare_protected", "1 where another spare holds a copy of the spare's map.",
          [](const json& spare) { return !text_in(spare, "protected_by").empty(); });
  for (const auto& [key, name, help] : spare_figures) {
    out.head(name, "gauge", help);
    for (const auto& spare : spares)
      out.sample(name, number_in(spare, key), fmt::format(",spare=\"{}\"", escaped(text_in(spare, "uuid"))));
  }
  return out.take();
}

} // namespace dmremap::admin
