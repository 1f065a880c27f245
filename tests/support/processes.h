// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <csignal>
#include <functional>
#include <stdexcept>
#include <sys/wait.h>
#include <unistd.h>

namespace dmremap::test {

/// A forked copy of this process that runs `setup`, reports whether it was true, and then sleeps until it is
/// killed.
class child_process {
public:
  explicit child_process(const std::function<bool()>& setup) {
    int ends[2];
    if (::pipe(ends) != 0 || (pid_ = ::fork()) < 0)
      throw std::runtime_error("no child process");
    if (pid_ == 0) {
      const char answer = setup() ? 'y' : 'n';
      (void)!::write(ends[1], &answer, 1);
      for (;;)
        ::pause();
    }
    ::close(ends[1]);
    char answer = 'n';
    ready_ = ::read(ends[0], &answer, 1) == 1 && answer == 'y';
    ::close(ends[0]);
  }
  ~child_process() { kill(); }
  child_process(const child_process&) = delete;
  child_process& operator=(const child_process&) = delete;

  [[nodiscard]] bool ready() const { return ready_; }
  [[nodiscard]] pid_t pid() const { return pid_; }
  /// SIGKILL; returns when the process is gone.
  void kill() {
    if (pid_ <= 0)
      return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }

private:
  pid_t pid_ = 0;
  bool ready_ = false;
};

} // namespace dmremap::test
