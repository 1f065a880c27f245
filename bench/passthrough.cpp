// SPDX-License-Identifier: GPL-2.0-or-later
//
// A bare libfuse pass-through of one file: what FUSE and a loop device cost when nothing stands between.
// bench/run compares the image of a set with it. Each worker receives into its own buffer, placed so that the
// data of a WRITE lies on a 4 KiB boundary and goes to the file with O_DIRECT and no copy.
//
// Usage: bench_passthrough [--workers N] FILE MOUNTPOINT     (MOUNTPOINT a regular file; stays in the
// foreground)
#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>
#include <linux/fuse.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <memory>
#include <string>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <thread>
#include <unistd.h>
#include <vector>

#ifndef FOPEN_PARALLEL_DIRECT_WRITES
#define FOPEN_PARALLEL_DIRECT_WRITES (1 << 6)
#endif

namespace {

constexpr std::size_t page = 4096;
constexpr std::size_t max_io = std::size_t{1} << 20;
constexpr std::size_t write_headers =
    sizeof(fuse_in_header) + sizeof(fuse_write_in); // stand before WRITE data
static_assert(write_headers == 80);
constexpr double for_ever = 86400.0;

struct target {
  int fd = -1;
  std::uint64_t size = 0;
};

struct free_deleter {
  void operator()(void* p) const { std::free(p); }
};
using aligned_buffer = std::unique_ptr<std::byte, free_deleter>;

aligned_buffer allocate(std::size_t bytes) {
  void* p = std::aligned_alloc(page, (bytes + page - 1) / page * page);
  if (p == nullptr)
    std::abort();
  std::memset(p, 0, bytes);
  return aligned_buffer(static_cast<std::byte*>(p));
}

target& target_of(fuse_req_t request) {
  return *static_cast<target*>(fuse_req_userdata(request));
}

struct stat attributes(const target& t) {
  struct stat st {};
  st.st_ino = FUSE_ROOT_ID;
  st.st_mode = S_IFREG | 0600;
  st.st_nlink = 1;
  st.st_size = static_cast<off_t>(t.size);
  st.st_blksize = page;
  return st;
}

void on_init(void*, fuse_conn_info* connection) {
  connection->max_write = max_io;
  connection->max_background = 256; // the default of 12 caps the depth of the loop device
  connection->congestion_threshold = 255;
  connection->want |= connection->capable & FUSE_CAP_ASYNC_DIO;
  connection->want &= ~static_cast<unsigned>(FUSE_CAP_AUTO_INVAL_DATA);
}

void on_getattr(fuse_req_t request, fuse_ino_t, fuse_file_info*) {
  const struct stat st = attributes(target_of(request));
  fuse_reply_attr(request, &st, for_ever);
}

void on_setattr(fuse_req_t request, fuse_ino_t inode, struct stat*, int, fuse_file_info* file) {
  on_getattr(request, inode, file);
}

void on_open(fuse_req_t request, fuse_ino_t, fuse_file_info*) {
  fuse_open_out out{}; // libfuse 3.14 has no field for the second flag
  out.open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
  fuse_reply_buf(request, reinterpret_cast<const char*>(&out), sizeof out);
}

void on_release(fuse_req_t request, fuse_ino_t, fuse_file_info*) {
  fuse_reply_err(request, 0);
}

void on_read(fuse_req_t request, fuse_ino_t, size_t size, off_t offset, fuse_file_info*) {
  thread_local const aligned_buffer buffer = allocate(max_io);
  const ssize_t n = pread(target_of(request).fd, buffer.get(), std::min(size, max_io), offset);
  if (n < 0)
    fuse_reply_err(request, errno);
  else
    fuse_reply_buf(request, reinterpret_cast<const char*>(buffer.get()), static_cast<std::size_t>(n));
}

void on_write(fuse_req_t request, fuse_ino_t, const char* data, size_t size, off_t offset, fuse_file_info*) {
  const ssize_t n = pwrite(target_of(request).fd, data, size, offset);
  if (n < 0)
    fuse_reply_err(request, errno);
  else
    fuse_reply_write(request, static_cast<std::size_t>(n));
}

void on_fsync(fuse_req_t request, fuse_ino_t, int, fuse_file_info*) {
  fuse_reply_err(request, fdatasync(target_of(request).fd) == 0 ? 0 : errno);
}

void on_fallocate(fuse_req_t request, fuse_ino_t, int mode, off_t offset, off_t length, fuse_file_info*) {
  fuse_reply_err(request, fallocate(target_of(request).fd, mode, offset, length) == 0 ? 0 : errno);
}

void on_statfs(fuse_req_t request, fuse_ino_t) {
  struct statvfs st {};
  st.f_bsize = st.f_frsize = page;
  fuse_reply_statfs(request, &st);
}

fuse_lowlevel_ops operations() {
  fuse_lowlevel_ops ops{};
  ops.init = on_init;
  ops.getattr = on_getattr;
  ops.setattr = on_setattr;
  ops.open = on_open;
  ops.release = on_release;
  ops.read = on_read;
  ops.write = on_write;
  ops.fsync = on_fsync;
  ops.fallocate = on_fallocate;
  ops.statfs = on_statfs;
  return ops;
}

void serve(fuse_session* session) {
  const aligned_buffer room = allocate(max_io + 3 * page);
  fuse_buf received{};
  received.mem = room.get() + page - write_headers;
  while (fuse_session_exited(session) == 0) {
    const int n = fuse_session_receive_buf(session, &received);
    if (n == -EINTR)
      continue;
    if (n <= 0)
      break;
    fuse_session_process_buf(session, &received);
  }
}

std::uint64_t size_of(int fd) {
  struct stat st {};
  if (fstat(fd, &st) != 0)
    return 0;
  if (!S_ISBLK(st.st_mode))
    return static_cast<std::uint64_t>(st.st_size);
  const off_t end = lseek(fd, 0, SEEK_END);
  return end < 0 ? 0 : static_cast<std::uint64_t>(end);
}

int usage() {
  std::fputs("usage: bench_passthrough [--workers N] FILE MOUNTPOINT\n", stderr);
  return 2;
}

int run(unsigned workers, const char* file, const char* mountpoint) {
  target t;
  t.fd = open(file, O_RDWR | O_DIRECT | O_CLOEXEC);
  if (t.fd < 0 && errno == EINVAL)
    t.fd = open(file, O_RDWR | O_CLOEXEC); // a file system that refuses O_DIRECT
  if (t.fd < 0) {
    std::fprintf(stderr, "bench_passthrough: %s: %s\n", file, std::strerror(errno));
    return 1;
  }
  t.size = size_of(t.fd);

  // Signals reach only the thread below that waits for them: unmounting ends the session in order.
  sigset_t stop_signals;
  sigemptyset(&stop_signals);
  sigaddset(&stop_signals, SIGTERM);
  sigaddset(&stop_signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &stop_signals, nullptr);

  std::string program = "bench_passthrough";
  char* argument = program.data();
  fuse_args arguments = FUSE_ARGS_INIT(1, &argument);
  const fuse_lowlevel_ops ops = operations();
  fuse_session* session = fuse_session_new(&arguments, &ops, sizeof ops, &t);
  if (session == nullptr || fuse_session_mount(session, mountpoint) != 0)
    return 1;
  std::thread([mountpoint, stop_signals] {
    int signal = 0;
    for (;;)
      if (sigwait(&stop_signals, &signal) == 0 && umount2(mountpoint, 0) != 0)
        std::fprintf(stderr, "bench_passthrough: %s: %s\n", mountpoint, std::strerror(errno));
  }).detach();
  std::puts("ready");
  std::fflush(stdout);

  std::vector<std::thread> pool;
  for (unsigned i = 0; i < workers; ++i)
    pool.emplace_back(serve, session);
  for (std::thread& worker : pool)
    worker.join();
  fuse_session_unmount(session);
  fuse_session_destroy(session);
  close(t.fd);
  return 0;
}

} // namespace

int main(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  unsigned long workers = 4;
  if (words.size() >= 2 && words[0] == "--workers") {
    workers = std::strtoul(words[1].c_str(), nullptr, 10);
    words.erase(words.begin(), words.begin() + 2);
  }
  if (words.size() != 2 || workers == 0 || workers > 256)
    return usage();
  return run(static_cast<unsigned>(workers), words[0].c_str(), words[1].c_str());
}
