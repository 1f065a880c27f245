// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/disk.h"
#include "engine/loop_control.h"
#include "fusedisk/control_target.h"
#include "fusedisk/mount.h"
#include "fusedisk/run_files.h"
#include "fusedisk/spare_pool.h"
#include "fusedisk/worker_pool.h"

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace dmremap {

/// What a daemon consists of, for the control server. All must outlive the live_target.
struct daemon_parts {
  disk& set;
  event_log& log;
  worker_pool& workers;
  run_files& files;
  mount_place place;
  std::string device; ///< of the mount, "major:minor"
  spare_pool& pool;
  std::vector<std::string> notices; ///< of the start, beyond the disk's own
  unsigned read_retries = 1;
};

/// The running set behind the control socket, the ctl/ files and the statistics.
class live_target final : public control_target {
public:
  /// `first`: what disk::info() said at the open.
  live_target(daemon_parts parts, disk_info first);
  ~live_target() override { quiesce(); }
  /// Waits for an info() under way; from now on info() tells what is known. Idempotent.
  void quiesce();

  /// Without asking the disk.
  [[nodiscard]] disk_info known_info() const;
  /// info.json, written anew.
  [[nodiscard]] result<void> write_info_file() const;

  [[nodiscard]] disk_stats stats() const override { return parts_.set.stats(); }
  [[nodiscard]] daemon_facts facts() const override;
  [[nodiscard]] dated_info info(std::chrono::milliseconds limit) override;
  void for_each_remap(const std::function<void(const remap_entry&)>& visit) const override {
    parts_.set.for_each_remap(visit);
  }
  [[nodiscard]] std::vector<lost_range> lost() const override { return parts_.set.lost(); }
  [[nodiscard]] std::shared_ptr<const set_dump> dump() const override { return parts_.set.dump(); }
  [[nodiscard]] unsigned read_retries() const override {
    return read_retries_.load(std::memory_order_relaxed);
  }
  [[nodiscard]] log_level logging() const override { return parts_.log.level(); }
  void set_auto_remap(bool on) override;
  void set_read_retries(unsigned n) override;
  void set_logging(log_level level) override { parts_.log.set_level(level); }
  void clear_stats() override { parts_.set.clear_stats(); }
  void reset_breaker() override;

  [[nodiscard]] std::vector<std::string> loops() const override { return loops_on(parts_.place.image); }
  [[nodiscard]] result<remap_reply> remap(sector_number sector, std::uint64_t sectors) override;
  [[nodiscard]] result<void> unmap(sector_number sector) override;
  [[nodiscard]] result<remap_reply> add_remap(sector_number dest, std::optional<sector_number> source,
                                              std::uint64_t sectors, unsigned spare_index) override;
  [[nodiscard]] result<salvage_reply> salvage(std::optional<sector_number> sector) override;
  [[nodiscard]] result<void> sync() override { return parts_.set.sync(); }
  [[nodiscard]] result<void> save() override { return parts_.set.save(); }
  [[nodiscard]] result<void> rename(const std::string& new_name) override;
  [[nodiscard]] result<std::shared_ptr<dust_control>> dust(const std::string& store) override {
    return parts_.pool.dust(store);
  }
  [[nodiscard]] result<spare_add_reply> spare_add(const spare_add_request& request) override;
  [[nodiscard]] result<spare_change_reply> spare_remove(const std::string& uuid, bool dry_run) override;
  [[nodiscard]] result<spare_forget_reply> spare_forget(const std::string& uuid, bool dry_run) override;
  [[nodiscard]] result<evacuation_state> spare_evacuate(const std::string& uuid, bool dry_run,
                                                        bool partial) override {
    return parts_.pool.evacuate(uuid, dry_run, partial);
  }
  [[nodiscard]] result<void> stop_evacuation() override { return parts_.pool.stop_evacuation(); }
  [[nodiscard]] result<void> spare_refill(const std::string& uuid) override {
    return parts_.pool.refill(uuid);
  }
  [[nodiscard]] evacuation_state evacuation() const override { return parts_.pool.evacuation(); }
  [[nodiscard]] salvage_state salvaging() const override;
  [[nodiscard]] result<void> stop() override { return unmount(parts_.place, parts_.device); }

private:
  void refresh_loop();
  void complete(disk_info& info) const;
  void renew_info_file();
  void spares_changed();

  const daemon_parts parts_;
  std::atomic<unsigned> read_retries_;
  std::atomic<unsigned> salvages_{0}; ///< that run
  std::atomic<std::uint64_t> salvaged_{0}, to_salvage_{0};
  std::mutex rename_mutex_;

  mutable std::mutex mutex_; ///< never held while the disk is asked
  std::condition_variable changed_;
  disk_info info_;
  std::uint64_t info_at_ns_;
  std::uint64_t asked_ = 0, begun_ = 0, done_ = 0; ///< refreshes of info_, counted
  bool stop_ = false;
  std::thread refresher_; ///< last: it uses the others
};

} // namespace dmremap
