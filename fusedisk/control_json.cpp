// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/control_json.h"

#include "engine/stats_fields.h"
#include "fusedisk/messages.h"
#include "fusedisk/replies.h"

namespace dmremap {

using nlohmann::json;

json json_of(const spare_status& s, const disk_info& info) {
  const auto* host = s.protected_by < 0 ? nullptr : spare_at(info, static_cast<unsigned>(s.protected_by));
  return {{"index", s.index},
          {"state", spare_state(s)},
          {"present", s.present},
          {"readable", s.present || s.readable},
          {"draining", s.draining},
          {"host_full", s.host_full},
          {"protected_by", host != nullptr ? json(host->uuid) : json(nullptr)},
          {"uuid", s.uuid},
          {"path", s.path},
          {"units", s.units},
          {"usable_units", s.usable_units},
          {"allocated_units", s.allocated_units},
          {"free_units", s.free_units},
          {"sequence", s.sequence},
          {"super_copies_valid", s.super_copies_valid},
          {"head_copies_valid", s.head_copies_valid},
          {"weakest_block_copies", s.weakest_block_copies},
          {"clean", s.clean},
          {"direct", s.direct}};
}

json json_of(const remap_reply& r) {
  return {{"units", r.units},
          {"already", r.already},
          {"lost_sectors", r.lost_sectors},
          {"spare_sector", r.spare_sector.value}};
}

json json_of(const spare_forget_reply& r) {
  return {{"units", r.units},
          {"lost_sectors", r.lost_sectors},
          {"free_units", r.free_units},
          {"configuration_problem", r.configuration.empty() ? json(nullptr) : json(r.configuration)}};
}

json json_of(const evacuation_state& s) {
  json failed = nullptr;
  if (s.failed)
    failed = {{"id", s.failed->id},
              {"what", s.failed->what},
              {"why", s.failed->why},
              {"code", static_cast<int>(s.failed->code)}};
  return {{"number", s.number},
          {"running", s.running},
          {"spare", s.uuid},
          {"path", s.path},
          {"done", s.done},
          {"all", s.all},
          {"moved", s.moved.moved},
          {"lost_sectors", s.moved.lost_sectors},
          {"error", std::move(failed)}};
}

json json_of_status(control_target& t) {
  const dated_info dated = t.info(info_patience);
  const disk_info& info = dated.info;
  const disk_stats stats = t.stats();
  const daemon_facts facts = t.facts();
  const evacuation_state evacuation = t.evacuation();
  json spares = json::array();
  for (const auto& spare : info.spares)
    spares.push_back(json_of(spare, info));
  return {{"schema", 1},
          {"name", info.set_name},
          {"uuid", info.set_uuid},
          {"running", true},
          {"answers", true},
          {"age_seconds", 0.0},
          {"spares_age_seconds", dated.age_seconds},
          {"state", state_words(stats, info)},
          {"main",
           {{"path", info.main_path},
            {"sectors", info.main_sectors},
            {"block_bytes", info.main_block_bytes},
            {"direct", info.main_direct}}},
          {"mountpoint", facts.mountpoint},
          {"image", facts.image},
          {"loop", t.loops()},
          {"pid", facts.pid},
          {"read_only", info.read_only},
          {"auto_remap", stats.auto_remap},
          {"read_retries", t.read_retries()},
          {"log_level", name_of(t.logging())},
          {"requests_away", facts.requests_away},
          {"oldest_request_seconds", static_cast<double>(facts.oldest_request_ns) * 1e-9},
          {"stats", stats_json(stats)},
          {"spares", std::move(spares)},
          {"evacuation", evacuation.number == 0 ? json(nullptr) : json_of(evacuation)},
          {"notices", info.notices},
          {"dm", dm_line(stats, info)}};
}

} // namespace dmremap
