// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/store.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace dmremap {

/// Which transfers a bad sector fails. Bits.
enum class dust_mode : std::uint8_t { none = 0, read = 1, write = 2, both = 3 };

[[nodiscard]] constexpr dust_mode operator|(dust_mode a, dust_mode b) {
  return dust_mode(unsigned(a) | unsigned(b));
}
[[nodiscard]] constexpr dust_mode operator&(dust_mode a, dust_mode b) {
  return dust_mode(unsigned(a) & unsigned(b));
}
[[nodiscard]] constexpr dust_mode without(dust_mode a, dust_mode b) {
  return dust_mode(unsigned(a) & ~unsigned(b));
}
[[nodiscard]] std::string to_text(dust_mode mode); ///< "read", "write", "both", "none"
[[nodiscard]] std::optional<dust_mode> parse_dust_mode(const std::string& text);

/// Neighbouring sectors that are bad in the same way.
struct dust_range {
  std::uint64_t first = 0; ///< sector of the member
  std::uint64_t count = 0;
  dust_mode mode = dust_mode::none;
  friend bool operator==(const dust_range&, const dust_range&) = default;
};

/// The switchboard of a dust store: which of its sectors fail, answer late or not at all. Sectors of 512
/// bytes, counted from the start of the member. Thread-safe. Enabled from the start, with nothing bad.
class dust_control {
public:
  explicit dust_control(std::uint64_t sectors) : sectors_(sectors) {}

  /// Adds `mode` to `count` sectors. Errors: "dust-range".
  [[nodiscard]] result<void> add(std::uint64_t first, std::uint64_t count = 1,
                                 dust_mode mode = dust_mode::both);
  /// Takes `mode` off `count` sectors, bad or not. Errors: "dust-range".
  [[nodiscard]] result<void> remove(std::uint64_t first, std::uint64_t count = 1,
                                    dust_mode mode = dust_mode::both);
  /// Nothing is bad, late or held any more; returns how many sectors were bad.
  std::uint64_t clear();
  [[nodiscard]] dust_mode query(std::uint64_t sector) const;
  [[nodiscard]] std::uint64_t count() const;          ///< bad sectors
  [[nodiscard]] std::vector<dust_range> list() const; ///< ascending
  /// Disabled: all transfers pass, the list is kept.
  void enable(bool on);
  [[nodiscard]] bool enabled() const;
  /// Whether a write that does not fail makes its sectors readable again, as a drive's own remapping does
  /// (default: yes).
  void set_heal(bool on);

  /// Every read that touches these sectors takes `delay` longer; zero takes it back. Errors: "dust-range".
  [[nodiscard]] result<void> set_read_delay(std::uint64_t first, std::uint64_t count,
                                            std::chrono::milliseconds delay);
  /// Transfers that touch these sectors hang until release(), as on a drive that does not answer. Errors:
  /// "dust-range".
  [[nodiscard]] result<void> hold(std::uint64_t first, std::uint64_t count, dust_mode mode = dust_mode::both);
  /// Lets all held transfers go on and holds no more.
  void release();
  [[nodiscard]] unsigned held() const; ///< transfers that hang now
  /// Waits until at least `n` transfers hang; false when `limit` ran out.
  [[nodiscard]] bool wait_held(unsigned n, std::chrono::milliseconds limit) const;

  [[nodiscard]] std::uint64_t failed_reads() const { return failed_reads_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t failed_writes() const { return failed_writes_.load(std::memory_order_relaxed); }

  /// The words of `dmremap dust NAME STORE ...`: addbadblock SECTOR [read|write|both] [COUNT], removebadblock
  /// (the same), queryblock SECTOR, countbadblocks, listbadblocks, clearbadblocks, enable, disable, heal
  /// on|off, delay SECTOR COUNT MILLISECONDS, status. Returns the reply for a person. Errors: "dust-usage"
  /// (usage), "dust-range".
  [[nodiscard]] result<std::string> command(std::span<const std::string> words);

  /// Lines `SECTOR [read|write|both] [COUNT]`, `#` comments; all or nothing. Errors: "bad-dust-file" (names
  /// the line).
  [[nodiscard]] result<void> load(const std::string& text, const std::string& name);

private:
  friend class dust_store;
  struct bad_range {
    std::uint64_t end = 0;
    dust_mode mode = dust_mode::none;
  };
  struct slow_range {
    std::uint64_t first = 0, end = 0;
    dust_mode mode = dust_mode::none;
    std::chrono::milliseconds delay{0}; // zero: held
  };

  /// One relaxed load while nothing is bad.
  [[nodiscard]] bool quiet() const { return !active_.load(std::memory_order_relaxed); }
  [[nodiscard]] bool passes(std::uint64_t first, std::uint64_t end, dust_mode direction);
  void written(std::uint64_t first, std::uint64_t end);
  [[nodiscard]] result<void> check_range(std::uint64_t first, std::uint64_t count) const;
  void change(std::uint64_t first, std::uint64_t end, dust_mode set, dust_mode reset); // under mutex_
  [[nodiscard]] dust_mode mode_in(std::uint64_t first, std::uint64_t end) const;       // under mutex_
  void refresh();                                                                      // under mutex_
  [[nodiscard]] result<std::string> range_command(std::span<const std::string> words);

  const std::uint64_t sectors_;
  std::atomic<bool> active_{false};
  std::atomic<std::uint64_t> failed_reads_{0}, failed_writes_{0};
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::map<std::uint64_t, bad_range> bad_; // disjoint, by first sector; equal neighbours joined
  std::vector<slow_range> slow_;
  std::uint64_t releases_ = 0;
  unsigned held_ = 0;
  bool enabled_ = true;
  bool heal_ = true;
};

/// Wraps a store and fails chosen sectors on command; the kernel's dm-dust is the model. A transfer that
/// covers any bad sector fails whole with io_error::medium and does nothing; zero() counts as a write.
class dust_store final : public store {
public:
  explicit dust_store(std::shared_ptr<store> below);

  /// The file that is read at the open: the member's path without "dust:", with its range, and ".dust"
  /// behind:
  /// "/x/main.img.dust", "/dev/sdb@8+4096.dust". So a drill can start with a drive that is bad already.
  [[nodiscard]] static std::string preload_path(const store& below) {
    return below.identity().path + ".dust";
  }
  /// Reads preload_path() where it exists. Errors: "bad-dust-file".
  [[nodiscard]] result<void> preload();

  [[nodiscard]] const std::shared_ptr<dust_control>& control() const { return control_; }

  [[nodiscard]] std::uint64_t size() const override { return below_->size(); }
  [[nodiscard]] std::uint32_t block_size() const override { return below_->block_size(); }
  [[nodiscard]] io_result read(std::span<std::byte> buffer, std::uint64_t offset) override;
  [[nodiscard]] io_result write(std::span<const std::byte> buffer, std::uint64_t offset) override;
  [[nodiscard]] io_result flush() override { return below_->flush(); }
  [[nodiscard]] std::uint64_t failed_flushes() const override { return below_->failed_flushes(); }
  [[nodiscard]] io_result zero(std::uint64_t offset, std::uint64_t length) override;
  [[nodiscard]] const store_identity& identity() const override { return identity_; }

private:
  /// Invalid requests are left to the store below.
  [[nodiscard]] bool valid(std::uint64_t length, std::uint64_t offset) const;

  std::shared_ptr<store> below_;
  std::shared_ptr<dust_control> control_;
  store_identity identity_;
};

} // namespace dmremap
