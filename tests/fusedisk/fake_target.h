// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/set_dump.h"
#include "fusedisk/control_target.h"

#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace dmremap {

/// A set that does nothing but remember what it was asked, with one spare and one remap.
class fake_target final : public control_target {
public:
  fake_target() {
    stats_now.remapped_units = 2;
    stats_now.manual_remapped_units = 2;
    stats_now.manual_remaps = 2;
    stats_now.lifetime_allocations = 342;
    stats_now.saves_tried = stats_now.saves_done = 5;
    stats_now.state = "ok";
    info_now.set_name = "fake";
    info_now.set_uuid = "11111111-2222-3333-4444-555555555555";
    info_now.main_path = "/x/main.img";
    info_now.main_sectors = 204800;
    info_now.main_block_bytes = 4096;
    spare_status spare;
    spare.uuid = "66666666-7777-8888-9999-000000000000";
    spare.path = "/x/spare.img";
    spare.units = 1100;
    spare.usable_units = 1000;
    spare.allocated_units = 2;
    spare.free_units = 748; // its head is for add_remap by hand
    spare.sequence = 77;
    spare.super_copies_valid = spare.head_copies_valid = 5;
    spare.weakest_block_copies = 4;
    info_now.spares.push_back(spare);
  }

  disk_stats stats() const override { return stats_now; }
  daemon_facts facts() const override { return {"/mnt", "/mnt/disk.img", 4711, 0, 0}; }
  dated_info info(std::chrono::milliseconds) override { return {info_now, 0.0}; }
  void for_each_remap(const std::function<void(const remap_entry&)>& visit) const override {
    for (const auto& entry : remaps)
      visit(entry);
  }
  std::vector<lost_range> lost() const override { return {{sector_number(17), 3}}; }
  std::shared_ptr<const set_dump> dump() const override { return dump_now; }
  unsigned read_retries() const override { return retries; }
  log_level logging() const override { return level; }
  void set_auto_remap(bool on) override { stats_now.auto_remap = on; }
  void set_read_retries(unsigned n) override { retries = n; }
  void set_logging(log_level l) override { level = l; }
  void clear_stats() override { note("clear_stats"); }
  void reset_breaker() override { note("reset_breaker"); }
  std::vector<std::string> loops() const override { return {"/dev/loop3"}; }
  result<remap_reply> remap(sector_number s, std::uint64_t n) override {
    note("remap " + std::to_string(s.value) + (n == 1 ? "" : "+" + std::to_string(n)));
    if (!refusal.id.empty())
      return tl::make_unexpected(refusal);
    return remap_reply{1, 0, 2, sector_number(8192)};
  }
  result<void> unmap(sector_number s) override {
    note("unmap " + std::to_string(s.value));
    return {};
  }
  result<remap_reply> add_remap(sector_number d, std::optional<sector_number> s, std::uint64_t n,
                                unsigned spare) override {
    note("add_remap " + std::to_string(d.value) + " " + (s ? std::to_string(s->value) : "auto") + " " +
         std::to_string(n) + " on " + std::to_string(spare));
    if (in_pieces.contains(spare))
      return fail("no-spare-capacity", "add_remap", "the longest run on " + std::to_string(spare) + " has 3");
    return remap_reply{12, 1, 0, sector_number(5000)};
  }
  result<salvage_reply> salvage(std::optional<sector_number> s) override {
    note("salvage " + (s ? std::to_string(s->value) : "all"));
    return salvage_reply{3, 1, 1, 2};
  }
  salvage_state salvaging() const override { return {true, 2, 7}; }
  result<void> sync() override {
    note("sync");
    return {};
  }
  result<void> save() override {
    note("save");
    return {};
  }
  result<void> rename(const std::string& name) override {
    note("rename " + name);
    return {};
  }
  result<std::shared_ptr<dust_control>> dust(const std::string& store) override {
    if (dust_now == nullptr)
      return fail("not-dust", store, "no dust here");
    return std::shared_ptr<dust_control>(std::shared_ptr<void>(), dust_now); // not ours
  }
  result<void> stop() override { return fail("image-in-use", "/mnt", "still in use by /dev/loop3"); }

  result<spare_add_reply> spare_add(const spare_add_request& r) override {
    std::string text = "spare_add " + r.member;
    for (const auto& type : r.wipe)
      text += " wipe " + type;
    note(text + (r.destroy_set.empty() ? "" : " destroy " + r.destroy_set) + (r.sparse ? " sparse" : "") +
         (r.dry_run ? " dry" : ""));
    if (!refusal.id.empty())
      return tl::make_unexpected(refusal);
    return spare_add_reply{r.member, r.dry_run ? "" : "aaaaaaaa-2222-3333-4444-555555555555", 1, 4000, r.wipe,
                           ""};
  }
  result<spare_change_reply> spare_remove(const std::string& uuid, bool dry_run) override {
    note("spare_remove " + uuid.substr(0, 8) + (dry_run ? " dry" : ""));
    if (!refusal.id.empty())
      return tl::make_unexpected(refusal);
    return spare_change_reply{"/x/spare.img", "66666666-7777-8888-9999-000000000000", "", true};
  }
  result<spare_forget_reply> spare_forget(const std::string& uuid, bool dry_run) override {
    note("spare_forget " + uuid.substr(0, 8) + (dry_run ? " dry" : ""));
    if (!refusal.id.empty())
      return tl::make_unexpected(refusal);
    return spare_forget_reply{{3, 24, 900}, ""};
  }
  result<evacuation_state> spare_evacuate(const std::string& uuid, bool dry_run, bool partial) override {
    note("spare_evacuate " + uuid.substr(0, 8) + (dry_run ? " dry" : "") + (partial ? " partial" : ""));
    if (!refusal.id.empty())
      return tl::make_unexpected(refusal);
    return evacuating;
  }
  result<void> stop_evacuation() override {
    note("stop_evacuation");
    evacuating.running = false;
    return {};
  }
  result<void> spare_refill(const std::string& uuid) override {
    note("spare_refill " + uuid.substr(0, 8));
    return {};
  }
  evacuation_state evacuation() const override { return evacuating; }

  std::vector<std::string> asked() const {
    const std::lock_guard lock(mutex_);
    return asked_;
  }

  disk_stats stats_now;
  disk_info info_now;
  std::vector<remap_entry> remaps;
  error refusal;
  std::set<unsigned> in_pieces; // spares on which nothing free lies together
  std::shared_ptr<const set_dump> dump_now;
  unsigned retries = 1;
  log_level level = log_level::info;
  dust_control* dust_now = nullptr;
  evacuation_state evacuating;

private:
  void note(const std::string& what) {
    const std::lock_guard lock(mutex_);
    asked_.push_back(what);
  }
  mutable std::mutex mutex_;
  std::vector<std::string> asked_;
};

} // namespace dmremap
