// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/crash_run.h"

#include "engine/units.h"

#include <algorithm>
#include <stdexcept>

namespace dmremap::test {

namespace {

set_state format(std::uint64_t units, std::uint32_t main_block, std::vector<std::uint32_t> spare_blocks,
                 unsigned blanks, std::uint64_t spare_bytes) {
  memory_store main(units * unit_bytes, main_block);
  std::vector<std::byte> content(units * unit_bytes);
  fill_tags(content, 0, 1);
  std::vector<std::unique_ptr<memory_store>> made;
  std::vector<store*> spares;
  for (const std::uint32_t block : spare_blocks) {
    made.push_back(std::make_unique<memory_store>(spare_bytes, block));
    spares.push_back(made.back().get());
  }
  format_options options;
  options.name = "crash";
  options.set_uuid = "11111111-2222-4333-8444-555555555555";
  options.spare_uuid = "66666666-7777-4888-9999-aaaaaaaaaaaa";
  if (!main.write(content, 0))
    throw std::runtime_error("the memory store does not write");
  set_state state;
  const counted_numbers numbers(state.drawn);
  const auto formatted = disk::format(main, spares, options);
  if (!formatted)
    throw std::runtime_error("format: " + formatted.error().text());
  state.main = main.image();
  state.main_block = main_block;
  state.truth = oracle(units * unit_sectors, 1);
  for (unsigned n = 0; n < spare_blocks.size(); ++n)
    state.spares.push_back({made[n]->image(), {}, spare_blocks[n], spare_role::member, n});
  for (unsigned n = 0; n < blanks; ++n)
    state.spares.push_back({page_image(spare_bytes), {}, 512, spare_role::none, 0});
  return state;
}

} // namespace

std::string spare_name(std::size_t n) {
  return "spare" + std::to_string(n);
}

std::shared_ptr<memory_store> make_spare(const spare_part& of, std::size_t n) {
  auto made = std::make_shared<memory_store>(of.content, of.block, of.faults);
  store_identity identity;
  identity.path = spare_name(n);
  made->set_identity(identity);
  return made;
}

set_state format_set(std::uint64_t units, std::uint32_t main_block, std::uint32_t spare_block,
                     std::uint64_t spare_bytes) {
  return format(units, main_block, {spare_block}, 0, spare_bytes);
}

set_state format_pool(std::uint64_t units, unsigned spares, unsigned blanks) {
  std::vector<std::uint32_t> blocks;
  for (unsigned n = 0; n < spares; ++n)
    blocks.push_back(n % 2 == 0 ? 512 : 4096);
  return format(units, 512, std::move(blocks), blanks, 16 << 20);
}

crash_run::crash_run(const set_state& start, const open_options& options) : options_(options), now_(start) {
  main_memory_ = std::make_shared<memory_store>(start.main, start.main_block, start.main_faults);
  main_ = std::make_shared<crash_store>(log_, main_memory_);
  now_.main = page_image();
  for (std::size_t n = 0; n < start.spares.size(); ++n) {
    spare_memory_.push_back(make_spare(start.spares[n], n));
    spares_.push_back(std::make_shared<crash_store>(log_, spare_memory_.back()));
    now_.spares[n].content = page_image();
  }
  epochs_.push_back(now_);
  numbers_.emplace(now_.drawn);
}

crash_run::~crash_run() = default;

void crash_run::note_failure(const std::string& what) {
  if (!tolerant_)
    note(what);
}

void crash_run::ask_what_is_mapped() {
  if (now_.pool())
    return look_where();
  now_.mapped.clear();
  disk_->for_each_remap([&](const remap_entry& entry) { now_.mapped.insert(entry.main.value); });
}

void crash_run::mark(const std::string& label) {
  if ((tolerant_ || now_.pool()) && disk_)
    ask_what_is_mapped();
  now_.main_faults = main_memory_->faults();
  for (std::size_t n = 0; n < spare_memory_.size(); ++n)
    now_.spares[n].faults = spare_memory_[n]->faults();
  log_->add_marker(label);
  epochs_.push_back(now_);
}

void crash_run::note(const std::string& what) {
  violations_.push_back(what);
}

result<void> crash_run::open_what_is_there() {
  auto opened = try_open(true);
  if (!opened && (opened.error().id == "no-superblock" || opened.error().id == "foreign-spare" ||
                  opened.error().id == "mixed-superblocks"))
    opened = try_open(false);
  return opened;
}

bool crash_run::open() {
  leave_caches_behind();
  auto opened = open_what_is_there();
  if (!opened && refused_rightly(opened.error())) { // then all are needed
    for (unsigned n = 0; n < now_.spares.size(); ++n)
      if (is_away(n))
        come_back(n);
    opened = open_what_is_there();
  }
  if (!opened) {
    note("does not open: " + opened.error().id + ": " + opened.error().text());
    return false;
  }
  vanishings_ = 0;
  met_at_.clear();
  context_ = disk_->make_context();
  settle_roles();
  mark("open");
  return true;
}

void crash_run::adopt() {
  std::vector<std::byte> bytes(sector_bytes);
  for (std::uint64_t s = 0; s < now_.truth.sectors(); ++s) {
    const io_result done = disk_->read(*context_, bytes, s * sector_bytes);
    if (!done && now_.away_units.contains(s / unit_sectors))
      now_.truth.doubt(s);
    else
      now_.truth.settle(s, done ? read_tag(bytes, s) : lost_version);
  }
  now_.mapped.clear();
  now_.lost_values.clear();
  const page_image main = main_memory_->image();
  disk_->for_each_remap([&](const remap_entry& entry) {
    now_.mapped.insert(entry.main.value);
    for (std::uint64_t i = 0; i < unit_sectors; ++i) {
      const std::uint64_t s = entry.main.value * unit_sectors + i;
      now_.truth.set_unreadable(s, 1, false);
      if ((entry.lost >> i & 1) == 0 || now_.away_units.contains(entry.main.value))
        continue;
      main.read(bytes, s * sector_bytes);
      now_.lost_values[s] = read_tag(bytes, s);
    }
  });
  mark("adopted");
}

bool crash_run::write_bad(std::uint64_t unit) const {
  const auto faults = main_memory_->faults();
  return std::any_of(faults.bad.begin(), faults.bad.end(), [&](const bad_range& bad) {
    return bad.when != direction::read && bad.times != 0 && bad.first < (unit + 1) * unit_sectors &&
           bad.first + bad.count > unit * unit_sectors;
  });
}

/// As the disk says it, for a request that failed may have ended a loss.
bool crash_run::is_lost_now(std::uint64_t first, std::uint64_t count) const {
  for (std::uint64_t s = first; s < first + count; ++s) {
    const auto at = where_.find(s / unit_sectors);
    if (at != where_.end() ? (at->second.lost >> (s % unit_sectors) & 1) != 0
                           : now_.truth.current(s) == lost_version)
      return true;
  }
  return false;
}

crash_run::change crash_run::foresee_write(std::uint64_t unit, std::uint64_t first,
                                           std::uint64_t count) const {
  const std::uint64_t from = std::max(first, unit * unit_sectors);
  const std::uint64_t to = std::min(first + count, (unit + 1) * unit_sectors);
  if (now_.mapped.contains(unit))
    return is_lost_now(from, to - from) ? change::table : change::none;
  return write_bad(unit) ? change::table : change::none;
}

/// What the oracle learns from the end of a write or zero of the sectors.
void crash_run::settle_write(std::uint64_t first, std::uint64_t count, bool done, bool expected) {
  if (!done) {
    if (now_.pool())
      look_where(); // a spare that went in the middle may have what it was given
    if (expected && !may_fail(first, count))
      note_failure("the request failed");
    now_.truth.give_up(first, count);
    return;
  }
  std::set<std::uint64_t> changed;
  for (std::uint64_t unit = first / unit_sectors; unit * unit_sectors < first + count; ++unit)
    if (foresee_write(unit, first, count) == change::table)
      changed.insert(unit);
  now_.truth.acknowledge(first, count);
  for (std::uint64_t s = first; s < first + count; ++s) {
    now_.lost_values.erase(s);
    now_.truth.set_unreadable(s, 1, false);
  }
  for (const std::uint64_t unit : changed) {
    const bool in_place = now_.pool() && now_.mapped.contains(unit);
    now_.mapped.insert(unit);
    const std::uint64_t from = in_place ? std::max(first, unit * unit_sectors) : unit * unit_sectors;
    const std::uint64_t to =
        in_place ? std::min(first + count, (unit + 1) * unit_sectors) : (unit + 1) * unit_sectors;
    now_.truth.make_durable(from, to - from);
  }
}

void crash_run::write(std::uint64_t first, std::uint64_t count) {
  const version v = now_.truth.new_version();
  std::vector<std::byte> bytes(count * sector_bytes);
  fill_tags(bytes, first, v);
  now_.truth.begin(first, count, v);
  mark("write of version " + std::to_string(v) + " begins");
  const place_map before = where_;
  const io_result done = disk_->write(*context_, bytes, first * sector_bytes);
  settle_write(first, count, done.has_value(), true);
  if (done)
    settle_moved(before);
  mark("write answered");
}

void crash_run::zero(std::uint64_t first, std::uint64_t count) {
  now_.truth.begin(first, count, zeros_version);
  mark("zero begins");
  const place_map before = where_;
  const io_result done = disk_->zero(*context_, first * sector_bytes, count * sector_bytes);
  if (!done && done.error() == io_error::unsupported)
    now_.truth.withdraw(first, count);
  else
    settle_write(first, count, done.has_value(), true);
  if (done)
    settle_moved(before);
  mark("zero answered");
}

void crash_run::flush() {
  const auto begun = now_.truth.begin_flush();
  const io_result done = disk_->flush();
  if (done) {
    now_.truth.end_flush(begun);
  } else {
    now_.truth.fail_flush(begun);
    if (!meets_a_vanishing("flush"))
      note_failure("flush failed");
  }
  mark("flush answered");
}

void crash_run::lose(std::uint64_t sector) {
  now_.truth.acknowledge(sector, 1);
  now_.truth.set_unreadable(sector, 1, false);
}

void crash_run::read(std::uint64_t first, std::uint64_t count) {
  std::set<std::uint64_t> losing, moving;
  for (const bad_range& bad : main_memory_->faults().bad)
    for (std::uint64_t s = std::max(bad.first, first); s < std::min(bad.first + bad.count, first + count);
         ++s)
      if (bad.when != direction::write && !now_.mapped.contains(s / unit_sectors)) {
        losing.insert(s);
        moving.insert(s / unit_sectors);
      }
  for (const std::uint64_t s : losing) {
    now_.lost_values[s] = now_.truth.current(s);
    now_.truth.begin(s, 1, lost_version);
  }
  mark("read begins");
  std::vector<std::byte> bytes(count * sector_bytes);
  const io_result done = disk_->read(*context_, bytes, first * sector_bytes);
  for (const std::uint64_t s : losing)
    lose(s);
  for (const std::uint64_t unit : moving) {
    now_.mapped.insert(unit);
    now_.truth.make_durable(unit * unit_sectors, unit_sectors);
  }
  mark("read answered");
  if (done && is_lost_now(first, count))
    note_failure("a read of a lost sector succeeds");
  if (!done && !is_lost_now(first, count) && !may_fail(first, count))
    note_failure("a read of good sectors fails");
  for (std::uint64_t i = 0; done && i < count; ++i)
    if (const auto wrong = now_.truth.check_now(
            first + i, read_tag(std::span(bytes).subspan(i * sector_bytes, sector_bytes), first + i)))
      note(*wrong);
}

void crash_run::remap(std::uint64_t unit) {
  const auto reply = disk_->remap(sector_number(unit * unit_sectors));
  if (!reply && !may_fail(unit * unit_sectors, unit_sectors))
    note_failure("remap failed: " + reply.error().text());
  if (reply && ((reply->units == 1) == now_.mapped.contains(unit) || reply->units + reply->already != 1))
    note("remap says " + std::to_string(reply->units) + " new, " + std::to_string(reply->already) +
         " old units");
  if (reply && now_.mapped.insert(unit).second) // nothing is promised where it was mapped before
    now_.truth.make_durable(unit * unit_sectors, unit_sectors);
  mark("remap answered");
}

void crash_run::unmap(std::uint64_t unit) {
  const bool possible = now_.mapped.contains(unit) && !is_lost_now(unit * unit_sectors, unit_sectors) &&
                        !write_bad(unit) && !now_.away_units.contains(unit);
  const bool expected = possible && !named_by_one_away(unit);
  const bool dying = on_a_dying_spare(unit);
  const auto done = disk_->unmap(sector_number(unit * unit_sectors));
  if (done && !possible && !dying)
    note_failure("an unmap succeeds that cannot");
  if (!done && expected && !meets_a_vanishing("unmap"))
    note_failure("unmap failed: " + done.error().text());
  if (done) {
    now_.mapped.erase(unit);
    now_.truth.make_durable(unit * unit_sectors, unit_sectors);
  }
  mark("unmap answered");
}

void crash_run::salvage() {
  const auto coming_back = now_.lost_values;
  for (const auto& [sector, value] : coming_back)
    now_.truth.begin(sector, 1, value);
  mark("salvage begins");
  const auto reply = disk_->salvage(std::nullopt);
  if (!reply)
    note_failure("salvage failed: " + reply.error().text());
  else if (reply->recovered != coming_back.size())
    note_failure("salvage brought back " + std::to_string(reply->recovered) + " of " +
                 std::to_string(coming_back.size()));
  for (const auto& [sector, value] : coming_back) {
    if (!reply || reply->recovered != coming_back.size())
      continue;
    now_.truth.acknowledge(sector, 1);
    now_.truth.make_durable(align_down(sector, unit_sectors), unit_sectors);
    now_.lost_values.erase(sector);
  }
  mark("salvage answered");
}

void crash_run::close_and_reopen() {
  const auto begun = now_.truth.begin_flush();
  const auto closed = disk_->close();
  if (closed)
    now_.truth.end_flush(begun);
  else
    now_.truth.fail_flush(begun);
  if (!closed && !meets_a_vanishing("close"))
    note_failure("close failed: " + closed.error().text());
  mark("closed");
  context_.reset();
  disk_.reset();
  open();
}

void crash_run::kill_and_reopen() {
  context_.reset();
  disk_.reset();
  open();
}

void crash_run::sync() {
  const auto begun = now_.truth.begin_flush();
  const auto done = disk_->sync();
  if (done)
    now_.truth.end_flush(begun);
  else
    now_.truth.fail_flush(begun);
  if (!done && !meets_a_vanishing("sync"))
    note_failure("sync failed: " + done.error().text());
  mark("sync answered");
}

void crash_run::add_remap(std::uint64_t unit, std::uint64_t source) {
  const std::uint64_t first = unit * unit_sectors;
  const bool expected = !now_.mapped.contains(unit);
  while (expected && !now_.chosen_units.insert(source).second)
    ++source;
  if (expected)
    now_.truth.begin(first, unit_sectors, zeros_version);
  mark("add_remap begins");
  const auto reply =
      disk_->add_remap(sector_number(first), sector_number(source * unit_sectors), unit_sectors);
  if (reply && !expected && reply->already != 1) // the very same pair stays as it is
    note_failure("an add_remap succeeds that contradicts a remap");
  if (!reply && expected)
    note_failure("add_remap failed: " + reply.error().text());
  if (reply && expected) {
    now_.mapped.insert(unit);
    now_.truth.acknowledge(first, unit_sectors);
    now_.truth.make_durable(first, unit_sectors);
  }
  mark("add_remap answered");
}

void crash_run::fail_flushes(unsigned device, std::uint64_t good, std::uint64_t times) {
  memory(device).fail_flushes(times, io_error::medium, good);
  mark("flushes will fail");
}

void crash_run::break_writes(std::uint64_t unit) {
  main_memory_->add_bad(
      {unit * unit_sectors, unit_sectors, direction::write, io_error::medium, always, false});
  mark("main cannot write unit " + std::to_string(unit));
}

void crash_run::break_reads(std::uint64_t first, std::uint64_t count) {
  // A drive with larger blocks cannot read less than one.
  const std::uint64_t step = now_.main_block / sector_bytes;
  count = align_up(first + count, step) - align_down(first, step);
  first = align_down(first, step);
  main_memory_->add_bad({first, count, direction::read, io_error::medium, always, true});
  for (std::uint64_t s = first; s < first + count; ++s)
    if (!now_.mapped.contains(s / unit_sectors))
      now_.truth.set_unreadable(s, 1, true);
  mark("main cannot read sector " + std::to_string(first));
}

void crash_run::heal_reads() {
  for (const bad_range& bad : main_memory_->faults().bad)
    main_memory_->clear_bad(bad.first, bad.count, direction::read);
  now_.truth.set_unreadable(0, now_.truth.sectors(), false);
  mark("main reads again");
}

void crash_run::break_spare(bad_range range, unsigned n) {
  spare_memory_.at(n)->add_bad(range);
  mark(spare_name(n) + " has bad sectors");
}

void crash_run::heal_spare(unsigned n) {
  auto faults = spare_memory_.at(n)->faults();
  faults.bad.clear();
  spare_memory_[n]->set_faults(faults);
  mark(spare_name(n) + " is well again");
}

void crash_run::finish() {
  last_ = log_->size();
  std::vector<std::byte> bytes(sector_bytes);
  for (std::uint64_t s = 0; disk_ && s < now_.truth.sectors(); ++s) {
    const io_result done = disk_->read(*context_, bytes, s * sector_bytes);
    if (!done && (tolerant_ || now_.away_units.contains(s / unit_sectors)))
      continue;
    if (const auto wrong = now_.truth.check_now(s, done ? read_tag(bytes, s) : lost_version))
      note("without a crash: " + *wrong);
  }
  context_.reset();
  disk_.reset();
  numbers_.reset();
}

set_state crash_run::state() const {
  set_state state = now_;
  state.main = main_memory_->image();
  state.main_faults = main_memory_->faults();
  for (std::size_t n = 0; n < spare_memory_.size(); ++n) {
    state.spares[n].content = spare_memory_[n]->image();
    state.spares[n].faults = spare_memory_[n]->faults();
  }
  return state;
}

} // namespace dmremap::test
