// SPDX-License-Identifier: GPL-2.0-or-later
// Reading the metadata of a spare: choosing among copies. Writes nothing.
#include "engine/member.h"
#include "engine/set_dump.h"
#include "engine/spare_metadata.h"

#include <algorithm>
#include <array>

namespace dmremap {
namespace {

constexpr std::uint32_t piece_blocks = 256; // 1 MiB a read
constexpr unsigned all_replicas = own_replicas + 1;

struct super_copy {
  unsigned number = 0;
  superblock super;
};

/// One superblock copy, or why it is none.
tl::expected<superblock, block_fault> read_super(store& io, unsigned copy, spare_unit place) {
  block_bytes bytes;
  if (byte_of(place) + unit_bytes > io.size() || !io.read(bytes.span(), byte_of(place)))
    return tl::make_unexpected(block_fault::unreadable);
  return decode_superblock(bytes, copy, place);
}

/// Leaves the copies that belong together: those of the spare UUID that most copies carry. False: two as
/// often.
bool keep_majority(std::vector<super_copy>& found) {
  const auto carried = [&](const uuid_bytes& uuid) {
    return std::count_if(found.begin(), found.end(),
                         [&](const super_copy& c) { return c.super.spare_uuid == uuid; });
  };
  const auto best = std::max_element(found.begin(), found.end(), [&](const auto& a, const auto& b) {
    return carried(a.super.spare_uuid) < carried(b.super.spare_uuid);
  });
  const uuid_bytes uuid = best->super.spare_uuid;
  const auto most = carried(uuid);
  if (std::any_of(found.begin(), found.end(), [&](const super_copy& c) {
        return c.super.spare_uuid != uuid && carried(c.super.spare_uuid) == most;
      }))
    return false;
  std::erase_if(found, [&](const super_copy& c) { return c.super.spare_uuid != uuid; });
  return true;
}

const super_copy& newest_of(const std::vector<super_copy>& copies) {
  return *std::max_element(copies.begin(), copies.end(), [](const super_copy& a, const super_copy& b) {
    return a.super.sequence < b.super.sequence;
  });
}

} // namespace

result<std::unique_ptr<spare_metadata>> spare_metadata::load(std::shared_ptr<store> spare,
                                                             const commit_rules& rules) {
  auto m = TRY(load_supers(std::move(spare), rules));
  CHECK_OK(m->load_tables());
  return m;
}

result<std::unique_ptr<spare_metadata>>
spare_metadata::load_supers(std::shared_ptr<store> spare, const commit_rules& rules, std::uint32_t also) {
  std::unique_ptr<spare_metadata> m(new spare_metadata(std::move(spare), rules));
  CHECK_OK(m->choose_super(also));
  return m;
}

std::unique_ptr<spare_metadata> spare_metadata::absent(std::shared_ptr<store> host, std::uint32_t start,
                                                       const uuid_bytes& set, const uuid_bytes& uuid,
                                                       const commit_rules& rules) {
  block_bytes bytes;
  if (byte_of(spare_unit(start)) + unit_bytes > host->size() ||
      !host->read(bytes.span(), byte_of(spare_unit(start))))
    return nullptr;
  auto head = decode_superblock(bytes, sixth_super_copy, spare_unit(start));
  if (!head || head->set_uuid != set || head->spare_uuid != uuid ||
      !plausible(head->places, head->places.units * unit_bytes) ||
      byte_of(spare_unit(std::uint64_t{start} + 1 + head->places.table_blocks)) > host->size())
    return nullptr;
  std::unique_ptr<spare_metadata> m(new spare_metadata(nullptr, rules));
  m->super = std::move(*head);
  m->sixth_ = std::move(host);
  m->super.sixth_start = start;
  m->highest_sequence_ = std::max(m->super.sequence, m->super.sequence_end);
  return m;
}

result<void> spare_metadata::choose_super(std::uint32_t also) {
  const std::string& path = io_->identity().path;
  const auto computed = TRY(make_geometry(io_->size()).map_error([&](error e) {
    e.what = path;
    return e;
  }));
  std::vector<super_copy> found;
  found.reserve(super_copies);
  unsigned unreadable = 0;
  const auto look = [&](unsigned copy, spare_unit place) {
    if (auto s = read_super(*io_, copy, place))
      found.push_back({copy, std::move(*s)});
    else if (s.error() == block_fault::unreadable)
      ++unreadable;
  };
  for (unsigned copy = 0; copy < fixed_supers; ++copy)
    look(copy, computed.super_place(copy));
  // The heads lie where the newest superblock says, or, with all at the front gone, where this size puts
  // them.
  const geometry heads = found.empty() ? computed : newest_of(found).super.places;
  if (plausible(heads, io_->size()))
    for (unsigned copy = fixed_supers; copy < super_copies; ++copy)
      look(copy, heads.super_place(copy));
  if (found.empty()) {
    if (!upstream_v4_copies(*io_).empty())
      return fail("upstream-v4", path,
                  "carries metadata of the earlier dm-remap 4, which this program does not open");
    if (unreadable == super_copies)
      return fail("spare-unreadable", path, "no superblock copy can be read: medium errors");
    return fail(
        "no-superblock", path,
        "no valid dmremap superblock in any of its 10 places; is this the spare, and the whole of it?");
  }
  if (!keep_majority(found))
    return fail("mixed-superblocks", path,
                "holds superblocks of two spares in equal number; nothing was changed", exit_code::damaged);
  const super_copy& newest = newest_of(found);
  super = newest.super;
  for (const auto& c : found) {
    highest_sequence_ = std::max({highest_sequence_, c.super.sequence, c.super.sequence_end});
    if (c.super.sequence == super.sequence)
      valid_supers_ |= 1u << c.number;
  }
  super.super_good |= valid_supers_; // such a copy could be written, whatever a wrong mask says
  supers_damaged_ = (super.super_good & ~valid_supers_) != 0;
  if ((super.feature_incompat & restoring_incompat) != 0)
    return fail("restore-unfinished", path,
                "dmremap-restore did not come to its end on it; run the same command again",
                exit_code::damaged);
  if ((super.feature_incompat & image_incompat & ~also) != 0)
    return fail("metadata-image", path, holds_no_data, exit_code::damaged);
  if ((super.feature_incompat & ~(known_incompat | also)) != 0)
    return fail("unsupported-feature", path, "uses a feature of the format that this version does not know");
  if (!plausible(super.places, io_->size()))
    return fail("wrong-size", path,
                "is too small for the metadata on it (" + std::to_string(super.places.units) +
                    " units of 4096 bytes are needed): is it the whole device or range?",
                exit_code::damaged);
  return {};
}

std::unique_ptr<table_block> spare_metadata::default_block(std::uint32_t number) const {
  auto t = std::make_unique<table_block>();
  for (std::uint32_t i = 0; i < slots_per_block; ++i)
    if (places().is_metadata(spare_unit(std::uint64_t{number} * slots_per_block + i)))
      t->slots[i] = slot::make(slot_kind::metadata, main_unit(0), 0, 0, 0);
  return t;
}

result<void> spare_metadata::load_tables(bool own) {
  blocks_.clear();
  blocks_.resize(places().table_blocks);
  empty_sequence_.assign(places().table_blocks, 0);
  damaged_.clear();
  sure_.clear();
  std::vector<block_bytes> buffer(std::size_t{all_replicas} * std::min(piece_blocks, places().chunk_blocks));
  for (std::uint32_t chunk = 0; chunk < places().chunks(); ++chunk) {
    const unsigned good = own ? good_copies(chunk) : good_copies(chunk) & (1u << sixth_replica);
    if (good == 0)
      continue;
    for (std::uint32_t b = places().chunk_first(chunk); b < places().chunk_end(chunk); b += piece_blocks)
      CHECK_OK(load_piece(good, b, std::min(piece_blocks, places().chunk_end(chunk) - b), buffer));
  }
  return {};
}

result<void> spare_metadata::load_piece(unsigned good, std::uint32_t first, std::uint32_t count,
                                        std::vector<block_bytes>& buffer) {
  std::vector<unsigned> unreadable(count, 0);
  const auto bytes_of = [&](unsigned r, std::uint32_t i) -> block_bytes& { return buffer[r * count + i]; };
  for (unsigned r = 0; r < all_replicas; ++r) {
    if ((good >> r & 1) == 0)
      continue;
    const std::span<std::byte> all(bytes_of(r, 0).bytes.data(), std::size_t{count} * unit_bytes);
    if (io_of(r).read(all, byte_of(place_of(r, first))))
      continue;
    for (std::uint32_t i = 0; i < count; ++i) // one bad place must not cost its neighbours
      if (!io_of(r).read(bytes_of(r, i).span(), byte_of(place_of(r, first + i))))
        unreadable[i] |= 1u << r;
  }
  for (std::uint32_t i = 0; i < count; ++i) {
    std::array<table_block, all_replicas> decoded;
    std::array<const table_block*, all_replicas> copies{};
    for (unsigned r = 0; r < all_replicas; ++r)
      if ((good >> r & 1) != 0 && (unreadable[i] >> r & 1) == 0 &&
          decode_table_block(bytes_of(r, i), low_half(super.spare_uuid), first + i, place_of(r, first + i),
                             decoded[r]))
        copies[r] = &decoded[r];
    CHECK_OK(adopt_block(first + i, copies, good, unreadable[i]));
  }
  return {};
}

result<void> spare_metadata::adopt_block(std::uint32_t number, std::span<const table_block* const> copies,
                                         unsigned good, unsigned unreadable) {
  const table_block* best = nullptr;
  for (const table_block* c : copies)
    if (c != nullptr && (best == nullptr || c->sequence > best->sequence))
      best = c;
  if (best == nullptr)
    return fail("block-destroyed", path(),
                "all copies of table block " + std::to_string(number) + " (spare units " +
                    std::to_string(std::uint64_t{number} * slots_per_block) + " and up) are " +
                    (unreadable == good ? "unreadable" : "destroyed") +
                    "; nothing was written; see dmremap-recovery(7)",
                exit_code::damaged);
  CHECK_OK(check_slots(number, *best));
  unsigned newest = 0;
  for (unsigned r = 0; r < all_replicas; ++r)
    if (copies[r] != nullptr && copies[r]->sequence == best->sequence && copies[r]->slots == best->slots)
      newest |= 1u << r;
  if (newest != good) {
    damaged_.push_back({number, newest, unreadable});
    sure_[number] = newest;
  }
  for (const table_block* c : copies)
    if (c != nullptr)
      highest_sequence_ = std::max(highest_sequence_, c->sequence);
  for (const slot& s : best->slots) // what wins against it later must be higher
    highest_sequence_ = std::max(highest_sequence_, s.sequence());
  empty_sequence_[number] = best->sequence;
  if (best->slots != default_block(number)->slots) // else not worth keeping in memory
    blocks_[number] = std::make_unique<table_block>(*best);
  return {};
}

result<void> spare_metadata::check_slots(std::uint32_t number, const table_block& t) const {
  const std::uint64_t main_units = (super.main_sectors + unit_sectors - 1) / unit_sectors;
  for (std::uint32_t i = 0; i < slots_per_block; ++i) {
    const slot& s = t.slots[i];
    const spare_unit u(std::uint64_t{number} * slots_per_block + i);
    const bool metadata = places().is_metadata(u);
    const bool known = s.kind() <= slot_kind::metadata && s.reserved() == 0;
    const bool fits = !s.serves() || (s.main().value < main_units && s.sequence() != 0 &&
                                      (s.main_may_answer() & ~s.lost()) == 0);
    if (known && fits && metadata == (s.kind() == slot_kind::metadata))
      continue;
    return fail("impossible-slot", path(),
                "table block " + std::to_string(number) + ", slot " + std::to_string(i) + " (spare unit " +
                    std::to_string(u.value) +
                    ") has a valid checksum but impossible content; nothing was written",
                exit_code::damaged);
  }
  return {};
}

} // namespace dmremap
