// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/control_client.h"

#include "engine/paths.h"
#include "engine/run_lock.h"
#include "engine/unique_fd.h"

#include <algorithm>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

namespace dmremap {
namespace {

using clock = std::chrono::steady_clock;
using nlohmann::json;

constexpr std::size_t max_reply_bytes = std::size_t{1} << 30; // a table of millions of remaps is long

struct deadline {
  std::optional<clock::time_point> at;

  /// For poll(): -1 for ever, 0 when it is over.
  [[nodiscard]] int left() const {
    if (!at)
      return -1;
    const auto rest =
        std::chrono::ceil<std::chrono::milliseconds>(*at - clock::now()).count(); // not before it
    return static_cast<int>(std::clamp<std::int64_t>(rest, 0, 1'000'000));
  }
};

tl::unexpected<error> no_answer(const std::string& dir) {
  return fail("no-answer", dir, "the daemon of this set does not answer");
}

result<void> wait_for(int fd, short events, const deadline& until, const std::string& dir) {
  for (;;) {
    pollfd one{fd, events, 0};
    const int ready = ::poll(&one, 1, until.left());
    if (ready > 0)
      return {};
    if (ready == 0 && until.left() == 0)
      return no_answer(dir);
    if (ready < 0 && errno != EINTR)
      return fail("bad-reply", dir, fmt::format("cannot wait for the daemon: {}", std::strerror(errno)));
  }
}

/// Connects without waiting: a daemon that is stopped still has its queue, one whose queue is full does not
/// answer.
result<unique_fd> connect_to(const std::string& dir) {
  const unique_fd folder(::open(dir.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!folder && (errno == EACCES || errno == EPERM))
    return fail("no-permission", dir, "only root and the owner of the daemon may talk to it");
  if (!folder)
    return fail("not-running", dir, "is not running");
  unique_fd connection(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!connection)
    return fail("bad-reply", dir, fmt::format("cannot make a socket: {}", std::strerror(errno)));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  // Through the descriptor, because a path in a socket address may be 107 bytes long only.
  const auto path = fmt::format("/proc/self/fd/{}/control", folder.get());
  std::copy(path.begin(), path.end(), address.sun_path);
  if (::connect(connection.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0)
    return connection;
  if (errno == EACCES || errno == EPERM)
    return fail("no-permission", dir, "only root and the owner of the daemon may talk to it");
  if (errno == EAGAIN || errno == EINPROGRESS)
    return no_answer(dir);
  if (pid_file_locked(dir))
    return fail("stopping", dir,
                "its daemon is stopping: it takes no requests any more, and has not closed the set yet");
  return fail("not-running", dir, "is not running");
}

result<void> check_peer(int connection, const std::string& dir) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 ||
      (peer.uid != 0 && peer.uid != geteuid()))
    return fail("no-permission", dir, "the socket there belongs to another user");
  return {};
}

result<void> send_all(int connection, const std::string& text, const deadline& until,
                      const std::string& dir) {
  std::size_t done = 0;
  while (done < text.size()) {
    CHECK_OK(wait_for(connection, POLLOUT, until, dir));
    const auto put = ::send(connection, text.data() + done, text.size() - done, MSG_NOSIGNAL);
    if (put < 0 && errno != EINTR && errno != EAGAIN)
      return fail("bad-reply", dir, fmt::format("the daemon hung up: {}", std::strerror(errno)));
    if (put > 0)
      done += static_cast<std::size_t>(put);
  }
  return {};
}

result<std::string> receive_line(int connection, const deadline& until, const std::string& dir) {
  std::string line;
  std::vector<char> piece(64 * 1024);
  while (line.size() < max_reply_bytes) {
    CHECK_OK(wait_for(connection, POLLIN, until, dir));
    const auto got = ::recv(connection, piece.data(), piece.size(), 0);
    if (got < 0 && (errno == EINTR || errno == EAGAIN))
      continue;
    if (got <= 0)
      return fail("bad-reply", dir, "the daemon hung up before its reply was whole");
    line.append(piece.data(), static_cast<std::size_t>(got));
    if (line.back() == '\n')
      return line;
  }
  return fail("bad-reply", dir, "the reply of the daemon is too long");
}

std::string text_of(const json& object, const char* key) {
  const auto at = object.find(key);
  return at != object.end() && at->is_string() ? at->get<std::string>() : "";
}

std::optional<running_set> read_info(const std::string& dir) {
  const unique_fd file(::open((dir + "/info.json").c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  std::string text(1 << 20, '\0');
  const auto got = file ? ::read(file.get(), text.data(), text.size()) : -1;
  if (got <= 0)
    return std::nullopt;
  text.resize(static_cast<std::size_t>(got));
  const auto info = json::parse(text, nullptr, false);
  if (!info.is_object())
    return std::nullopt;
  running_set set;
  set.dir = dir;
  set.name = text_of(info, "name");
  set.uuid = text_of(info, "uuid");
  set.mountpoint = text_of(info, "mountpoint");
  set.image = text_of(info, "image");
  set.main = text_of(info, "main");
  if (info.contains("pid") && info["pid"].is_number_integer())
    set.pid = info["pid"].get<int>();
  if (info.contains("spares") && info["spares"].is_array())
    for (const auto& spare : info["spares"])
      if (spare.is_string())
        set.spares.push_back(spare.get<std::string>());
  const auto connection = connect_to(dir);
  set.alive = connection || connection.error().id != "not-running";
  set.closing = !connection && connection.error().id == "stopping";
  return set;
}

} // namespace

result<json> parse_control_reply(const std::string& line, const std::string& dir) {
  auto reply = json::parse(line, nullptr, false);
  if (!reply.is_object() || !reply.contains("ok") || !reply["ok"].is_boolean())
    return fail("bad-reply", dir, "the reply of the daemon is not understood");
  if (reply["ok"].get<bool>())
    return reply;
  const json failure = reply.value("error", json::object());
  if (!failure.is_object())
    return fail("bad-reply", dir, "the reply of the daemon is not understood");
  const auto code = failure.contains("code") && failure["code"].is_number_integer() ? failure["code"].get<int>() : 1;
  return fail(text_of(failure, "id"), text_of(failure, "what"), text_of(failure, "why"),
              code == 2 || code == 4 ? static_cast<exit_code>(code) : exit_code::failed);
}

std::vector<running_set> list_running_sets() {
  std::vector<running_set> sets;
  boost::system::error_code failed;
  for (boost::filesystem::directory_iterator at(run_dir() + "/.sets", failed), end; !failed && at != end;
       at.increment(failed))
    if (auto set = read_info(at->path().string()); set && !set->name.empty())
      sets.push_back(std::move(*set));
  std::sort(sets.begin(), sets.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return sets;
}

std::optional<running_set> find_running_set(const std::string& name_or_uuid) {
  std::optional<running_set> found;
  for (auto& set : list_running_sets()) {
    if (means_set(name_or_uuid, set.name, set.uuid) && (!found || (set.alive && !found->alive)))
      found = std::move(set);
  }
  return found;
}

result<json> control_request(const std::string& dir, const std::string& command, const json& args,
                             std::optional<std::chrono::milliseconds> limit) {
  const deadline until{limit ? std::optional(clock::now() + *limit) : std::nullopt};
  const auto connection = TRY(connect_to(dir));
  CHECK_OK(check_peer(connection.get(), dir));
  const json request{{"v", 1}, {"cmd", command}, {"args", args.is_null() ? json::object() : args}};
  // Not every path is UTF-8: what is not is replaced rather than thrown at.
  CHECK_OK(send_all(connection.get(), request.dump(-1, ' ', false, json::error_handler_t::replace) + "\n",
                    until, dir));
  return parse_control_reply(TRY(receive_line(connection.get(), until, dir)), dir);
}

} // namespace dmremap
