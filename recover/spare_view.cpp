// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/spare_view.h"

#include "engine/block_io.h"
#include "engine/file_store.h"
#include "engine/range_store.h"

#include <algorithm>
#include <numeric>

namespace dmremap::recover {
namespace {

constexpr std::uint32_t piece_blocks = 256; // 1 MiB a read
const commit_rules rules;

copy_state state_of(block_fault f) {
  switch (f) {
  case block_fault::unreadable:
    return copy_state::unreadable;
  case block_fault::no_magic:
    return copy_state::gone;
  case block_fault::checksum:
    return copy_state::torn;
  case block_fault::foreign:
    return copy_state::foreign;
  case block_fault::misplaced:
    return copy_state::misplaced;
  case block_fault::version:
  case block_fault::impossible:
    return copy_state::unknown;
  }
  return copy_state::unknown;
}

super_view view_super(store& io, const superblock& newest, unsigned copy) {
  super_view v{copy, newest.places.super_place(copy), copy_state::unreadable,
               (newest.super_good >> copy & 1) != 0, 0};
  block_bytes bytes;
  if (!read_unit(io, v.place, bytes))
    return v;
  const auto found = decode_superblock(bytes, copy, v.place);
  if (!found) {
    v.state = state_of(found.error());
  } else {
    v.sequence = found->sequence;
    v.state = found->spare_uuid != newest.spare_uuid ? copy_state::foreign
              : found->sequence == newest.sequence   ? copy_state::valid
                                                     : copy_state::stale;
  }
  return v;
}

/// A replica while its blocks are read.
struct source {
  store* io = nullptr;
  std::uint64_t first = 0; ///< unit of block 0
  replica_view view;
};

struct block_copy {
  copy_state state = copy_state::unreadable;
  table_block table;
};

class table_reader {
public:
  table_reader(const superblock& super, std::vector<source>& sources)
      : super_(super), owner_(low_half(super.spare_uuid)), sources_(sources),
        buffer_(sources.size() * piece_blocks) {}

  /// Blocks [first, first + count) of one chunk; returns how many have no valid copy.
  std::uint64_t piece(std::uint32_t chunk, std::uint32_t first, std::uint32_t count) {
    std::vector<bool> readable(sources_.size() * count, true);
    for (std::size_t r = 0; r < sources_.size(); ++r) {
      if (!super_.is_good(sources_[r].view.replica, chunk))
        continue;
      store& io = *sources_[r].io;
      const std::uint64_t at = (sources_[r].first + first) * unit_bytes;
      block_bytes* const to = &buffer_[r * piece_blocks];
      const std::span<std::byte> all(to->bytes.data(), std::size_t{count} * unit_bytes);
      if (at + all.size() <= io.size() && io.read(all, at))
        continue;
      for (std::uint32_t i = 0; i < count; ++i) // one bad place must not cost its neighbours
        readable[r * count + i] = read_unit(io, spare_unit(sources_[r].first + first + i), to[i]);
    }
    std::uint64_t destroyed = 0;
    for (std::uint32_t i = 0; i < count; ++i)
      destroyed += block(chunk, first, i, count, readable) ? 0 : 1;
    return destroyed;
  }

private:
  bool block(std::uint32_t chunk, std::uint32_t first, std::uint32_t i, std::uint32_t count,
             const std::vector<bool>& readable) {
    const table_block* newest = nullptr;
    for (std::size_t r = 0; r < sources_.size(); ++r) {
      block_copy& c = copies_[r];
      c.state = copy_state::unreadable;
      if (!super_.is_good(sources_[r].view.replica, chunk) || !readable[r * count + i])
        continue;
      const auto decoded = decode_table_block(buffer_[r * piece_blocks + i], owner_, first + i,
                                              spare_unit(sources_[r].first + first + i), c.table);
      c.state = decoded ? copy_state::valid : state_of(decoded.error());
      if (decoded && (newest == nullptr || c.table.sequence > newest->sequence))
        newest = &c.table;
    }
    for (std::size_t r = 0; r < sources_.size(); ++r) {
      block_copy& c = copies_[r];
      if (!super_.is_good(sources_[r].view.replica, chunk))
        continue;
      if (c.state == copy_state::valid &&
          (c.table.sequence != newest->sequence || c.table.slots != newest->slots))
        c.state = copy_state::stale;
      ++sources_[r].view.blocks[static_cast<std::size_t>(c.state)];
    }
    return newest != nullptr;
  }

