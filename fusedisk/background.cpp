// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/background.h"

#include "engine/unique_fd.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace dmremap {
namespace {

/// What the child writes into the pipe: "S" (serving), or "E", the exit code as a digit, and id, what and
/// why, each with a zero behind it.
constexpr char serving_mark = 'S', error_mark = 'E';

void write_all(int fd, const std::string& text) {
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t n = ::write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno != EINTR)
      return;
    done += n > 0 ? static_cast<std::size_t>(n) : 0;
  }
}

std::string read_to_end(int fd) {
  std::string out;
  char buffer[4096];
  for (;;) {
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n > 0)
      out.append(buffer, static_cast<std::size_t>(n));
    else if (n == 0 || errno != EINTR)
      return out;
  }
}

std::string encode(const error& e) {
  std::string out = {error_mark, static_cast<char>('0' + static_cast<int>(e.code))};
  for (const auto* field : {&e.id, &e.what, &e.why})
    out.append(field->c_str(), field->size() + 1);
  return out;
}

error decode(const std::string& text) {
  error e;
  std::size_t from = 2;
  for (auto* field : {&e.id, &e.what, &e.why}) {
    const std::size_t end = std::min(text.find('\0', from), text.size());
    *field = from < text.size() ? text.substr(from, end - from) : "";
    from = end + 1;
  }
  e.code = static_cast<exit_code>(text.size() > 1 ? text[1] - '0' : 1);
  return e;
}

/// Lets go of the terminal and of whoever waits for the end of our output.
void detach_output() {
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0)
    return;
  for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    ::dup2(null, fd);
  if (null > STDERR_FILENO)
    ::close(null);
}

[[noreturn]] void run_child(const std::function<result<void>(const serving_hook&)>& body, unique_fd pipe) {
  ::setsid();
  const auto done = body([&] {
    // The folder that it was started in, and the pipe's end that the parent reads, must not be held for ever.
    [[maybe_unused]] const int moved = ::chdir("/");
    write_all(pipe.get(), {serving_mark});
    pipe.reset();
    detach_output();
  });
  if (!done && pipe)
    write_all(pipe.get(), encode(done.error()));
  // Not exit(): what the parent's stack and statics hold is the parent's.
  ::_exit(done ? 0 : static_cast<int>(done.error().code));
}

} // namespace

result<void> run_in_background(const std::function<result<void>(const serving_hook&)>& body) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0)
    return fail("no-process", "pipe", std::strerror(errno));
  unique_fd reads(ends[0]), writes(ends[1]);
  const pid_t pid = ::fork();
  if (pid < 0)
    return fail("no-process", "fork", std::strerror(errno));
  if (pid == 0) {
    reads.reset();
    run_child(body, std::move(writes));
  }
  writes.reset();
  const std::string said = read_to_end(reads.get());
  if (!said.empty() && said[0] == serving_mark)
    return {};
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (!said.empty() && said[0] == error_mark)
    return tl::make_unexpected(decode(said));
  return fail("daemon-died", "fusedisk",
              WIFSIGNALED(status)
                  ? std::string("the background process was killed by ") + strsignal(WTERMSIG(status))
                  : "the background process ended before it served");
}

} // namespace dmremap
