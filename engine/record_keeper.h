// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>

namespace dmremap {

/// Tells somebody outside of session records, who makes them durable somewhere else: perhaps on a file system
/// on this very disk, whose writes may wait for the lock that the caller holds. So it is done in a thread of
/// its own, and waited for no longer than is said. Thread-safe but for construction and destruction. Where
/// the hook never returns its thread outlives this object.
class record_keeper {
public:
  using hook = std::function<void(std::uint64_t)>;
  explicit record_keeper(hook tell);
  ~record_keeper();
  record_keeper(const record_keeper&) = delete;
  record_keeper& operator=(const record_keeper&) = delete;

  /// Returns once the hook has returned for this number or a later one: true. False: `at_most` has passed, or
  /// an earlier number is late already; it goes on, and is told the highest number when it can be.
  [[nodiscard]] bool keep(std::uint64_t sequence_end, std::chrono::milliseconds at_most);
  /// A number was not kept in time, and is not yet.
  [[nodiscard]] bool late() const;

private:
  struct shared;
  static void run(const std::shared_ptr<shared>& state);
  std::shared_ptr<shared> state_;
};

} // namespace dmremap
