// SPDX-License-Identifier: GPL-2.0-or-later
// Opening, closing and the fast path: requests that meet no error and change no table.
#include "engine/disk_impl.h"

#include <algorithm>
#include <cstring>
#include <future>
#include <system_error>

namespace dmremap {
namespace {

constexpr std::uint64_t piece_bytes = 1u << 20; // the most that one attempt covers
const commit_rules default_rules;

/// Cuts [offset, offset + length) into runs with one destination each. `visit(entry, bytes_done, run_bytes,
/// member_at)` returns false to stop; `entry` is the map's word for the run's first unit.
template <class Visit>
void each_run(const remap_set& set, std::uint64_t offset, std::uint64_t length, Visit&& visit) {
  std::uint64_t done = 0;
  while (done < length) {
    const std::uint64_t at = offset + done;
    const main_unit first = unit_at(at);
    const map_entry entry = set.lookup(first);
    std::uint64_t end = std::min(byte_of(first.plus(1)), offset + length);
    const bool plain = !entry.in_doubt() && entry.lost() == 0;
    for (std::uint64_t n = 1; plain && end < offset + length; ++n) {
      const map_entry next = set.lookup(first.plus(n));
      const bool joins = entry.present() ? next.present() && !next.in_doubt() && next.lost() == 0 &&
                                               next.spare() == entry.spare() &&
                                               next.unit().value == entry.unit().value + n
                                         : !next.present();
      if (!joins)
        break;
      end = std::min(byte_of(first.plus(n + 1)), offset + length);
    }
    const std::uint64_t member_at = entry.present() ? byte_of(entry.unit()) + at % unit_bytes : at;
    if (!visit(entry, done, end - at, member_at))
      return;
    done = end - offset;
  }
}

} // namespace

// --- members and contexts
// ------------------------------------------------------------------------------------------

io_result disk_member::flush_if_written(bool tell_failures) {
  // In this order: nothing is told that has not failed, and a write that a failed flush counted here may have
  // given up is in `now`.
  const std::uint64_t told = reported.load(), crossed_told = crossed_reported.load();
  const std::uint64_t crossed_before = crossed.load();
  const auto raise = [](std::atomic<std::uint64_t>& a, std::uint64_t to) {
    std::uint64_t before = a.load();
    while (before < to && !a.compare_exchange_weak(before, to)) {
    }
  };
  if (absent) { // what it had not flushed may be gone: whoever asks is told, once
    const std::uint64_t all = written.load();
    raise(crossed_reported, crossed_before);
    return flushed.exchange(all) >= all && crossed_before == crossed_told ? io_result{}
                                                                          : io_fail(io_error::absent);
  }
  const std::uint64_t failed_before = io->failed_flushes();
  const std::uint64_t now = written.load();
  if (flushed.load() >= now && crossed_before == crossed_told) {
    raise(reported, failed_before); // nothing that was answered was waiting for those
    return {};
  }
  const io_result done = io->flush();
  const std::uint64_t failed_after = io->failed_flushes();
  if (done && (!tell_failures || (failed_after == told && crossed_before == crossed_told))) {
    raise(flushed, now);
    return {};
  }
  if (unwritable)
    raise(flushed, now); // told once: what it had not kept then it never will
  // A write that was answered or crossed meanwhile has a caller of its own to be told.
  raise(crossed_reported, crossed_before);
  raise(reported, written.load() == now ? failed_after : failed_before);
  return done ? io_fail(io_error::medium) : done;
}

void request_counters::add_to(request_counters& sum) const {
  sum.reads += reads.load(std::memory_order_relaxed);
  sum.writes += writes.load(std::memory_order_relaxed);
  sum.zeroes += zeroes.load(std::memory_order_relaxed);
  sum.read_bytes += read_bytes.load(std::memory_order_relaxed);
  sum.written_bytes += written_bytes.load(std::memory_order_relaxed);
}

io_context::io_context() : impl_(std::make_unique<impl>()) {}

io_context::~io_context() {
  disk::impl& owner = *impl_->owner;
  const std::lock_guard lock(owner.contexts_mutex);
  impl_->counters.add_to(owner.past);
  owner.contexts.erase(impl_.get());
  owner.gate.release_slot(impl_->slot);
}

std::unique_ptr<io_context> disk::make_context() {
  range_gate<>::worker_slot* slot = impl_->gate.acquire_slot();
  if (slot == nullptr)
    return nullptr;
  std::unique_ptr<io_context> c(new io_context);
  c->impl_->owner = impl_.get();
  c->impl_->slot = slot;
  const std::lock_guard lock(impl_->contexts_mutex);
  impl_->contexts.insert(c->impl_.get());
  return c;
}

disk::disk() : impl_(std::make_unique<impl>()) {}
disk::~disk() = default;

// --- open and close
// ------------------------------------------------------------------------------------------------

result<std::unique_ptr<disk>> disk::open(std::shared_ptr<store> main,
                                         std::vector<std::shared_ptr<store>> spares,
                                         const open_options& options) {
  std::unique_ptr<disk> d(new disk);
  impl& i = *d->impl_;
  i.options = options;
  const commit_rules& rules = options.rules != nullptr ? *options.rules : default_rules;
  if (spares.empty())
    return fail("no-spare", "", "a set has at least one spare");
  CHECK_OK(
      impl::check_not_spare(*main, options)); // first: with both swapped the spare would be what is wrong
  std::vector<std::unique_ptr<spare_metadata>> metadata;
  for (const auto& s : spares)
    metadata.push_back(TRY(spare_metadata::load_supers(s, rules)));
  const set_record record = TRY(choose_record(metadata));
  CHECK_OK(impl::check_main(record.newest, *main, options, i.notices));
  CHECK_OK(impl::check_age(metadata, record, options));
  if (!options.read_only && (record.newest.feature_ro_compat & ~known_ro_compat) != 0)
    return fail("unsupported-feature", record.newest.set_name,
                "uses a feature that this version can only read; open it with -o ro");
  i.bytes = record.newest.main_sectors * sector_bytes;
  i.main.io = std::move(main);
  // What a session that was killed had answered may still lie in a cache: the first flush covers that, too.
  i.main.written = options.read_only ? 0 : 1;
  i.auto_remap = options.auto_remap && !options.read_only;
  i.read_retries = options.read_retries;
  i.main.reported = i.main.io->failed_flushes();
  i.set = TRY(remap_set::assemble(std::move(metadata), options.degraded, rules));
  if (options.check_set)
    CHECK_OK(options.check_set(to_text(record.newest.set_uuid), record.newest.set_name));
  i.note_what_was_found();
  for (unsigned n = 0; n < i.set->places(); ++n)
    if (i.set->listed(n))
      i.set_member(n, i.set->io_of(n));
  i.set->on_absent = [&i](unsigned n, bool readable) { i.lose_member(n, readable); };
  i.set->on_present = [&i](unsigned n, std::shared_ptr<store> io) { i.set_member(n, std::move(io)); };
  if (options.on_record) {
    i.keeper = std::make_unique<record_keeper>(options.on_record);
    i.set->on_record = [&i](std::uint64_t end) {
      if (i.serving)
        (void)i.keeper->keep(end, i.options.record_wait); // info() tells where that failed
      else
        i.options.on_record(end);
    };
  }
  i.breaker.set_limits(options.breaker_remaps, std::chrono::seconds(options.breaker_seconds));
  if (!options.read_only)
    CHECK_OK(i.set->start_session());
  i.serving = true;
  return d;
}

void disk::impl::note_what_was_found() {
  const char* const mended = options.read_only ? "" : "; mended";
  notices.insert(notices.end(), set->notices().begin(), set->notices().end());
  if (!set->super_copy().clean)
    notices.emplace_back("the set was not closed cleanly");
  for (unsigned n = 0; n < set->places(); ++n)
    set->with_metadata(n, [&](spare_metadata& m) {
      const std::string of = set->places() > 1 ? " of spare " + std::to_string(n) : "";
      if (!m.damaged().empty())
        notices.push_back(std::to_string(m.damaged().size()) + " table blocks" + of +
                          " had copies that differed or could not be read" + mended);
      if (m.supers_damaged())
        notices.push_back("superblock copies" + of + " were damaged or old" + mended);
    });
}

void disk::impl::set_member(unsigned n, std::shared_ptr<store> io) {
  auto m = std::make_shared<disk_member>();
  m->absent = io == nullptr;
  spares_absent += io == nullptr ? 1 : 0;
  m->io = std::move(io);
  m->reported = m->absent ? 0 : m->io->failed_flushes();
  const std::lock_guard lock(members_mutex);
  spares[n] = std::move(m);
}

/// Its flags only ever go from here to there: the one that was there before says what it was counted as.
void disk::impl::lose_member(unsigned n, bool readable) {
  disk_member& m = *spares[n];
  if (readable) {
    spares_unwritable += m.unwritable.exchange(true) ? 0 : 1;
    return;
  }
  spares_absent += m.absent.exchange(true) ? 0 : 1;
  spares_unwritable -= m.unwritable.exchange(false) ? 1 : 0;
}

bool disk::impl::is_absent(unsigned n) const {
  const std::lock_guard lock(members_mutex);
  return !spares[n] || !spares[n]->takes_writes();
}

bool disk::impl::gone_or_removed(unsigned n) const {
  const std::lock_guard lock(members_mutex);
  return !spares[n] || spares[n]->absent;
}

std::shared_ptr<disk_member> disk::impl::member_at(unsigned n) const {
  const std::lock_guard lock(members_mutex);
  return spares[n];
}

std::vector<std::shared_ptr<disk_member>> disk::impl::members() const {
  const std::lock_guard lock(members_mutex);
  std::vector<std::shared_ptr<disk_member>> all;
  for (const auto& m : spares)
    if (m)
      all.push_back(m);
  return all;
}

result<void> disk::close() {
  impl& i = *impl_;
  if (i.closed || i.options.read_only) {
    i.closed = true;
    return {};
  }
  if (auto flushed = i.keeps(&commit_rules::close_flushes) ? flush() : io_result{}; !flushed)
    return fail("close-failed", i.main.io->identity().path,
                "the last flush failed: " + std::string(name_of(flushed.error())));
  CHECK_OK(i.set->close([&](superblock& s) { i.describe_main(s); }));
  i.closed = true;
  return {};
}

std::uint64_t disk::size() const {
  return impl_->bytes;
}

std::uint32_t disk::block_size() const {
  std::uint32_t largest = impl_->main.io->block_size();
  for (const auto& s : impl_->members())
    if (s->io)
      largest = std::max(largest, s->io->block_size());
  return largest;
}

std::uint64_t disk::impl::valid_sectors(main_unit u) const {
  return std::min(unit_bytes, bytes - byte_of(u)) / sector_bytes;
}

// --- reading
// -------------------------------------------------------------------------------------------------------

io_result disk::impl::read_member(io_context::impl& c, store& io, std::span<std::byte> buffer,
                                  std::uint64_t at) {
  if (fits_blocks(io, at, buffer.size()))
    return io.read(buffer, at);
  const std::uint64_t start = align_down(at, io.block_size());
  const std::uint64_t length = align_up(at + buffer.size(), io.block_size()) - start;
  if (const std::size_t units = length / unit_bytes + 1; c.bounce.size() < units)
    c.bounce.resize(units); // most requests are short: a whole piece costs more to make than they take
  const std::span<std::byte> whole(c.bounce.front().bytes.data(), length);
  CHECK_OK(io.read(whole, start));
  std::memcpy(buffer.data(), whole.data() + (at - start), buffer.size());
  return {};
}

attempt disk::impl::try_read(io_context::impl& c, std::span<std::byte> buffer, std::uint64_t offset) {
  const unit_range range = range_of(offset, buffer.size());
  if (!gate.enter(*c.slot, range))
    return {attempt_end::frozen, {}, false};
  attempt end;
  if (!set->any_in(main_unit(range.first), range.count)) {
    if (auto read = read_member(c, *main.io, buffer, offset); !read)
      end = {attempt_end::failed, read.error(), true};
  } else {
    each_run(*set, offset, buffer.size(),
             [&](map_entry e, std::uint64_t done, std::uint64_t length, std::uint64_t at) {
               if (e.in_doubt()) {
                 end = {attempt_end::doubtful, {}, false};
               } else if ((e.lost() & touched_sectors(unit_at(offset + done), offset + done, length)) != 0) {
                 end = {attempt_end::failed, io_error::lost, false};
               } else if (e.present() && member_of(e).absent) {
                 end = {attempt_end::failed, io_error::absent, false};
               } else {
                 store& io = e.present() ? *member_of(e).io : *main.io;
                 if (auto read = read_member(c, io, buffer.subspan(done, length), at); !read)
                   end = {attempt_end::failed, read.error(), !e.present(), e.spare()};
               }
               return end.end == attempt_end::done;
             });
  }
  gate.leave(*c.slot);
  return end;
}

io_result disk::impl::read_once(io_context& context, std::span<std::byte> buffer, std::uint64_t offset) {
  const attempt first = try_read(*context.impl_, buffer, offset);
  if (first.end == attempt_end::done) [[likely]]
    return {};
  if (first.end == attempt_end::failed && (first.why == io_error::lost || first.why == io_error::absent)) {
    ++(first.why == io_error::lost ? counts.lost_reads : counts.absent_requests); // no drive is touched
    return io_fail(first.why);
  }
  ++counts.slow_requests;
  if (context.on_slow)
    context.on_slow();
  auto outcome = resolve_read(*context.impl_, buffer, offset, first);
  if (context.on_fast)
    context.on_fast();
  if (!outcome && outcome.error() == io_error::lost)
    ++counts.lost_reads;
  return outcome;
}

io_result disk::read(io_context& context, std::span<std::byte> buffer, std::uint64_t offset) {
  impl& i = *impl_;
  if (offset > i.bytes || buffer.size() > i.bytes - offset)
    return io_fail(io_error::invalid);
  request_counters::bump(context.impl_->counters.reads);
  request_counters::bump(context.impl_->counters.read_bytes, buffer.size());
  for (std::size_t done = 0; done < buffer.size();) {
    const std::uint64_t at = offset + done;
    const std::uint64_t length = std::min(buffer.size() - done, piece_bytes - at % unit_bytes);
    CHECK_OK(i.read_once(context, buffer.subspan(done, length), at));
    done += length;
  }
  return {};
}

// --- writing
// -------------------------------------------------------------------------------------------------------

attempt disk::impl::try_write(io_context::impl& c, std::span<const std::byte> data, std::uint64_t offset) {
  const unit_range range = range_of(offset, data.size());
  if (!gate.enter(*c.slot, range))
    return {attempt_end::frozen, {}, false};
  attempt end;
  each_run(
      *set, offset, data.size(),
      [&](map_entry e, std::uint64_t done, std::uint64_t length, std::uint64_t at) {
        if (e.in_doubt()) { // it need not have a place on any spare
          end = {attempt_end::doubtful, {}, false};
          return false;
        }
        disk_member& m = e.present() ? member_of(e) : main;
        if ((e.lost() & touched_sectors(unit_at(offset + done), offset + done, length)) != 0 ||
            !m.takes_writes() || !fits_blocks(*m.io, at, length)) {
          end = {attempt_end::needs_slow, {}, false}; // a table change, or read-modify-write under a freeze
        } else if (auto wrote = m.write(data.subspan(done, length), at); !wrote) {
          end = {attempt_end::failed, wrote.error(), !e.present(), e.spare()};
        }
        return end.end == attempt_end::done;
      });
  gate.leave(*c.slot);
  return end;
}

io_result disk::impl::write_once(io_context& context, std::span<const std::byte> data, std::uint64_t offset) {
  const attempt first = try_write(*context.impl_, data, offset);
  if (first.end == attempt_end::done) [[likely]]
    return {};
  ++counts.slow_requests;
  if (context.on_slow)
    context.on_slow();
  auto outcome = resolve_write(*context.impl_, data, offset, first);
  if (context.on_fast)
    context.on_fast();
  return outcome;
}

io_result disk::write(io_context& context, std::span<const std::byte> data, std::uint64_t offset) {
  impl& i = *impl_;
  if (i.options.read_only)
    return io_fail(io_error::read_only);
  if (offset > i.bytes || data.size() > i.bytes - offset)
    return io_fail(io_error::invalid);
  request_counters::bump(context.impl_->counters.writes);
  request_counters::bump(context.impl_->counters.written_bytes, data.size());
  for (std::size_t done = 0; done < data.size();) {
    const std::uint64_t at = offset + done;
    const std::uint64_t length = std::min(data.size() - done, piece_bytes - at % unit_bytes);
    CHECK_OK(i.write_once(context, data.subspan(done, length), at));
    done += length;
  }
  return {};
}

// --- flushing
// ------------------------------------------------------------------------------------------------------

io_result disk::flush() {
  impl& i = *impl_;
  ++i.counts.flushes;
  std::vector<std::future<io_result>> others;
  io_result outcome;
  const auto note = [&](const io_result& r) {
    if (!r && outcome)
      outcome = r;
  };
  const auto flush_spare = [&i](unsigned n, disk_member& m) {
    const std::uint64_t written = m.written.load(), crossed = m.crossed.load();
    if (m.absent && !i.keeps(&commit_rules::vanishing_fails_flush))
      return io_result{};
    const auto flushed = m.flush_if_written(i.keeps(&commit_rules::flush_tells_failures));
    if (!flushed && m.takes_writes()) {
      i.check_spare(n, flushed.error());
      if (m.absent && m.crossed.load() == crossed && m.written.load() == written)
        (void)m.flush_if_written(); // its going is told by this very failure
    }
    return flushed.map_error(said_by_spare);
  };
  for (unsigned n = 0; n < max_spares; ++n) {
    std::shared_ptr<disk_member> s;
    {
      const std::lock_guard lock(i.members_mutex);
      s = i.spares[n];
    }
    if (!s || s->all_flushed() || !i.keeps(&commit_rules::flush_reaches_spares))
      continue;
    try {
      others.push_back(std::async(std::launch::async, [=] { return flush_spare(n, *s); }));
    } catch (const std::system_error&) { // no thread to be had: one after the other
      note(flush_spare(n, *s));
    }
  }
  if (i.keeps(&commit_rules::flush_reaches_main))
    note(i.main.flush_if_written(i.keeps(&commit_rules::flush_tells_failures)));
  for (auto& f : others)
    note(f.get());
  if (i.flush_owed.exchange(false))
    note(io_fail(io_error::medium));
  if (!outcome)
    ++i.counts.flush_errors;
  return outcome;
}

// --- zeroing
// -------------------------------------------------------------------------------------------------------

/// Whole units. Runs that zero() cannot do under the gate (lost sectors, doubt, a bad place) go to
/// `by_writing`. `changed`: main may have zeroed something.
attempt disk::impl::zero_units(io_context::impl& c, unit_range r, std::vector<unit_range>& by_writing,
                               bool& changed) {
  if (!gate.enter(*c.slot, r))
    return {attempt_end::frozen, {}, false};
  attempt end;
  const std::uint64_t offset = r.first * unit_bytes;
  each_run(*set, offset, r.count * unit_bytes,
           [&](map_entry e, std::uint64_t done, std::uint64_t length, std::uint64_t at) {
             if (e.present()) {
               by_writing.push_back(range_of(offset + done, length)); // zeros to the spare; the remap stays
               return true;
             }
             const std::uint64_t failed_before = main.io->failed_flushes();
             auto zeroed = main.io->zero(at, length);
             if (zeroed) {
               ++main.zeroed;
               main.note_written(failed_before);
               changed = true;
             } else if (zeroed.error() == io_error::medium) {
               changed = true; // a part of it
               by_writing.push_back(range_of(offset + done, length));
             } else {
               end = {attempt_end::failed, zeroed.error(), true};
             }
             return end.end == attempt_end::done;
           });
  gate.leave(*c.slot);
  return end;
}

io_result disk::zero(io_context& context, std::uint64_t offset, std::uint64_t length) {
  impl& i = *impl_;
  if (i.options.read_only)
    return io_fail(io_error::read_only);
  if (offset > i.bytes || length > i.bytes - offset)
    return io_fail(io_error::invalid);
  if (length == 0)
    return {};
  request_counters::bump(context.impl_->counters.zeroes);
  static const std::vector<block_bytes> zeros(piece_bytes / unit_bytes);
  const auto write_zeros = [&](std::uint64_t from, std::uint64_t to) -> io_result {
    for (std::uint64_t at = from; at < to;) {
      const std::uint64_t n = std::min(to - at, piece_bytes - at % unit_bytes);
      CHECK_OK(i.write_once(context, {zeros.front().bytes.data(), static_cast<std::size_t>(n)}, at));
      at += n;
    }
    return {};
  };
  // Whole units first: main says there whether it can zero at all, before anything has changed.
  const std::uint64_t first = align_up(offset, unit_bytes) / unit_bytes, end = (offset + length) / unit_bytes;
  bool changed = false;
  std::vector<unit_range> by_writing;
  for (std::uint64_t u = first; u < end;) {
    const unit_range r{u, std::min(end - u, unit_range::max_count)};
    const attempt a = i.zero_units(*context.impl_, r, by_writing, changed);
    if (a.end == attempt_end::frozen) {
      if (context.on_slow)
        context.on_slow();
      i.gate.wait_thawed(r);
      if (context.on_fast)
        context.on_fast();
      continue;
    }
    if (a.end == attempt_end::failed) {
      if (a.why == io_error::unsupported && changed) // half done cannot be called unsupported: finish by hand
        by_writing.push_back(r);
      else
        return io_fail(a.why);
    }
    u += r.count;
  }
  for (const unit_range r : by_writing)
    CHECK_OK(write_zeros(r.first * unit_bytes, (r.first + r.count) * unit_bytes));
  if (first >= end)
    return write_zeros(offset, offset + length);
  CHECK_OK(write_zeros(offset, first * unit_bytes));
  return write_zeros(end * unit_bytes, offset + length);
}

} // namespace dmremap
