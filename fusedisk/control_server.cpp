// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/control_server.h"

#include "engine/unique_fd.h"
#include "fusedisk/clock.h"
#include "fusedisk/control_commands.h"
#include "fusedisk/task_pool.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <list>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

namespace dmremap {
namespace {

constexpr std::uint64_t second_ns = 1'000'000'000;
constexpr std::uint64_t request_patience_ns = 10 * second_ns; ///< for a client to send its request
constexpr int send_patience_ms = 30'000;                      ///< for a client that takes its reply slowly,
constexpr int stopping_patience_ms = 1'000;                   ///< and when the daemon ends
constexpr std::size_t most_connections = 256;

struct connection {
  unique_fd fd;
  std::string request;
  std::uint64_t since_ns = 0;
};

bool may_talk(int fd) {
  ucred peer{};
  socklen_t length = sizeof peer;
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 &&
         (peer.uid == 0 || peer.uid == geteuid());
}

/// False where neither comes to pass, and after stopping_patience_ms once `wake` says that the daemon ends.
bool wait_writable(int fd, int wake) {
  pollfd either[2] = {{fd, POLLOUT, 0}, {wake, POLLIN, 0}};
  if (::poll(either, 2, send_patience_ms) <= 0)
    return false;
  return either[0].revents != 0 || ::poll(either, 1, stopping_patience_ms) > 0;
}

/// The sockets do not block, so that a client that reads nothing costs no more than our patience.
bool send_all(int fd, int wake, std::string_view text) {
  while (!text.empty()) {
    const ssize_t sent = ::send(fd, text.data(), text.size(), MSG_NOSIGNAL);
    if (sent >= 0) {
      text.remove_prefix(static_cast<std::size_t>(sent));
      continue;
    }
    if (errno == EINTR)
      continue;
    if (errno != EAGAIN || !wait_writable(fd, wake))
      return false;
  }
  return true;
}

class socket_server final : public control_server {
public:
  socket_server(unique_fd listener, unique_fd wake, control_target& target, event_log& log)
      : listener_(std::move(listener)), wake_(std::move(wake)), target_(target), log_(log),
        quick_(2, most_waiting), slow_(4, most_waiting), reader_([this] { run(); }) {}

  ~socket_server() override {
    wake_all();
    reader_.join();
  }
  std::size_t waiting() override { return quick_.waiting() + slow_.waiting(); }
  void take_no_more() override { wake_all(); }

private:
  void wake_all() {
    stopping_ = true;
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(wake_.get(), &one, sizeof one);
  }

  void run() {
    for (;;) {
      std::vector<pollfd> polled = {{wake_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
      for (const auto& c : connections_)
        polled.push_back({c.fd.get(), POLLIN, 0});
      ::poll(polled.data(), polled.size(), connections_.empty() ? -1 : 1000);
      if (polled[0].revents != 0)
        return;
      serve_connections(polled);
      if (polled[1].revents != 0)
        accept_one();
    }
  }

  void accept_one() {
    unique_fd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
        ::usleep(10'000); // or this thread would spin until somebody closes something
      return;
    }
    if (!may_talk(fd.get())) {
      log_.warn("control socket: a peer that is neither root nor our own user was refused");
      return;
    }
    if (connections_.size() < most_connections)
      connections_.push_back({std::move(fd), {}, boottime_ns()});
  }

  void serve_connections(const std::vector<pollfd>& polled) {
    const std::uint64_t now = boottime_ns();
    std::size_t index = 2;
    for (auto it = connections_.begin(); it != connections_.end(); ++index) {
      const bool goes_on = polled[index].revents == 0 || read_some(*it);
      it = goes_on && now - it->since_ns < request_patience_ns ? std::next(it) : connections_.erase(it);
    }
  }

  /// False: the connection is done with, here.
  bool read_some(connection& c) {
    char buffer[16 * 1024];
    const ssize_t got = ::recv(c.fd.get(), buffer, sizeof buffer, 0);
    if (got < 0)
      return errno == EAGAIN || errno == EINTR;
    if (got == 0)
      return false;
    c.request.append(buffer, static_cast<std::size_t>(got));
    if (const auto end = c.request.find('\n'); end != std::string::npos) {
      c.request.resize(end);
      hand_over(c);
      return false;
    }
    if (c.request.size() <= longest_request)
      return true;
    refuse(c, "bad-request", "the request is longer than 1 MiB");
    return false;
  }

  void hand_over(connection& c) {
    auto shared = std::make_shared<connection>(std::move(c)); // std::function wants to be copied
    auto& pool = request_waits_for_drives(shared->request) ? slow_ : quick_;
    const bool taken = pool.post([this, shared] {
      if (stopping_)
        return refuse(*shared, "stopping", "the set is being closed; nothing was done");
      answer_request(target_, shared->request,
                     [&](std::string_view piece) { return send_all(shared->fd.get(), wake_.get(), piece); });
    });
    if (!taken)
      refuse(*shared, "busy", "too many requests wait already; the drives may hang: see status");
  }

  static void refuse(const connection& c, const std::string& id, const std::string& why) {
    const std::string reply = R"({"v":1,"ok":false,"error":{"id":")" + id + R"(","what":"request","why":")" +
                              why + R"(","code":1}})" + "\n";
    ::send(c.fd.get(), reply.data(), reply.size(), MSG_NOSIGNAL);
  }

  unique_fd listener_, wake_;
  control_target& target_;
  event_log& log_;
  std::atomic<bool> stopping_{false};
  std::list<connection> connections_; ///< whose request is not whole yet; the reader's own
  task_pool quick_, slow_;
  std::thread reader_; ///< last: it uses the others
};

tl::unexpected<error> socket_failure(const std::string& path) {
  return fail("control-socket", path, std::strerror(errno));
}

} // namespace

result<std::unique_ptr<control_server>> control_server::start(const std::string& path, control_target& target,
                                                              event_log& log) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return fail("control-socket", path,
                "the path is too long for a socket; set DMREMAP_RUN_DIR to a shorter one");
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  unique_fd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  unique_fd wake(::eventfd(0, EFD_CLOEXEC));
  if (!listener || !wake)
    return socket_failure(path);
  ::unlink(path.c_str());
  // Nobody but us can enter the folder, so that nobody can connect before the mode is set.
  if (::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::chmod(path.c_str(), 0600) != 0 || ::listen(listener.get(), 64) != 0)
    return socket_failure(path);
  return std::make_unique<socket_server>(std::move(listener), std::move(wake), target, log);
}

} // namespace dmremap
