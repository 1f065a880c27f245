// SPDX-License-Identifier: GPL-2.0-or-later
#define FUSE_USE_VERSION 314

#include "fusedisk/fuse_server.h"

#include "engine/units.h"
#include "fusedisk/image_tree.h"

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstdarg>
#include <cstring>
#include <fcntl.h>
#include <fuse3/fuse_lowlevel.h>
#include <linux/falloc.h>
#include <linux/fuse.h>
#include <mutex>
#include <sys/mman.h>
#include <sys/statvfs.h>

namespace dmremap {
namespace {

// The image never changes its size or mode: let the kernel keep what it knows.
constexpr double for_ever = 365.0 * 86400;
// (Also of folders: a look-up through one must not hang with a daemon that hangs. So stat() of a mount whose
// daemon was killed succeeds; statfs() tells.) linux/fuse.h of the build may be older than the bit; kernels
// that do not know it ignore it.
constexpr std::uint32_t parallel_direct_writes = 1U << 6U;
// What libfuse reads at most before the kernel and it have agreed: 256 pages and its header allowance.
constexpr std::size_t receive_bytes = 256 * 4096 + 4096;
// Headers of a WRITE request: fuse_in_header and fuse_write_in. The data behind them is to lie on a page.
constexpr std::size_t write_headers = sizeof(fuse_in_header) + sizeof(fuse_write_in);
static_assert(write_headers == 80);

class session_server;

/// libfuse hands callbacks nothing that belongs to their thread; this is how they find buffer and context.
struct worker_state {
  std::byte* data = nullptr; ///< page-aligned, max_transfer bytes
  io_context* context = nullptr;
  worker_pool::place* place = nullptr;
};
thread_local worker_state* this_worker = nullptr;

/// A receive buffer whose WRITE data is page-aligned. READ replies are built in the same place: by then
/// nothing of the request is needed any more.
class receive_buffer {
public:
  static constexpr std::size_t mapped_bytes = 4096 + receive_bytes;
  explicit receive_buffer(bool touch)
      : base_(::mmap(nullptr, mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    // By hand: MAP_POPULATE does nothing where memory is locked on fault.
    for (std::size_t at = 0; touch && valid() && at < mapped_bytes; at += 4096)
      static_cast<volatile std::byte*>(base_)[at] = std::byte{0};
  }
  ~receive_buffer() {
    if (valid())
      ::munmap(base_, mapped_bytes);
  }
  receive_buffer(const receive_buffer&) = delete;
  receive_buffer& operator=(const receive_buffer&) = delete;
  [[nodiscard]] bool valid() const { return base_ != MAP_FAILED; }
  /// Its pages go back to the system; they read as zeros until they are written.
  void give_back() {
    if (::madvise(base_, mapped_bytes, MADV_DONTNEED_LOCKED) != 0)
      (void)::madvise(base_, mapped_bytes,
                      MADV_DONTNEED); // kernels before 5.18; fails where memory is locked
  }
  [[nodiscard]] std::byte* data() const { return static_cast<std::byte*>(base_) + 4096; }
  [[nodiscard]] std::byte* start() const { return data() - write_headers; }

private:
  void* base_;
};

class fuse_source final : public request_source {
public:
  fuse_source(fuse_session* session, disk& d, worker_pool::place& place, bool ahead)
      : session_(session), buffer_(ahead), context_(d.make_context()) {
    state_ = {buffer_.data(), context_.get(), &place};
    if (context_)
      context_->on_slow = [&place] { place.leave(); };
  }

  [[nodiscard]] bool valid() const { return buffer_.valid() && context_; }

  bool receive() override {
    for (;;) {
      request_ = {};
      request_.mem = buffer_.start();
      const int got = fuse_session_receive_buf(session_, &request_);
      if (got > 0)
        return true;
      if (got != -EINTR && got != -EAGAIN)
        return false;
    }
  }

  void process() override {
    this_worker = &state_;
    fuse_session_process_buf(session_, &request_);
  }

  void rest() override { buffer_.give_back(); }

private:
  fuse_session* session_;
  receive_buffer buffer_;
  std::unique_ptr<io_context> context_;
  worker_state state_;
  fuse_buf request_{};
};

class session_server final : public fuse_server {
public:
  session_server(disk& d, fuse_settings settings, event_log& log)
      : disk_(d), settings_(std::move(settings)), log_(log),
        tree_(settings_.place.file, settings_.read_only, d.size()) {}

