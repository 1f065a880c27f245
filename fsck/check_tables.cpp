// SPDX-License-Identifier: GPL-2.0-or-later
// All tables of the set: their copies, the slots in them, units of main that are named twice.
#include "engine/uuid.h"
#include "fsck/doubles.h"
#include "fsck/inspect.h"
#include "fsck/slots.h"

#include <algorithm>
#include <bit>
#include <fmt/format.h>
#include <map>

namespace dmremap::fsck {
namespace {

/// A table that is read: of a spare that is given, or of one that is away, from its sixth replica.
struct table_view {
  int spare = -1;   ///< of those given; -1: away
  std::string name; ///< of the member that its damage is told of
  superblock super;
  std::vector<table_source> sources;
};

struct entry {
  int spare = -1;
  unsigned place = 0; ///< in the set's list
  spare_unit unit;
  slot content;
  bool possible = true;
};

class checker {
public:
  checker(set_findings& f, const inspect_options& options) : f_(f), options_(options) {}

  void run() {
    make_views();
    for (const auto& v : views_)
      for (std::uint32_t c = 0; c < v.super.places.chunks(); ++c)
        if (v.super.good_replicas(c) != 0 || v.super.is_good(sixth_replica, c))
          all_bytes_ +=
              (v.super.places.chunk_end(c) - v.super.places.chunk_first(c)) * unit_bytes * v.sources.size();
    std::uint64_t main_units = 0;
    for (const auto& v : views_)
      main_units = std::max(main_units, main_units_of(v.super));
    double_finder doubles(main_units);
    for (auto& v : views_) {
      read(v, {}, &doubles);
      if (v.spare >= 0 && !f_.spares[static_cast<std::size_t>(v.spare)].tables.unmarked.empty())
        take_unmarked(v, doubles);
      report(v);
    }
    if (!f_.stopped && f_.record)
      judge_doubles(doubles.take());
  }

private:
  void make_views() {
    for (unsigned n = 0; n < f_.spares.size(); ++n) {
      spare_state& s = f_.spares[n];
      if (!s.super || s.removed)
        continue;
      table_view v{static_cast<int>(n), s.path, *s.super, {}};
      if (s.own_tables())
        v.sources = sources_of(f_, n, false);
      else if (!add_map(v, s.super->spare_index, s.map_from))
        continue;
      views_.push_back(std::move(v));
    }
    for (unsigned i = 0; i < max_spares && f_.record; ++i) {
      const auto& p = f_.record->places[i];
      if (!p.listed || p.given >= 0 || p.map_from < 0)
        continue;
      table_view v;
      const int host = f_.record->places[static_cast<std::size_t>(p.map_from)].given;
      if (host >= 0 && add_map(v, i, host))
        views_.push_back(std::move(v));
    }
  }

  /// The map of spare `index`, which is away or was, on the given spare `host`. False: it is not whole there.
  bool add_map(table_view& v, unsigned index, int host) {
    const spare_state& h = f_.spares[static_cast<std::size_t>(host)];
    const superblock& newest = f_.record->newest;
    const std::uint32_t start = h.super ? h.super->hosted_start[index] : 0;
    block_bytes bytes;
    bool whole = start != 0 && read_unit(*h.io, spare_unit(start), bytes);
    auto head = whole ? decode_superblock(bytes, sixth_super_copy, spare_unit(start))
                      : tl::make_unexpected(block_fault::unreadable);
    whole = head && head->spare_uuid == newest.spare_uuids[index] && head->set_uuid == newest.set_uuid &&
            plausible(head->places, head->places.units * unit_bytes) &&
            h.super->hosted_blocks[index] == head->places.table_blocks;
    for (std::uint32_t c = 0; whole && c < head->places.chunks(); ++c)
      whole = head->good_replicas(c) == 0 || head->is_good(sixth_replica, c);
    if (!whole) {
      f_.complete = false;
      f_.found.push_back({damage_kind::map_missing, h.path, host, start, 0,
                          fmt::format("its copy of the map of spare {} cannot be read as a whole", index)});
      return false;
    }
    v.name = h.path;
    v.super = std::move(*head);
    v.super.main_sectors = newest.main_sectors;
    for (std::uint32_t c = 0; c < v.super.places.chunks(); ++c) // its own copies do not count
      for (unsigned r = 0; r < own_replicas; ++r)
        v.super.set_good(r, c, false);
    v.sources = {{h.io.get(), std::uint64_t{start} + 1, sixth_replica}};
    return true;
  }

