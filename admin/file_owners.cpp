// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/file_owners.h"

#include "engine/unique_fd.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <deque>
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <limits>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/fsmap.h>
#include <linux/openat2.h>
#include <memory>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

namespace dmremap::admin {
namespace {

struct close_folder {
  void operator()(DIR* d) const { ::closedir(d); }
};

/// The part that both share; nothing where they do not meet.
place overlap(const place& a, const place& b) {
  const auto from = std::max(a.at, b.at), to = std::min(a.at + a.length, b.at + b.length);
  return from < to ? place{from, to - from} : place{};
}

class extent_walk {
public:
  extent_walk(int top, const std::vector<place>& lost, const show_progress& show)
      : top_(top), lost_(lost), show_(show) {}

  owners run() {
    struct statvfs all {};
    if (::fstatvfs(top_, &all) == 0)
      inodes_ = all.f_files - all.f_ffree;
    look_at("", S_IFDIR);
    for (folders_.push_back(""); !folders_.empty(); folders_.pop_front())
      list(folders_.front());
    std::stable_sort(found_.files.begin(), found_.files.end(), [](const auto& a, const auto& b) {
      return std::tie(a.path, a.offset) < std::tie(b.path, b.offset);
    });
    add_others();
    return std::move(found_);
  }

private:
  void cannot(const std::string& path, const char* what) {
    found_.notes.push_back(
        fmt::format("{}: {}: {}", path.empty() ? "the root folder" : path, what, std::strerror(errno)));
  }