  ~session_server() override {
    if (session_ == nullptr)
      return;
    if (mounted_) // closes the device; the mount, if there still is one, was never used
      fuse_session_unmount(session_);
    fuse_session_destroy(session_);
  }

  result<void> start();

  std::unique_ptr<request_source> make_source(worker_pool::place& place, bool ahead) override {
    auto source = std::make_unique<fuse_source>(session_, disk_, place, ahead);
    if (!source->valid())
      return nullptr;
    return source;
  }

  bool wait_until_ready() override {
    std::unique_lock lock(mutex_);
    return ready_changed_.wait_for(lock, std::chrono::seconds(10), [&] { return ready_; });
  }

  const std::string& device() const override { return device_; }

  void init(fuse_conn_info* conn);
  void lookup(fuse_req_t req, fuse_ino_t parent, const char* name);
  void getattr(fuse_req_t req, fuse_ino_t inode);
  void setattr(fuse_req_t req, fuse_ino_t inode, const struct stat* attr, int to_set);
  void open(fuse_req_t req, fuse_ino_t inode, const fuse_file_info* fi);
  void open_ctl(fuse_req_t req, std::string_view name);
  void read(fuse_req_t req, fuse_ino_t inode, std::size_t size, off_t offset, const fuse_file_info* fi);
  void read_image(fuse_req_t req, std::size_t size, std::uint64_t offset);
  void write(fuse_req_t req, fuse_ino_t inode, const char* data, std::size_t size, off_t offset,
             const fuse_file_info* fi);
  void fsync(fuse_req_t req);
  void fallocate(fuse_req_t req, fuse_ino_t inode, int mode, off_t offset, off_t length);
  void readdir(fuse_req_t req, fuse_ino_t inode, std::size_t size, off_t offset);
  void statfs(fuse_req_t req);

private:
  void reply_entry(fuse_req_t req, std::uint64_t inode);
  void failed(fuse_req_t req, const char* what, std::uint64_t offset, std::uint64_t length, io_error why);

