// SPDX-License-Identifier: GPL-2.0-or-later
// Owners of places of a btrfs: its chunks turn a place of a device into a logical address, its back
// references that into files. Source of the shapes: linux/btrfs.h, linux/btrfs_tree.h.
#include "admin/file_owners.h"
#include "engine/unique_fd.h"

#include <algorithm>
#include <btrfsutil.h>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <endian.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/btrfs.h>
#include <linux/btrfs_tree.h>
#include <map>
#include <sys/ioctl.h>
#include <tuple>

namespace dmremap::admin {
namespace {

constexpr std::uint64_t block = 4096; // the smallest that data is mapped in

struct chunk {
  std::uint64_t logical = 0, length = 0, type = 0;
  std::vector<std::uint64_t> here; ///< where its copies begin on our device
};

tl::unexpected<error> files_failed(const char* what) {
  return fail("files-failed", "btrfs", fmt::format("{}: {}", what, std::strerror(errno)));
}

chunk read_chunk(const btrfs_ioctl_search_header& header, const std::byte* data, std::uint64_t device_id) {
  chunk c;
  btrfs_chunk item{};
  constexpr std::size_t head = offsetof(btrfs_chunk, stripe);
  if (header.len < head)
    return c;
  std::memcpy(&item, data, head);
  c.logical = header.offset;
  c.length = le64toh(item.length);
  c.type = le64toh(item.type);
  const unsigned stripes = le16toh(item.num_stripes);
  for (unsigned i = 0; i < stripes && head + (i + 1) * sizeof(btrfs_stripe) <= header.len; ++i) {
    btrfs_stripe stripe{};
    std::memcpy(&stripe, data + head + i * sizeof stripe, sizeof stripe);
    if (le64toh(stripe.devid) == device_id)
      c.here.push_back(le64toh(stripe.offset));
  }
  return c;
}

result<std::vector<chunk>> read_chunks(int top, std::uint64_t device_id) {
  constexpr std::size_t room = 64 << 10;
  std::vector<std::uint64_t> buffer((sizeof(btrfs_ioctl_search_args_v2) + room) / sizeof(std::uint64_t));
  std::vector<chunk> chunks;
  std::uint64_t from = 0;
  for (;;) {
    auto* args = reinterpret_cast<btrfs_ioctl_search_args_v2*>(buffer.data());
    *args = {};
    args->key.tree_id = BTRFS_CHUNK_TREE_OBJECTID;
    args->key.min_objectid = args->key.max_objectid = BTRFS_FIRST_CHUNK_TREE_OBJECTID;
    args->key.min_type = args->key.max_type = BTRFS_CHUNK_ITEM_KEY;
    args->key.min_offset = from;
    args->key.max_offset = args->key.max_transid = UINT64_MAX;
    args->key.nr_items = 1024;
    args->buf_size = room;
    if (::ioctl(top, BTRFS_IOC_TREE_SEARCH_V2, args) != 0)
      return files_failed("its chunks cannot be read");
    if (args->key.nr_items == 0)
      return chunks;
    const auto* at = reinterpret_cast<const std::byte*>(args->buf);
    for (std::uint32_t i = 0; i < args->key.nr_items; ++i) {
      btrfs_ioctl_search_header header{};
      std::memcpy(&header, at, sizeof header);
      at += sizeof header;
      chunks.push_back(read_chunk(header, at, device_id));
      at += header.len;
      from = header.offset + 1;
    }
  }
}

class btrfs_search {
public:
  btrfs_search(int top, std::vector<chunk> chunks)
      : top_(top), chunks_(std::move(chunks)), buffer_(room / 8) {}

  owners run(const std::vector<place>& lost, const show_progress& show) {
    std::uint64_t done = 0, all = 0;
    for (const auto& one : lost)
      all += one.length;
    for (const auto& one : lost) {
      for (std::uint64_t at = one.at; at < one.at + one.length;) {
        const auto end = std::min(at / block * block + block, one.at + one.length);
        look_up({at, end - at});
        at = end;
      }
      show(done += one.length, all);
    }
    name_files();
    return std::move(found_);
  }

private:
  static constexpr std::size_t room = 1 << 20;

  void look_up(const place& where) {
    for (const auto& c : chunks_)
      for (const auto begin : c.here)
        if (where.at >= begin && where.at < begin + c.length)
          return in_chunk(c, c.logical + (where.at - begin), where);
    const bool super = where.at >= (64 << 10) && where.at < (68 << 10);
    other(super ? "metadata" : "free", where); // no chunk: not allocated, or reserved for boot loaders
  }