  const superblock& super_;
  const std::uint64_t owner_;
  std::vector<source>& sources_;
  std::vector<block_bytes> buffer_;
  std::array<block_copy, own_replicas + 1> copies_;
};

} // namespace

const char* name_of(copy_state s) noexcept {
  static constexpr const char* names[copy_states] = {"valid",     "stale",      "torn",    "foreign",
                                                     "misplaced", "unreadable", "unknown", "gone"};
  return names[static_cast<std::size_t>(s)];
}

std::uint64_t replica_view::all() const {
  return std::accumulate(blocks.begin(), blocks.end(), std::uint64_t{0});
}

unsigned spare_view::valid_supers() const {
  return static_cast<unsigned>(std::count_if(
      supers.begin(), supers.end(), [](const super_view& v) { return v.state == copy_state::valid; }));
}

bool spare_view::damaged() const {
  return destroyed_blocks != 0 ||
         std::any_of(supers.begin(), supers.end(),
                     [](const super_view& v) {
                       return v.expected && v.state != copy_state::valid && v.state != copy_state::stale;
                     }) ||
         std::any_of(tables.begin(), tables.end(), [](const replica_view& v) {
           return v.of(copy_state::valid) + v.of(copy_state::stale) != v.all();
         });
}

bool spare_view::behind() const {
  return std::any_of(supers.begin(), supers.end(),
                     [](const super_view& v) { return v.expected && v.state == copy_state::stale; }) ||
         std::any_of(tables.begin(), tables.end(),
                     [](const replica_view& v) { return v.of(copy_state::stale) != 0; });
}

result<std::shared_ptr<store>> open_to_read(const member_spec& spec) {
  file_store::options how;
  how.read_only = true;
  const std::shared_ptr<store> whole = TRY(file_store::open(spec.path, how));
  if (!spec.start)
    return whole;
  return std::shared_ptr<store>(TRY(range_store::make(whole, *spec.start, *spec.length)));
}

result<spare_view> view_spare(const member_spec& spec, std::shared_ptr<store> io) {
  spare_view v;
  v.spec = spec;
  v.io = std::move(io);
  v.meta = TRY(spare_metadata::load_supers(v.io, rules, image_incompat));
  const superblock& newest = v.meta->super;
  const auto whole = make_geometry(v.io->size());
  if (whole && whole->units != newest.places.units) {
    v.spec.start = spec.start.value_or(0);
    v.spec.length = newest.places.units * unit_sectors;
    v.io = TRY(open_to_read(v.spec)); // so that it is named as what it is
    v.meta = TRY(spare_metadata::load_supers(v.io, rules, image_incompat));
  }
  if (const auto place = storage_of(v.spec))
    v.place = *place;
  for (unsigned copy = 0; copy < super_copies; ++copy)
    v.supers.push_back(view_super(*v.io, v.super(), copy));
  return v;
}

void view_tables(spare_view& spare, const spare_view* host) {
  const superblock& s = spare.super();
  std::vector<source> sources;
  for (unsigned r = 0; r < own_replicas; ++r)
    sources.push_back(
        {spare.io.get(), std::uint64_t{s.places.replica_start[r]} + 1, {r, spare.spec.text(), {}}});
  if (host != nullptr && s.sixth_start != 0)
    sources.push_back(
        {host->io.get(), std::uint64_t{s.sixth_start} + 1, {sixth_replica, host->spec.text(), {}}});
  table_reader reader(s, sources);
  spare.destroyed_blocks = 0;
  for (std::uint32_t chunk = 0; chunk < s.places.chunks(); ++chunk) {
    if (s.good_replicas(chunk) == 0)
      continue; // never initialised
    const std::uint32_t end = s.places.chunk_end(chunk);
    for (std::uint32_t b = s.places.chunk_first(chunk); b < end; b += piece_blocks)
      spare.destroyed_blocks += reader.piece(chunk, b, std::min(piece_blocks, end - b));
  }
  spare.tables.clear();
  for (auto& source : sources)
    spare.tables.push_back(std::move(source.view));
}

} // namespace dmremap::recover
