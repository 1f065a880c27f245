// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/restore_write.h"

#include <algorithm>
#include <bit>
#include <fmt/format.h>

namespace dmremap::recover {
namespace {

constexpr std::uint32_t piece_blocks = 256; // 1 MiB a write

/// The blocks of a dumped table, one after the other, as they are on the medium.
class block_reader {
public:
  explicit block_reader(const dumped_spare& d) : d_(d) {}

  /// Ascending; false where the dump does not have it.
  bool take(std::uint32_t number, table_block& out) {
    while (run_ < d_.blocks.size() && d_.blocks[run_].first + d_.blocks[run_].count <= number)
      ++run_;
    if (run_ == d_.blocks.size() || number < d_.blocks[run_].first)
      return false;
    out.sequence = d_.blocks[run_].sequence;
    const std::uint64_t first = std::uint64_t{number} * slots_per_block;
    for (std::uint32_t i = 0; i < slots_per_block; ++i)
      out.slots[i] = d_.super.places.is_metadata(spare_unit(first + i))
                         ? slot::make(slot_kind::metadata, main_unit(0), 0, 0, 0)
                         : slot{};
    while (slot_ < d_.slots.size() && d_.slots[slot_].unit < first)
      ++slot_;
    for (; slot_ < d_.slots.size() && d_.slots[slot_].unit < first + slots_per_block; ++slot_)
      out.slots[d_.slots[slot_].unit - first] = d_.slots[slot_].value;
    return true;
  }

private:
  const dumped_spare& d_;
  std::size_t run_ = 0, slot_ = 0;
};

/// One replica that is written: of a spare on itself, or of a guest.
struct replica_job {
  std::size_t target = 0; ///< that it lies on
  const dumped_spare* table = nullptr;
  unsigned replica = 0;
  std::uint64_t start = 0; ///< unit of the superblock copy at the head
};

class writer {
public:
  writer(const set_dump& dump, const std::vector<restore_target>& targets,
         const std::function<void(std::uint64_t, std::uint64_t)>& progress)
      : dump_(dump), targets_(targets), progress_(progress) {
    for (const auto& t : targets_) {
      final_.push_back(t.spare->super);
      superblock& s = final_.back();
      s.sequence = t.super_sequence;
      if (const auto end = std::max(t.sequence_end, s.sequence + 1); end > s.sequence_end)
        s.sequence_next = s.sequence_end = std::min(end, sequence_limit);
    }
    plan();
  }

  result<restore_counts> run() {
    for (std::size_t n = 0; n < targets_.size(); ++n)
      CHECK_OK(mark(n));
    for (std::size_t n = 0; n < targets_.size(); ++n) // the first blocks of a chunk, which tell of it, last
      for (const bool first : {false, true})
        CHECK_OK(clear_extra(n, first));
    for (const auto& job : jobs_)
      CHECK_OK(write_replica(job));
    for (std::size_t n = 0; n < targets_.size(); ++n)
      CHECK_OK(flush(n));
    for (const auto& job : jobs_)
      CHECK_OK(read_back(job));
    for (std::size_t n = 0; n < targets_.size(); ++n) {
      CHECK_OK(check_chunks(n));
      CHECK_OK(finish(n));
    }
    return counts_;
  }

private:
  [[nodiscard]] tl::unexpected<error> failed(std::size_t n, const std::string& what, io_error why) const {
    return fail(
        "restore-failed", targets_[n].io->identity().path,
        fmt::format("{} failed ({}); the spare is not usable until dmremap-restore has run on it to its "
                    "end: run it again, or on another device",
                    what, name_of(why)));
  }

  void plan() {
    for (std::size_t n = 0; n < targets_.size(); ++n) {
      const dumped_spare& d = *targets_[n].spare;
      for (unsigned r = 0; r < own_replicas; ++r) {
        jobs_.push_back({n, &d, r, d.super.places.replica_start[r]});
        for (std::uint32_t c = 0; c < d.super.places.chunks(); ++c)
          final_[n].set_good(r, c, d.super.good_replicas(c) != 0);
      }
      final_[n].super_good = (1u << super_copies) - 1;
      for (const auto& guest : dump_.spares)
        if (const std::uint32_t start = sixth_on(guest, d); start != 0)
          plan_sixth(n, guest, start);
    }
    for (const auto& job : jobs_)
      for (const auto& run : job.table->blocks)
        all_ += run.count * 2; // written, read
  }