  void read(table_view& v, std::vector<std::uint32_t> only, double_finder* doubles) {
    const std::uint64_t main_units = main_units_of(v.super);
    table_findings none;
    table_findings& found = v.spare >= 0 ? f_.spares[static_cast<std::size_t>(v.spare)].tables : none;
    std::uint64_t no_marks = 0;
    table_job job;
    job.super = &v.super;
    job.sources = v.sources;
    job.only = std::move(only);
    job.possible = [&](std::uint32_t number, const table_block& t) {
      return all_slots_possible(t, number, v.super.places, main_units);
    };
    job.visit = [&](std::uint32_t number, const table_block& t) {
      visit_block(v, number, t, main_units, doubles);
    };
    job.stop = [&] {
      f_.stopped = f_.stopped || (options_.stop && options_.stop());
      return f_.stopped;
    };
    job.on_read = [&](std::uint64_t bytes) {
      done_bytes_ += bytes;
      if (options_.on_progress)
        options_.on_progress(std::min(done_bytes_, all_bytes_), all_bytes_);
    };
    read_tables(job, found,
                v.spare >= 0 ? f_.spares[static_cast<std::size_t>(v.spare)].fingerprint : no_marks);
    f_.highest = std::max(f_.highest, found.highest);
    if (v.spare < 0)
      for (const auto& b : none.bad)
        tell_destroyed(v, b);
  }

  void visit_block(const table_view& v, std::uint32_t number, const table_block& t, std::uint64_t main_units,
                   double_finder* doubles) {
    const geometry& g = v.super.places;
    const std::uint64_t first = std::uint64_t{number} * slots_per_block;
    const bool some_metadata = holds_metadata(g, first);
    for (std::uint32_t i = 0; i < slots_per_block; ++i) {
      const slot& s = t.slots[i];
      if (s.stamp == 0 && !some_metadata) // free
        continue;
      const spare_unit u(first + i);
      if (const auto wrong = check_slot(s, some_metadata && g.is_metadata(u), main_units)) {
        f_.found.push_back({wrong->kind, v.name, v.spare, u.value, 1, wrong->text});
        if (v.spare >= 0)
          f_.slots.push_back({static_cast<unsigned>(v.spare), u, s, wrong->kind, wrong->fixed});
        if (wrong->kind == damage_kind::slot_impossible || !s.serves())
          continue;
      }
      if (!s.serves())
        continue;
      ++f_.remaps;
      if (doubles != nullptr)
        doubles->add(s.main());
      note_hosted(v, u);
    }
  }

  static bool holds_metadata(const geometry& g, std::uint64_t first) {
    const std::uint64_t end = first + slots_per_block;
    if (end > g.units)
      return true;
    for (unsigned copy = 0; copy < fixed_supers; ++copy)
      if (const std::uint64_t at = g.super_place(copy).value; at >= first && at < end)
        return true;
    return std::any_of(g.replica_start.begin(), g.replica_start.end(),
                       [&](std::uint64_t start) { return start < end && first <= start + g.table_blocks; });
  }

  /// A unit that serves main in a place that is listed for a guest's replica.
  void note_hosted(const table_view& v, spare_unit u) {
    if (v.spare < 0)
      return;
    for (unsigned g = 0; g < max_spares; ++g) {
      const std::uint64_t start = v.super.hosted_start[g];
      if (start == 0 || u.value < start || u.value > start + v.super.hosted_blocks[g])
        continue;
      for (auto& guest : f_.spares)
        if (guest.super && guest.super->spare_index == g)
          guest.sixth_doubtful = true;
    }
  }