  disk& disk_;
  const fuse_settings settings_;
  event_log& log_;
  const image_tree tree_;
  fuse_session* session_ = nullptr;
  bool mounted_ = false;
  std::string device_;
  std::mutex mutex_;
  std::condition_variable ready_changed_;
  bool ready_ = false;
};

void session_server::init(fuse_conn_info* conn) {
  const auto want = [&](unsigned capability, bool on) {
    if (on && (conn->capable & capability) != 0)
      conn->want |= capability;
    else
      conn->want &= ~capability;
  };
  want(FUSE_CAP_ASYNC_READ, true);
  want(FUSE_CAP_ASYNC_DIO, true);
  want(FUSE_CAP_PARALLEL_DIROPS, true);
  want(FUSE_CAP_WRITEBACK_CACHE, false);
  want(FUSE_CAP_AUTO_INVAL_DATA, false);
  want(FUSE_CAP_READDIRPLUS, false);
  // The kernel would cut its idea of the size to nothing before we can refuse.
  want(FUSE_CAP_ATOMIC_O_TRUNC, false);
  // Through pipes the data would not be where O_DIRECT wants it.
  want(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE, false);
  conn->max_write = conn->max_read = max_transfer;
  conn->max_background = conn->congestion_threshold = max_background;
  conn->max_readahead = 0;
  {
    const std::lock_guard lock(mutex_);
    ready_ = true;
  }
  ready_changed_.notify_all();
}

void session_server::reply_entry(fuse_req_t req, std::uint64_t inode) {
  fuse_entry_param entry{};
  entry.ino = inode;
  entry.attr = tree_.attributes(inode).value();
  entry.attr_timeout = entry.entry_timeout = for_ever;
  fuse_reply_entry(req, &entry);
}

void session_server::lookup(fuse_req_t req, fuse_ino_t parent, const char* name) {
  if (const auto inode = tree_.find(parent, name))
    reply_entry(req, *inode);
  else
    fuse_reply_err(req, ENOENT);
}

void session_server::getattr(fuse_req_t req, fuse_ino_t inode) {
  const auto attr = tree_.attributes(inode);
  if (attr)
    fuse_reply_attr(req, &*attr, for_ever);
  else
    fuse_reply_err(req, ENOENT);
}

/// Times may be set and are forgotten; the rest is as the disk is.
void session_server::setattr(fuse_req_t req, fuse_ino_t inode, const struct stat* attr, int to_set) {
  const auto now = tree_.attributes(inode);
  if (!now)
    fuse_reply_err(req, ENOENT);
  else if (settings_.read_only)
    fuse_reply_err(req, EROFS);
  else if ((to_set & FUSE_SET_ATTR_SIZE) != 0 && attr->st_size != now->st_size)
    fuse_reply_err(req, EPERM);
  else if ((to_set & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) != 0)
    fuse_reply_err(req, EPERM);
  else
    fuse_reply_attr(req, &*now, for_ever);
}

/// libfuse 3.14.0 has no field for parallel direct writes, so the reply is made by hand.
int reply_direct_open(fuse_req_t req, std::uint64_t handle, std::uint32_t flags) {
  fuse_open_out out{};
  out.fh = handle;
  out.open_flags = FOPEN_DIRECT_IO | flags;
  return fuse_reply_buf(req, reinterpret_cast<const char*>(&out), sizeof out);
}

void session_server::open(fuse_req_t req, fuse_ino_t inode, const fuse_file_info* fi) {
  const bool writes = (fi->flags & O_ACCMODE) != O_RDONLY;
  if (tree_.is_image(inode)) {
    if (writes && settings_.read_only)
      fuse_reply_err(req, EROFS);
    else
      reply_direct_open(req, 0, parallel_direct_writes);
  } else if (const auto name = tree_.ctl_name(inode)) {
    if (writes)
      fuse_reply_err(req, EACCES);
    else
      open_ctl(req, *name);
  } else {
    fuse_reply_err(req, ENOENT);
  }
}

/// The text is made now, so that one reader sees one state; it lives until the file is closed.
void session_server::open_ctl(fuse_req_t req, std::string_view name) {
  this_worker->place->leave(); // may ask a drive
  auto text = std::make_unique<std::string>(settings_.ctl_text(name));
  if (reply_direct_open(req, reinterpret_cast<std::uintptr_t>(text.get()), 0) == 0)
    static_cast<void>(text.release()); // session_release() deletes it
}

void session_server::read(fuse_req_t req, fuse_ino_t inode, std::size_t size, off_t offset,
                          const fuse_file_info* fi) {
  const auto from = static_cast<std::uint64_t>(offset);
  if (tree_.is_image(inode))
    return read_image(req, size, from);
  const auto* text = reinterpret_cast<const std::string*>(static_cast<std::uintptr_t>(fi->fh));
  if (text == nullptr || from >= text->size())
    fuse_reply_buf(req, nullptr, 0);
  else
    fuse_reply_buf(req, text->data() + from, std::min<std::size_t>(size, text->size() - from));
}

void session_server::read_image(fuse_req_t req, std::size_t size, std::uint64_t offset) {
  const std::uint64_t end = disk_.size();
  if (offset >= end) {
    fuse_reply_buf(req, nullptr, 0);
    return;
  }
  const std::size_t length = std::min({size, static_cast<std::size_t>(end - offset), max_transfer});
  const auto done = disk_.read(*this_worker->context, {this_worker->data, length}, offset);
  if (done) [[likely]]
    fuse_reply_buf(req, reinterpret_cast<const char*>(this_worker->data), length);
  else
    failed(req, "read", offset, length, done.error());
}

void session_server::write(fuse_req_t req, fuse_ino_t inode, const char* data, std::size_t size, off_t offset,
                           const fuse_file_info* fi) {
  const auto from = static_cast<std::uint64_t>(offset);
  const std::uint64_t end = disk_.size();
  if (settings_.read_only || !tree_.is_image(inode)) {
    fuse_reply_err(req, EROFS);
    return;
  }
  if (from >= end && size != 0) {
    fuse_reply_err(req, ENOSPC); // as a block device says it
    return;
  }
  const std::size_t length = std::min(size, static_cast<std::size_t>(end - from));
  const auto done =
      disk_.write(*this_worker->context, {reinterpret_cast<const std::byte*>(data), length}, from);
  if (!done) {
    failed(req, "write", from, length, done.error());
    return;
  }
  // Of a file with direct I/O the kernel sends no FSYNC after such a write. (O_SYNC has the bit of O_DSYNC.)
  if ((fi->flags & O_DSYNC) != 0)
    if (const auto flushed = disk_.flush(); !flushed) {
      failed(req, "flush after write", from, length, flushed.error());
      return;
    }
  fuse_reply_write(req, length);
}

/// Never ENOSYS: the kernel would report success from then on without asking.
void session_server::fsync(fuse_req_t req) {
  const auto done = settings_.read_only ? io_result{} : disk_.flush();
  if (done)
    fuse_reply_err(req, 0);
  else
    failed(req, "flush", 0, disk_.size(), done.error());
}

/// Discards and write-zeroes of a loop device. Both must leave zeros.
void session_server::fallocate(fuse_req_t req, fuse_ino_t inode, int mode, off_t offset, off_t length) {
  const auto from = static_cast<std::uint64_t>(offset);
  const std::uint64_t end = disk_.size();
  const bool punch = mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
  const bool zero = (mode & ~FALLOC_FL_KEEP_SIZE) == FALLOC_FL_ZERO_RANGE;
  if (settings_.read_only || !tree_.is_image(inode)) {
    fuse_reply_err(req, EROFS);
    return;
  }
  if (offset < 0 || length <= 0 || (!punch && !zero)) {
    fuse_reply_err(req, offset < 0 || length <= 0 ? EINVAL : EOPNOTSUPP);
    return;
  }
  const bool inside = from < end && static_cast<std::uint64_t>(length) <= end - from;
  if (!inside && (mode & FALLOC_FL_KEEP_SIZE) == 0) {
    fuse_reply_err(req, EFBIG); // it would have to grow
    return;
  }
  const std::uint64_t bytes = from >= end ? 0 : std::min(static_cast<std::uint64_t>(length), end - from);
  const auto done = bytes == 0 ? io_result{} : disk_.zero(*this_worker->context, from, bytes);
  if (done)
    fuse_reply_err(req, 0);
  else if (done.error() == io_error::unsupported)
    fuse_reply_err(req, EOPNOTSUPP); // the caller then writes zeros itself: nothing to log
  else
    failed(req, "zero", from, bytes, done.error());
}

void session_server::failed(fuse_req_t req, const char* what, std::uint64_t offset, std::uint64_t length,
                            io_error why) {
  const int code = to_errno(why);
  fuse_reply_err(req, code);
  if (log_.wants(log_level::error))
    log_.write_often(log_level::error, settings_.place.image + ": " + what + " of sector " +
                                           std::to_string(offset / sector_bytes) + ", " +
                                           std::to_string((length + sector_bytes - 1) / sector_bytes) +
                                           " sectors: " + std::string(name_of(why)) + "; answered with \"" +
                                           std::strerror(code) + "\"");
}

void session_server::readdir(fuse_req_t req, fuse_ino_t inode, std::size_t size, off_t offset) {
  const auto entries = tree_.list(inode);
  if (entries.empty()) {
    fuse_reply_err(req, ENOTDIR);
    return;
  }
  std::vector<char> out(std::min<std::size_t>(size, 64 * 1024));
  std::size_t used = 0;
  for (auto i = static_cast<std::size_t>(std::max<off_t>(offset, 0)); i < entries.size(); ++i) {
    const auto attr = tree_.attributes(entries[i].inode).value();
    const std::size_t need = fuse_add_direntry(req, out.data() + used, out.size() - used,
                                               entries[i].name.c_str(), &attr, static_cast<off_t>(i + 1));
    if (need > out.size() - used)
      break;
    used += need;
  }
  fuse_reply_buf(req, out.data(), used);
}

void session_server::statfs(fuse_req_t req) {
  struct statvfs st {};
  st.f_bsize = st.f_frsize = unit_bytes; // becomes the discard granularity of a loop device
  st.f_blocks = disk_.size() / unit_bytes;
  st.f_files = image_tree::ctl_names.size() + 3;
  st.f_namemax = 255;
  fuse_reply_statfs(req, &st);
}

session_server& server_of(fuse_req_t req) {
  return *static_cast<session_server*>(fuse_req_userdata(req));
}

void session_release(fuse_req_t req, fuse_ino_t, fuse_file_info* fi) {
  delete reinterpret_cast<std::string*>(static_cast<std::uintptr_t>(fi->fh)); // null for the image
  fuse_reply_err(req, 0);
}

fuse_lowlevel_ops make_operations() {
  fuse_lowlevel_ops ops{}; // what is not set answers ENOSYS, which the kernel remembers
  ops.init = [](void* server, fuse_conn_info* conn) { static_cast<session_server*>(server)->init(conn); };
  ops.lookup = [](fuse_req_t r, fuse_ino_t parent, const char* name) {
    server_of(r).lookup(r, parent, name);
  };
  ops.getattr = [](fuse_req_t r, fuse_ino_t i, fuse_file_info*) { server_of(r).getattr(r, i); };
  ops.setattr = [](fuse_req_t r, fuse_ino_t i, struct stat* attr, int to_set, fuse_file_info*) {
    server_of(r).setattr(r, i, attr, to_set);
  };
  ops.open = [](fuse_req_t r, fuse_ino_t i, fuse_file_info* fi) { server_of(r).open(r, i, fi); };
  ops.read = [](fuse_req_t r, fuse_ino_t i, std::size_t size, off_t offset, fuse_file_info* fi) {
    server_of(r).read(r, i, size, offset, fi);
  };
  ops.write = [](fuse_req_t r, fuse_ino_t i, const char* data, std::size_t size, off_t offset,
                 fuse_file_info* fi) { server_of(r).write(r, i, data, size, offset, fi); };
  ops.fsync = [](fuse_req_t r, fuse_ino_t, int, fuse_file_info*) { server_of(r).fsync(r); };
  ops.fallocate = [](fuse_req_t r, fuse_ino_t i, int mode, off_t offset, off_t length, fuse_file_info*) {
    server_of(r).fallocate(r, i, mode, offset, length);
  };
  ops.release = session_release;
  ops.readdir = [](fuse_req_t r, fuse_ino_t i, std::size_t size, off_t offset, fuse_file_info*) {
    server_of(r).readdir(r, i, size, offset);
  };
  ops.statfs = [](fuse_req_t r, fuse_ino_t) { server_of(r).statfs(r); };
  return ops;
}

/// What libfuse prints goes here: its log callback carries no pointer. Only the last line is of use, when
/// mounting.
struct library_log {
  std::mutex mutex;
  std::string last;
};
library_log& said_by_library() {
  static library_log log;
  return log;
}

void take_library_line(fuse_log_level, const char* format, va_list arguments) {
  char line[512];
  std::vsnprintf(line, sizeof line, format, arguments);
  auto& log = said_by_library();
  const std::lock_guard lock(log.mutex);
  log.last = line;
  while (!log.last.empty() && log.last.back() == '\n')
    log.last.pop_back();
}

std::string last_library_line() {
  auto& log = said_by_library();
  const std::lock_guard lock(log.mutex);
  return log.last;
}

result<void> session_server::start() {
  fuse_set_log_func(take_library_line);
  std::string name = "fusedisk", flag = "-o";
  std::string list =
      "fsname=dmremap,subtype=fusedisk,default_permissions,max_read=" + std::to_string(max_transfer);
  list += settings_.allow_other ? ",allow_other" : "";
  list += settings_.read_only ? ",ro" : "";
  char* argv[] = {name.data(), flag.data(), list.data(), nullptr};
  fuse_args args = FUSE_ARGS_INIT(3, argv);
  const fuse_lowlevel_ops ops = make_operations();
  session_ = fuse_session_new(&args, &ops, sizeof ops, this);
  fuse_opt_free_args(&args);
  if (session_ == nullptr)
    return fail("mount-failed", settings_.place.path, last_library_line());
  if (fuse_session_mount(session_, settings_.place.path.c_str()) != 0) {
    const int why = errno;
    const std::string said = last_library_line();
    return fail(why == EPERM || why == EACCES ? "no-permission" : "mount-failed", settings_.place.path,
                "FUSE does not mount it: " + (said.empty() ? std::string(std::strerror(why)) : said));
  }
  mounted_ = true;
  device_ = mounted_device(settings_.place);
  return {};
}

} // namespace

result<std::unique_ptr<fuse_server>> fuse_server::mount(disk& d, fuse_settings settings, event_log& log) {
  auto server = std::make_unique<session_server>(d, std::move(settings), log);
  CHECK_OK(server->start());
  return server;
}

} // namespace dmremap
