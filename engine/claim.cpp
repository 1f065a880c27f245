// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/claim.h"

#include "engine/device_identity.h"
#include "engine/mount_table.h"
#include "engine/paths.h"

#include <algorithm>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <sstream>
#include <sys/sysmacros.h>
#include <thread>

namespace dmremap {
namespace {

namespace fs = boost::filesystem;

constexpr std::uint64_t no_end = INT64_MAX; // a lock of length 0 reaches to the largest offset

struct flock lock_of(short type, byte_range range) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(range.start);
  lock.l_len = range.end >= no_end ? 0 : static_cast<off_t>(range.end - range.start);
  return lock;
}

byte_range range_of(const struct flock& lock) {
  const auto start = static_cast<std::uint64_t>(lock.l_start);
  return {start, lock.l_len == 0 ? no_end : start + static_cast<std::uint64_t>(lock.l_len)};
}

constexpr off_t writers_lane = off_t{1} << 62; // behind the end of every disk

struct flock lock_in_lane(short type, byte_range range, bool writers) {
  struct flock lock = lock_of(type, {range.start, std::min<std::uint64_t>(range.end, writers_lane)});
  lock.l_start += writers ? writers_lane : 0;
  return lock;
}

/// What others hold there of the range, at its place on the disk.
std::optional<struct flock> held_in_lane(int fd, byte_range range, bool writers) {
  struct flock lock = lock_in_lane(F_WRLCK, range, writers);
  if (::fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type == F_UNLCK)
    return std::nullopt;
  lock.l_start -= writers ? writers_lane : 0;
  return lock;
}

/// A folder of our own: nobody else may plant or remove files in it (the default for users lies in /tmp).
result<void> make_own_folder(const std::string& path, mode_t mode) {
  struct stat st {};
  if (::mkdir(path.c_str(), mode) != 0 && errno != EEXIST)
    return fail(errno == EROFS ? "claims-read-only" : "claim-failed", path,
                std::string("cannot be created for the claims: ") + std::strerror(errno) +
                    "; set DMREMAP_RUN_DIR to a folder that can be written");
  if (::lstat(path.c_str(), &st) != 0 || !S_ISDIR(st.st_mode) || (st.st_uid != ::geteuid() && st.st_uid != 0))
    return fail("claim-failed", path, "is not a folder of this user; remove it or set DMREMAP_RUN_DIR");
  return {};
}

result<void> make_claims_folder() {
  const std::string run = run_dir();
  boost::system::error_code ec;
  fs::create_directories(fs::path(run).parent_path(), ec); // a failure shows in the next line
  CHECK_OK(make_own_folder(run, ::geteuid() == 0 ? 0755 : 0700));
  return make_own_folder(claims_dir(), 0700);
}

bool is_locked(int fd) {
  struct flock lock = lock_of(F_WRLCK, {0, no_end});
  return ::fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

/// Removes records of processes that were killed. One that is locked, or whose process lives, stays.
void sweep_records() {
  boost::system::error_code ec;
  for (fs::directory_iterator it(claims_dir(), ec), end; !ec && it != end; it.increment(ec)) {
    const std::string name = it->path().filename().string();
    const int pid = name.starts_with("owner.") ? std::atoi(name.c_str() + 6) : 0;
    if (pid <= 0 || ::kill(pid, 0) == 0 || errno != ESRCH)
      continue;
    const unique_fd fd(::open(it->path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (fd && !is_locked(fd.get())) // a fork may hold it on
      ::unlink(it->path().c_str());
  }
}

// Somebody who lists or examines sets holds a claim for a moment. Locks that can be waited for know no time
// limit.
constexpr std::chrono::milliseconds reader_patience{2000}, reader_pause{20};

tl::unexpected<error> conflict(const std::string& path, const claim_target& target, byte_range wanted,
                               const struct flock& held) {
  const auto owner = find_claim_owner(target, wanted);
  const byte_range other = owner ? owner->range : range_of(held);
  const std::string who = owner ? owner->text() : "another process (fuser " + path + " may name it)";
  const std::string next = owner && !owner->set.empty()
                               ? "; detach that set first (dmremap detach " + owner->set + ")"
                               : "; end that first";
  if (other == wanted)
    return fail("in-use", path, "is in use by " + who + next);
  return fail("members-overlap", path,
              "overlaps " + (owner ? owner->member + " of " : std::string("a range in use by ")) + who +
                  "; choose another range, or detach that set");
}

/// A file below a loop device; none where it is not to be had by that name.
unique_fd open_backing_file(const std::string& file, const claim_target& target, bool shared) {
  for (const auto& m : read_mount_table())
    if (m.device == dev_text(target.device) && m.type.starts_with("fuse"))
      return {};
  unique_fd fd(
      ::open(file.c_str(), (shared ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY));
  struct stat st {};
  if (!fd || ::fstat(fd.get(), &st) != 0 || st.st_dev != target.device || st.st_ino != target.inode)
    return {};
  return fd;
}

} // namespace

std::string claim_target::key() const {
  return (block ? "b" : "f") + dev_text(device) + (block ? "" : ":" + std::to_string(inode));
}

std::string claim_owner::text() const {
  return (set.empty() ? "another set" : "set '" + set + "'") +
         (pid > 0 ? " (process " + std::to_string(pid) + ")" : "");
}

std::optional<claim_owner> read_claim_record(std::istream& record, const std::string& key, byte_range range) {
  claim_owner owner;
  std::optional<claim_owner> found;
  for (std::string line; std::getline(record, line);) {
    std::istringstream words(line);
    std::string word, target, mode;
    words >> word;
    if (word == "pid") {
      words >> owner.pid;
    } else if (word == "set") {
      words >> owner.set;
    } else if (word == "claim" && words >> target >> owner.range.start >> owner.range.end >> mode) {
      std::getline(words >> std::ws, owner.member);
      owner.writing = mode == "rw";
      if (target == key && owner.range.overlaps(range))
        found = owner;
    }
  }
  if (found)
    found->set = owner.set;
  return found;
}

std::optional<claim_owner> find_claim_owner(const claim_target& target, byte_range range) {
  boost::system::error_code ec;
  for (fs::directory_iterator it(claims_dir(), ec), end; !ec && it != end; it.increment(ec)) {
    const std::string path = it->path().string();
    if (!it->path().filename().string().starts_with("owner."))
      continue;
    const unique_fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!fd || !is_locked(fd.get())) // left behind by a process that was killed
      continue;
    std::ifstream record(path);
    if (auto owner = read_claim_record(record, target.key(), range))
      return owner;
  }
  return std::nullopt;
}

result<void> claim::lock_all(int fd, const std::string& path) {
  const short type = shared_ ? F_RDLCK : F_WRLCK;
  unsigned looks_left = reader_patience / reader_pause;
  for (const auto& range : ranges_) {
    struct flock lock = lock_of(type, range);
    while (::fcntl(fd, F_OFD_SETLK, &lock) != 0) {
      if (errno != EAGAIN && errno != EACCES)
        return fail("claim-failed", path, std::string("cannot be locked: ") + std::strerror(errno));
      struct flock held = lock_of(type, range);
      const bool gone = ::fcntl(fd, F_OFD_GETLK, &held) != 0 || held.l_type == F_UNLCK;
      if (looks_left == 0 || (!gone && held.l_type != F_RDLCK))
        return conflict(path, target_, range, gone ? lock_of(type, range) : held);
      --looks_left;
      std::this_thread::sleep_for(reader_pause);
    }
  }
  return {};
}

std::shared_ptr<claim> claim::blank(const claim_target& target, const std::vector<byte_range>& ranges,
                                    bool shared, const std::string& path) {
  std::shared_ptr<claim> self(new claim);
  self->target_ = target;
  self->ranges_ = ranges;
  self->shared_ = shared;
  self->path_ = path;
  return self;
}

result<std::shared_ptr<claim>> claim::take_disk(dev_t disk, const std::vector<byte_range>& ranges,
                                                bool shared, const std::string& path) {
  const auto self = blank({true, disk, 0}, ranges, shared, path);
  if (auto made = make_claims_folder(); !made) {
    // A rescue system with nothing writable: nobody else can claim there either.
    if (shared && made.error().id == "claims-read-only")
      return self;
    return tl::make_unexpected(made.error());
  }
  const std::string file = claims_dir() + "/" + dev_text(disk);
  self->lock_ = unique_fd(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!self->lock_)
    return fail("claim-failed", file, std::string("cannot be opened: ") + std::strerror(errno));
  CHECK_OK(self->lock_all(self->lock_.get(), path));
  CHECK_OK(self->lock_node());
  self->write_record();
  return self;
}

/// The locks of all processes on a node in /dev meet, wherever their run folders are. Opened for reading
/// only: udev reads the partition table anew when somebody closes a disk that he had open for writing. So all
/// locks are shared ones, those of writers in a lane of their own; each places its own first, then looks for
/// others.
result<void> claim::lock_node() {
  const std::string node = node_of(target_.device);
  if (node.empty())
    return {};
  node_ = unique_fd(::open(node.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW));
  struct stat st {};
  if (!node_ || ::fstat(node_.get(), &st) != 0 || !S_ISBLK(st.st_mode) || st.st_rdev != target_.device) {
    node_.reset();
    return {};
  }
  for (const auto& range : ranges_)
    if (struct flock lock = lock_in_lane(F_RDLCK, range, !shared_);
        ::fcntl(node_.get(), F_OFD_SETLK, &lock) != 0)
      return fail("claim-failed", node, std::string("cannot be locked: ") + std::strerror(errno));
  unsigned looks_left = reader_patience / reader_pause;
  for (const auto& range : ranges_) {
    if (const auto held = held_in_lane(node_.get(), range, true))
      return conflict(path_, target_, range, *held);
    while (!shared_) {
      const auto held = held_in_lane(node_.get(), range, false);
      if (!held)
        break;
      if (looks_left-- == 0)
        return conflict(path_, target_, range, *held);
      std::this_thread::sleep_for(reader_pause);
    }
  }
  return {};
}

result<std::shared_ptr<claim>> claim::take_file(int fd, const claim_target& target,
                                                const std::vector<byte_range>& ranges, bool shared,
                                                const std::string& path) {
  const auto self = blank(target, ranges, shared, path);
  CHECK_OK(self->lock_all(fd, path));
  if (make_claims_folder()) // the lock is what counts; the record only helps messages
    self->write_record();
  return self;
}

result<std::shared_ptr<claim>> claim::take_backing_file(const std::string& file, const claim_target& target,
                                                        const std::vector<byte_range>& ranges, bool shared,
                                                        const std::string& path) {
  const auto self = blank(target, ranges, shared, path);
  self->lock_ = open_backing_file(file, target, shared);
  if (self->lock_)
    if (auto locked = self->lock_all(self->lock_.get(), path); !locked) {
      if (locked.error().id != "claim-failed") // a file system without locks may well hold the file
        return tl::make_unexpected(locked.error());
      self->lock_.reset();
    }
  for (const auto& range : self->lock_ ? std::vector<byte_range>{} : ranges)
    if (const auto owner = find_claim_owner(target, range); owner && owner->writing)
      return conflict(path, target, range, lock_of(F_WRLCK, range));
  if (make_claims_folder())
    self->write_record();
  return self;
}

claim::~claim() {
  if (!record_)
    return;
  // After a fork the other process may still hold the claim: the record goes with the last.
  record_.reset();
  const unique_fd fd(::open(record_path_.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (fd && !is_locked(fd.get()))
    ::unlink(record_path_.c_str());
}

bool claim::others_write() const {
  struct flock lock = lock_of(F_RDLCK, {0, no_end}); // conflicts with claims for writing only
  return (lock_ && ::fcntl(lock_.get(), F_OFD_GETLK, &lock) == 0 && lock.l_type == F_WRLCK) ||
         (node_ && held_in_lane(node_.get(), {0, writers_lane}, true));
}

void claim::name(const std::string& set) {
  set_ = set;
  write_record();
  if (below_)
    below_->name(set);
}

void claim::write_record() {
  if (!record_) {
    sweep_records();
    std::string name = claims_dir() + "/owner." + std::to_string(::getpid()) + ".XXXXXX";
    record_ = unique_fd(::mkostemp(name.data(), O_CLOEXEC));
    if (!record_)
      return;
    record_path_ = name;
    struct flock lock = lock_of(F_WRLCK, {0, no_end});
    if (::fcntl(record_.get(), F_OFD_SETLK, &lock) != 0)
      return record_.reset();
  }
  std::string member = path_;
  for (char& c : member)
    c = c == '\n' ? '?' : c;
  std::string text = "pid " + std::to_string(::getpid()) + "\n" + (set_.empty() ? "" : "set " + set_ + "\n");
  for (const auto& range : ranges_)
    text += "claim " + target_.key() + " " + std::to_string(range.start) + " " + std::to_string(range.end) +
            " " + (shared_ ? "ro" : "rw") + " " + member + "\n";
  // Written over from the start, then cut: a reader in between sees old or new lines, for a message only.
  const auto size = static_cast<ssize_t>(text.size());
  if (::pwrite(record_.get(), text.data(), text.size(), 0) != size ||
      ::ftruncate(record_.get(), static_cast<off_t>(size)) != 0)
    ::unlink(record_path_.c_str());
}

} // namespace dmremap
