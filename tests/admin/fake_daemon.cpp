// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/admin/fake_daemon.h"

#include "engine/paths.h"
#include "engine/stats_segment.h"
#include "engine/unique_fd.h"
#include "tests/support/temp_dir.h"

#include <cerrno>
#include <csignal>
#include <ctime>
#include <fcntl.h>
#include <fstream>
#include <nlohmann/json.hpp>
#include <poll.h>
#include <stdexcept>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <system_error>
#include <utility>

namespace dmremap::test {
namespace {

using nlohmann::json;

unique_fd listen_at(const std::string& path) {
  unique_fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    throw std::runtime_error("the path of the socket is too long: " + path);
  path.copy(address.sun_path, path.size());
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(fd.get(), 16) != 0)
    throw std::runtime_error("bind " + path);
  return fd;
}

std::uint64_t boottime_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000U + static_cast<std::uint64_t>(now.tv_nsec);
}

void publish(stats_segment& segment, const std::string& name, const std::string& uuid) {
  stats_snapshot now;
  now.heartbeat_ns = boottime_ns();
  now.pid = static_cast<std::uint64_t>(::getpid());
  now.name = name;
  now.uuid = uuid;
  now.stats.state = "ok";
  now.stats.reads = 42;
  now.stats.remapped_units = 7;
  now.dm_line = "0 204800 remap v5.0 7/1000";
  segment.publish(now);
}

/// Answers in a process of its own, so that one request can wait for another.
void serve_one(int listener, const std::string& dir, const fake_daemon::answerer& answer) {
  const unique_fd connection(::accept(listener, nullptr, nullptr));
  std::string line;
  for (char c = 0; ::read(connection.get(), &c, 1) == 1 && c != '\n';)
    line += c;
  if (line.empty()) // somebody only looked whether anybody listens
    return;
  std::ofstream(dir + "/requests", std::ios::app) << line << std::endl;
  if (::fork() != 0)
    return;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  json reply = answer(json::parse(line));
  if (reply == "hold")
    ::pause();
  if (reply.is_object()) {
    reply["v"] = 1;
    const auto text = reply.dump() + "\n";
    static_cast<void>(::send(connection.get(), text.data(), text.size(), MSG_NOSIGNAL));
  }
  ::_exit(0);
}

[[noreturn]] void serve(int listener, const std::string& dir, const std::string& name,
                        const std::string& uuid, unique_fd ready, const fake_daemon::answerer& answer) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::signal(SIGCHLD, SIG_IGN);
  const auto segment = stats_segment::create(dir + "/stats");
  for (;;) {
    publish(**segment, name, uuid);
    ready = unique_fd(); // whoever waits for the first figures sees the end of the pipe
    pollfd wait{listener, POLLIN, 0};
    if (::poll(&wait, 1, 20) == 1)
      serve_one(listener, dir, answer);
  }
}

} // namespace

fake_daemon::fake_daemon(const std::string& name, const std::string& uuid, const answerer& answer)
    : dir_(set_run_dir(name)) {
  boost::filesystem::create_directories(dir_);
  const auto listener = listen_at(dir_ + "/control");
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0)
    throw std::system_error(errno, std::generic_category(), "pipe2");
  const unique_fd figures(ends[0]);
  unique_fd ready(ends[1]);
  pid_ = ::fork();
  if (pid_ == 0) {
    try {
      serve(listener.get(), dir_, name, uuid, std::move(ready), answer);
    } catch (const std::exception&) { // never back into the test program
      ::_exit(1);
    }
  }
  const json info{{"pid", pid_},
                  {"name", name},
                  {"uuid", uuid},
                  {"mountpoint", run_dir() + "/" + name},
                  {"image", run_dir() + "/" + name + "/disk.img"},
                  {"main", "/dev/main"},
                  {"spares", {"/dev/spare"}}};
  std::ofstream(dir_ + "/info.json") << info.dump() << '\n';
  ready = unique_fd();
  char none;
  while (::read(figures.get(), &none, 1) < 0 && errno == EINTR) { // until its first figures are written
  }
}

fake_daemon::~fake_daemon() {
  kill();
}

void fake_daemon::stop() {
  ::kill(pid_, SIGSTOP);
  int status = 0;
  ::waitpid(pid_, &status, WUNTRACED);
}

void fake_daemon::go_on() {
  ::kill(pid_, SIGCONT);
}

void fake_daemon::kill() {
  if (pid_ < 0)
    return;
  ::kill(pid_, SIGKILL);
  int status = 0;
  ::waitpid(pid_, &status, 0);
  pid_ = -1;
}

std::string fake_daemon::requests() const {
  return slurp(dir_ + "/requests");
}

} // namespace dmremap::test
