// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"
#include "fusedisk/control_target.h"
#include "fusedisk/log.h"

#include <memory>
#include <string>

namespace dmremap {

/// The control socket of a running set (engine/CONTROL.md), served by threads of its own: one that accepts
/// and reads the requests, two for those that answer at once, four for those that may wait for a drive. So
/// `status` is answered though every drive hangs.
class control_server {
public:
  /// Listens on `path` (mode 0600) and serves. Peers other than root and our own user are refused. Errors:
  /// "control-socket".
  [[nodiscard]] static result<std::unique_ptr<control_server>> start(const std::string& path,
                                                                     control_target& target, event_log& log);
  /// Requests that wait for a thread now.
  [[nodiscard]] virtual std::size_t waiting() = 0;
  /// From now on takes no more requests, and refuses those that still wait for a thread when one is free
  /// ("stopping"). Returns at once. Idempotent.
  virtual void take_no_more() = 0;
  /// As take_no_more(); answers the requests that were begun, however long that takes (disk::end_changes()
  /// keeps it short), and ends.
  virtual ~control_server() = default;
  control_server(const control_server&) = delete;
  control_server& operator=(const control_server&) = delete;

  static constexpr std::size_t longest_request = std::size_t{1} << 20U;
  static constexpr std::size_t most_waiting =
      128; ///< requests waiting for a thread; more are answered "busy"

protected:
  control_server() = default;
};

} // namespace dmremap
