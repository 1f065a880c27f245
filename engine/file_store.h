// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/flush_rounds.h"
#include "engine/store.h"
#include "engine/unique_fd.h"

#include <atomic>
#include <memory>
#include <string>

namespace dmremap {

/// A block device or a regular file, with O_DIRECT where the host allows it.
///
/// Where a file system refuses O_DIRECT the store is buffered (identity().direct is false) and flush() makes
/// the pages durable. Reads that hit the end of a device or file that shrank meanwhile are io_error::gone: a
/// device that was pulled out has no size any more.
class file_store final : public store {
public:
  struct options {
    bool read_only =
        false; ///< opens O_RDONLY; write() and zero() are io_error::read_only, flush() does nothing
    bool exclusive = false; ///< O_EXCL on a block device: nobody else may mount or claim it
  };

  /// Opens a block device or regular file; creates and changes nothing.
  /// Errors: not-found, no-permission, not-a-device, in-use (O_EXCL refused), empty-member,
  /// block-size-unsupported, open-failed.
  [[nodiscard]] static result<std::shared_ptr<file_store>> open(const std::string& path, const options& how);

  [[nodiscard]] std::uint64_t size() const override { return size_; }
  [[nodiscard]] std::uint32_t block_size() const override { return block_size_; }
  [[nodiscard]] io_result read(std::span<std::byte> buffer, std::uint64_t offset) override;
  [[nodiscard]] io_result write(std::span<const std::byte> buffer, std::uint64_t offset) override;
  [[nodiscard]] io_result flush() override;
  [[nodiscard]] std::uint64_t failed_flushes() const override { return failed_flushes_.load(); }
  /// Frees the range (FALLOC_FL_PUNCH_HOLE), never a discard that may leave old data readable.
  [[nodiscard]] io_result zero(std::uint64_t offset, std::uint64_t length) override;
  [[nodiscard]] const store_identity& identity() const override { return identity_; }

  /// For locks on the descriptor (claims) only, never for I/O.
  [[nodiscard]] int descriptor() const { return fd_.get(); }
  /// Keeps `companion` (a claim) alive as long as this store.
  void keep(std::shared_ptr<void> companion) { companion_ = std::move(companion); }

private:
  file_store() = default;
  [[nodiscard]] result<void> measure();
  [[nodiscard]] result<void> measure_file();
  [[nodiscard]] io_result check(std::size_t length, std::uint64_t offset) const;
  [[nodiscard]] bool usable_as_is(const void* memory) const;
  [[nodiscard]] io_result read_whole(std::byte* to, std::size_t length, std::uint64_t offset) const;
  [[nodiscard]] io_result write_whole(const std::byte* from, std::size_t length, std::uint64_t offset) const;
  [[nodiscard]] io_error classify_write(int value, std::uint64_t end) const;

  std::shared_ptr<void> companion_; // before fd_: outlives it
  unique_fd fd_;
  std::uint64_t size_ = 0;
  std::uint32_t block_size_ = 512;
  std::uint32_t memory_alignment_ = 4096; // a power of two; 1 where buffered
  bool read_only_ = false;
  std::atomic<std::uint64_t> failed_flushes_{0};
  flush_rounds flushes_;
  store_identity identity_;
};

} // namespace dmremap
