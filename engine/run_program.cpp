// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/run_program.h"

#include "engine/unique_fd.h"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>

namespace dmremap {
namespace {

/// The child has both outputs on `pipe`, nothing on its input, and SIGPIPE and SIGXFSZ as they are by
/// default.
int spawn(const std::vector<std::string>& words, int pipe, pid_t& child) {
  std::vector<char*> argv;
  for (const auto& word : words)
    argv.push_back(const_cast<char*>(word.c_str())); // posix_spawn takes it so and does not write
  argv.push_back(nullptr);
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&files);
  posix_spawnattr_init(&attributes);
  posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&files, pipe, 1);
  posix_spawn_file_actions_adddup2(&files, pipe, 2);
  sigset_t reset;
  sigemptyset(&reset);
  sigaddset(&reset, SIGPIPE);
  sigaddset(&reset, SIGXFSZ);
  posix_spawnattr_setsigdefault(&attributes, &reset);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
  const int failed = ::posix_spawnp(&child, argv[0], &files, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  return failed;
}

/// Takes what there is without waiting. False at the end of the pipe.
bool drain(int pipe, std::string& output) {
  std::array<char, 4096> piece{};
  for (;;) {
    const auto got = ::read(pipe, piece.data(), piece.size());
    if (got < 0 && errno == EINTR)
      continue;
    if (got <= 0)
      return got < 0;
    output.append(piece.data(), static_cast<std::size_t>(got));
  }
}

/// Until the process has ended: its daemon child may keep the pipe open for good, so the end of the pipe is
/// no sign.
void collect(int process, int pipe, std::string& output) {
  std::array<pollfd, 2> both{{{process, POLLIN, 0}, {pipe, POLLIN, 0}}};
  while ((both[0].revents & POLLIN) == 0) {
    if (::poll(both.data(), both.size(), -1) < 0 && errno != EINTR)
      return;
    if (both[1].revents != 0 && !drain(pipe, output))
      both[1].fd = -1;
  }
  static_cast<void>(drain(pipe, output));
}

} // namespace

result<run_result> run_program(const std::vector<std::string>& words) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0)
    return fail("spawn-failed", words.front(), std::strerror(errno));
  const unique_fd reader(ends[0]);
  unique_fd writer(ends[1]);
  ::fcntl(reader.get(), F_SETFL, O_NONBLOCK);
  pid_t child = 0;
  if (const int failed = spawn(words, writer.get(), child); failed != 0)
    return fail("spawn-failed", words.front(), std::string("cannot be started: ") + std::strerror(failed));
  writer.reset();
  run_result done;
  if (const unique_fd process(static_cast<int>(::syscall(SYS_pidfd_open, child, 0))); process)
    collect(process.get(), reader.get(), done.output);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR)
    ;
  static_cast<void>(drain(reader.get(), done.output));
  done.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return done;
}

} // namespace dmremap
