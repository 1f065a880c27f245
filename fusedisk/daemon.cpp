// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/daemon.h"

#include "engine/config.h"
#include "engine/metadata_backup.h"
#include "engine/stats_segment.h"
#include "engine/unique_fd.h"
#include "fusedisk/control_server.h"
#include "fusedisk/ctl_text.h"
#include "fusedisk/events.h"
#include "fusedisk/fuse_server.h"
#include "fusedisk/live_target.h"
#include "fusedisk/run_files.h"
#include "fusedisk/spare_pool.h"
#include "fusedisk/staying_alive.h"
#include "fusedisk/supervisor.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <poll.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

namespace dmremap {
namespace {

/// SIGTERM and SIGINT as a file descriptor; blocked in every thread that starts later. Never libfuse's own
/// handlers: they end the session under a live loop device.
result<unique_fd> take_signals() {
  std::signal(SIGHUP, SIG_IGN);
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN); // a limit on the size of files is a write error, too
  sigset_t stops;
  sigemptyset(&stops);
  sigaddset(&stops, SIGTERM);
  sigaddset(&stops, SIGINT);
  pthread_sigmask(SIG_BLOCK, &stops, nullptr);
  unique_fd fd(::signalfd(-1, &stops, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd)
    return fail("no-process", "signalfd", std::strerror(errno));
  return fd;
}

/// One run of the daemon, step by step; what stands is taken down in the opposite order.
class daemon_run {
public:
  daemon_run(const daemon_settings& settings, event_log::sink sink)
      : settings_(settings), sink_(std::move(sink)), log_(settings.options.level) {}
  ~daemon_run();

  result<void> open_set();
  result<void> start_serving();
  result<void> wait_and_close();

private:
  result<void> check_set(const std::string& uuid, const std::string& name);
  result<void> mount();
  result<void> start_workers();
  void note_start();
  void stop_requested();
  void end_requests();
  void keep_metadata();
  [[nodiscard]] bool ended_within(int milliseconds) const;
  void abandon();
  void take_down();

