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
#include <optional>
#include <set>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

namespace dmremap {
namespace {

// libblkid's probes look at the start (ZFS labels, btrfs at 64 KiB, VMFS at 2 MiB, LUKS2's second header at
// up to 4 MiB) and the last 1 MiB (RAID superblocks, the backup GPT, ZFS labels); nothing that it knows lies
// elsewhere.
constexpr std::uint64_t head_bytes = 5u << 20;
constexpr std::uint64_t tail_bytes = 2u << 20;
constexpr unsigned table_sector_sizes[] = {512, 4096};
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

  /// `sector_size`: partition tables lie in sectors. Both sizes are looked at whatever the member's own is: a
  /// copy of a disk keeps the table of the disk that it was made from.
  [[nodiscard]] result<probe_handle> probe(const store& member, unsigned sector_size) const {
    probe_handle p(blkid_new_probe());
    if (!p || blkid_probe_set_device(p.get(), fd_.get(), 0, 0) != 0 ||
        blkid_probe_set_sectorsize(p.get(), sector_size) != 0)
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

void add_new(std::vector<signature>& found, signature s) {
  if (std::none_of(found.begin(), found.end(),
                   [&](const signature& f) { return f.type == s.type && f.set_uuid == s.set_uuid; }))
    found.push_back(std::move(s));
}

result<void> add_known_to_blkid(const store& member, const sparse_copy& copy, unsigned sector_size,
                                std::vector<signature>& found) {
  const auto probe = TRY(copy.probe(member, sector_size));
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
    add_new(found, {type, detail, ""});
  }
  if (more < 0)
    return probe_failed(member, "libblkid could not tell what is on it");
  return {};
}

/// What lies at `place`; nothing where that is outside or cannot be read.
std::unique_ptr<block_bytes> block_at(store& member, spare_unit place) {
  auto block = std::make_unique<block_bytes>();
  if (byte_of(place) + unit_bytes > member.size() || !member.read(block->span(), byte_of(place)))
    return nullptr;
  return block;
}

/// Valid superblock copies of ours: at the fixed places, and at the heads that those name or this size
/// implies.
template <class Visit>
void each_own_super(store& member, Visit&& visit) {
  std::set<std::uint64_t> seen;
  std::optional<geometry> named;
  const auto look = [&](const geometry& g, unsigned first, unsigned end) {
    for (unsigned copy = first; copy < end; ++copy) {
      const spare_unit place = g.super_place(copy);
      if (!seen.insert(place.value).second)
        continue;
      const auto block = block_at(member, place);
      if (!block)
        continue;
      if (const auto s = decode_superblock(*block, copy, place)) {
        if (!named)
          named = s->places;
        visit(place, *s);
      }
    }
  };
  look(geometry{}, 0, fixed_supers);
  if (named)
    look(*named, fixed_supers, super_copies);
  if (const auto computed = make_geometry(member.size()))
    look(*computed, fixed_supers, super_copies);
}

/// Fixed places that bear our superblock's letters, good or not.
template <class Visit>
void each_own_letters(store& member, Visit&& visit) {
  for (unsigned copy = 0; copy < fixed_supers; ++copy) {
    const spare_unit place = geometry{}.super_place(copy);
    if (const auto block = block_at(member, place))
      if (const auto hint = hint_of_superblock(*block))
        visit(place, *hint);
  }
}

template <class Visit>
void each_upstream_magic(store& member, Visit&& visit) {
  for (const std::uint64_t sector : upstream_v4_sectors) {
    const spare_unit place(sector / unit_sectors);
    const auto block = block_at(member, place);
    if (!block)
      continue;
    std::uint32_t magic = 0;
    for (unsigned i = 0; i < sizeof magic; ++i) // little-endian on disk
      magic |= std::to_integer<std::uint32_t>(block->bytes[i]) << (8 * i);
    if (magic == upstream_v4_magic)
      visit(place);
  }
}

} // namespace

std::vector<std::uint64_t> upstream_v4_copies(store& member) {
  std::vector<std::uint64_t> sectors;
  each_upstream_magic(member, [&](spare_unit place) { sectors.push_back(place.value * unit_sectors); });
  return sectors;
}

std::vector<std::string> spares_named_on(store& member) {
  std::set<std::string> uuids;
  each_own_super(member, [&](spare_unit, const superblock& s) { uuids.insert(to_text(s.spare_uuid)); });
  return {uuids.begin(), uuids.end()};
}

std::vector<signature> probe_set_signatures(store& member) {
  std::vector<signature> found;
  each_own_super(member, [&](spare_unit, const superblock& s) {
    add_new(found, {"dmremap", s.set_name, to_text(s.set_uuid)});
  });
  // One damaged copy beside good ones tells nothing new, and its UUID may be what is damaged.
  if (found.empty())
    each_own_letters(member, [&](spare_unit, const superblock_hint& hint) {
      if (found.empty())
        found.push_back({"dmremap", hint.set_name, to_text(hint.set_uuid)});
    });
  each_upstream_magic(member, [&](spare_unit) {
    add_new(found, {"dm-remap-v4", "metadata of dm-remap 4", ""});
  });
  return found;
}

result<std::vector<signature>> probe_signatures(store& member) {
  const auto copy = TRY(sparse_copy::take(member));
  std::vector<signature> found;
  for (const unsigned sector_size : table_sector_sizes)
    CHECK_OK(add_known_to_blkid(member, copy, sector_size, found));
  // The protective table is part of a GPT: one name is enough for both.
  if (std::any_of(found.begin(), found.end(), [](const signature& f) { return f.type == "gpt"; }))
    std::erase_if(found, [](const signature& f) { return f.type == "PMBR"; });
  for (auto& s : probe_set_signatures(member))
    add_new(found, std::move(s));
  return found;
}

result<void> wipe_signatures(store& member, const commit_rules& rules) {
  const auto copy = TRY(sparse_copy::take(member));
  const auto wipe_failed = [&](std::string_view why) {
    return fail("wipe-failed", member.identity().path,
                "the old signature could not be erased: " + std::string(why));
  };
  for (const unsigned sector_size : table_sector_sizes) {
    const auto probe = TRY(copy.probe(member, sector_size));
    while (blkid_do_probe(probe.get()) == 0)
      if (blkid_do_wipe(probe.get(), 0) != 0)
        return wipe_failed("libblkid could not clear it");
  }
  if (auto written = copy.write_back(member); !written)
    return wipe_failed(name_of(written.error()));
  std::set<std::uint64_t> places;
  each_own_super(member, [&](spare_unit place, const superblock&) { places.insert(place.value); });
  each_own_letters(member, [&](spare_unit place, const superblock_hint&) { places.insert(place.value); });
  each_upstream_magic(member, [&](spare_unit place) { places.insert(place.value); });
  const auto zeros = std::make_unique<block_bytes>();
  for (const std::uint64_t place : places)
    if (auto written = member.write(zeros->span(), place * unit_bytes); !written)
      return wipe_failed(name_of(written.error()));
  if (auto flushed = rules.flush_wiped ? member.flush() : io_result{}; !flushed)
    return wipe_failed(name_of(flushed.error()));
  return {};
}

} // namespace dmremap
