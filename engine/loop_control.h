// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"
#include "engine/unique_fd.h"

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace dmremap {

struct loop_options {
  bool read_only = false;
  std::uint32_t block_size = 0; ///< bytes, logical; 0: the kernel's choice (512)
};

struct loop_attachment {
  std::string device;  ///< "/dev/loop3"
  bool direct = false; ///< what /sys/block/loop3/loop/dio says
};

/// Puts a loop device with direct I/O on `image`, whole, with partition scanning. It stays until it is
/// detached. Where the kernel refuses direct I/O the attachment stands all the same: slower, not wrong.
/// Errors: "loop-failed", "no-permission" (not root), "no-loop" (the kernel has no loop driver).
[[nodiscard]] result<loop_attachment> attach_loop(const std::string& image, const loop_options& options);

/// A loop device that goes when `held` is closed, or the process ends.
struct passing_loop {
  std::string device;
  unique_fd held;
};

/// Shows `length` bytes of `image` from `offset` on a loop device, for reading only. Errors: those of
/// attach_loop.
[[nodiscard]] result<passing_loop> show_on_loop(const std::string& image, std::uint64_t offset,
                                                std::uint64_t length);

/// The loop devices that stand on `image` ("/dev/loop3"), a path without links, in ascending order. From /sys
/// alone: asks neither the file system of the image nor the devices, so it does not hang with them.
[[nodiscard]] std::vector<std::string> loops_on(const std::string& image);

/// The first of them that shows the image whole, for reading only or not as asked for. From /sys, too.
[[nodiscard]] std::optional<loop_attachment> whole_loop_on(const std::string& image, bool read_only);

/// Detaches the device and waits until it is gone. Nobody can come in between: it is held exclusively
/// meanwhile. Errors: "loop-in-use" (why names who), "loop-failed" (also when it is not gone after `limit`).
[[nodiscard]] result<void> detach_loop(const std::string& device, std::chrono::milliseconds limit);

} // namespace dmremap
