// SPDX-License-Identifier: GPL-2.0-or-later
// Changes by hand (remap, unmap, salvage), and formatting.
#include "engine/disk_impl.h"
#include "engine/paths.h"

#include <algorithm>
#include <chrono>
#include <cstring>

namespace dmremap {
namespace {

const commit_rules format_rules;

} // namespace

tl::unexpected<error> not_committed(const std::string& what, const commit_reply& reply) {
  if (reply.outcome == commit_outcome::refused && reply.why == io_error::no_place)
    return fail("no-spare-capacity", what, "No spare capacity available");
  if (reply.outcome == commit_outcome::in_doubt)
    return fail("commit-in-doubt", what,
                "the spare failed while the table was written (" + std::string(name_of(reply.why)) +
                    "); the unit answers EIO until it can be completed");
  return fail("commit-failed", what,
              "the spare could not take it: " + std::string(name_of(reply.why)) + "; nothing changed");
}

tl::unexpected<error> stopped(const std::string& what, const std::string& done) {
  return fail("stopping", what, "the set is being closed" + done);
}

void disk::end_changes() {
  impl_->stopping = true;
}

// --- format
// --------------------------------------------------------------------------------------------------------

result<std::string> disk::format(store& main, std::span<store* const> spares, const format_options& options) {
  if (spares.empty() || spares.size() > max_spares)
    return fail("bad-spare-count", options.name, "a set has 1 to 16 spares", exit_code::usage);
  if (!valid_new_set_name(options.name))
    return fail("bad-name", options.name, std::string("is no name for a set: ") + set_name_rule,
                exit_code::usage);
  if (main.size() < unit_bytes)
    return fail("main-too-small", main.identity().path, "main has no whole unit of 4096 bytes");
  if (main.size() > main_unit_limit * unit_bytes)
    return fail("main-too-large", main.identity().path, "main is larger than 1 EiB");
  const auto uuid_or_random = [](const std::optional<std::string>& text) {
    const auto given = text ? parse_uuid(*text) : std::nullopt;
    return given ? *given : random_uuid();
  };
  superblock s;
  s.set_uuid = uuid_or_random(options.set_uuid);
  s.set_name = options.name;
  s.spare_count = static_cast<std::uint32_t>(spares.size());
  s.session = random_u64();
  for (unsigned n = 0; n < spares.size(); ++n) {
    s.spare_uuids[n] = n == 0 ? uuid_or_random(options.spare_uuid) : random_uuid();
    s.sessions[n] = {s.session, s.session};
  }
  s.clean = true;
  record_main(s, main, [](main_unit) { return false; });

  std::vector<std::unique_ptr<spare_metadata>> all;
  for (unsigned n = 0; n < spares.size(); ++n) {
    s.spare_index = n;
    s.spare_uuid = s.spare_uuids[n];
    // The caller keeps the store; the metadata object wants to share it.
    all.push_back(
        TRY(spare_metadata::blank(std::shared_ptr<store>(spares[n], [](store*) {}), s, format_rules)));
  }
  sequence_counter sequences{1, 1u << 20};
  for (const auto& m : all) {
    auto written =
        m->prepare_chunk(m->places().chunk_of(geometry::block_of(m->places().first_automatic())), sequences);
    if (written && m->verify_supers() != m->super.super_good)
      written = io_fail(io_error::medium);
    if (written)
      continue;
    for (const auto& each : all)
      (void)each->erase_supers(); // half a set must not look like one
    return fail("format-failed", m->io().identity().path,
                "the metadata could not be written: " + std::string(name_of(written.error())));
  }
  return to_text(s.set_uuid);
}

// --- moving units to a spare
// ------------------------------------------------------------------------------------------------------

/// Frozen together while main is read, and one table change: as many as main gives in a second.
static constexpr std::uint64_t units_per_move = 16;
static constexpr std::chrono::seconds time_per_move{1};

/// Units that follow each other, in one table change; those that are on a spare already stay. `count`: at
/// most; on return how many were looked at.
static result<remap_reply> move_units(disk::impl& i, main_unit first, std::uint64_t& count,
                                      const newer_data& newer) {
  const std::lock_guard admin(i.admin_mutex);
  if (i.stopping)
    return stopped(sector_text(first));
  const unsigned mark = i.gate.freeze({first.value, count});
  const auto refuse = [&](tl::unexpected<error> why) {
    i.gate.thaw(mark, [] {});
    return why;
  };
  const auto until = std::chrono::steady_clock::now() + time_per_move;
  remap_reply answer;
  std::vector<moving_unit> moving;
  for (main_unit u = first; u.value < first.value + count; u = u.plus(1)) {
    const auto end_here = [&] { count = u.value - first.value; };
    if (u != first && (i.stopping || std::chrono::steady_clock::now() > until)) {
      end_here(); // nobody waits for all of these on a drive that is slow
      break;
    }
    if (const map_entry e = i.set->lookup(u); e.present()) {
      if (e.in_doubt())
        return refuse(
            fail("commit-in-doubt", sector_text(u), "an earlier change of this unit is not complete yet"));
      ++answer.already;
      continue;
    }
    moving_unit& m = moving.emplace_back(moving_unit{u, {}});
    const auto every = sector_mask(0, i.valid_sectors(u));
    auto read = i.read_image_from_main(u, m.image, 0xFF, true);
    if (!read && i.stopping) {
      if (u == first)
        return refuse(stopped(sector_text(u)));
      moving.pop_back();
      end_here();
      break;
    }
    if (read && m.image.lost == every && !i.main_answers_elsewhere(u))
      read = io_fail(io_error::gone);
    if (!read)
      return refuse(
          fail("main-unreadable", sector_text(u),
               "main could not be read: " + std::string(name_of(read.error())) + "; it stays where it is"));
    if (newer) {
      block_bytes given;
      const auto has = newer(u, given.span());
      if (!has)
        return refuse(tl::make_unexpected(has.error()));
      for (unsigned s = 0; s < unit_sectors; ++s)
        if ((*has & every & sector_mask(s, 1)) != 0)
          std::memcpy(m.image.data.bytes.data() + s * sector_bytes, given.bytes.data() + s * sector_bytes,
                      sector_bytes);
      m.image.lost = static_cast<std::uint8_t>(m.image.lost & ~*has);
    }
    m.kind = slot_kind::explicit_remap;
    m.may_answer = m.image.lost;
    answer.lost_sectors += sectors_in(m.image.lost);
  }
  std::vector<slot_change> changes;
  if (!moving.empty()) {
    const commit_reply reply = i.place(moving, changes, i.set->marks());
    if (reply.outcome != commit_outcome::done)
      return refuse(not_committed(sector_text(moving.front().main), reply));
    i.set->counts().manual_remaps += moving.size();
  }
  answer.units = moving.size();
  i.gate.thaw(mark, [&] { i.set->publish(changes); });
  answer.spare_sector = sector_number(i.set->lookup(first).unit().value * unit_sectors);
  return answer;
}

result<remap_reply> disk::remap(sector_number sector, std::uint64_t sectors, const newer_data& newer) {
  impl& i = *impl_;
  if (i.options.read_only)
    return fail("read-only", sector_text(sector), "the set is open read-only");
  const std::uint64_t all = i.bytes / sector_bytes;
  if (sectors == 0 || sector.value >= all || sectors > all - sector.value)
    return fail("out-of-range", sector_text(sector), "the disk has " + std::to_string(all) + " sectors");
  remap_reply answer;
  const std::uint64_t end = unit_of(sector.plus(sectors - 1)).value + 1;
  std::uint64_t at_once = units_per_move;
  for (main_unit u = unit_of(sector); u.value < end;) {
    std::uint64_t count = std::min(at_once, end - u.value);
    auto moved = move_units(i, u, count, newer);
    if (!moved && moved.error().id == "no-spare-capacity" && count > 1) { // a few may still be free
      at_once = count / 2;
      continue;
    }
    if (!moved) {
      if (answer.units != 0)
        moved.error().why += "; before it " + std::to_string(answer.units) + " units were moved";
      return moved;
    }
    if (u == unit_of(sector))
      answer.spare_sector = moved->spare_sector;
    answer.units += moved->units;
    answer.already += moved->already;
    answer.lost_sectors += moved->lost_sectors;
    u = u.plus(count);
  }
  return answer;
}

result<void> disk::unmap(sector_number sector) {
  impl& i = *impl_;
  const std::string what = sector_text(sector);
  if (i.options.read_only)
    return fail("read-only", what, "the set is open read-only");
  if (sector.value >= i.bytes / sector_bytes)
    return fail("out-of-range", what, "the disk has " + std::to_string(i.bytes / sector_bytes) + " sectors");
  const std::lock_guard admin(i.admin_mutex);
  if (i.stopping)
    return stopped(what);
  const main_unit u = unit_of(sector);
  const unsigned mark = i.gate.freeze({u.value, 1});
  const map_entry e = i.set->lookup(u);
  const auto refuse = [&](tl::unexpected<error> why) {
    i.gate.thaw(mark, [] {});
    return why;
  };
  if (!e.present())
    return refuse(fail("not-remapped", what, "is not remapped"));
  if (e.in_doubt())
    return refuse(fail("commit-in-doubt", what, "an earlier change of this unit is not complete yet"));
  if (i.is_absent(e.spare()))
    return refuse(fail("spare-absent", what, "its unit is on a spare that is absent, or takes no writes"));
  if (i.set->shadowed(u) && i.keeps(&commit_rules::unmap_only_slot))
    return refuse(
        fail("spare-absent", what,
             "an older place of this unit, on a spare that is absent or could not be changed, would "
             "answer for it later; open the set again with that spare, or forget it, and then remove "
             "the remap"));
  if (e.lost() != 0)
    return refuse(fail("lost-sectors", what,
                       "its unit has lost sectors; salvage them or write them first, then remove the remap"));
  const std::uint64_t length = i.valid_sectors(u) * sector_bytes;
  block_bytes data, back;
  if (auto read = i.member_of(e).io->read(data.span(), byte_of(e.unit())); !read)
    return refuse(
        fail("spare-unreadable", what, "the spare could not be read: " + std::string(name_of(read.error()))));
  const std::uint64_t failed_before = i.main.io->failed_flushes();
  auto moved = i.main.io->write(data.span().first(length), byte_of(u));
  if (moved && i.keeps(&commit_rules::unmap_flush_main))
    moved = flush_since(*i.main.io, failed_before);
  if (moved && i.keeps(&commit_rules::unmap_read_back)) {
    moved = i.main.io->read(back.span().first(length), byte_of(u));
    if (moved && std::memcmp(back.bytes.data(), data.bytes.data(), length) != 0)
      moved = io_fail(io_error::medium);
  }
  if (!moved)
    return refuse(
        fail("main-still-bad", what,
             "main does not hold the data: " + std::string(name_of(moved.error())) + "; the remap stays"));
  const slot_change release{e.spare(), e.unit(), slot_kind::free, u, 0, 0};
  const commit_reply reply = i.set->commit({&release, 1}, std::nullopt);
  if (reply.outcome != commit_outcome::done)
    return refuse(not_committed(what, reply));
  i.gate.thaw(mark, [&] { i.set->publish({&release, 1}); });
  return {};
}

// --- salvage
// -------------------------------------------------------------------------------------------------------

/// The unit with what came back of it: in its place, or, where that is bad or its slot cannot change, in
/// another one, which `changes` then names. The caller holds its freeze.
static result<commit_reply> put_back(disk::impl& i, moving_unit& unit, std::uint8_t lost_before,
                                     std::vector<slot_change>& changes) {
  disk_member& m = i.member_of(unit.from);
  const flush_marks data_since = i.set->marks();
  bool bad = unit.image.lost != lost_before; // a sector of its own could not be read just now
  if (!bad && m.takes_writes() && !i.set->can_change(unit.from.spare(), unit.from.unit()))
    return i.place({&unit, 1}, changes, data_since);
  if (!bad)
    if (auto written = m.io->write(unit.image.data.span(), byte_of(unit.from.unit())); !written) {
      i.note_error({attempt_end::failed, written.error(), false, unit.from.spare()}, true);
      i.check_spare(unit.from.spare(), written.error());
      bad = written.error() == io_error::medium || !m.takes_writes();
      if (!bad)
        return fail("spare-unwritable", sector_text(unit.main),
                    std::string(name_of(said_by_spare(written.error()))) + "; this unit is as it was");
    }
  if (bad) {
    unit.retire_from = m.takes_writes();
    return i.place({&unit, 1}, changes, data_since);
  }
  changes.push_back(
      {unit.from.spare(), unit.from.unit(), unit.kind, unit.main, unit.image.lost, unit.may_answer});
  return i.set->commit(changes, data_since);
}

/// One unit's lost sectors for which main may answer. Only what reads is changed.
static result<void> salvage_unit(disk::impl& i, main_unit u, salvage_reply& answer) {
  (void)i.settle({u.value, 1});
  const unsigned mark = i.gate.freeze({u.value, 1});
  const auto thaw = [&] { i.gate.thaw(mark, [] {}); };
  const map_entry e = i.set->lookup(u);
  if (!e.present() || e.in_doubt() || e.lost() == 0 || i.is_absent(e.spare())) {
    thaw();
    return {};
  }
  const slot now = i.set->slot_of(e);
  const std::uint8_t allowed = static_cast<std::uint8_t>(now.lost() & now.main_may_answer());
  answer.not_allowed += sectors_in(static_cast<std::uint8_t>(now.lost() & ~allowed));
  answer.tried += sectors_in(allowed);
  const auto stays = [&](result<void> why) {
    thaw();
    answer.still_lost += sectors_in(now.lost());
    return why;
  };
  unit_image from_main{};
  if (allowed != 0)
    if (auto read = i.read_image_from_main(u, from_main, allowed, true); !read)
      return stays(i.stopping ? stopped(sector_text(u), "; this unit is as it was")
                              : fail("main-unreadable", sector_text(u),
                                     std::string(name_of(read.error())) + "; this unit is as it was"));
  const auto back = static_cast<std::uint8_t>(allowed & ~from_main.lost);
  if (back == 0)
    return stays({});
  moving_unit unit{u, {}};
  if (auto read = i.read_image_from_spare(e, unit.image, sector_mask(0, i.valid_sectors(u))); !read)
    return stays(fail(i.member_of(e).absent ? "spare-absent" : "spare-unreadable", sector_text(u),
                      std::string(name_of(read.error())) + "; this unit is as it was"));
  for (std::uint64_t s = 0; s < unit_sectors; ++s)
    if ((back >> s & 1) != 0)
      std::memcpy(unit.image.data.bytes.data() + s * sector_bytes,
                  from_main.data.bytes.data() + s * sector_bytes, sector_bytes);
  const auto keep = static_cast<std::uint8_t>(~back);
  unit.image.lost = static_cast<std::uint8_t>(unit.image.lost & keep);
  unit.may_answer = static_cast<std::uint8_t>(now.main_may_answer() & now.lost() & keep);
  unit.kind = now.kind();
  unit.from = e;
  std::vector<slot_change> changes;
  const auto reply = put_back(i, unit, static_cast<std::uint8_t>(e.lost() & keep), changes);
  if (!reply)
    return stays(tl::make_unexpected(reply.error()));
  if (reply->outcome != commit_outcome::done)
    return stays(not_committed(sector_text(u), *reply));
  i.show_moved(changes, {&unit, 1});
  thaw();
  answer.recovered += sectors_in(back);
  answer.still_lost += sectors_in(unit.image.lost);
  return {};
}

/// One failure of many is told with what became of the others.
static error among_others(error why, const salvage_reply& all, std::uint64_t failed, std::uint64_t left,
                          const std::string& why_left) {
  why.why += "; of all, " + std::to_string(all.recovered) + " sectors came back, " +
             std::to_string(all.still_lost) + " are still lost, " + std::to_string(failed) + " units failed";
  if (left != 0)
    why.why += ", " + std::to_string(left) + " were not tried: " + why_left;
  return why;
}

result<salvage_reply> disk::salvage(std::optional<sector_number> sector,
                                    const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
  impl& i = *impl_;
  if (i.options.read_only)
    return fail("read-only", "salvage", "the set is open read-only");
  if (sector && sector->value >= i.bytes / sector_bytes)
    return fail("out-of-range", sector_text(*sector),
                "the disk has " + std::to_string(i.bytes / sector_bytes) + " sectors");
  const std::lock_guard admin(i.admin_mutex);
  salvage_reply answer;
  std::vector<main_unit> units = sector ? std::vector{unit_of(*sector)} : i.set->remapped_units();
  std::erase_if(units, [&](main_unit u) { return i.set->lookup(u).lost() == 0; });
  std::optional<error> first;
  std::uint64_t failed = 0;
  const auto tell = [&](std::size_t done) {
    if (progress)
      progress(done, units.size());
  };
  for (std::size_t n = 0; n < units.size(); ++n) {
    const std::size_t left = units.size() - n;
    if (i.stopping)
      return tl::make_unexpected(
          among_others(stopped("salvage").value(), answer, failed, left, "the set is being closed"));
    tell(n);
    const auto done = salvage_unit(i, units[n], answer);
    if (done)
      continue;
    if (done.error().id == "stopping") // in the middle of this one
      return tl::make_unexpected(
          among_others(stopped("salvage").value(), answer, failed, left, "the set is being closed"));
    ++failed;
    first = first ? first : done.error();
    if (done.error().id == "main-unreadable") // as a whole: each further one would wait for it
      return tl::make_unexpected(among_others(*first, answer, failed, left - 1, "main does not answer"));
  }
  tell(units.size());
  if (!first)
    return answer;
  return tl::make_unexpected(units.size() > 1 ? among_others(*first, answer, failed, 0, "") : *first);
}

// --- settings, metadata
// --------------------------------------------------------------------------------------------

result<void> disk::save() {
  impl& i = *impl_;
  if (i.options.read_only)
    return fail("read-only", "save", "the set is open read-only");
  if (!i.set->complete_doubt())
    return fail("commit-in-doubt", "save", "a change of the table could not be completed yet");
  if (auto written = i.set->update_super([](superblock&) {}); !written)
    return fail("save-failed", i.set->super_copy().set_name, std::string(name_of(written.error())));
  return {};
}

result<void> disk::sync() {
  if (auto flushed = flush(); !flushed)
    return fail("flush-failed", "sync", std::string(name_of(flushed.error())));
  if (impl_->options.read_only)
    return {};
  return save();
}

result<void> disk::rename(const std::string& new_name) {
  impl& i = *impl_;
  if (!valid_new_set_name(new_name))
    return fail("bad-name", new_name, std::string("is no name for a set: ") + set_name_rule,
                exit_code::usage);
  if (i.options.read_only)
    return fail("read-only", "rename", "the set is open read-only");
  const std::lock_guard admin(i.admin_mutex);
  const std::string old_name = i.set->super_copy().set_name;
  if (auto written = i.set->update_super([&](superblock& s) { s.set_name = new_name; }); !written) {
    (void)i.set->update_super([&](superblock& s) { s.set_name = old_name; });
    return fail("rename-failed", old_name, std::string(name_of(written.error())));
  }
  return {};
}

void disk::set_auto_remap(bool on) {
  impl_->auto_remap = on && !impl_->options.read_only;
}
void disk::set_read_retries(unsigned n) {
  impl_->read_retries = n;
}

void disk::set_breaker(unsigned remaps, unsigned seconds) {
  impl_->breaker.set_limits(remaps, std::chrono::seconds(seconds));
}

void disk::reset_breaker() {
  impl_->breaker.reset();
  impl_->main_gone = false;
}

} // namespace dmremap
