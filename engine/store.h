// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace dmremap {

/// What can be known about a member without reading its data. Empty strings: not known (always so for files).
struct store_identity {
  bool block_device = false;
  std::string path;      ///< as a person would name it, with its range: "/dev/sdb1", "dust:/x/main.img@8+4096"
  std::string serial;    ///< of the whole disk
  std::string wwn;       ///< of the whole disk
  std::string partuuid;  ///< GPT/MBR partition UUID
  bool direct = true;    ///< false: buffered, because the host's file system refuses O_DIRECT
};

/// One backing store: a block device, a file, a range of either, or a test double.
///
/// Offsets and lengths are bytes, multiples of block_size() and within size(), else io_error::invalid. A buffer may
/// lie anywhere; one that is aligned to 4096 is used as it is. Transfers are whole: short ones are retried within.
/// Thread-safe: any number of calls at once, also on overlapping ranges (whose outcome is then either's).
class store {
public:
  virtual ~store() = default;
  store() = default;
  store(const store&) = delete;
  store& operator=(const store&) = delete;

  /// Bytes; a multiple of block_size(). Constant for the life of the object.
  [[nodiscard]] virtual std::uint64_t size() const = 0;
  /// 512 or 4096: the smallest aligned piece that can be read or written.
  [[nodiscard]] virtual std::uint32_t block_size() const = 0;
  [[nodiscard]] virtual io_result read(std::span<std::byte> buffer, std::uint64_t offset) = 0;
  /// Nothing is durable on return; see flush().
  [[nodiscard]] virtual io_result write(std::span<const std::byte> buffer, std::uint64_t offset) = 0;
  /// On success every write that had returned before the call is durable, or was given up by a flush that
  /// failed and that failed_flushes() counts already.
  [[nodiscard]] virtual io_result flush() = 0;
  /// How many flushes of the device have failed so far, whoever asked for them. A failed flush may have given up
  /// any write before it, and no later flush says so again (Linux reports a lost write once per open file).
  [[nodiscard]] virtual std::uint64_t failed_flushes() const = 0;
  /// Afterwards the range reads as zeros (space may have been freed), or io_error::unsupported and nothing was changed.
  [[nodiscard]] virtual io_result zero(std::uint64_t offset, std::uint64_t length) = 0;
  [[nodiscard]] virtual const store_identity& identity() const = 0;
};

/// A flush for writes that all began after failed_flushes() said `failed_before`: good only where none has failed
/// since, be it another thread's.
[[nodiscard]] inline io_result flush_since(store& io, std::uint64_t failed_before) {
  CHECK_OK(io.flush());
  if (io.failed_flushes() != failed_before)
    return io_fail(io_error::medium);
  return {};
}

} // namespace dmremap
