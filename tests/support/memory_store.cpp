// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/memory_store.h"

#include "engine/units.h"

#include <algorithm>

namespace dmremap::test {

namespace {

bool overlap(std::uint64_t a, std::uint64_t a_count, std::uint64_t b, std::uint64_t b_count) {
  return a < b + b_count && b < a + a_count;
}

bool applies(direction when, bool writing) {
  return when == direction::both || (when == direction::write) == writing;
}

} // namespace

void heal_written(fault_table& faults, std::uint64_t first, std::uint64_t sectors) {
  std::vector<bad_range> kept;
  for (const bad_range& bad : faults.bad) {
    if (!bad.write_heals || bad.when != direction::read || !overlap(first, sectors, bad.first, bad.count)) {
      kept.push_back(bad);
      continue;
    }
    const auto keep = [&](std::uint64_t from, std::uint64_t to) {
      if (from < to)
        kept.push_back({from, to - from, bad.when, bad.error, bad.times, true});
    };
    keep(bad.first, first);
    keep(first + sectors, bad.first + bad.count);
  }
  faults.bad = std::move(kept);
}

memory_store::memory_store(std::uint64_t size, std::uint32_t block_size)
    : memory_store(page_image(size), block_size) {}

memory_store::memory_store(page_image content, std::uint32_t block_size, fault_table faults)
    : size_(content.size()), block_size_(block_size), content_(std::move(content)),
      faults_(std::move(faults)) {
  identity_.path = "memory";
}

bool memory_store::valid(std::uint64_t offset, std::uint64_t length) const {
  return offset % block_size_ == 0 && length % block_size_ == 0 && offset <= size_ &&
         length <= size_ - offset;
}

void memory_store::pass_gate(std::unique_lock<std::mutex>& lock, std::uint64_t offset, std::uint64_t length,
                             purpose what) {
  const auto blocked = [&] {
    return gate_.closed && !gate_.flush && applies(gate_.when, what != purpose::read) &&
           overlap(offset / sector_bytes, length / sector_bytes, gate_.first, gate_.count);
  };
  if (!blocked())
    return;
  ++gate_.waiting;
  gate_changed_.notify_all();
  gate_changed_.wait(lock, [&] { return !blocked(); });
  --gate_.waiting;
}

void memory_store::count(std::uint64_t offset, std::uint64_t length, purpose what) {
  ++(what == purpose::read ? counts_.reads : what == purpose::write ? counts_.writes : counts_.zeroes);
  for (watched& w : watched_)
    if (overlap(offset / sector_bytes, length / sector_bytes, w.sector, 1))
      ++(what == purpose::read ? w.reads : w.writes);
}

memory_store::verdict memory_store::judge(std::uint64_t offset, std::uint64_t length, purpose what) {
  if (faults_.all) {
    if (faults_.all_after_writes == 0)
      return {0, faults_.all};
    faults_.all_after_writes -= what != purpose::read ? 1 : 0;
  }
  const std::uint64_t first = offset / sector_bytes, sectors = length / sector_bytes;
  bad_range* worst = nullptr;
  std::uint64_t where = 0;
  for (bad_range& bad : faults_.bad) {
    if (bad.times == 0 || !applies(bad.when, what != purpose::read) ||
        !overlap(first, sectors, bad.first, bad.count))
      continue;
    const std::uint64_t hit = std::max(bad.first, first);
    if (worst == nullptr || hit < where) {
      worst = &bad;
      where = hit;
    }
  }
  if (worst == nullptr)
    return {length, std::nullopt};
  if (worst->times != always)
    --worst->times;
  // Whole blocks only: a 4Kn drive has no smaller piece to succeed with.
  return {align_down((where - first) * sector_bytes, block_size_), worst->error};
}

void memory_store::change(std::uint64_t offset, std::uint64_t length, const std::byte* bytes) {
  if (length == 0)
    return;
  if (hook_ && !hook_(offset, length, bytes))
    return;
  if (bytes != nullptr)
    content_.write(std::span(bytes, length), offset);
  else
    content_.zero(offset, length);
  heal_written(faults_, offset / sector_bytes, length / sector_bytes);
}

io_result memory_store::read(std::span<std::byte> buffer, std::uint64_t offset) {
  if (!valid(offset, buffer.size()))
    return io_fail(io_error::invalid);
  std::unique_lock lock(mutex_);
  pass_gate(lock, offset, buffer.size(), purpose::read);
  count(offset, buffer.size(), purpose::read);
  const verdict said = judge(offset, buffer.size(), purpose::read);
  if (said.error) {
    // What a failed read leaves in the buffer is anybody's guess: make sure that nobody uses it.
    std::fill(buffer.begin(), buffer.end(), std::byte{0xDB});
    return io_fail(*said.error);
  }
  content_.read(buffer, offset);
  return {};
}

io_result memory_store::write(std::span<const std::byte> buffer, std::uint64_t offset) {
  if (!valid(offset, buffer.size()))
    return io_fail(io_error::invalid);
  std::unique_lock lock(mutex_);
  pass_gate(lock, offset, buffer.size(), purpose::write);
  count(offset, buffer.size(), purpose::write);
  const verdict said = judge(offset, buffer.size(), purpose::write);
  change(offset, said.good_bytes, buffer.data());
  if (said.error)
    return io_fail(*said.error);
  return {};
}

io_result memory_store::zero(std::uint64_t offset, std::uint64_t length) {
  if (!valid(offset, length))
    return io_fail(io_error::invalid);
  std::unique_lock lock(mutex_);
  if (faults_.zero_unsupported)
    return io_fail(io_error::unsupported);
  pass_gate(lock, offset, length, purpose::zero);
  count(offset, length, purpose::zero);
  const verdict said = judge(offset, length, purpose::zero);
  change(offset, said.good_bytes, nullptr);
  if (said.error)
    return io_fail(*said.error);
  return {};
}

io_result memory_store::flush() {
  std::unique_lock lock(mutex_);
  if (gate_.closed && gate_.flush) {
    ++gate_.waiting;
    gate_changed_.notify_all();
    gate_changed_.wait(lock, [&] { return !gate_.closed; });
    --gate_.waiting;
  }
  ++counts_.flushes;
  if (faults_.all && faults_.all_after_writes == 0) {
    ++failed_flushes_;
    return io_fail(*faults_.all);
  }
  if (faults_.good_flushes > 0) {
    --faults_.good_flushes;
  } else if (faults_.flush_failures > 0) {
    --faults_.flush_failures;
    ++failed_flushes_;
    return io_fail(faults_.flush_error);
  }
  return {};
}

page_image memory_store::image() const {
  const std::lock_guard lock(mutex_);
  return content_;
}

void memory_store::set_image(page_image content) {
  const std::lock_guard lock(mutex_);
  content_ = std::move(content);
}

fault_table memory_store::faults() const {
  const std::lock_guard lock(mutex_);
  return faults_;
}

void memory_store::set_faults(fault_table faults) {
  const std::lock_guard lock(mutex_);
  faults_ = std::move(faults);
}

void memory_store::add_bad(bad_range range) {
  const std::lock_guard lock(mutex_);
  faults_.bad.push_back(range);
}

void memory_store::clear_bad(std::uint64_t first, std::uint64_t count, direction when) {
  const std::lock_guard lock(mutex_);
  std::vector<bad_range> kept;
  for (const bad_range& bad : faults_.bad) {
    if (!overlap(first, count, bad.first, bad.count)) {
      kept.push_back(bad);
      continue;
    }
    const auto keep = [&](std::uint64_t from, std::uint64_t to, direction still) {
      if (from < to)
        kept.push_back({from, to - from, still, bad.error, bad.times, bad.write_heals});
    };
    const std::uint64_t end = bad.first + bad.count;
    keep(bad.first, std::min(first, end), bad.when);
    keep(std::max(first + count, bad.first), end, bad.when);
    // Within the range only the direction that was not cleared stays bad.
    if (when != direction::both && bad.when != when)
      keep(std::max(first, bad.first), std::min(first + count, end),
           when == direction::read ? direction::write : direction::read);
  }
  faults_.bad = std::move(kept);
}

void memory_store::clear_faults() {
  set_faults({});
}

void memory_store::fail_flushes(std::uint64_t times, io_error error, std::uint64_t good_before) {
  const std::lock_guard lock(mutex_);
  faults_.good_flushes = good_before;
  faults_.flush_failures = times;
  faults_.flush_error = error;
}

store_counts memory_store::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

void memory_store::watch(std::uint64_t sector) {
  const std::lock_guard lock(mutex_);
  watched_.push_back({sector, 0, 0});
}

std::uint64_t memory_store::touched(std::uint64_t sector, direction when) const {
  const std::lock_guard lock(mutex_);
  for (const watched& w : watched_)
    if (w.sector == sector)
      return (applies(when, false) ? w.reads : 0) + (applies(when, true) ? w.writes : 0);
  return 0;
}

void memory_store::close_gate(std::uint64_t first, std::uint64_t count, direction when) {
  const std::lock_guard lock(mutex_);
  gate_ = {first, count, when, false, true, gate_.waiting};
}

void memory_store::close_flush_gate() {
  const std::lock_guard lock(mutex_);
  gate_ = {0, 0, direction::both, true, true, gate_.waiting};
}

void memory_store::open_gate() {
  const std::lock_guard lock(mutex_);
  gate_.closed = false;
  gate_changed_.notify_all();
}

void memory_store::wait_for_blocked(unsigned requests) {
  std::unique_lock lock(mutex_);
  gate_changed_.wait(lock, [&] { return gate_.waiting >= requests; });
}

void memory_store::on_change(change_hook hook) {
  const std::lock_guard lock(mutex_);
  hook_ = std::move(hook);
}

} // namespace dmremap::test