  /// Chunks that hold entries although no bit says that they are in use: where each block is there they are
  /// read like the others, and their bits are to be set.
  void take_unmarked(table_view& v, double_finder& doubles) {
    spare_state& s = f_.spares[static_cast<std::size_t>(v.spare)];
    for (const std::uint32_t chunk : s.tables.unmarked) {
      if (tell_old_chunk(v, chunk))
        continue;
      table_view with = v;
      for (unsigned r = 0; r < own_replicas; ++r)
        with.super.set_good(r, chunk, true);
      const std::size_t bad_before = s.tables.bad.size();
      const std::uint64_t first = std::uint64_t{with.super.places.chunk_first(chunk)} * slots_per_block;
      const std::uint64_t units = std::uint64_t{with.super.places.chunk_end(chunk)} * slots_per_block - first;
      read(with, {chunk}, &doubles);
      const bool whole = std::all_of(s.tables.bad.begin() + static_cast<std::ptrdiff_t>(bad_before),
                                     s.tables.bad.end(), [](const bad_block& b) { return b.source >= 0; });
      f_.found.push_back(
          {damage_kind::chunk_unmarked, s.path, v.spare, first, units,
           fmt::format("chunk {} of the table holds entries, but no copy of it is marked as good{}", chunk,
                       whole ? "" : ", and parts of it are gone")});
      const auto mark = [chunk](superblock& super) {
        for (unsigned r = 0; r < own_replicas; ++r)
          super.set_good(r, chunk, true);
      };
      if (!whole)
        continue;
      mark(v.super);
      s.sixth_short = s.sixth_short || !v.super.is_good(sixth_replica, chunk);
      f_.fixes.push_back({damage_kind::chunk_unmarked, v.spare, mark});
    }
  }

  /// Entries that the superblock knew nothing of when it was written later: an older one was put over that
  /// which did, and the units that they name may have been written since.
  bool tell_old_chunk(const table_view& v, std::uint32_t chunk) {
    const geometry& g = v.super.places;
    std::uint64_t highest = 0;
    for (std::uint32_t b = g.chunk_first(chunk); b < g.chunk_end(chunk); ++b)
      for (const auto& source : v.sources)
        if (source.replica != sixth_replica)
          if (const auto t = read_block(source, low_half(v.super.spare_uuid), b)) {
            highest = std::max(highest, t->sequence);
            for (const slot& one : t->slots)
              highest = std::max(highest, one.sequence());
          }
    f_.highest = std::max(f_.highest, highest);
    if (highest >= v.super.sequence_next)
      return false;
    const std::uint64_t first = std::uint64_t{g.chunk_first(chunk)} * slots_per_block;
    f_.found.push_back({damage_kind::chunk_old, v.name, v.spare, first,
                        std::uint64_t{g.chunk_end(chunk)} * slots_per_block - first,
                        fmt::format("chunk {} of the table holds entries that are older than the superblock, "
                                    "and no copy of it is marked as good",
                                    chunk)});
    return true;
  }

  void tell_destroyed(const table_view& v, const bad_block& b) {
    if (b.source < 0)
      f_.found.push_back({damage_kind::table_destroyed, v.name, v.spare,
                          std::uint64_t{b.number} * slots_per_block, slots_per_block,
                          "all copies of the blocks of the table that describe these units are gone" +
                              std::string(v.spare < 0 ? " (of a spare that is away)" : "")});
  }

  void report(const table_view& v) {
    if (v.spare < 0)
      return;
    spare_state& s = f_.spares[static_cast<std::size_t>(v.spare)];
    f_.copies += s.tables.copies;
    for (auto& b : s.tables.bad) {
      if (b.source < 0) {
        if (only_metadata(s.places(), b.number))
          f_.found.push_back({damage_kind::table_known, s.path, v.spare,
                              std::uint64_t{b.number} * slots_per_block, slots_per_block,
                              "all copies of the blocks of the table that describe these units are gone"});
        else
          tell_destroyed(v, b);
        continue;
      }
      for (const auto& source : v.sources)
        if ((b.good >> source.replica & 1) != 0 && b.copies[source.replica] != copy_state::valid)
          tell_copy(v, b, source);
    }
    if (s.own_tables())
      tell_chunks(s, v.spare);
  }