  /// The copy of another spare's table. Where that spare is not restored along with this one, what lies there
  /// stays where it is at least as new as the dump; else nothing relies on it any more, and the next start
  /// makes another. That of an absent spare is the only one.
  void plan_sixth(std::size_t n, const dumped_spare& guest, std::uint32_t start) {
    const bool restored = std::any_of(targets_.begin(), targets_.end(),
                                      [&](const restore_target& t) { return t.spare == &guest; });
    if (!restored && look_for_sixth(*targets_[n].io, guest, start).current)
      return;
    if (restored || guest.away)
      jobs_.push_back({n, &guest, sixth_replica, start});
    else
      final_[n].hosted_protected &= ~(1u << guest.super.spare_index);
  }

  result<void> flush(std::size_t n) {
    if (auto flushed = targets_[n].io->flush(); !flushed)
      return failed(n, "a flush", flushed.error());
    return {};
  }

  /// The head of a sixth replica is its owner's superblock: as this run leaves it, where it is written, too.
  [[nodiscard]] superblock head_of(const dumped_spare& guest) const {
    for (std::size_t n = 0; n < targets_.size(); ++n)
      if (targets_[n].spare == &guest)
        return final_[n];
    return guest.super;
  }

  /// From here on no program opens the spare. A copy that cannot be written may hold an old superblock: then
  /// the others get a higher sequence, and it does not count.
  result<void> mark(std::size_t n) {
    superblock& s = final_[n];
    for (bool again = true; again;) {
      again = false;
      superblock marked = s;
      marked.feature_incompat |= restoring_incompat;
      bool first = true; // the first one stands before the others are touched
      for (unsigned c = 0; c < super_copies; ++c) {
        if ((s.super_good >> c & 1) == 0)
          continue;
        const bool wrote = put_super(n, marked, c);
        if (wrote && first)
          CHECK_OK(flush(n));
        first = first && !wrote;
        if (!wrote) {
          give_up_super(s, c);
          again = true;
        }
      }
      if (std::popcount(s.super_good) < 2)
        return failed(n, "writing the superblocks", io_error::medium);
    }
    return flush(n);
  }

  void give_up_super(superblock& s, unsigned copy) {
    s.super_good &= ~(1u << copy);
    ++s.sequence;
    ++counts_.failed;
  }

  /// Blocks of a chunk that came into use after the dump: the superblock will not tell of them any more.
  result<void> clear_extra(std::size_t n, bool first_blocks) {
    const geometry& g = targets_[n].spare->super.places;
    for (const std::uint32_t c : targets_[n].extra)
      for (unsigned r = 0; r < own_replicas; ++r) {
        const std::uint32_t first = g.chunk_first(c);
        for (std::uint32_t b = first_blocks ? first : first + 1;
             b < (first_blocks ? first + 1 : g.chunk_end(c)); ++b)
          CHECK_OK(clear_block(n, r, b));
      }
    return flush(n);
  }

  result<void> clear_block(std::size_t n, unsigned replica, std::uint32_t number) {
    const superblock& s = targets_[n].spare->super;
    const spare_unit place = s.places.block_place(replica, number);
    static constexpr block_bytes zeros{};
    block_bytes bytes;
    table_block t;
    if (targets_[n].io->read(bytes.span(), byte_of(place)) &&
        !decode_table_block(bytes, low_half(s.spare_uuid), number, place, t))
      return {};
    const auto wrote = targets_[n].io->write(zeros.span(), byte_of(place)); // one that cannot be read, too
    if (!wrote && wrote.error() != io_error::medium)
      return failed(n, "writing the table", wrote.error());
    counts_.blocks += wrote ? 1 : 0;
    counts_.failed += wrote ? 0 : 1;
    return {};
  }

