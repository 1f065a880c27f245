// SPDX-License-Identifier: GPL-2.0-or-later
// Emptying a spare, in a thread of its own.
#include "fusedisk/spare_pool.h"

#include <algorithm>
#include <fmt/format.h>
#include <system_error>

namespace dmremap {

evacuation_state spare_pool::evacuation() const {
  const std::lock_guard lock(evacuation_mutex_);
  return evacuation_;
}

result<evacuation_state> spare_pool::evacuate(const std::string& uuid, bool dry_run, bool partial) {
  const std::lock_guard change(change_mutex_);
  CHECK_OK(check_running());
  const auto info = TRY(set_.info());
  const auto* spare = TRY(listed(info, uuid));
  if (read_only_)
    return fail("read-only", set_name_, "the set is open read-only");
  if (!spare->present && !spare->readable)
    return fail("spare-absent", spare->uuid, "is absent: nothing can be read from it");
  if (std::count_if(info.spares.begin(), info.spares.end(), [](const spare_status& s) { return s.present; }) <
      (spare->present ? 2 : 1))
    return fail("last-spare", spare->path, "is the only spare that is present: add another one first");
  {
    const std::lock_guard lock(evacuation_mutex_);
    if (stopped_)
      return fail("stopping", set_name_, "the daemon stops");
    if (evacuation_.running)
      return fail("evacuation-running", evacuation_.path, "is being emptied already; one at a time");
  }
  const auto units =
      TRY(set_.plan_evacuate(spare->index, partial)); // what does not fit is refused before anything moves
  if (dry_run)
    return evacuation_state{0, false, spare->uuid, spare->path, 0, units, {}, std::nullopt};
  {
    const std::lock_guard lock(evacuation_mutex_); // only who holds change_mutex_ lets one begin
    if (stopped_)                                  // while it was planned
      return fail("stopping", set_name_, "the daemon stops");
    const auto number = evacuation_.number + 1;
    evacuation_ = {number, true, spare->uuid, spare->path, 0, units, {}, std::nullopt};
    stop_evacuation_ = false;
  }
  if (evacuator_.joinable())
    evacuator_.join();
  log_.info("evacuating spare " + spare->path);
  try { // std::thread has no form that returns an error
    evacuator_ = std::thread([this, index = spare->index, partial] { run_evacuation(index, partial); });
  } catch (const std::system_error&) {
    error none{"no-threads", spare->path, "cannot start a thread; nothing was moved. Try again"};
    const std::lock_guard lock(evacuation_mutex_);
    evacuation_.running = false;
    evacuation_.failed = none;
    return tl::make_unexpected(std::move(none));
  }
  return evacuation();
}

void spare_pool::run_evacuation(unsigned index, bool partial) {
  const auto note = [this](std::uint64_t done, std::uint64_t all) {
    const std::lock_guard lock(evacuation_mutex_);
    evacuation_.done = done;
    evacuation_.all = all;
    return !stop_evacuation_;
  };
  const auto moved = set_.evacuate_spare(index, note, partial);
  const std::lock_guard lock(evacuation_mutex_);
  evacuation_.running = false;
  if (moved) {
    evacuation_.moved = *moved;
    evacuation_.done = evacuation_.all = moved->moved;
    log_.info(fmt::format("spare {}: {} units moved, {} sectors lost", evacuation_.path, moved->moved,
                          moved->lost_sectors));
  } else {
    evacuation_.failed = moved.error();
    log_.warn("evacuation: " + moved.error().text());
  }
}

result<void> spare_pool::stop_evacuation() {
  std::uint64_t meant = 0;
  {
    const std::lock_guard lock(evacuation_mutex_);
    if (!evacuation_.running)
      return fail("no-evacuation", set_name_, "no spare of the set is being emptied");
    stop_evacuation_ = true;
    meant = evacuation_.number;
  }
  const std::lock_guard change(change_mutex_);
  // Where another one began meanwhile, the one that was meant is over.
  if (evacuation().number == meant && evacuator_.joinable())
    evacuator_.join();
  return {};
}

result<void> spare_pool::refill(const std::string& uuid) {
  const std::lock_guard change(change_mutex_);
  const auto info = TRY(set_.info());
  const auto* spare = TRY(listed(info, uuid));
  if (const auto now = evacuation(); now.running && now.uuid == spare->uuid)
    return fail("evacuation-running", spare->path, "is being emptied; stop that first");
  set_.refill_spare(spare->index);
  log_.info("spare " + spare->path + " takes new data again");
  return {};
}

} // namespace dmremap
