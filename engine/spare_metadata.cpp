// SPDX-License-Identifier: GPL-2.0-or-later
// Writing the metadata of a spare, by the rules of dmremap-format(5), ORDER OF WRITES.
#include "engine/spare_metadata.h"

#include <algorithm>
#include <bit>

namespace dmremap {
namespace {

constexpr unsigned own_copies = (1u << own_replicas) - 1; // bits of a chunk's replicas on the spare itself

constexpr std::uint32_t piece_blocks = 256; // 1 MiB a write
constexpr unsigned all_supers = (1u << super_copies) - 1;

/// An error of the place, not of the device or of its host: another copy may do.
bool place_failed(io_error e) {
  return e == io_error::medium;
}

} // namespace

result<std::unique_ptr<spare_metadata>> spare_metadata::blank(std::shared_ptr<store> spare, superblock super_,
                                                              const commit_rules& rules) {
  std::unique_ptr<spare_metadata> m(new spare_metadata(std::move(spare), rules));
  m->super = std::move(super_);
  m->super.places = TRY(make_geometry(m->io_->size()).map_error([&](error e) {
    e.what = m->io_->identity().path;
    return e;
  }));
  m->super.super_good = all_supers;
  m->super.good = {};
  m->blocks_.resize(m->places().table_blocks);
  m->empty_sequence_.resize(m->places().table_blocks);
  m->valid_supers_ = all_supers; // none holds anything that must not be overwritten
  return m;
}

const std::string& spare_metadata::path() const {
  static const std::string nowhere = "(absent)";
  const auto known = share_io();
  return known ? known->identity().path : nowhere;
}

spare_unit spare_metadata::place_of(unsigned replica, std::uint32_t number) const {
  if (replica == sixth_replica)
    return spare_unit(std::uint64_t{super.sixth_start} + 1 + number);
  return places().block_place(replica, number);
}

unsigned spare_metadata::good_copies(std::uint32_t chunk) const {
  return super.good_replicas(chunk) |
         (sixth_ && super.is_good(sixth_replica, chunk) ? 1u << sixth_replica : 0u);
}

slot spare_metadata::get(spare_unit u) const {
  if (places().is_metadata(u))
    return slot::make(slot_kind::metadata, main_unit(0), 0, 0, 0);
  const auto& b = blocks_[geometry::block_of(u)];
  return b ? b->slots[geometry::slot_of(u)] : slot{};
}

table_block& spare_metadata::block(std::uint32_t number) {
  if (!blocks_[number]) {
    blocks_[number] = default_block(number);
    blocks_[number]->sequence = empty_sequence_[number];
  }
  return *blocks_[number];
}

void spare_metadata::set(spare_unit u, slot value) {
  block(geometry::block_of(u)).slots[geometry::slot_of(u)] = value;
}

bool spare_metadata::may_change(std::uint32_t block) const {
  return std::popcount(super.good_replicas(places().chunk_of(block))) >= 2;
}

bool spare_metadata::in_two_copies(std::uint32_t block) const {
  return std::popcount(good_copies(places().chunk_of(block))) >= 2;
}

unsigned spare_metadata::weakest_chunk() const {
  unsigned weakest = own_replicas;
  for (std::uint32_t c = 0; c < places().chunks(); ++c)
    if (const unsigned good = super.good_replicas(c); good != 0)
      weakest = std::min(weakest, static_cast<unsigned>(std::popcount(good)));
  return weakest;
}

// --- superblock
// ----------------------------------------------------------------------------------------------------

io_result spare_metadata::write_super(sequence_counter& sequences) {
  const auto good = super.super_good;
  for (bool again = true; again;) {
    again = false;
    super.sequence = sequences.take();
    super.sequence_next = std::min(sequences.next, sequences.end);
    super.sequence_end = sequences.end;
    // Each repetition has cost a copy its bit, so this ends.
    if (auto tried = super_attempt(again); !tried) {
      super.super_good = good; // what fails as a whole for a moment takes them all later
      return tried;
    }
  }
  highest_sequence_ = std::max(highest_sequence_, super.sequence_end);
  supers_damaged_ = false;
  bits_unsaved_ = bits_raised_ = false;
  return {};
}

io_result spare_metadata::super_attempt(bool& again) {
  if (std::popcount(super.super_good) < 2)
    return io_fail(io_error::medium); // one copy left: a torn write would be the end of it
  const auto lose = [&](unsigned copy) {
    super.super_good &= ~(1u << copy);
    valid_supers_ &= ~(1u << copy);
    again = true;
  };
  const auto put = [&](unsigned copy, block_bytes& bytes) {
    encode_superblock(super, copy, places().super_place(copy), bytes);
    return io_->write(bytes.span(), byte_of(places().super_place(copy)));
  };
  const std::uint64_t failed_before = io_->failed_flushes();
  // Never the only valid one first: a crash in the middle would leave none.
  unsigned first = super_copies;
  for (unsigned c = super_copies; c-- > 0;)
    if ((super.super_good >> c & 1) != 0 &&
        (!rules_.super_spares_only_valid || (valid_supers_ & ~(1u << c)) != 0))
      first = c;
  if (first == super_copies)
    return io_fail(io_error::medium);

  block_bytes bytes;
  valid_supers_ &= ~(1u << first);
  if (auto wrote = put(first, bytes); !wrote) {
    if (!place_failed(wrote.error()))
      return wrote;
    lose(first);
    return {};
  }
  if (rules_.super_others_after_first) {
    if (rules_.super_flush_first)
      CHECK_OK(flush_since(*io_, failed_before));
    if (rules_.super_read_back) {
      block_bytes back;
      auto read = io_->read(back.span(), byte_of(places().super_place(first)));
      if (!read && !place_failed(read.error()))
        return read;
      if (!read || back.bytes != bytes.bytes) {
        lose(first);
        return {};
      }
    }
    valid_supers_ |= 1u << first; // from here on the others may be overwritten, this attempt or the next
  }
  unsigned written = 1u << first;
  for (unsigned c = 0; c < super_copies && rules_.super_write_others; ++c) {
    if (c == first || (super.super_good >> c & 1) == 0)
      continue;
    valid_supers_ &= ~(1u << c);
    if (auto wrote = put(c, bytes); wrote)
      written |= 1u << c;
    else if (place_failed(wrote.error()))
      lose(c);
    else
      return wrote;
  }
  const auto head = sixth_ ? write_sixth_head(rules_.flush_sixth_head) : io_result{};
  if (rules_.super_flush_others)
    CHECK_OK(flush_since(*io_, failed_before));
  valid_supers_ |= written;
  if (!head) {
    lose_sixth(head.error());
    again = true;
  }
  return {};
}

unsigned spare_metadata::verify_supers() {
  unsigned valid = 0;
  for (unsigned c = 0; c < super_copies; ++c) {
    block_bytes bytes;
    const spare_unit place = places().super_place(c);
    if (!io_->read(bytes.span(), byte_of(place)))
      continue;
    const auto s = decode_superblock(bytes, c, place);
    if (s && s->spare_uuid == super.spare_uuid && s->sequence == super.sequence)
      valid |= 1u << c;
  }
  return valid;
}

bool spare_metadata::answers() {
  const auto io = share_io();
  for (unsigned c = 0; c < super_copies && io; ++c) {
    block_bytes bytes;
    const spare_unit place = places().super_place(c);
    if (!io->read(bytes.span(), byte_of(place)))
      continue;
    if (const auto s = decode_superblock(bytes, c, place); s && s->spare_uuid == super.spare_uuid)
      return true;
  }
  return false;
}

io_result spare_metadata::erase_supers() {
  const block_bytes zeros{};
  io_result outcome;
  for (unsigned c = 0; c < super_copies; ++c)
    if (auto wrote = io_->write(zeros.span(), byte_of(places().super_place(c))); !wrote && outcome)
      outcome = wrote;
  if (rules_.flush_erased_supers)
    CHECK_OK(io_->flush());
  return outcome;
}

// --- table
// ---------------------------------------------------------------------------------------------------------

/// One chunk of one replica from memory; nothing is flushed.
io_result spare_metadata::write_chunk(unsigned replica, std::uint32_t chunk) {
  std::vector<block_bytes> buffer(std::min(piece_blocks, places().chunk_blocks));
  for (std::uint32_t b = places().chunk_first(chunk); b < places().chunk_end(chunk); b += piece_blocks) {
    const std::uint32_t count = std::min(piece_blocks, places().chunk_end(chunk) - b);
    for (std::uint32_t i = 0; i < count; ++i) {
      std::unique_ptr<table_block> fresh;
      if (!blocks_[b + i]) {
        fresh = default_block(b + i);
        fresh->sequence = empty_sequence_[b + i];
      }
      encode_table_block(fresh ? *fresh : *blocks_[b + i], low_half(super.spare_uuid), b + i,
                         place_of(replica, b + i), buffer[i]);
    }
    CHECK_OK(io_of(replica).write({buffer[0].bytes.data(), std::size_t{count} * unit_bytes},
                                  byte_of(place_of(replica, b))));
  }
  return {};
}

io_result spare_metadata::prepare_chunk(std::uint32_t chunk, sequence_counter& sequences) {
  const std::uint64_t sequence = sequences.take(), failed_before = io_->failed_flushes();
  for (std::uint32_t b = places().chunk_first(chunk); b < places().chunk_end(chunk); ++b)
    (blocks_[b] ? blocks_[b]->sequence : empty_sequence_[b]) = sequence;
  unsigned written = 0;
  for (unsigned r = 0; r < own_replicas; ++r) {
    auto wrote = write_chunk(r, chunk);
    if (!wrote && !place_failed(wrote.error()))
      return wrote;
    written |= wrote ? 1u << r : 0u;
  }
  if (std::popcount(written) < 2)
    return io_fail(io_error::medium);
  if (rules_.prepare_flush)
    CHECK_OK(flush_since(*io_, failed_before));
  if (sixth_) {
    const std::uint64_t host_failed = sixth_->failed_flushes();
    auto wrote = write_chunk(sixth_replica, chunk);
    if (wrote && rules_.prepare_flush)
      wrote = flush_since(*sixth_, host_failed);
    if (!wrote)
      lose_sixth(wrote.error());
  }
  const auto set_bits = [&](unsigned own) {
    for (unsigned r = 0; r < own_replicas; ++r)
      super.set_good(r, chunk, (own >> r & 1) != 0);
    super.set_good(sixth_replica, chunk, own != 0 && sixth_);
  };
  set_bits(written);
  if (!rules_.bits_before_slot)
    return {};
  auto recorded = write_super(sequences);
  if (!recorded)
    set_bits(0); // prepared again next time: no slot in it was ever used
  return recorded;
}

unsigned spare_metadata::sure_copies(std::uint32_t number) const {
  const unsigned good = good_copies(places().chunk_of(number));
  const auto at = sure_.find(number);
  return at == sure_.end() ? good : at->second & good;
}

io_result spare_metadata::write_copy(unsigned replica, std::uint32_t number) {
  block_bytes bytes;
  encode_table_block(block(number), low_half(super.spare_uuid), number, place_of(replica, number), bytes);
  return io_of(replica).write(bytes.span(), byte_of(place_of(replica, number)));
}

bool spare_metadata::matches_disk(unsigned replica, std::uint32_t number, io_error& why) {
  const spare_unit place = places().block_place(replica, number);
  block_bytes wanted, found;
  encode_table_block(block(number), low_half(super.spare_uuid), number, place, wanted);
  if (auto read = io_->read(found.span(), byte_of(place)); !read) {
    why = read.error();
    return false;
  }
  why = io_error::medium;
  return wanted.bytes == found.bytes;
}

io_result spare_metadata::write_first_copies(std::vector<std::uint32_t> blocks, failed_copies& failed,
                                             std::map<std::uint32_t, unsigned>& first_of) {
  while (!blocks.empty()) {
    const std::uint64_t failed_before = io_->failed_flushes();
    for (const std::uint32_t b : blocks) {
      const std::uint32_t chunk = places().chunk_of(b);
      bool wrote_one = false;
      for (unsigned r = 0; r < own_replicas && !wrote_one; ++r) {
        // As with superblocks: never over the only own copy that surely holds the newest content (the sixth
        // may go at any time). A write that failed may have torn its copy, so each try leaves one less.
        if (!super.is_good(r, chunk) || failed.contains({r, chunk}) ||
            (rules_.spares_only_copy && (sure_copies(b) & own_copies) == 1u << r))
          continue;
        sure_[b] = sure_copies(b) & ~(1u << r);
        if (auto wrote = write_copy(r, b); wrote) {
          first_of[b] = r;
          wrote_one = true;
        } else if (place_failed(wrote.error())) {
          failed.insert({r, chunk});
        } else {
          return wrote;
        }
      }
      if (!wrote_one)
        return io_fail(io_error::medium);
    }
    if (!rules_.others_after_first)
      break; // nothing to wait for: all copies go out under one flush
    if (rules_.flush_first)
      CHECK_OK(flush_since(*io_, failed_before));
    if (!rules_.read_back)
      break;
    std::vector<std::uint32_t> retry;
    for (const std::uint32_t b : blocks) {
      io_error why{};
      if (matches_disk(first_of[b], b, why)) {
        sure_[b] |= 1u << first_of[b];
        continue;
      }
      if (!place_failed(why))
        return io_fail(why);
      failed.insert({first_of[b], places().chunk_of(b)});
      retry.push_back(b);
    }
    blocks = std::move(retry);
  }
  return {};
}

io_result spare_metadata::write_other_copies(std::span<const std::uint32_t> blocks, failed_copies& failed,
                                             const std::map<std::uint32_t, unsigned>& first_of) {
  for (const std::uint32_t b : blocks) {
    const std::uint32_t chunk = places().chunk_of(b);
    for (unsigned r = 0; r < own_replicas; ++r) {
      if (!super.is_good(r, chunk) || r == first_of.at(b) || failed.contains({r, chunk}))
        continue;
      sure_[b] = sure_copies(b) & ~(1u << r);
      if (auto wrote = write_copy(r, b); !wrote) {
        if (!place_failed(wrote.error()))
          return wrote;
        failed.insert({r, chunk});
      }
    }
    if (sixth_ && rules_.write_sixth) {
      sure_[b] = sure_copies(b) & ~(1u << sixth_replica);
      if (auto wrote = write_copy(sixth_replica, b); !wrote)
        lose_sixth(wrote.error()); // whatever the reason: the answer must not wait for another spare
    }
  }
  return {};
}

io_result spare_metadata::drop_failed_copies(const failed_copies& failed, sequence_counter& sequences) {
  // Replicas that failed for none of a chunk's blocks hold all of the change. Where there is none, no copy
  // may lose its bit: the last is never cleared, and which one that would be is not for chance to say.
  std::map<std::uint32_t, unsigned> lost;
  for (const auto& [replica, chunk] : failed)
    lost[chunk] |= 1u << replica;
  for (const auto& [chunk, replicas] : lost)
    if ((super.good_replicas(chunk) & ~replicas) == 0 && rules_.last_copy_stays)
      return io_fail(io_error::medium);
  for (const auto& [replica, chunk] : failed) {
    super.set_good(replica, chunk, false);
    bits_unsaved_ = true;
  }
  return bits_unsaved_ && rules_.bits_before_answer ? write_super(sequences) : io_result{};
}

io_result spare_metadata::write_blocks(std::span<const std::uint32_t> blocks, sequence_counter& sequences,
                                       bool renumber) {
  failed_copies failed;
  std::map<std::uint32_t, unsigned> first_of;
  if (bits_raised_)
    CHECK_OK(write_super(sequences));
  for (const std::uint32_t b : blocks)
    if (renumber || block(b).sequence == 0)
      block(b).sequence = sequences.take();
  const std::uint64_t failed_before = io_->failed_flushes();
  const std::uint64_t host_failed = sixth_ ? sixth_->failed_flushes() : 0;
  CHECK_OK(write_first_copies({blocks.begin(), blocks.end()}, failed, first_of));
  if (rules_.write_others)
    CHECK_OK(write_other_copies(blocks, failed, first_of));
  if (sixth_ && rules_.write_sixth && rules_.flush_sixth)
    if (auto flushed = flush_since(*sixth_, host_failed); !flushed)
      lose_sixth(flushed.error());
  if (rules_.flush_others)
    CHECK_OK(flush_since(*io_, failed_before));
  for (const std::uint32_t b : blocks) // they are flushed and hold it, also where the superblock fails now
    for (unsigned r = 0; r <= sixth_replica; ++r)
      if (!failed.contains({r, places().chunk_of(b)}) && (r != sixth_replica || sixth_))
        sure_[b] |= 1u << r;
  CHECK_OK(drop_failed_copies(failed, sequences));
  for (const std::uint32_t b : blocks) {
    sure_.erase(b);
    std::erase_if(damaged_, [&](const damaged_block& d) { return d.number == b; });
  }
  return {};
}

io_result spare_metadata::withdraw(std::uint32_t block_number, sequence_counter& sequences) {
  const std::uint32_t chunk = places().chunk_of(block_number);
  const unsigned left = sure_copies(block_number) & own_copies;
  const bool others_are_there = std::all_of(sure_.begin(), sure_.end(), [&](const auto& b) {
    return places().chunk_of(b.first) != chunk || (sure_copies(b.first) & left) != 0;
  });
  if (std::popcount(left) != 1 || !others_are_there)
    return io_fail(io_error::medium);
  const auto replica = static_cast<unsigned>(std::countr_zero(left));
  const spare_unit place = places().block_place(replica, block_number);
  block_bytes bytes;
  table_block there;
  CHECK_OK(io_->read(bytes.span(), byte_of(place)));
  if (!decode_table_block(bytes, low_half(super.spare_uuid), block_number, place, there))
    return io_fail(io_error::medium);
  lose_sixth(io_error::medium); // it may hold the change; a new one follows
  const auto bits = super.good;
  for (unsigned r = 0; r < own_replicas; ++r)
    if (r != replica && super.is_good(r, chunk)) {
      super.set_good(r, chunk, false);
      bits_unsaved_ = true;
    }
  if (bits_unsaved_)
    if (auto saved = write_super(sequences); !saved) { // it fails as a whole: later all copies may take it
      super.good = bits;
      bits_raised_ = true; // some superblocks may say that one copy is left
      return saved;
    }
  block(block_number) = there;
  sure_.erase(block_number);
  return {};
}

// --- sixth replica
// ------------------------------------------------------------------------------------------------

void spare_metadata::attach_sixth(std::shared_ptr<store> host, std::uint32_t host_index,
                                  std::uint32_t start) {
  sixth_ = std::move(host);
  super.sixth_host = host_index;
  super.sixth_start = start;
}

void spare_metadata::detach_sixth() {
  sixth_.reset();
  super.sixth_host = no_host;
  super.sixth_start = 0;
  super.good[sixth_replica] = {};
  for (auto& [number, copies] : sure_)
    copies &= ~(1u << sixth_replica);
}

/// No table change is answered before the superblock says so.
void spare_metadata::lose_sixth(io_error why) {
  if (!sixth_)
    return;
  detach_sixth();
  sixth_no_space_ = why == io_error::no_space;
  sixth_lost_ = bits_unsaved_ = true;
}

/// The superblock as it is now to the head of the sixth replica, `flushed` but in tests.
io_result spare_metadata::write_sixth_head(bool flushed) {
  const std::uint64_t failed_before = sixth_->failed_flushes();
  const spare_unit place(super.sixth_start);
  block_bytes bytes;
  encode_superblock(super, sixth_super_copy, place, bytes);
  CHECK_OK(sixth_->write(bytes.span(), byte_of(place)));
  return flushed ? flush_since(*sixth_, failed_before) : io_result{};
}

io_result spare_metadata::place_sixth(std::shared_ptr<store> host, std::uint32_t host_index,
                                      std::uint32_t start, sequence_counter& sequences) {
  attach_sixth(std::move(host), host_index, start);
  const std::uint64_t failed_before = sixth_->failed_flushes();
  io_result done;
  for (std::uint32_t c = 0; c < places().chunks() && done; ++c)
    if (super.good_replicas(c) != 0) {
      super.set_good(sixth_replica, c, true);
      done = write_chunk(sixth_replica, c);
    }
  if (done && rules_.flush_placed_sixth)
    done = flush_since(*sixth_, failed_before);
  if (done)
    for (auto& [number, copies] : sure_)
      copies |= 1u << sixth_replica;
  if (done)
    done = write_super(sequences); // with the head
  if (done && !sixth_)
    done = io_fail(sixth_no_space_ ? io_error::no_space : io_error::medium); // lost on the way
  if (!done) {
    detach_sixth();
    sixth_lost_ = false; // nobody was told of it
  }
  return done;
}

io_result spare_metadata::move_sixth(std::shared_ptr<store> host, std::uint32_t host_index,
                                     std::uint32_t start) {
  const auto before = sixth_;
  const std::uint32_t host_before = super.sixth_host, start_before = super.sixth_start;
  attach_sixth(std::move(host), host_index, start);
  const std::uint64_t failed_before = sixth_->failed_flushes();
  io_result done;
  for (std::uint32_t c = 0; c < places().chunks() && done; ++c)
    if (super.is_good(sixth_replica, c))
      done = write_chunk(sixth_replica, c);
  if (done)
    done = write_sixth_head(rules_.flush_moved_map);
  if (done && rules_.flush_moved_map)
    done = flush_since(*sixth_, failed_before);
  if (!done)
    attach_sixth(before, host_before, start_before);
  return done;
}

io_result spare_metadata::complete_sixth(std::set<std::uint32_t> blocks, sequence_counter& sequences) {
  if (!sixth_)
    return io_fail(io_error::medium);
  const std::uint64_t failed_before = sixth_->failed_flushes();
  for (const auto& [number, copies] : sure_)
    blocks.insert(number);
  for (const std::uint32_t number : blocks) {
    if (!super.is_good(sixth_replica, places().chunk_of(number)))
      return io_fail(io_error::medium);
    block(number).sequence = sequences.take();
    CHECK_OK(write_copy(sixth_replica, number));
  }
  CHECK_OK(write_sixth_head(rules_.flush_completed_sixth));
  if (rules_.flush_completed_sixth)
    CHECK_OK(flush_since(*sixth_, failed_before));
  sure_.clear();
  return {};
}

io_result spare_metadata::rewrite_tables() {
  const std::uint64_t failed_before = io_->failed_flushes();
  superblock after = super;
  for (std::uint32_t c = 0; c < places().chunks(); ++c) {
    const bool initialised = super.is_good(sixth_replica, c);
    unsigned written = 0;
    for (unsigned r = 0; r < own_replicas; ++r) {
      bool good = false;
      if (initialised) {
        auto wrote = write_chunk(r, c);
        if (!wrote && !place_failed(wrote.error()))
          return wrote;
        good = wrote.has_value();
        written += good ? 1u : 0u;
      }
      after.set_good(r, c, good);
    }
    if (initialised && written < 2)
      return io_fail(io_error::medium);
  }
  if (rules_.flush_returned)
    CHECK_OK(flush_since(*io_, failed_before));
  super.good = after.good;
  damaged_.clear();
  sure_.clear();
  return {};
}

} // namespace dmremap
