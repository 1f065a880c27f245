// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/dust_store.h"

#include "engine/units.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>

namespace dmremap {

bool dust_control::enabled() const {
  const std::lock_guard lock(mutex_);
  return enabled_;
}

void dust_control::enable(bool on) {
  const std::lock_guard lock(mutex_);
  enabled_ = on;
  refresh();
}

void dust_control::set_heal(bool on) {
  const std::lock_guard lock(mutex_);
  heal_ = on;
}

void dust_control::refresh() {
  // Release-acquire is not needed: who calls a setter and then starts a transfer has ordered the two by other
  // means.
  active_.store((enabled_ && !bad_.empty()) || !slow_.empty(), std::memory_order_relaxed);
}

result<void> dust_control::check_range(std::uint64_t first, std::uint64_t count) const {
  if (count == 0 || first >= sectors_ || count > sectors_ - first)
    return fail("dust-range",
                count == 0 ? "0 sectors from " + std::to_string(first)
                           : "sector " + std::to_string(first) +
                                 (count == 1 ? "" : " and " + std::to_string(count - 1) + " more"),
                "not on this member, which has " + std::to_string(sectors_) + " sectors", exit_code::failed);
  return {};
}

/// Cuts [first, end) out of the map, changes its modes and puts it back, joined with equal neighbours.
void dust_control::change(std::uint64_t first, std::uint64_t end, dust_mode set, dust_mode reset) {
  const auto split = [this](std::uint64_t at) {
    auto it = bad_.lower_bound(at);
    if (it == bad_.begin())
      return;
    --it;
    if (it->second.end > at) {
      bad_.emplace(at, it->second);
      it->second.end = at;
    }
  };
  split(first);
  split(end);
  std::vector<dust_range> pieces;
  auto it = bad_.lower_bound(first);
  std::uint64_t at = first;
  const auto piece = [&](std::uint64_t to, dust_mode old) {
    const dust_mode mode = without(old, reset) | set;
    if (to > at && mode != dust_mode::none)
      pieces.push_back({at, to - at, mode});
    at = to;
  };
  while (it != bad_.end() && it->first < end) {
    piece(it->first, dust_mode::none);
    piece(it->second.end, it->second.mode);
    it = bad_.erase(it);
  }
  piece(end, dust_mode::none);
  for (const auto& p : pieces)
    bad_[p.first] = {p.first + p.count, p.mode};
  // Join what touches within and at both ends.
  it = bad_.lower_bound(first);
  if (it != bad_.begin())
    --it;
  while (it != bad_.end() && it->first <= end) {
    const auto next = std::next(it);
    if (next != bad_.end() && next->first == it->second.end && next->second.mode == it->second.mode) {
      it->second.end = next->second.end;
      bad_.erase(next);
    } else {
      it = next;
    }
  }
  refresh();
}

dust_mode dust_control::mode_in(std::uint64_t first, std::uint64_t end) const {
  dust_mode mode = dust_mode::none;
  auto it = bad_.upper_bound(first);
  if (it != bad_.begin())
    --it;
  for (; it != bad_.end() && it->first < end; ++it)
    if (it->second.end > first)
      mode = mode | it->second.mode;
  return mode;
}

result<void> dust_control::add(std::uint64_t first, std::uint64_t count, dust_mode mode) {
  CHECK_OK(check_range(first, count));
  const std::lock_guard lock(mutex_);
  change(first, first + count, mode, dust_mode::none);
  return {};
}

result<void> dust_control::remove(std::uint64_t first, std::uint64_t count, dust_mode mode) {
  CHECK_OK(check_range(first, count));
  const std::lock_guard lock(mutex_);
  change(first, first + count, dust_mode::none, mode);
  return {};
}

std::uint64_t dust_control::clear() {
  const std::uint64_t before = count();
  release();
  const std::lock_guard lock(mutex_);
  bad_.clear();
  slow_.clear();
  refresh();
  return before;
}

dust_mode dust_control::query(std::uint64_t sector) const {
  const std::lock_guard lock(mutex_);
  return mode_in(sector, sector + 1);
}

std::uint64_t dust_control::count() const {
  const std::lock_guard lock(mutex_);
  std::uint64_t n = 0;
  for (const auto& [first, range] : bad_)
    n += range.end - first;
  return n;
}

std::vector<dust_range> dust_control::list() const {
  const std::lock_guard lock(mutex_);
  std::vector<dust_range> out;
  for (const auto& [first, range] : bad_)
    out.push_back({first, range.end - first, range.mode});
  return out;
}

result<void> dust_control::set_read_delay(std::uint64_t first, std::uint64_t count,
                                          std::chrono::milliseconds delay) {
  CHECK_OK(check_range(first, count));
  const std::lock_guard lock(mutex_);
  std::erase_if(slow_, [&](const slow_range& s) {
    return s.delay.count() != 0 && s.first < first + count && first < s.end;
  });
  if (delay.count() > 0)
    slow_.push_back({first, first + count, dust_mode::read, delay});
  refresh();
  return {};
}

result<void> dust_control::hold(std::uint64_t first, std::uint64_t count, dust_mode mode) {
  CHECK_OK(check_range(first, count));
  const std::lock_guard lock(mutex_);
  slow_.push_back({first, first + count, mode, {}});
  refresh();
  return {};
}

void dust_control::release() {
  const std::lock_guard lock(mutex_);
  std::erase_if(slow_, [](const slow_range& s) { return s.delay.count() == 0; });
  ++releases_;
  refresh();
  changed_.notify_all();
}

unsigned dust_control::held() const {
  const std::lock_guard lock(mutex_);
  return held_;
}

bool dust_control::wait_held(unsigned n, std::chrono::milliseconds limit) const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, limit, [&] { return held_ >= n; });
}

