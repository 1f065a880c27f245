// SPDX-License-Identifier: GPL-2.0-or-later
#include "fsck/report.h"

#include "engine/uuid.h"

#include <algorithm>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <ostream>

namespace dmremap::fsck {
namespace {

using nlohmann::json;

constexpr std::size_t shown_ranges = 20; // of one kind; --verbose shows all

json json_of(const damage& d) {
  const kind_facts& facts = facts_of(d.kind);
  json j = {{"id", facts.id},
            {"severity", name_of(facts.level)},
            {"remedy", name_of(facts.fix)},
            {"member", d.member},
            {"text", d.text},
            {"action", facts.repair}};
  if (d.units != 0) {
    j["first_unit"] = d.first_unit;
    j["units"] = d.units;
    j["first_sector"] = d.first_unit * unit_sectors;
    j["sectors"] = d.units * unit_sectors;
  }
  return j;
}

json json_of(const std::vector<damage>& all) {
  json list = json::array();
  for (const auto& d : all)
    list.push_back(json_of(d));
  return list;
}

const char* state_of(const spare_state& s) {
  if (s.removed)
    return "removed";
  if (!s.super)
    return "unknown";
  return s.returned ? "returned" : "in use";
}

std::string plural(std::uint64_t n, const char* one, const char* many) {
  return fmt::format("{} {}", n, n == 1 ? one : many);
}

} // namespace

std::string line_of(const damage& d) {
  std::string line = d.member.empty() ? "" : d.member + ": ";
  if (d.units == 1)
    line += fmt::format("unit {} (sector {}): ", d.first_unit, d.first_unit * unit_sectors);
  else if (d.units > 1)
    line += fmt::format("units {} to {} (sectors {} to {}): ", d.first_unit, d.first_unit + d.units - 1,
                        d.first_unit * unit_sectors, (d.first_unit + d.units) * unit_sectors - 1);
  return line + d.text;
}

void print_found(std::ostream& out, const set_findings& f, const repair_choice& chosen, bool verbose) {
  for (auto d = f.found.begin(); d != f.found.end();) {
    const auto kind = d->kind;
    const kind_facts& facts = facts_of(kind);
    std::size_t shown = 0, all = 0;
    bool some = false;
    for (; d != f.found.end() && d->kind == kind; ++d, ++all) {
      some = some || chosen(kind, d->spare);
      if (verbose || shown < shown_ranges) {
        out << fmt::format("{}: {}\n", name_of(facts.level), line_of(*d));
        ++shown;
      }
    }
    if (shown < all)
      out << fmt::format("  and {} more ranges of the same kind (--verbose shows all)\n", all - shown);
    if (facts.fix == remedy::impossible)
      out << fmt::format("  left alone: {}\n", facts.repair);
    else if (facts.fix == remedy::none)
      out << fmt::format("  {}\n", facts.repair);
    else
      out << fmt::format("  {}: {}\n", some ? "repair" : "not repaired now", facts.repair);
  }
}

void print_outcome(std::ostream& out, const set_findings& f, const outcome& o, bool verbose) {
  for (const auto& failure : o.failures)
    out << "not written: " << failure << '\n';
  if (!o.undo_log.empty())
    out << fmt::format("undo log: {} (dmremap-fsck --undo-apply takes the repair back)\n", o.undo_log);
  if (!o.plan_file.empty())
    out << fmt::format("plan: {} (dmremap-fsck --apply carries it out)\n", o.plan_file);
  if (o.written != 0) // what is left was not necessarily seen before
    for (const auto& d : o.left)
      out << fmt::format("left: {}\n", line_of(d));
  if (verbose)
    for (const auto& s : f.spares)
      out << fmt::format("{}: spare {}, {}, {} copies of table blocks looked at\n", s.path,
                         s.super ? to_text(s.super->spare_uuid) : "?", state_of(s), s.tables.copies);
  const auto name = f.set_name();
  std::string verdict = "clean";
  if (!o.left.empty() || !o.repaired.empty()) {
    verdict.clear();
    if (!o.repaired.empty())
      verdict += plural(o.repaired.size(), "problem", "problems") + " repaired";
    if (!o.left.empty())
      verdict += (verdict.empty() ? "" : ", ") + plural(o.left.size(), "problem", "problems") + " left";
  }
  out << fmt::format("{}: {}, {} checked, {}: {}\n", name.empty() ? "?" : name,
                     plural(f.spares.size(), "spare", "spares"),
                     plural(f.copies, "copy of a block", "copies of blocks"),
                     plural(f.remaps, "remapped unit", "remapped units"), verdict);
}

json outcome_json(const set_findings& f, const outcome& o) {
  json spares = json::array();
  for (const auto& s : f.spares)
    spares.push_back({{"path", s.path},
                      {"uuid", s.super ? json(to_text(s.super->spare_uuid)) : json(nullptr)},
                      {"index", s.super ? json(s.super->spare_index) : json(nullptr)},
                      {"state", state_of(s)},
                      {"sequence", s.found ? json(s.found->sequence) : json(nullptr)},
                      {"table_copies", s.tables.copies}});
  std::vector<damage> notices;
  std::copy_if(f.found.begin(), f.found.end(), std::back_inserter(notices),
               [](const damage& d) { return facts_of(d.kind).level == severity::notice; });
  return {{"set", f.set_name()},
          {"uuid", f.set_uuid()},
          {"mode", o.mode},
          {"complete", f.complete},
          {"spares", spares},
          {"remaps", f.remaps},
          {"repaired", json_of(o.repaired)},
          {"left", json_of(o.left)},
          {"notices", json_of(notices)},
          {"blocks_written", o.written},
          {"failures", o.failures},
          {"undo_log", o.undo_log.empty() ? json(nullptr) : json(o.undo_log)},
          {"plan", o.plan_file.empty() ? json(nullptr) : json(o.plan_file)},
          {"exit_status", o.exit_status}};
}

} // namespace dmremap::fsck
