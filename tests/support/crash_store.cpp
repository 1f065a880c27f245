// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/crash_store.h"

#include "engine/units.h"

#include <algorithm>
#include <cstring>

namespace dmremap::test {

namespace {

std::vector<write_piece> cut_into_pages(std::uint64_t offset, std::uint64_t length, const std::byte* bytes) {
  std::vector<write_piece> pieces;
  for (std::uint64_t done = 0; done < length;) {
    const std::uint64_t within = (offset + done) % page_bytes;
    const std::uint64_t now = std::min(length - done, page_bytes - within);
    write_piece piece;
    piece.page_number = (offset + done) / page_bytes;
    const auto count = static_cast<unsigned>(now / sector_bytes);
    piece.mask = ((1u << count) - 1) << (within / sector_bytes);
    if (bytes != nullptr) {
      auto content = std::make_shared<page>();
      std::memcpy(content->data.data() + within, bytes + done, now);
      piece.content = std::move(content);
    }
    pieces.push_back(std::move(piece));
    done += now;
  }
  return pieces;
}

} // namespace

unsigned crash_log::add_device(page_image initial) {
  const std::lock_guard lock(mutex_);
  initial_.push_back(std::move(initial));
  return static_cast<unsigned>(initial_.size() - 1);
}

void crash_log::add_write(unsigned device, std::uint64_t offset, std::uint64_t length, const std::byte* bytes,
                          bool forgotten) {
  log_event event;
  event.what = log_event::kind::write;
  event.device = device;
  event.offset = offset;
  event.length = length;
  event.pieces = cut_into_pages(offset, length, bytes);
  event.forgotten = forgotten;
  const std::lock_guard lock(mutex_);
  events_.push_back(std::move(event));
}

void crash_log::add_flush(unsigned device, std::size_t started, bool ok, bool loses) {
  log_event event;
  event.what = log_event::kind::flush;
  event.device = device;
  event.flush_started = started;
  event.flush_ok = ok;
  event.flush_loses = loses;
  const std::lock_guard lock(mutex_);
  events_.push_back(std::move(event));
}

std::size_t crash_log::add_marker(std::string label) {
  log_event event;
  event.label = std::move(label);
  const std::lock_guard lock(mutex_);
  events_.push_back(std::move(event));
  return markers_++;
}

std::size_t crash_log::size() const {
  const std::lock_guard lock(mutex_);
  return events_.size();
}

crash_store::crash_store(std::shared_ptr<crash_log> log, std::shared_ptr<memory_store> inner)
    : log_(std::move(log)), inner_(std::move(inner)), device_(log_->add_device(inner_->image())) {
  // The store calls this under its lock, in the order in which its content changes: the log has the same
  // order.
  inner_->on_change([this](std::uint64_t offset, std::uint64_t length, const std::byte* bytes) {
    write_fate fate = write_fate::kept;
    {
      const std::lock_guard lock(mutex_);
      if (rule_)
        fate = rule_(writes_, offset, length);
      ++writes_;
    }
    if (fate == write_fate::dropped)
      return false;
    log_->add_write(device_, offset, length, bytes, fate == write_fate::forgotten);
    return true;
  });
}

crash_store::~crash_store() {
  inner_->on_change(nullptr);
}

io_result crash_store::read(std::span<std::byte> buffer, std::uint64_t offset) {
  return inner_->read(buffer, offset);
}

io_result crash_store::write(std::span<const std::byte> buffer, std::uint64_t offset) {
  return inner_->write(buffer, offset);
}

io_result crash_store::zero(std::uint64_t offset, std::uint64_t length) {
  return inner_->zero(offset, length);
}

io_result crash_store::flush() {
  // Taken before the call: a write that comes while the flush is under way is not covered.
  const std::size_t started = log_->size();
  const io_result done = inner_->flush();
  log_->add_flush(device_, started, done.has_value(), !done && flush_loses_);
  return done;
}

std::uint64_t crash_store::failed_flushes() const {
  if (questions_left_.load() != 0 && questions_left_.fetch_sub(1) == 1)
    between_();
  return inner_->failed_flushes();
}

void crash_store::fail_flush_between(std::uint64_t asked) {
  between_ = [this] {
    inner_->fail_flushes(1);
    (void)flush();
  };
  questions_left_ = asked;
}

void crash_store::set_fate(fate_rule rule) {
  const std::lock_guard lock(mutex_);
  rule_ = std::move(rule);
}

std::uint64_t crash_store::writes_seen() const {
  const std::lock_guard lock(mutex_);
  return writes_;
}

} // namespace dmremap::test
