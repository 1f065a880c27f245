// SPDX-License-Identifier: GPL-2.0-or-later
// What is on a member already: libblkid over a sparse copy of its two ends, and our own magics.
#include "engine/codec.h"
#include "engine/member.h"
#include "engine/unique_fd.h"
#include "engine/wipe.h"

#include <algorithm>
#include <blkid/blkid.h>
#include <cstring>
#include <memory>
#include <set>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

namespace dmremap {
namespace {

// libblkid's probes look at the first 2 MiB (ZFS labels, btrfs at 64 KiB, LUKS2's second header) and the last
// 1 MiB (RAID superblocks, the backup GPT, ZFS labels); nothing that it knows lies elsewhere.
constexpr std::uint64_t head_bytes = 4u << 20;
constexpr std::uint64_t tail_bytes = 2u << 20;
constexpr std::uint32_t upstream_v4_magic = 0x444D5234u;
constexpr std::uint64_t upstream_v4_sectors[] = {0, 256, 512, 768, 1024, 2048, 4096, 8192};

struct close_probe {
  void operator()(blkid_probe p) const { blkid_free_probe(p); }
};
using probe_handle = std::unique_ptr<std::remove_pointer_t<blkid_probe>, close_probe>;

tl::unexpected<error> probe_failed(const store& member, const std::string& why) {
  return fail("probe-failed", member.identity().path, why);
}

struct area {
  std::uint64_t offset, length;
};

std::vector<area> ends_of(const store& member) {
  const std::uint64_t size = member.size();
  if (size <= head_bytes + tail_bytes)
    return {{0, size}};
  return {{0, head_bytes}, {size - tail_bytes, tail_bytes}};
}

/// The member's two ends in a sparse file of its size, for libblkid, which wants a descriptor.
class sparse_copy {
public:
  static result<sparse_copy> take(store& member) {
    sparse_copy copy(unique_fd(memfd_create("dmremap-probe", MFD_CLOEXEC)));
    if (copy.fd_.get() < 0 || ftruncate(copy.fd_.get(), static_cast<off_t>(member.size())) != 0)
      return probe_failed(member, std::string("no memory for a copy of its ends: ") + std::strerror(errno));
    for (const area a : ends_of(member)) {
      std::vector<block_bytes> buffer(align_up(a.length, unit_bytes) / unit_bytes);
      const std::span<std::byte> bytes(buffer.front().bytes.data(), a.length);
      if (auto read = member.read(bytes, a.offset); !read)
        return probe_failed(member, "cannot be read: " + std::string(name_of(read.error())));
      if (pwrite(copy.fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(a.offset)) !=
          static_cast<ssize_t>(bytes.size()))
        return probe_failed(member, "the copy of its ends could not be written");
    }
    return copy;
  }

  [[nodiscard]] result<probe_handle> probe(const store& member) const {
    probe_handle p(blkid_new_probe());
    if (!p || blkid_probe_set_device(p.get(), fd_.get(), 0, 0) != 0)
      return probe_failed(member, "libblkid cannot look at it");
    blkid_probe_enable_superblocks(p.get(), 1);
    blkid_probe_set_superblocks_flags(p.get(), BLKID_SUBLKS_TYPE | BLKID_SUBLKS_LABEL | BLKID_SUBLKS_UUID |
                                                   BLKID_SUBLKS_MAGIC | BLKID_SUBLKS_BADCSUM);
    blkid_probe_enable_partitions(p.get(), 1);
    blkid_probe_set_partitions_flags(p.get(), BLKID_PARTS_MAGIC | BLKID_PARTS_FORCE_GPT);
    return p;
  }

