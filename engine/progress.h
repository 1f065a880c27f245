// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <chrono>
#include <cstdint>
#include <iosfwd>
#include <string>

namespace dmremap {

/// Shows how far a piece of work is: a bar on a terminal once it takes over a second, and lines "DONE ALL" on
/// a descriptor where one is given. Not thread-safe.
class progress {
public:
  /// `fd`: -1 for none. The bar goes to `err` where standard error is a terminal. `counted`: what DONE and
  /// ALL count.
  progress(std::ostream& err, std::string label, int fd, std::string counted = "units");
  /// Ends the bar's line.
  ~progress();
  progress(const progress&) = delete;
  progress& operator=(const progress&) = delete;

  void show(std::uint64_t done, std::uint64_t all);

private:
  std::ostream& err_;
  const std::string label_, counted_;
  const int fd_;
  const bool terminal_;
  const std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
  bool drawn_ = false;
  std::string last_line_;
};

} // namespace dmremap
