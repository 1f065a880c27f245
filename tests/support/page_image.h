// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace dmremap::test {

inline constexpr std::uint64_t page_bytes = 4096;
inline constexpr unsigned page_sectors = 8;

/// 4 KiB of a device's content. Never changed once an image holds it, so images and threads share it freely.
class page {
public:
  std::array<std::byte, page_bytes> data{};

  page() = default;
  explicit page(std::span<const std::byte, page_bytes> bytes);
  /// A hash of the content, 0 for a page of zeros; computed once.
  [[nodiscard]] std::uint64_t hash() const;

private:
  mutable std::atomic<std::uint64_t> hash_{0};
  mutable std::atomic<bool> hashed_{false};
};

using page_ptr = std::shared_ptr<const page>; ///< nothing: zeros

/// The content of a whole device, sparse. A copy costs a pointer per 256 KiB; pages are shared, replaced on
/// write. Not thread-safe by itself; copies are independent of each other.
class page_image {
public:
  explicit page_image(std::uint64_t size = 0);

  [[nodiscard]] std::uint64_t size() const { return size_; }
  [[nodiscard]] std::uint64_t pages() const { return (size_ + page_bytes - 1) / page_bytes; }

  /// Any alignment; the range must lie within the device.
  void read(std::span<std::byte> buffer, std::uint64_t offset) const;
  void write(std::span<const std::byte> buffer, std::uint64_t offset);
  void zero(std::uint64_t offset, std::uint64_t length);

  [[nodiscard]] const page* at(std::uint64_t number) const; ///< null: zeros
  [[nodiscard]] page_ptr share(std::uint64_t number) const;
  void set(std::uint64_t number, page_ptr content);
  /// Replaces the 512-byte sectors of the page whose bit is set in `mask` by those of `content` (null:
  /// zeros).
  void set_sectors(std::uint64_t number, const page_ptr& content, unsigned mask);

  /// Hash of the page hashes: equal content, equal hash, however it came about.
  [[nodiscard]] std::uint64_t hash() const;

private:
  static constexpr unsigned leaf_pages = 64;
  struct leaf {
    std::array<page_ptr, leaf_pages> pages;
    mutable std::atomic<std::uint64_t> hash{0}; // 0: not known yet
    leaf() = default;
    leaf(const leaf& other) : pages(other.pages) {}
  };
  [[nodiscard]] std::uint64_t leaf_hash(std::size_t index) const;

  std::uint64_t size_ = 0;
  std::vector<std::shared_ptr<const leaf>> leaves_;
};

} // namespace dmremap::test
