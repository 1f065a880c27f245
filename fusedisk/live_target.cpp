// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/live_target.h"

#include "engine/paths.h"
#include "fusedisk/clock.h"
#include "fusedisk/messages.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unistd.h>

namespace dmremap {

live_target::live_target(daemon_parts parts, disk_info first)
    : parts_(std::move(parts)), read_retries_(parts_.read_retries), info_(std::move(first)),
      info_at_ns_(boottime_ns()) {
  complete(info_);
  refresher_ = std::thread([this] { refresh_loop(); });
}

/// What the disk does not know of itself.
void live_target::complete(disk_info& info) const {
  info.notices.insert(info.notices.end(), parts_.notices.begin(), parts_.notices.end());
  parts_.pool.describe(info);
}

void live_target::quiesce() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (refresher_.joinable())
    refresher_.join();
}

/// The one thread that may hang in disk::info().
void live_target::refresh_loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stop_ || asked_ > begun_; });
    if (stop_)
      return;
    begun_ = asked_;
    const std::uint64_t mine = begun_;
    lock.unlock();
    auto fresh = parts_.set.info();
    if (fresh)
      complete(*fresh);
    lock.lock();
    if (fresh) {
      fresh->set_name = info_.set_name; // rename() alone changes it, perhaps just now
      info_ = std::move(*fresh);
      info_at_ns_ = boottime_ns();
      done_ = mine;
    } else if (parts_.log.wants(log_level::warn)) {
      parts_.log.warn("the spares' state cannot be read: " + fresh.error().text());
    }
    changed_.notify_all();
  }
}

dated_info live_target::info(std::chrono::milliseconds limit) {
  std::unique_lock lock(mutex_);
  if (limit.count() > 0) {
    // One refresh that begins after this call; those that already wait for it share it.
    const std::uint64_t wanted = begun_ + 1;
    asked_ = std::max(asked_, wanted);
    changed_.notify_all();
    changed_.wait_for(lock, limit, [&] { return done_ >= wanted || stop_; });
  }
  return {info_, static_cast<double>(boottime_ns() - info_at_ns_) * 1e-9};
}

disk_info live_target::known_info() const {
  const std::lock_guard lock(mutex_);
  return info_;
}

daemon_facts live_target::facts() const {
  const auto load = parts_.workers.now();
  return {parts_.place.path, parts_.place.image, static_cast<std::uint64_t>(getpid()), load.away,
          load.oldest_ns};
}

result<void> live_target::write_info_file() const {
  return parts_.files.write_info([this] {
    const disk_info info = known_info();
    const nlohmann::json doc = {{"pid", getpid()},
                                {"name", info.set_name},
                                {"uuid", info.set_uuid},
                                {"mountpoint", parts_.place.path},
                                {"image", parts_.place.image},
                                {"main", parts_.pool.main_text()},
                                {"spares", parts_.pool.spare_texts()}};
    return doc.dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
  });
}

/// What the folder says of the set follows a change that is made: it cannot fail for that.
void live_target::renew_info_file() {
  if (const auto written = write_info_file(); !written)
    parts_.log.warn(written.error().text());
}

void live_target::set_auto_remap(bool on) {
  parts_.set.set_auto_remap(on);
  parts_.log.info(std::string("automatic remapping switched ") + (on ? "on" : "off"));
}

void live_target::set_read_retries(unsigned n) {
  parts_.set.set_read_retries(n);
  read_retries_.store(n, std::memory_order_relaxed);
}

void live_target::reset_breaker() {
  parts_.set.reset_breaker();
  parts_.log.info("breaker reset: automatic remapping goes on");
}

result<remap_reply> live_target::remap(sector_number sector, std::uint64_t sectors) {
  auto done = parts_.set.remap(sector, sectors);
  if (done)
    parts_.log.info("sector " + std::to_string(sector.value) +
                    (sectors == 1 ? "" : " and " + std::to_string(sectors - 1) + " more") +
                    " remapped by hand: " + text_of(*done));
  return done;
}

result<void> live_target::unmap(sector_number sector) {
  auto done = parts_.set.unmap(sector);
  if (done)
    parts_.log.info("sector " + std::to_string(sector.value) + " written back to main, its remap removed");
  return done;
}

result<remap_reply> live_target::add_remap(sector_number dest, std::optional<sector_number> source,
                                           std::uint64_t sectors, unsigned spare_index) {
  auto done = parts_.set.add_remap(dest, source, sectors, spare_index);
  if (done)
    parts_.log.info("sectors from " + std::to_string(dest.value) + ", " + std::to_string(sectors) +
                    " of them, remapped without copying: " + text_of(*done));
  return done;
}

result<salvage_reply> live_target::salvage(std::optional<sector_number> sector) {
  ++salvages_;
  auto done = parts_.set.salvage(sector, [&](std::uint64_t units, std::uint64_t all) {
    to_salvage_.store(all, std::memory_order_relaxed);
    salvaged_.store(units, std::memory_order_relaxed);
  });
  --salvages_;
  if (done)
    parts_.log.info("salvage: " + text_of(*done));
  return done;
}

salvage_state live_target::salvaging() const {
  return {salvages_ != 0, salvaged_.load(std::memory_order_relaxed),
          to_salvage_.load(std::memory_order_relaxed)};
}

/// The folder first: it is what can be refused. Whoever looks for the old name meanwhile finds no set.
result<void> live_target::rename(const std::string& new_name) {
  if (!valid_new_set_name(new_name))
    return fail("bad-name", new_name, std::string("is no name for a set: ") + set_name_rule,
                exit_code::usage);
  const std::lock_guard one_at_a_time(rename_mutex_);
  const std::string old_name = known_info().set_name;
  CHECK_OK(parts_.files.rename(new_name));
  if (auto done = parts_.set.rename(new_name); !done) {
    [[maybe_unused]] const auto back = parts_.files.rename(old_name);
    return done;
  }
  {
    const std::lock_guard lock(mutex_);
    info_.set_name = new_name;
  }
  parts_.pool.rename(new_name);
  parts_.log.info("set " + old_name + " is now called " + new_name);
  renew_info_file();
  return {};
}

/// Whoever asks next is told of the change; what the folder says of the members is written anew.
void live_target::spares_changed() {
  [[maybe_unused]] const auto fresh = info(std::chrono::seconds(5));
  renew_info_file();
}

result<spare_add_reply> live_target::spare_add(const spare_add_request& request) {
  auto done = parts_.pool.add(request);
  if (done && !request.dry_run)
    spares_changed();
  return done;
}

result<spare_change_reply> live_target::spare_remove(const std::string& uuid, bool dry_run) {
  auto done = parts_.pool.remove(uuid, dry_run);
  if (done && !dry_run)
    spares_changed();
  return done;
}

result<spare_forget_reply> live_target::spare_forget(const std::string& uuid, bool dry_run) {
  auto done = parts_.pool.forget(uuid, dry_run);
  if (done && !dry_run)
    spares_changed();
  return done;
}

} // namespace dmremap