  void in_chunk(const chunk& c, std::uint64_t logical, const place& where) {
    constexpr std::uint64_t striped = BTRFS_BLOCK_GROUP_RAID0 | BTRFS_BLOCK_GROUP_RAID10 |
                                      BTRFS_BLOCK_GROUP_RAID5 | BTRFS_BLOCK_GROUP_RAID6;
    if ((c.type & BTRFS_BLOCK_GROUP_DATA) == 0)
      return other("metadata", where);
    if ((c.type & striped) != 0) {
      if (!std::exchange(striped_, true))
        found_.notes.emplace_back("data striped over several devices is not followed to its files");
      return other("unknown", where);
    }
    btrfs_ioctl_logical_ino_args args{};
    args.logical = logical;
    args.size = room;
    args.inodes = reinterpret_cast<std::uintptr_t>(buffer_.data());
    if (::ioctl(top_, BTRFS_IOC_LOGICAL_INO_V2, &args) != 0)
      return other(errno == ENOENT ? "free" : errno == EINVAL ? "metadata" : "unknown", where);
    const auto* reply = reinterpret_cast<const btrfs_data_container*>(buffer_.data());
    if (reply->elem_missed != 0)
      found_.notes.push_back(
          fmt::format("{} more files share the place at {}", reply->elem_missed / 3, where.at));
    bool owned = false;
    for (std::uint32_t i = 0; i + 2 < reply->elem_cnt; i += 3) {
      const std::uint64_t inode = reply->val[i], offset = reply->val[i + 1], root = reply->val[i + 2];
      if (root == BTRFS_ROOT_TREE_OBJECTID)
        continue; // a cache of free space
      hits_[{root, inode}].push_back({offset, where});
      owned = true;
    }
    if (!owned)
      other(reply->elem_cnt == 0 ? "free" : "metadata", where);
  }

  void other(const char* kind, const place& where) {
    auto& others = found_.others;
    if (!others.empty() && others.back().kind == kind &&
        others.back().where.at + others.back().where.length == where.at)
      others.back().where.length += where.length;
    else
      others.push_back({kind, where});
  }

  void name_files() {
    std::map<std::uint64_t, std::string> volumes;
    for (const auto& [file, ranges] : hits_) {
      const auto [root, inode] = file;
      if (!volumes.count(root))
        volumes[root] = volume_path(root);
      const auto names = names_in(volumes[root], root, inode);
      for (const auto& name : names)
        for (const auto& [offset, where] : ranges)
          add(name, offset, where);
      if (names.empty())
        for (const auto& [offset, where] : ranges)
          other("unknown", where);
    }
    std::stable_sort(found_.files.begin(), found_.files.end(), [](const auto& a, const auto& b) {
      return std::tie(a.path, a.offset) < std::tie(b.path, b.offset);
    });
  }

  void add(const std::string& name, std::uint64_t offset, const place& where) {
    if (!found_.files.empty()) {
      auto& last = found_.files.back();
      if (last.path == name && last.offset + last.where.length == offset &&
          last.where.at + last.where.length == where.at) {
        last.where.length += where.length;
        return;
      }
    }
    found_.files.push_back({name, "data", offset, where});
  }

  [[nodiscard]] std::string volume_path(std::uint64_t root) const {
    char* path = nullptr;
    if (root == BTRFS_FS_TREE_OBJECTID || btrfs_util_subvolume_path_fd(top_, root, &path) != BTRFS_UTIL_OK)
      return "";
    std::string text(path);
    std::free(path);
    return text;
  }

  /// All its names (hard links); none where it was deleted and is still open.
  std::vector<std::string> names_in(const std::string& volume, std::uint64_t root, std::uint64_t inode) {
    std::vector<std::string> names;
    const unique_fd folder(open_below(top_, volume.empty() ? "." : volume, O_RDONLY | O_DIRECTORY));
    btrfs_ioctl_ino_path_args args{};
    args.inum = inode;
    args.size = room;
    args.fspath = reinterpret_cast<std::uintptr_t>(buffer_.data());
    if (!folder || (volume.empty() && root != BTRFS_FS_TREE_OBJECTID) ||
        ::ioctl(folder.get(), BTRFS_IOC_INO_PATHS, &args) != 0) {
      found_.notes.push_back(
          fmt::format("inode {} of subvolume {} has no name that can be read", inode, root));
      return names;
    }
    const auto* reply = reinterpret_cast<const btrfs_data_container*>(buffer_.data());
    for (std::uint32_t i = 0; i < reply->elem_cnt; ++i) {
      const char* name = reinterpret_cast<const char*>(reply->val) + reply->val[i];
      names.push_back(volume.empty() ? name : volume + "/" + name);
    }
    return names;
  }

  const int top_;
  const std::vector<chunk> chunks_;
  std::vector<std::uint64_t> buffer_;
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::vector<std::pair<std::uint64_t, place>>> hits_;
  owners found_;
  bool striped_ = false; ///< said already
};

} // namespace

result<owners> owners_on_btrfs(int top, std::uint64_t device_id, const std::vector<place>& lost,
                               const show_progress& show) {
  auto chunks = TRY(read_chunks(top, device_id));
  return btrfs_search(top, std::move(chunks)).run(lost, show);
}

} // namespace dmremap::admin