  /// Writes back what differs from the member now.
  [[nodiscard]] io_result write_back(store& member) const {
    for (const area a : ends_of(member)) {
      for (std::uint64_t at = a.offset; at < a.offset + a.length; at += unit_bytes) {
        const std::uint64_t length = std::min(unit_bytes, a.offset + a.length - at);
        block_bytes wanted, there;
        if (pread(fd_.get(), wanted.bytes.data(), length, static_cast<off_t>(at)) !=
            static_cast<ssize_t>(length))
          return io_fail(io_error::transient);
        CHECK_OK(member.read(there.span().first(length), at));
        if (std::memcmp(wanted.bytes.data(), there.bytes.data(), length) != 0)
          CHECK_OK(member.write(wanted.span().first(length), at));
      }
    }
    return {};
  }

private:
  explicit sparse_copy(unique_fd fd) : fd_(std::move(fd)) {}
  unique_fd fd_;
};

std::string value_of(blkid_probe p, const char* name) {
  const char* value = nullptr;
  return blkid_probe_lookup_value(p, name, &value, nullptr) == 0 && value != nullptr ? value : "";
}

/// Valid superblock copies of ours: at the fixed places, and at the heads that those name or this size
/// implies.
template <class Visit>
void each_own_super(store& member, Visit&& visit) {
  std::set<std::uint64_t> seen;
  const auto look = [&](const geometry& g, unsigned first, unsigned end) {
    for (unsigned copy = first; copy < end; ++copy) {
      const spare_unit place = g.super_place(copy);
      block_bytes bytes;
      if (!seen.insert(place.value).second || byte_of(place) + unit_bytes > member.size() ||
          !member.read(bytes.span(), byte_of(place)))
        continue;
      if (const auto s = decode_superblock(bytes, copy, place))
        visit(place, *s);
    }
  };
  geometry from_front;
  bool found = false;
  const auto note = [&](unsigned copy) {
    block_bytes bytes;
    const spare_unit place = geometry{}.super_place(copy);
    if (byte_of(place) + unit_bytes <= member.size() && member.read(bytes.span(), byte_of(place)))
      if (const auto s = decode_superblock(bytes, copy, place)) {
        from_front = s->places;
        found = true;
      }
  };
  for (unsigned copy = 0; copy < fixed_supers && !found; ++copy)
    note(copy);
  look(geometry{}, 0, fixed_supers);
  if (found)
    look(from_front, fixed_supers, super_copies);
  if (const auto computed = make_geometry(member.size()))
    look(*computed, fixed_supers, super_copies);
}

template <class Visit>
void each_upstream_magic(store& member, Visit&& visit) {
  for (const std::uint64_t sector : upstream_v4_sectors) {
    block_bytes bytes;
    std::uint32_t magic = 0;
    if ((sector + unit_sectors) * sector_bytes > member.size() ||
        !member.read(bytes.span(), sector * sector_bytes))
      continue;
    std::memcpy(&magic, bytes.bytes.data(), sizeof magic);
    if (magic == upstream_v4_magic)
      visit(spare_unit(sector / unit_sectors));
  }
}

} // namespace

result<std::vector<signature>> probe_signatures(store& member) {
  const auto copy = TRY(sparse_copy::take(member));
  const auto probe = TRY(copy.probe(member));
  std::vector<signature> found;
  const auto add = [&](signature s) {
    if (std::none_of(found.begin(), found.end(),
                     [&](const signature& f) { return f.type == s.type && f.set_uuid == s.set_uuid; }))
      found.push_back(std::move(s));
  };
  int more = 0;
  while ((more = blkid_do_probe(probe.get())) == 0) {
    std::string type = value_of(probe.get(), "TYPE");
    if (type.empty())
      type = value_of(probe.get(), "PTTYPE");
    if (type.empty())
      continue;
    std::string detail;
    if (const auto label = value_of(probe.get(), "LABEL"); !label.empty())
      detail = "label " + label;
    if (const auto uuid = value_of(probe.get(), "UUID"); !uuid.empty())
      detail += (detail.empty() ? "UUID " : ", UUID ") + uuid;
    add({type, detail, ""});
  }
  if (more < 0)
    return probe_failed(member, "libblkid could not tell what is on it");
  each_own_super(member, [&](spare_unit, const superblock& s) {
    add({"dmremap", s.set_name, to_text(s.set_uuid)});
  });
  each_upstream_magic(member, [&](spare_unit) { add({"dm-remap-v4", "metadata of dm-remap 4", ""}); });
  return found;
}

result<void> wipe_signatures(store& member) {
  const auto copy = TRY(sparse_copy::take(member));
  const auto wipe_failed = [&](std::string_view why) {
    return fail("wipe-failed", member.identity().path,
                "the old signature could not be erased: " + std::string(why));
  };
  const auto probe = TRY(copy.probe(member));
  while (blkid_do_probe(probe.get()) == 0)
    if (blkid_do_wipe(probe.get(), 0) != 0)
      return wipe_failed("libblkid could not clear it");
  if (auto written = copy.write_back(member); !written)
    return wipe_failed(name_of(written.error()));
  std::set<std::uint64_t> places;
  each_own_super(member, [&](spare_unit place, const superblock&) { places.insert(place.value); });
  each_upstream_magic(member, [&](spare_unit place) { places.insert(place.value); });
  const block_bytes zeros{};
  for (const std::uint64_t place : places)
    if (auto written = member.write(zeros.span(), place * unit_bytes); !written)
      return wipe_failed(name_of(written.error()));
  if (auto flushed = member.flush(); !flushed)
    return wipe_failed(name_of(flushed.error()));
  return {};
}

} // namespace dmremap
