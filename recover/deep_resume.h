// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "recover/deep_search.h"

#include <chrono>
#include <string_view>

namespace dmremap::recover {

/// Tells a device from another one that has its name and size after a reboot.
struct device_mark {
  std::uint64_t bytes = 0;
  std::string who; ///< serial number, WWN and partition; where there are none, a checksum of 16 units of it
  friend bool operator==(const device_mark&, const device_mark&) = default;
};
/// Reads up to 64 KiB.
[[nodiscard]] device_mark mark_of(store& device);

/// Keeps how far a search is in a file of its own, so that another run goes on from there. Durable each time
/// it is kept. Without a path it keeps nothing. Not thread-safe.
class resume_file {
public:
  /// Errors: "resume-file" (the file is there and is not one of ours, or cannot be read).
  [[nodiscard]] static result<resume_file> open(const std::string& path);
  /// What open() makes of a file of this text. Errors: "resume-file".
  [[nodiscard]] static result<resume_file> parse(std::string_view text, const std::string& path);
  /// What keep() writes.
  [[nodiscard]] std::string text() const;
  /// What is known of a device; empty where nothing is, or where another one has that name now.
  [[nodiscard]] deep_state state_of(const std::string& member, const device_mark& mark) const;
  /// Takes over what is known now, and writes the file where the last time is `interval` ago. Errors:
  /// "resume-file".
  [[nodiscard]] result<void> keep(const std::string& member, const device_mark& mark, const deep_state& state,
                                  std::chrono::milliseconds interval);

private:
  struct entry {
    device_mark mark;
    deep_state state;
  };
  std::string path_;
  std::map<std::string, entry> devices_;
  std::chrono::steady_clock::time_point kept_{};
};

} // namespace dmremap::recover
