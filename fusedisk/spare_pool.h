// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/preallocate.h"
#include "engine/set_members.h"
#include "fusedisk/control_target.h"
#include "fusedisk/log.h"

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace dmremap {

/// The members of a running set, and the changes of its spares: what is checked before a spare is taken, its
/// claim, the engine's change, the set's configuration and what this host remembers of the set, in the order
/// that leaves the set attachable wherever the machine goes down. Thread-safe.
class spare_pool {
public:
  /// `device`: of the mount, "major:minor"; a spare must not lie on what the set itself serves.
  spare_pool(disk& set, event_log& log, set_members from, const disk_info& now, bool read_only,
             std::string device);
  /// As stop().
  ~spare_pool() { stop(); }
  spare_pool(const spare_pool&) = delete;
  spare_pool& operator=(const spare_pool&) = delete;
  /// Stops an evacuation, waits for its end and for that of a change under way (disk::end_changes() hastens
  /// it); those that come later are refused ("stopping"). Idempotent.
  void stop();

  /// Errors: see control_target, whose functions these are.
  [[nodiscard]] result<spare_add_reply> add(const spare_add_request& request);
  [[nodiscard]] result<spare_change_reply> remove(const std::string& uuid, bool dry_run);
  [[nodiscard]] result<spare_forget_reply> forget(const std::string& uuid, bool dry_run);
  [[nodiscard]] result<evacuation_state> evacuate(const std::string& uuid, bool dry_run, bool partial);
  [[nodiscard]] result<void> stop_evacuation();
  [[nodiscard]] result<void> refill(const std::string& uuid);
  [[nodiscard]] evacuation_state evacuation() const;

  /// Puts the members as they were given into what the disk tells: absent spares have no path there. Adds
  /// record_trouble() to its notices.
  void describe(disk_info& info) const;
  /// Why this host could not keep what it saw last of the set; empty where it could.
  [[nodiscard]] std::string record_trouble() const;
  [[nodiscard]] std::string main_text() const;
  [[nodiscard]] std::vector<std::string>
  spare_texts() const; ///< of the present ones, in the order of the set
  [[nodiscard]] result<std::shared_ptr<dust_control>> dust(const std::string& store) const;
  /// The set's new name, into the claims' records.
  void rename(const std::string& name);

private:
  struct held_spare {
    std::string uuid;
    open_member member;
  };

  [[nodiscard]] result<void> check_running() const; ///< with change_mutex_. Errors: "stopping"
  /// Errors: "no-such-spare".
  [[nodiscard]] static result<const spare_status*> listed(const disk_info& now, const std::string& uuid);
  [[nodiscard]] result<void> check_place(const member_spec& spec) const;
  [[nodiscard]] result<void> check_own_places(const member_spec& spec) const;
  [[nodiscard]] result<open_member> open_candidate(const member_spec& spec, bool dry_run);
  [[nodiscard]] bool is_member(const member_spec& spec) const;
  [[nodiscard]] result<bool> check_candidate(const open_member& member, const spare_add_request& request,
                                             const disk_info& info) const;
  [[nodiscard]] result<void> put_into_set(const open_member& member, bool wipe, preallocation room,
                                          spare_add_reply& reply);
  void take(open_member member, const std::string& uuid);
  bool drop(const std::string& uuid);
  [[nodiscard]] bool is_named(const std::string& text) const;
  std::string keep_record(const std::string& gone, std::string note = {});
  void run_evacuation(unsigned index, bool partial);
  [[nodiscard]] std::string known_text(const std::string& uuid) const;
  [[nodiscard]] std::vector<open_member> all_members() const;

  disk& set_;
  event_log& log_;
  const bool read_only_;
  const std::string device_;
  std::string set_name_, set_uuid_;
  const open_member main_;
  const std::shared_ptr<host_keeper> keeper_;

  std::mutex change_mutex_; ///< one change at a time; never held while an evacuation runs

  mutable std::mutex members_mutex_; ///< never held while the disk is asked
  std::map<unsigned, held_spare> spares_;
  std::map<std::string, std::string> away_; ///< UUID of an absent spare: the member, where it is known
  std::vector<open_member> parked_;         ///< no member, but sharing its claim with members that stay

  mutable std::mutex evacuation_mutex_;
  evacuation_state evacuation_;
  bool stop_evacuation_ = false, stopped_ = false;
  std::thread evacuator_;
};

} // namespace dmremap
