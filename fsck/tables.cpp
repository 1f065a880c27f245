// SPDX-License-Identifier: GPL-2.0-or-later
#include "fsck/tables.h"

#include "engine/uuid.h"

#include <algorithm>
#include <thread>

namespace dmremap::fsck {
namespace {

constexpr std::uint32_t piece_blocks = 1024; // 4 MiB a read
constexpr std::uint32_t large_piece = 256;
constexpr unsigned all_replicas = own_replicas + 1;

class reader {
public:
  reader(const table_job& job, table_findings& found, std::uint64_t& marks)
      : job_(job), found_(found), marks_(marks), owner_(low_half(job.super->spare_uuid)),
        buffer_(job.sources.size() * std::min(piece_blocks, job.super->places.table_blocks)),
        decoded_(all_replicas) {}

  void run() {
    const geometry& g = job_.super->places;
    std::uint32_t end = 0;
    for (std::uint32_t chunk = 0; chunk < g.chunks(); chunk = end) {
      end = chunk + 1;
      if (!is_wanted(chunk))
        continue;
      const std::vector<table_source> sources = good_sources(chunk);
      if (sources.empty()) {
        look_unmarked(chunk);
        continue;
      }
      // Chunks are as small as a block on small spares: neighbours with the same good copies are read
      // together.
      const unsigned mask = mask_of(chunk);
      while (end < g.chunks() && is_wanted(end) && mask_of(end) == mask)
        ++end;
      const std::uint32_t last = g.chunk_end(end - 1);
      for (std::uint32_t b = g.chunk_first(chunk); b < last; b += piece_blocks) {
        if (job_.stop && job_.stop())
          return;
        piece(sources, b, std::min(piece_blocks, last - b));
      }
    }
  }

private:
  [[nodiscard]] bool is_wanted(std::uint32_t chunk) const {
    return job_.only.empty() || std::find(job_.only.begin(), job_.only.end(), chunk) != job_.only.end();
  }
  [[nodiscard]] unsigned mask_of(std::uint32_t chunk) const {
    unsigned mask = 0;
    for (const auto& s : job_.sources)
      mask |= job_.super->is_good(s.replica, chunk) ? 1u << s.replica : 0u;
    return mask;
  }
  [[nodiscard]] std::vector<table_source> good_sources(std::uint32_t chunk) const {
    std::vector<table_source> sources;
    for (const auto& s : job_.sources)
      if (job_.super->is_good(s.replica, chunk))
        sources.push_back(s);
    return sources;
  }

  /// A chunk that no bit tells of: blocks that hold entries must not lie there.
  void look_unmarked(std::uint32_t chunk) {
    const geometry& g = job_.super->places;
    bool written = false;
    block_bytes bytes;
    for (const auto& s : job_.sources) {
      if (s.replica == sixth_replica)
        continue;
      const std::uint32_t b = g.chunk_first(chunk);
      const spare_unit place(s.first + b);
      const bool readable = read_unit(*s.io, place, bytes);
      marks_ += mark_of(place, readable ? &bytes : nullptr);
      written = written || (readable && decode_table_block(bytes, owner_, b, place, decoded_[0]).has_value());
    }
    for (std::uint32_t b = g.chunk_first(chunk); written && b < g.chunk_end(chunk); ++b)
      for (const auto& s : job_.sources) {
        const spare_unit place(s.first + b);
        if (s.replica == sixth_replica || !read_unit(*s.io, place, bytes) ||
            !decode_table_block(bytes, owner_, b, place, decoded_[0]))
          continue;
        const auto& slots = decoded_[0].slots;
        if (std::any_of(slots.begin(), slots.end(), [](const slot& one) { return one.serves(); })) {
          found_.unmarked.push_back(chunk);
          return;
        }
      }
  }

  /// The copies of a piece, one beside the other; large ones at the same time, so that the device is kept
  /// busy.
  void read_copies(const std::vector<table_source>& sources, std::uint32_t first, std::uint32_t count) {
    const auto read_one = [&, first, count](std::size_t n) {
      store& io = *sources[n].io;
      const std::uint64_t at = (sources[n].first + first) * unit_bytes;
      const std::span<std::byte> all(buffer_[n * count].bytes.data(), std::size_t{count} * unit_bytes);
      if (at + all.size() <= io.size() && io.read(all, at))
        return;
      for (std::uint32_t i = 0; i < count; ++i) // one bad place must not cost its neighbours
        readable_[n * count + i] =
            read_unit(io, spare_unit(sources[n].first + first + i), buffer_[n * count + i]);
    };
    std::vector<std::thread> others;
    for (std::size_t n = 1; n < sources.size(); ++n)
      if (count >= large_piece)
        others.emplace_back(read_one, n);
      else
        read_one(n);
    read_one(0);
    for (auto& t : others)
      t.join();
  }