  bool put_super(std::size_t n, const superblock& s, unsigned copy) {
    block_bytes bytes;
    const spare_unit place = s.places.super_place(copy);
    encode_superblock(s, copy, place, bytes);
    return targets_[n].io->write(bytes.span(), byte_of(place)).has_value();
  }

  bool super_reads_back(std::size_t n, const superblock& s, unsigned copy) {
    block_bytes wanted, found;
    const spare_unit place = s.places.super_place(copy);
    encode_superblock(s, copy, place, wanted);
    return targets_[n].io->read(found.span(), byte_of(place)) && found.bytes == wanted.bytes;
  }

  /// Calls each(FIRST, BLOCKS) for runs of neighbours, encoded for where the replica lies.
  template <class Each>
  result<void> for_each_piece(const replica_job& job, Each&& each) {
    block_reader blocks(*job.table);
    std::vector<block_bytes> buffer;
    std::uint32_t first = 0;
    const auto pass_on = [&]() -> result<void> {
      if (!buffer.empty())
        CHECK_OK(each(first, buffer));
      done_ += buffer.size();
      if (progress_)
        progress_(done_, all_);
      buffer.clear();
      return {};
    };
    table_block one;
    for (const auto& run : job.table->blocks)
      for (std::uint32_t b = run.first; b < run.first + run.count; ++b) {
        if (job.replica == sixth_replica &&
            !job.table->super.is_good(sixth_replica, job.table->super.places.chunk_of(b)))
          continue;
        if (!buffer.empty() && (first + buffer.size() != b || buffer.size() == piece_blocks))
          CHECK_OK(pass_on());
        if (buffer.empty())
          first = b;
        if (blocks.take(b, one))
          encode_table_block(one, low_half(job.table->super.spare_uuid), b, spare_unit(job.start + 1 + b),
                             buffer.emplace_back());
      }
    return pass_on();
  }

  [[nodiscard]] static std::span<const std::byte> bytes_of(const std::vector<block_bytes>& blocks) {
    return {blocks.front().bytes.data(), blocks.size() * unit_bytes};
  }

  result<void> write_replica(const replica_job& job) {
    store& io = *targets_[job.target].io;
    if (job.replica == sixth_replica) {
      block_bytes head;
      encode_superblock(head_of(*job.table), sixth_super_copy, spare_unit(job.start), head);
      if (auto wrote = io.write(head.span(), job.start * unit_bytes); !wrote)
        CHECK_OK(drop(job, 0, wrote.error()));
    }
    return for_each_piece(
        job, [&](std::uint32_t first, const std::vector<block_bytes>& blocks) -> result<void> {
          counts_.blocks += blocks.size();
          if (io.write(bytes_of(blocks), (job.start + 1 + first) * unit_bytes))
            return {};
          for (std::uint32_t i = 0; i < blocks.size(); ++i) // one bad place must not cost its neighbours
            if (auto wrote = io.write(blocks[i].span(), (job.start + 1 + first + i) * unit_bytes); !wrote)
              CHECK_OK(drop(job, first + i, wrote.error()));
          return {};
        });
  }

  result<void> read_back(const replica_job& job) {
    store& io = *targets_[job.target].io;
    std::vector<block_bytes> found(piece_blocks);
    return for_each_piece(
        job, [&](std::uint32_t first, const std::vector<block_bytes>& blocks) -> result<void> {
          const std::span<std::byte> all(found.front().bytes.data(), blocks.size() * unit_bytes);
          const bool whole = io.read(all, (job.start + 1 + first) * unit_bytes).has_value();
          for (std::uint32_t i = 0; i < blocks.size(); ++i)
            if (!(whole || io.read(found[i].span(), (job.start + 1 + first + i) * unit_bytes)) ||
                found[i].bytes != blocks[i].bytes)
              CHECK_OK(drop(job, first + i, io_error::medium));
          return {};
        });
  }

