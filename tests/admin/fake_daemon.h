// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <sys/types.h>

namespace dmremap::test {

/// A process that listens as the daemon of a set does, writes the statistics segment every 20 ms, and answers
/// as it is told; nothing behind it. Under the run folder that the environment names.
class fake_daemon {
public:
  /// The reply (without "v") to a request; runs in the other process. Null: hang up;
  /// "hold": keep the connection and never answer.
  using answerer = std::function<nlohmann::json(const nlohmann::json& request)>;

  fake_daemon(const std::string& name, const std::string& uuid, const answerer& answer);
  ~fake_daemon();
  fake_daemon(const fake_daemon&) = delete;
  fake_daemon& operator=(const fake_daemon&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  void stop();  ///< SIGSTOP; returns when it has stopped
  void go_on(); ///< SIGCONT
  void kill();  ///< SIGKILL; returns when it is gone; what it left stays
  /// Every request that it has received, one a line.
  [[nodiscard]] std::string requests() const;

private:
  std::string dir_;
  pid_t pid_ = -1;
};

} // namespace dmremap::test