  void piece(const std::vector<table_source>& sources, std::uint32_t first, std::uint32_t count) {
    readable_.assign(sources.size() * count, true);
    read_copies(sources, first, count);
    for (std::uint32_t i = 0; i < count; ++i)
      block(sources, first, i, count);
    found_.copies += sources.size() * count;
    if (job_.on_read)
      job_.on_read(sources.size() * count * unit_bytes);
  }

  void block(const std::vector<table_source>& sources, std::uint32_t first, std::uint32_t i,
             std::uint32_t count) {
    bad_block b;
    b.number = first + i;
    std::array<int, all_replicas> same_as{}; // of a valid copy: the source whose decoded content it has
    int reference = -1;                      // first valid copy
    bool all_equal = true;
    for (std::size_t n = 0; n < sources.size(); ++n) {
      const block_bytes& bytes = buffer_[n * count + i];
      const spare_unit place(sources[n].first + b.number);
      copy_state& state = b.copies[sources[n].replica];
      b.good |= 1u << sources[n].replica;
      same_as[n] = -1;
      if (!readable_[n * count + i]) {
        state = copy_state::unreadable;
      } else if (reference >= 0 &&
                 is_same_table_block(
                     buffer_[static_cast<std::size_t>(reference) * count + i],
                     spare_unit(sources[static_cast<std::size_t>(reference)].first + b.number), bytes,
                     place)) {
        state = copy_state::valid;
        same_as[n] = reference;
      } else if (const auto ok = decode_table_block(bytes, owner_, b.number, place, decoded_[n]); ok) {
        state = copy_state::valid;
        same_as[n] = static_cast<int>(n);
        all_equal = all_equal && reference < 0;
        reference = reference < 0 ? static_cast<int>(n) : reference;
      } else {
        state = state_of(ok.error());
      }
      all_equal = all_equal && same_as[n] >= 0;
      marks_ += mark_of(place, readable_[n * count + i] ? &bytes : nullptr, same_as[n] >= 0);
    }
    if (!all_equal)
      reference = choose(sources, b, same_as);
    if (reference >= 0) {
      const table_block& chosen = decoded_[static_cast<std::size_t>(reference)];
      b.source = static_cast<int>(sources[static_cast<std::size_t>(reference)].replica);
      note_highest(chosen);
      job_.visit(b.number, chosen);
    }
    if (!all_equal)
      found_.bad.push_back(b);
  }

  /// Of copies that are not all valid and equal; returns the source of the one that counts, or -1.
  int choose(const std::vector<table_source>& sources, bad_block& b,
             const std::array<int, all_replicas>& same_as) {
    std::uint64_t top = 0;
    for (std::size_t n = 0; n < sources.size(); ++n)
      if (same_as[n] >= 0)
        top = std::max(top, decoded(same_as[n]).sequence);
    if (top == 0)
      return -1;
    int chosen = -1;
    for (const bool want_possible : {true, false}) {
      for (std::size_t n = 0; n < sources.size() && chosen < 0; ++n)
        if (same_as[n] >= 0 && decoded(same_as[n]).sequence == top &&
            (!want_possible || job_.possible(b.number, decoded(same_as[n]))))
          chosen = same_as[n];
      if (chosen >= 0)
        break;
    }
    const bool chosen_possible = job_.possible(b.number, decoded(chosen));
    for (std::size_t n = 0; n < sources.size(); ++n) {
      if (same_as[n] < 0)
        continue;
      const table_block& other = decoded(same_as[n]);
      copy_state& state = b.copies[sources[n].replica];
      if (other.sequence < top)
        state = copy_state::old;
      else if (other.slots == decoded(chosen).slots)
        state = copy_state::valid;
      else if (chosen_possible && !job_.possible(b.number, other))
        state = copy_state::impossible;
      else
        state = copy_state::differs;
      b.conflict = b.conflict || state == copy_state::differs;
      if (state != copy_state::impossible) // what is in it is not in use
        note_highest(other);
    }
    return chosen;
  }

  [[nodiscard]] const table_block& decoded(int n) const { return decoded_[static_cast<std::size_t>(n)]; }

  void note_highest(const table_block& t) {
    std::uint64_t highest = t.sequence;
    for (const slot& s : t.slots)
      highest = std::max(highest, s.sequence());
    found_.highest = std::max(found_.highest, highest);
  }

  const table_job& job_;
  table_findings& found_;
  std::uint64_t& marks_;
  const std::uint64_t owner_;
  std::vector<block_bytes> buffer_;
  std::vector<table_block> decoded_;
  std::vector<char> readable_;
};

} // namespace

void read_tables(const table_job& job, table_findings& found, std::uint64_t& marks) {
  reader(job, found, marks).run();
}

std::optional<table_block> read_block(const table_source& source, std::uint64_t owner_low,
                                      std::uint32_t number) {
  block_bytes bytes;
  table_block t;
  const spare_unit place(source.first + number);
  if (!read_unit(*source.io, place, bytes) || !decode_table_block(bytes, owner_low, number, place, t))
    return std::nullopt;
  return t;
}

} // namespace dmremap::fsck
