// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <csignal>

namespace dmremap {

/// While one of these lives, SIGINT and SIGTERM are noted instead of ending the process; afterwards they do
/// what they did before. One at a time, in one thread.
class stop_signals {
public:
  /// What a second signal does.
  enum class again { noted, ends_the_process };

  explicit stop_signals(again second);
  ~stop_signals();
  stop_signals(const stop_signals&) = delete;
  stop_signals& operator=(const stop_signals&) = delete;

  [[nodiscard]] static bool asked(); ///< a signal came since the last one was made, or since forget()
  static void forget();

private:
  struct sigaction before_[2]{};
};

} // namespace dmremap