  const daemon_settings& settings_;
  event_log::sink sink_;
  event_log log_;
  unique_fd signals_, ended_;
  mount_place place_;
  set_members members_;
  std::unique_ptr<disk> disk_;
  bool close_tried_ = false;
  disk_info info_;
  std::vector<std::string> notices_;
  std::unique_ptr<run_files> files_;
  std::unique_ptr<stats_segment> segment_;
  std::unique_ptr<fuse_server> server_;
  std::unique_ptr<worker_pool> workers_;
  std::thread waiter_; ///< joins the workers and says so on ended_
  std::unique_ptr<spare_pool> pool_;
  std::unique_ptr<live_target> target_;
  std::unique_ptr<supervisor> supervisor_;
  std::unique_ptr<control_server> control_;
};

result<void> daemon_run::open_set() {
  signals_ = TRY(take_signals());
  place_ = TRY(find_mount_place(settings_.mountpoint));
  CHECK_OK(check_no_member(place_, settings_.main, settings_.spares));
  stay_alive(log_);
  open_options how = settings_.options.open;
  how.on_remap = [this](const remap_event& event) {
    log_.write_often(log_level::warn, text_of(event, target_ ? target_->known_info() : info_));
  };
  how.check_set = [this](const std::string& uuid, const std::string& name) { return check_set(uuid, name); };
  members_ = TRY(open_set_members(settings_.main, settings_.spares,
                                  how.read_only  ? access_mode::read_only
                                  : how.degraded ? access_mode::degraded
                                                 : access_mode::read_write));
  CHECK_OK(
      check_fuse_device()); // before disk::open, which writes; what is wrong with the members is told first
  disk_ = TRY(open_disk(members_, how, settings_.options.accept_older, notices_));
  info_ = TRY(disk_->info());
  name_claims(members_.members, info_.set_name);
  segment_ = TRY(stats_segment::create(files_->stats_path()));
  return {};
}

/// Before anything is written: is it the set that was meant, and is nobody serving one of its name?
result<void> daemon_run::check_set(const std::string& uuid, const std::string& name) {
  if (!settings_.uuid.empty() && strcasecmp(settings_.uuid.c_str(), uuid.c_str()) != 0)
    return fail("wrong-set", settings_.main.text(),
                "these members are set " + name + " (" + uuid +
                    "), not the one that the configuration names (" + settings_.uuid +
                    "); correct the configuration. Nothing was written");
  if (!files_) // an open that is tried again without a spare comes here twice
    files_ = TRY(run_files::claim(name));
  return {};
}

result<void> daemon_run::mount() {
  fuse_settings fuse;
  fuse.place = place_;
  fuse.read_only = settings_.options.open.read_only;
  // Only root gets at an image of root all the same: the modes say so. A user's root needs it for losetup.
  fuse.allow_other = settings_.options.allow_other || geteuid() == 0;
  fuse.ctl_text = [this](std::string_view name) { return ctl_text(*target_, name); };
  server_ = TRY(fuse_server::mount(*disk_, std::move(fuse), log_));
  return {};
}

result<void> daemon_run::start_workers() {
  worker_pool::limits limits;
  limits.receivers = settings_.options.workers;
  limits.prespawned = settings_.options.workers + 4;
  limits.threads = fuse_server::max_background + settings_.options.workers + 8;
  workers_ = std::make_unique<worker_pool>(
      limits, [this](worker_pool::place& place, bool ahead) { return server_->make_source(place, ahead); });
  pool_ = std::make_unique<spare_pool>(*disk_, log_, members_, info_, settings_.options.open.read_only,
                                       server_->device());
  members_ = {}; // the pool has them
  daemon_parts parts{*disk_,  log_,     *workers_,
                     *files_, place_,   server_->device(),
                     *pool_,  notices_, settings_.options.open.read_retries};
  target_ = std::make_unique<live_target>(std::move(parts), info_); // the first request may be for ctl/
  ended_ = unique_fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  auto started = workers_->start();
  waiter_ = std::thread([this] {
    workers_->wait();
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(ended_.get(), &one, sizeof one);
  });
  return started;
}

result<void> daemon_run::start_serving() {
  log_.start(std::move(sink_));
  CHECK_OK(mount());
  CHECK_OK(start_workers());
  if (!server_->wait_until_ready())
    return fail("mount-failed", place_.path, "the kernel did not answer within ten seconds");
  supervisor_ = std::make_unique<supervisor>(*workers_, *target_, *segment_, log_);
  control_ = TRY(control_server::start(files_->socket_path(), *target_, log_));
  struct stat st {};
  if (::stat(place_.image.c_str(), &st) != 0)
    return fail("mount-failed", place_.image,
                std::string("the image does not appear: ") + std::strerror(errno));
  CHECK_OK(target_->write_info_file());
  note_start();
  return {};
}

void daemon_run::note_start() {
  std::string members = "main " + settings_.main.text();
  for (const auto& spare : settings_.spares)
    members += ", spare " + spare.text();
  log_.info("set " + info_.set_name + " (" + info_.set_uuid + "), " + members + ": served as " +
            place_.image + (settings_.options.open.read_only ? ", read-only" : ""));
  for (const auto* list : {&info_.notices, &notices_})
    for (const auto& notice : *list)
      log_.warn(notice);
}

bool daemon_run::ended_within(int milliseconds) const {
  pollfd fd{ended_.get(), POLLIN, 0};
  return ::poll(&fd, 1, milliseconds) > 0;
}

void daemon_run::stop_requested() {
  signalfd_siginfo signal{};
  if (::read(signals_.get(), &signal, sizeof signal) != sizeof signal)
    return;
  const std::string name = signal.ssi_signo == SIGINT ? "SIGINT" : "SIGTERM";
  if (auto done = unmount(place_, server_->device()); !done)
    log_.warn(name + ": not stopping: " + done.error().text());
  else if (!ended_within(1000))
    log_.warn(name + ": " + place_.path +
              " is unmounted, but its image is still open somewhere; stopping when it is closed");
  else
    log_.info(name + ": stopping");
}

/// Whoever umounts must not wait for hours of an administrator's work: what is under way ends before its next
/// unit, and says so; what waits is refused.
void daemon_run::end_requests() {
  if (control_)
    control_->take_no_more();
  if (disk_)
    disk_->end_changes();
  if (pool_)
    pool_->stop();
  control_.reset(); // answers what it has begun
}

result<void> daemon_run::wait_and_close() {
  for (;;) {
    pollfd fds[2] = {{ended_.get(), POLLIN, 0}, {signals_.get(), POLLIN, 0}};
    ::poll(fds, 2, -1);
    if (fds[0].revents != 0)
      break;
    if (fds[1].revents != 0)
      stop_requested();
  }
  waiter_.join();
  end_requests();
  target_->quiesce();
  close_tried_ = true;
  auto closed = disk_->close();
  const std::string name = "set " + target_->known_info().set_name; // it may have been renamed
  if (const auto trouble = pool_->record_trouble(); closed && !trouble.empty())
    log_.warn(trouble);
  if (closed)
    log_.info(name + ": closed cleanly");
  else
    log_.error(name + ": not closed cleanly: " + closed.error().text());
  if (closed && !settings_.options.open.read_only)
    keep_metadata();
  return closed;
}

/// The backup of a set that is closed. Best effort, and last of all: where the state folder hangs, the
/// members are free, and so is the name.
void daemon_run::keep_metadata() {
  std::shared_ptr<const set_dump> dump;
  if (disk_->stats().remapped_units <= most_backup_slots) // else it is not even copied
    dump = disk_->dump();
  take_down();
  bool kept = false;
  if (dump) {
    const auto done = keep_backup(*dump);
    if (!done)
      return log_.warn(done.error().text());
    kept = *done;
  }
  if (!kept)
    log_.warn("no backup of the metadata was kept: there are too many remaps; " +
              backup_path(info_.set_uuid) + " is older, where it is there");
}

/// After a failure to start: nobody was told of the mount yet.
void daemon_run::abandon() {
  if (server_ && workers_ && waiter_.joinable()) {
    if (!take_away(place_))
      log_.error(place_.path + ": the mount could not be taken away; unmount it by hand");
    waiter_.join();
  }
  end_requests();
  supervisor_.reset();
  if (target_)
    target_->quiesce();
  // Once only: what a flush that failed has lost, the next one does not tell, and the set would count as
  // clean.
  if (disk_ && !close_tried_) [[maybe_unused]]
    const auto closed = disk_->close();
}

daemon_run::~daemon_run() {
  abandon();
  take_down();
}

void daemon_run::take_down() {
  supervisor_.reset();
  target_.reset();
  workers_.reset();
  server_.reset();
  segment_.reset();
  pool_.reset();
  disk_.reset();
  members_ = {}; // the claims go before the name: who sees the name free finds the members free
  files_.reset();
}

} // namespace

result<daemon_settings> settings_of(const command_line& line) {
  daemon_settings out;
  out.mountpoint = line.mountpoint;
  if (line.name.empty()) {
    out.main = *line.main;
    out.spares = line.spares;
  } else {
    const auto config = TRY(find_set_config(line.name));
    out.uuid = config.uuid;
    out.main = TRY(parse_member(config.main));
    for (const auto& spare : config.spares)
      out.spares.push_back(TRY(parse_member(spare)));
    for (const auto& option : config.options)
      CHECK_OK(apply_options(option, out.options));
  }
  for (const auto& list : line.option_lists) // the command line counts more
    CHECK_OK(apply_options(list, out.options));
  return out;
}

result<void> serve(const daemon_settings& settings, event_log::sink log_sink, const serving_hook& serving) {
  daemon_run run(settings, std::move(log_sink));
  CHECK_OK(run.open_set());
  CHECK_OK(run.start_serving());
  serving();
  return run.wait_and_close();
}

} // namespace dmremap