  /// A copy that cannot be written is one that the set does without. The only map of an absent spare is not.
  result<void> drop(const replica_job& job, std::uint32_t block, io_error why) {
    if (why != io_error::medium)
      return failed(job.target, "writing the table", why);
    superblock& s = final_[job.target];
    if (job.replica != sixth_replica) {
      const std::uint32_t chunk = s.places.chunk_of(block);
      counts_.failed += s.is_good(job.replica, chunk) ? 1 : 0;
      s.set_good(job.replica, chunk, false);
      return {};
    }
    if (job.table->away)
      return failed(job.target, "writing the table of an absent spare", why);
    const std::uint32_t bit = 1u << job.table->super.spare_index;
    counts_.failed += (s.hosted_protected & bit) != 0 ? 1 : 0;
    s.hosted_protected &= ~bit;
    return {};
  }

  result<void> check_chunks(std::size_t n) const {
    const superblock& wanted = targets_[n].spare->super;
    for (std::uint32_t c = 0; c < wanted.places.chunks(); ++c)
      if (wanted.good_replicas(c) != 0 && std::popcount(final_[n].good_replicas(c)) < 2)
        return failed(n, "all but one copy of a part of the table", io_error::medium);
    return {};
  }

  /// One copy, and when it stands the others: cut off in between, all tables are there already.
  result<void> finish(std::size_t n) {
    superblock& s = final_[n];
    for (bool again = true; again;) {
      again = false;
      bool first = true;
      for (unsigned c = 0; c < super_copies; ++c) {
        if ((s.super_good >> c & 1) == 0)
          continue;
        bool well = put_super(n, s, c);
        if (first && well) {
          CHECK_OK(flush(n));
          well = super_reads_back(n, s, c);
          first = !well;
        }
        if (!well) {
          give_up_super(s, c);
          again = true;
        }
      }
      if (std::popcount(s.super_good) < 2)
        return failed(n, "writing the superblocks", io_error::medium);
    }
    CHECK_OK(flush(n));
    unsigned stand = 0;
    for (unsigned c = 0; c < super_copies; ++c)
      stand += (s.super_good >> c & 1) != 0 && super_reads_back(n, s, c) ? 1 : 0;
    if (stand < 2)
      return failed(n, "reading the superblocks back", io_error::medium);
    return {};
  }

  const set_dump& dump_;
  const std::vector<restore_target>& targets_;
  const std::function<void(std::uint64_t, std::uint64_t)>& progress_;
  std::vector<superblock> final_; ///< by target: as it is written at the end
  std::vector<replica_job> jobs_;
  restore_counts counts_;
  std::uint64_t done_ = 0, all_ = 0;
};

} // namespace

found_sixth look_for_sixth(store& io, const dumped_spare& guest, std::uint64_t start) {
  found_sixth out;
  const auto read = [&](std::uint64_t unit, block_bytes& into) {
    return (unit + 1) * unit_bytes <= io.size() && io.read(into.span(), unit * unit_bytes).has_value();
  };
  block_bytes bytes;
  if (read(start, bytes))
    if (const auto head = decode_superblock(bytes, sixth_super_copy, spare_unit(start)))
      out.whole = out.current = head->spare_uuid == guest.super.spare_uuid;
  table_block t;
  for (const auto& run : guest.blocks)
    for (std::uint32_t b = run.first; b < run.first + run.count; ++b) {
      if (!guest.super.is_good(sixth_replica, guest.super.places.chunk_of(b)))
        continue;
      const bool sound =
          read(start + 1 + b, bytes) &&
          decode_table_block(bytes, low_half(guest.super.spare_uuid), b, spare_unit(start + 1 + b), t);
      out.whole = out.whole && sound;
      out.current = out.current && sound && t.sequence >= run.sequence;
      out.newer = out.newer || (sound && t.sequence > run.sequence);
    }
  return out;
}

result<restore_counts> write_restore(const set_dump& dump, const std::vector<restore_target>& targets,
                                     const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
  return writer(dump, targets, progress).run();
}

} // namespace dmremap::recover