  void list(const std::string& folder) {
    const int fd = open_below(top_, folder.empty() ? "." : folder, O_RDONLY | O_DIRECTORY);
    const std::unique_ptr<DIR, close_folder> entries(fd < 0 ? nullptr : ::fdopendir(fd)); // owns fd, too
    if (!entries) {
      cannot(folder, "cannot be opened, files below it are left out");
      if (fd >= 0)
        ::close(fd);
      return;
    }
    for (;;) {
      errno = 0;
      const dirent* entry = ::readdir(entries.get());
      if (entry == nullptr)
        break;
      const std::string name = entry->d_name;
      if (name == "." || name == "..")
        continue;
      const auto path = folder.empty() ? name : folder + "/" + name;
      struct stat st {};
      if (::fstatat(fd, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
        cannot(path, "cannot be looked at");
        continue;
      }
      look_at(path, st.st_mode);
      if (S_ISDIR(st.st_mode))
        folders_.push_back(path);
      if (++seen_ % 1024 == 0)
        show_(std::min(seen_, inodes_), inodes_);
    }
    if (errno != 0)
      cannot(folder, "cannot be read to its end, files in it are left out");
  }

  void look_at(const std::string& path, mode_t mode) {
    if (S_ISLNK(mode)) {
      std::array<char, 1> target{};
      if (::readlinkat(top_, path.c_str(), target.data(), target.size()) < 0)
        cannot(path, "where this link points to cannot be read");
      return;
    }
    if (!S_ISREG(mode) && !S_ISDIR(mode))
      return;
    const unique_fd file(open_below(top_, path.empty() ? "." : path, O_RDONLY | O_NONBLOCK));
    if (!file)
      return cannot(path, "cannot be opened");
    extents(file.get(), path, S_ISDIR(mode) ? "folder" : "data", 0);
    extents(file.get(), path, "attributes", FIEMAP_FLAG_XATTR);
  }

  void extents(int file, const std::string& path, const char* kind, std::uint32_t flags) {
    constexpr std::uint32_t batch = 128;
    alignas(fiemap) std::array<std::byte, sizeof(fiemap) + batch * sizeof(fiemap_extent)> room;
    std::uint64_t from = 0;
    for (bool last = false; !last;) {
      room.fill(std::byte{});
      auto* map = reinterpret_cast<fiemap*>(room.data());
      map->fm_start = from;
      map->fm_length = FIEMAP_MAX_OFFSET - from;
      map->fm_flags = flags;
      map->fm_extent_count = batch;
      if (::ioctl(file, FS_IOC_FIEMAP, map) != 0) {
        if (errno != EOPNOTSUPP && errno != ENOTTY && errno != EBADR) // folders of xfs tell nothing
          cannot(path, "where it lies cannot be found out");
        return;
      }
      if (map->fm_mapped_extents == 0)
        return;
      for (std::uint32_t i = 0; i < map->fm_mapped_extents; ++i) {
        const fiemap_extent& e = map->fm_extents[i];
        last = last || (e.fe_flags & FIEMAP_EXTENT_LAST) != 0;
        from = e.fe_logical + e.fe_length;
        if ((e.fe_flags & (FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_UNWRITTEN)) == 0)
          hit(path, kind, e.fe_logical, {e.fe_physical, e.fe_length});
      }
    }
  }

  void hit(const std::string& path, const char* kind, std::uint64_t offset, const place& extent) {
    auto lost = std::upper_bound(lost_.begin(), lost_.end(), extent.at,
                                 [](std::uint64_t at, const place& p) { return at < p.at + p.length; });
    for (; lost != lost_.end() && lost->at < extent.at + extent.length; ++lost) {
      const auto both = overlap(*lost, extent);
      found_.files.push_back({path, kind, offset + (both.at - extent.at), both});
    }
  }

  /// What no file has: asked of the file system.
  void add_others() {
    std::vector<place> owned;
    for (const auto& file : found_.files)
      owned.push_back(file.where);
    std::sort(owned.begin(), owned.end(), [](const auto& a, const auto& b) { return a.at < b.at; });
    auto next = owned.begin();
    for (const auto& lost : lost_) {
      std::uint64_t at = lost.at;
      for (; next != owned.end() && next->at < lost.at + lost.length; ++next) {
        if (next->at > at)
          ask_about({at, next->at - at});
        at = std::max(at, next->at + next->length);
      }
      if (at < lost.at + lost.length)
        ask_about({at, lost.at + lost.length - at});
    }
  }

  void other(const char* kind, const place& where) {
    auto& others = found_.others;
    if (!others.empty() && others.back().kind == kind &&
        others.back().where.at + others.back().where.length == where.at)
      others.back().where.length += where.length;
    else if (where.length != 0)
      others.push_back({kind, where});
  }

  void ask_about(const place& gap) {
    constexpr std::uint32_t batch = 64;
    alignas(fsmap_head) std::array<std::byte, sizeof(fsmap_head) + batch * sizeof(struct fsmap)> room;
    struct stat st {};
    std::uint64_t at = gap.at;
    const std::uint64_t end = gap.at + gap.length;
    while (at < end && ::fstat(top_, &st) == 0) {
      room.fill(std::byte{});
      auto* head = reinterpret_cast<fsmap_head*>(room.data());
      head->fmh_count = batch;
      struct fsmap &low = head->fmh_keys[0], &high = head->fmh_keys[1];
      const unsigned major = ::major(st.st_dev), minor = ::minor(st.st_dev);
      low.fmr_device = high.fmr_device = (minor & 0xffU) | (major << 8U) | ((minor & ~0xffU) << 12U);
      low.fmr_physical = at;
      high.fmr_physical = end - 1;
      high.fmr_flags = std::numeric_limits<std::uint32_t>::max();
      high.fmr_owner = high.fmr_offset = std::numeric_limits<std::uint64_t>::max();
      if (::ioctl(top_, FS_IOC_GETFSMAP, head) != 0 || head->fmh_entries == 0)
        break;
      for (std::uint32_t i = 0; i < head->fmh_entries; ++i) {
        const struct fsmap& one = head->fmh_recs[i];
        const auto both = overlap({at, end - at}, {one.fmr_physical, one.fmr_length});
        if (both.length == 0)
          continue;
        const bool special = (one.fmr_flags & FMR_OF_SPECIAL_OWNER) != 0;
        other("unknown", {at, both.at - at});
        other(!special || one.fmr_owner == FMR_OWN_UNKNOWN ? "unknown"
              : one.fmr_owner == FMR_OWN_FREE              ? "free"
                                                           : "metadata",
              both);
        at = both.at + both.length;
      }
      if ((head->fmh_recs[head->fmh_entries - 1].fmr_flags & FMR_OF_LAST) != 0)
        break;
    }
    other("unknown", {at, end - at});
  }

  const int top_;
  const std::vector<place>& lost_;
  const show_progress& show_;
  std::deque<std::string> folders_;
  owners found_;
  std::uint64_t seen_ = 0, inodes_ = 0;
};

} // namespace

int open_below(int folder, const std::string& path, int flags) {
  open_how how{};
  how.flags = static_cast<std::uint64_t>(flags | O_CLOEXEC | O_NOFOLLOW);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
  return static_cast<int>(::syscall(SYS_openat2, folder, path.c_str(), &how, sizeof how));
}

result<owners> owners_by_extents(int top, const std::vector<place>& lost, const show_progress& show) {
  return extent_walk(top, lost, show).run();
}

} // namespace dmremap::admin