bool dust_control::passes(std::uint64_t first, std::uint64_t end, dust_mode direction) {
  std::unique_lock lock(mutex_);
  std::chrono::milliseconds delay{0};
  bool hang = false;
  for (const auto& s : slow_) {
    if (s.first >= end || first >= s.end || (s.mode & direction) == dust_mode::none)
      continue;
    hang = hang || s.delay.count() == 0;
    delay = std::max(delay, s.delay);
  }
  if (delay.count() > 0) {
    lock.unlock();
    std::this_thread::sleep_for(delay);
    lock.lock();
  }
  if (hang) {
    ++held_;
    changed_.notify_all();
    changed_.wait(lock, [this, seen = releases_] { return releases_ != seen; });
    --held_;
  }
  const bool bad = enabled_ && (mode_in(first, end) & direction) != dust_mode::none;
  if (bad)
    (direction == dust_mode::read ? failed_reads_ : failed_writes_).fetch_add(1, std::memory_order_relaxed);
  return !bad;
}

void dust_control::written(std::uint64_t first, std::uint64_t end) {
  const std::lock_guard lock(mutex_);
  if (heal_ && enabled_ && mode_in(first, end) != dust_mode::none)
    change(first, end, dust_mode::none, dust_mode::read);
}

dust_store::dust_store(std::shared_ptr<store> below)
    : below_(std::move(below)), control_(std::make_shared<dust_control>(below_->size() / sector_bytes)),
      identity_(below_->identity()) {
  identity_.path = "dust:" + identity_.path;
}

result<void> dust_store::preload() {
  const std::string path = preload_path(*below_);
  errno = 0;
  std::ifstream file(path);
  if (!file) {
    if (errno == ENOENT || errno == ENOTDIR)
      return {};
    return fail("bad-dust-file", path, std::string("cannot be read: ") + std::strerror(errno));
  }
  std::ostringstream text;
  text << file.rdbuf();
  return control_->load(text.str(), path);
}

bool dust_store::valid(std::uint64_t length, std::uint64_t offset) const {
  return offset <= below_->size() && length <= below_->size() - offset;
}

io_result dust_store::read(std::span<std::byte> buffer, std::uint64_t offset) {
  if (!control_->quiet() && valid(buffer.size(), offset) && !buffer.empty()) {
    if (!control_->passes(offset / sector_bytes, (offset + buffer.size() + sector_bytes - 1) / sector_bytes,
                          dust_mode::read))
      return io_fail(io_error::medium);
  }
  return below_->read(buffer, offset);
}

io_result dust_store::write(std::span<const std::byte> buffer, std::uint64_t offset) {
  if (control_->quiet() || !valid(buffer.size(), offset) || buffer.empty())
    return below_->write(buffer, offset);
  const std::uint64_t first = offset / sector_bytes;
  const std::uint64_t end = (offset + buffer.size() + sector_bytes - 1) / sector_bytes;
  if (!control_->passes(first, end, dust_mode::write))
    return io_fail(io_error::medium);
  CHECK_OK(below_->write(buffer, offset));
  control_->written(first, end);
  return {};
}

io_result dust_store::zero(std::uint64_t offset, std::uint64_t length) {
  if (control_->quiet() || !valid(length, offset) || length == 0)
    return below_->zero(offset, length);
  const std::uint64_t first = offset / sector_bytes;
  const std::uint64_t end = (offset + length + sector_bytes - 1) / sector_bytes;
  if (!control_->passes(first, end, dust_mode::write))
    return io_fail(io_error::medium);
  CHECK_OK(below_->zero(offset, length));
  control_->written(first, end);
  return {};
}

} // namespace dmremap