  void tell_copy(const table_view& v, const bad_block& b, const table_source& source) {
    const copy_state state = b.copies[source.replica];
    const bool sixth = source.replica == sixth_replica;
    const spare_state& s = f_.spares[static_cast<std::size_t>(v.spare)];
    const int holder = sixth && s.sixth_host >= 0 ? s.sixth_host : v.spare;
    const auto kind = b.conflict                 ? damage_kind::table_conflict
                      : state == copy_state::old ? damage_kind::table_old
                                                 : damage_kind::table_copy;
    f_.found.push_back(
        {kind, f_.spares[static_cast<std::size_t>(holder)].path, holder, source.first + b.number, 1,
         (sixth ? "copy of the table of " + s.path : fmt::format("table, replica {}", source.replica)) +
             ": " + text_of(state)});
  }

  /// Whether every unit that the block describes holds metadata: then its content is known.
  static bool only_metadata(const geometry& g, std::uint32_t number) {
    for (std::uint32_t i = 0; i < slots_per_block; ++i)
      if (!g.is_metadata(spare_unit(std::uint64_t{number} * slots_per_block + i)))
        return false;
    return true;
  }

  /// Copies that are out of use, by chunk.
  void tell_chunks(const spare_state& s, int spare) {
    const geometry& g = s.places();
    for (std::uint32_t c = 0; c < g.chunks(); ++c) {
      const unsigned good = s.super->good_replicas(c);
      if (good == 0 || good == (1u << own_replicas) - 1)
        continue;
      const bool last = std::popcount(good) < 2;
      for (unsigned r = 0; r < own_replicas; ++r)
        if ((good >> r & 1) == 0)
          f_.found.push_back({last ? damage_kind::last_copy : damage_kind::copy_unused, s.path, spare,
                              g.block_place(r, g.chunk_first(c)).value, g.chunk_end(c) - g.chunk_first(c),
                              last ? "a chunk of the table has one copy only"
                                   : fmt::format("table, replica {}: out of use", r)});
    }
  }

  void judge_doubles(const std::vector<std::uint64_t>& units) {
    if (units.empty())
      return;
    std::map<std::uint64_t, std::vector<entry>> named;
    for (const std::uint64_t u : units)
      named[u];
    for (auto& v : views_)
      collect(v, named);
    for (auto& [unit, entries] : named)
      judge_unit(main_unit(unit), entries);
    for (const auto& [spare, count] : behind_)
      f_.found.push_back(
          {damage_kind::returned_slots, spare >= 0 ? f_.spares[static_cast<std::size_t>(spare)].path : "",
           spare, 0, 0,
           fmt::format("units that it served when it was away are served by others now: {}", count)});
  }

  /// Of a spare that is away, or was.
  [[nodiscard]] bool is_behind(const entry& e) const {
    return e.spare < 0 || f_.spares[static_cast<std::size_t>(e.spare)].returned;
  }

  void collect(const table_view& v, std::map<std::uint64_t, std::vector<entry>>& named) {
    table_findings ignored;
    std::uint64_t no_marks = 0;
    const std::uint64_t main_units = main_units_of(v.super);
    table_job job;
    job.super = &v.super;
    job.sources = v.sources;
    job.possible = [&](std::uint32_t number, const table_block& t) {
      return all_slots_possible(t, number, v.super.places, main_units);
    };
    job.visit = [&](std::uint32_t number, const table_block& t) {
      for (std::uint32_t i = 0; i < slots_per_block; ++i)
        if (t.slots[i].serves())
          if (const auto at = named.find(t.slots[i].main().value); at != named.end()) {
            const spare_unit u(std::uint64_t{number} * slots_per_block + i);
            const auto wrong = check_slot(t.slots[i], v.super.places.is_metadata(u), main_units);
            at->second.push_back({v.spare, v.super.spare_index, u, t.slots[i],
                                  !wrong || wrong->kind != damage_kind::slot_impossible});
          }
    };
    read_tables(job, ignored, no_marks);
  }

