// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/create_report.h"

#include "admin/figures.h"
#include "engine/units.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <ostream>

namespace dmremap::admin {
namespace {

using nlohmann::json;

std::uint64_t data_bytes(const planned_member& spare) {
  return spare.places.data_units() * unit_bytes;
}

std::vector<std::uint64_t> super_sectors(const planned_member& spare, bool at_replicas) {
  std::vector<std::uint64_t> sectors;
  for (unsigned copy = at_replicas ? fixed_supers : 0; copy < (at_replicas ? super_copies : fixed_supers);
       ++copy)
    sectors.push_back(spare.places.super_place(copy).value * unit_sectors);
  return sectors;
}

json member_json(const planned_member& member) {
  return {{"path", member.spec.text()},
          {"sectors", member.sectors},
          {"logical_sector_bytes", member.measure.logical_bytes},
          {"physical_sector_bytes", member.measure.physical_bytes}};
}

json spare_json(const planned_member& spare) {
  json value = member_json(spare);
  value["units"] = spare.places.units;
  value["usable_units"] = spare.places.data_units();
  value["superblock_sectors"] = super_sectors(spare, false);
  value["replica_sectors"] = super_sectors(spare, true);
  value["replica_units"] = std::uint64_t{spare.places.table_blocks} + 1;
  json wiped = json::array();
  for (const auto& one : spare.signatures)
    wiped.push_back({{"type", one.type}, {"detail", one.detail}});
  value["wiped"] = wiped;
  return value;
}

void report_json(const context& c, const create_plan& plan) {
  static constexpr const char* outcomes[] = {"planned", "created", "opened"};
  json spares = json::array(), fstab = json::array();
  for (const auto& spare : plan.spares)
    spares.push_back(spare_json(spare));
  for (const auto& one : plan.fstab)
    fstab.push_back(
        {{"line", one.line}, {"source", one.source}, {"mount_point", one.point}, {"instead", one.instead}});
  c.print({{"name", plan.name},
           {"uuid", plan.uuid.empty() ? json(nullptr) : json(plan.uuid)},
           {"outcome", outcomes[static_cast<unsigned>(plan.done)]},
           {"main", member_json(plan.main)},
           {"spares", spares},
           {"adjustments", plan.adjustments},
           {"configuration", plan.config_file.empty() ? json(nullptr) : json(plan.config_file)},
           {"udev_rule", plan.udev.path.empty() ? json(nullptr) : json(plan.udev.path)},
           {"main_hidden", plan.udev.hides_main},
           {"warnings", plan.udev.warnings},
           {"fstab", fstab}});
}

std::string member_words(const planned_member& member) {
  return fmt::format("{}: {} sectors ({}), sector size {} logical, {} physical", member.spec.text(),
                     member.sectors, size_text(member.sectors * sector_bytes), member.measure.logical_bytes,
                     member.measure.physical_bytes);
}

void report_spare(const context& c, const planned_member& spare) {
  c.out << "  spare   " << member_words(spare) << '\n'
        << fmt::format("          usable: {} units of 4096 bytes ({})\n", spare.places.data_units(),
                       size_text(data_bytes(spare)))
        << fmt::format("          superblocks at sectors {}\n", fmt::join(super_sectors(spare, false), ", "))
        << fmt::format("          table copies at sectors {} ({} sectors each)\n",
                       fmt::join(super_sectors(spare, true), ", "),
                       (std::uint64_t{spare.places.table_blocks} + 1) * unit_sectors);
}

void report_first_line(const context& c, const create_plan& plan) {
  switch (plan.done) {
  case create_plan::outcome::planned:
    c.out << "would create the set " << plan.name << " (nothing is written now)\n";
    for (const auto& spare : plan.spares)
      for (const auto& one : spare.signatures)
        c.out << "  would overwrite " << one.type << (one.detail.empty() ? "" : " (" + one.detail + ")")
              << " on " << spare.spec.text() << '\n';
    break;
  case create_plan::outcome::created:
    c.out << "created the set " << plan.name << ", UUID " << plan.uuid << '\n';
    break;
  case create_plan::outcome::opened:
    c.out << "opened the set " << plan.name << ", UUID " << plan.uuid
          << ", which this pair is already; nothing was formatted\n";
    break;
  }
}

void report_udev(const context& c, const create_plan& plan) {
  c.out << "  udev rule: " << (plan.udev.path.empty() ? "none" : plan.udev.path);
  if (!plan.udev.path.empty())
    c.out << " (" << (plan.udev.hides_main ? "hides main, and " : "") << "calls the loop device /dev/dmremap/"
          << plan.name << ")";
  c.out << '\n';
  for (const auto& warning : plan.udev.warnings)
    c.out << "  warning: " << warning << '\n';
  for (const auto& conflict : plan.fstab)
    c.out << "  warning: " << conflict.text() << '\n';
}

} // namespace

void report_plan(const context& c, const create_plan& plan) {
  if (c.json)
    return report_json(c, plan);
  report_first_line(c, plan);
  c.out << "  main    " << member_words(plan.main) << '\n';
  for (const auto& spare : plan.spares)
    report_spare(c, spare);
  for (const auto& adjustment : plan.adjustments)
    c.out << "  adjusted: " << adjustment << '\n';
  c.out << "  configuration: " << (plan.config_file.empty() ? "none" : plan.config_file) << '\n';
  report_udev(c, plan);
  if (plan.done != create_plan::outcome::planned && !plan.config_file.empty())
    c.out << "next: dmremap attach " << plan.name << '\n';
}

} // namespace dmremap::admin