  /// A slot without a sequence gets a new one, where it alone names its unit of main. Among several that
  /// would make it the winner: it is left as it is, or released like any older one.
  void keep_unsequenced(const entry& e, bool loses) {
    const auto here = [&](const auto& other, spare_unit unit) {
      return static_cast<int>(other.spare) == e.spare && unit == e.unit && other.kind == damage_kind::slot;
    };
    std::erase_if(f_.slots, [&](const slot_problem& p) { return here(p, p.unit); });
    const auto told = std::find_if(f_.found.begin(), f_.found.end(),
                                   [&](const damage& d) { return here(d, spare_unit(d.first_unit)); });
    if (told == f_.found.end())
      return;
    if (loses)
      f_.found.erase(told);
    else
      told->kind = damage_kind::slot_impossible;
  }

  /// Where a write that is torn would be the end of the last copy.
  static bool cannot_change(const spare_state& s, spare_unit u) {
    const std::uint32_t chunk = s.places().chunk_of(geometry::block_of(u));
    const auto& unmarked = s.tables.unmarked;
    return std::popcount(s.super->good_replicas(chunk)) < 2 &&
           std::find(unmarked.begin(), unmarked.end(), chunk) == unmarked.end();
  }

  void judge_unit(main_unit unit, std::vector<entry>& entries) {
    std::stable_sort(entries.begin(), entries.end(), [](const entry& a, const entry& b) {
      return a.content.sequence() > b.content.sequence();
    });
    // One that cannot be may be newer than one that can, but it decides nothing.
    const bool decided =
        std::all_of(entries.begin(), entries.end(), [](const entry& e) { return e.possible; });
    for (const entry& e : entries)
      if (e.content.sequence() == 0)
        keep_unsequenced(e, decided && entries.front().content.sequence() != 0);
    for (std::size_t n = 1; n < entries.size(); ++n) {
      const entry& e = entries[n];
      const bool tie = !decided || e.content.sequence() == entries.front().content.sequence();
      if (!tie && is_behind(e)) { // the rest of the set has moved on without it
        --f_.remaps;
        ++behind_[e.spare];
        continue;
      }
      const auto text = fmt::format("unit {} of main (sector {}) is named by {} slots{}", unit.value,
                                    first_sector(unit).value, entries.size(),
                                    !decided ? ", of which one cannot be"
                                    : tie    ? " with the same sequence"
                                             : ", this one is older");
      const bool stays =
          !tie && e.spare >= 0 && cannot_change(f_.spares[static_cast<std::size_t>(e.spare)], e.unit);
      const auto kind = tie     ? damage_kind::slot_conflict
                        : stays ? damage_kind::slot_stays
                                : damage_kind::slot_superseded;
      const std::string member = e.spare >= 0 ? f_.spares[static_cast<std::size_t>(e.spare)].path : "";
      --f_.remaps;
      f_.found.push_back({kind, member, e.spare, e.unit.value, 1, text});
      if (e.spare >= 0 && !tie && !stays)
        f_.slots.push_back({static_cast<unsigned>(e.spare), e.unit, e.content, kind, slot{}});
    }
  }

  set_findings& f_;
  const inspect_options& options_;
  std::vector<table_view> views_;
  std::map<int, std::uint64_t> behind_; ///< by spare: entries that another spare's have overtaken
  std::uint64_t all_bytes_ = 0, done_bytes_ = 0;
};

} // namespace

void check_tables(set_findings& f, const inspect_options& options) {
  checker(f, options).run();
}

} // namespace dmremap::fsck
