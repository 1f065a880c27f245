// SPDX-License-Identifier: GPL-2.0-or-later
#include "fsck/plan.h"

#include "engine/uuid.h"

#include <algorithm>
#include <bit>
#include <fmt/format.h>
#include <map>
#include <numeric>
#include <set>

namespace dmremap::fsck {
namespace {

class planner {
public:
  planner(const set_findings& f, const repair_choice& chosen) : f_(f), chosen_(chosen), next_(f.highest + 1) {
    plan_.set_name = f.set_name();
    plan_.set_uuid = f.set_uuid();
    for (const auto& s : f.spares)
      plan_.members.push_back({s.super ? to_text(s.super->spare_uuid) : "", s.path});
    fenced_.resize(f.spares.size());
    for (unsigned n = 0; n < f.spares.size(); ++n)
      fenced_[n] = is_fenced(n);
    logic_ = f.complete && !has(damage_kind::sequence_overflow) && !has(damage_kind::older_than_seen) &&
             std::none_of(fenced_.begin(), fenced_.end(), [](bool b) { return b; });
  }

  repair_plan make() {
    plan_.fingerprint = fingerprint_of(f_);
    if (f_.record && !f_.stopped) {
      plan_slots();
      plan_copies();
      plan_supers();
    }
    sort_writes();
    for (const auto& w : plan_.writes)
      plan_.fingerprint -= mark_of_write(w);
    std::vector<std::shared_ptr<store>> members;
    for (const auto& s : f_.spares)
      members.push_back(s.io);
    plan_.supers = marks_of_supers(plan_, members);
    return std::move(plan_);
  }

private:
  /// By step, else as they are. Not the writes themselves: std::stable_sort of libstdc++ 12 takes memory that
  /// is not aligned for blocks.
  void sort_writes() {
    std::vector<std::size_t> order(plan_.writes.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return plan_.writes[a].step < plan_.writes[b].step;
    });
    std::vector<block_write> sorted;
    sorted.reserve(order.size());
    for (const std::size_t n : order)
      sorted.push_back(std::move(plan_.writes[n]));
    plan_.writes = std::move(sorted);
  }

  [[nodiscard]] bool has(damage_kind kind) const {
    return std::any_of(f_.found.begin(), f_.found.end(), [&](const damage& d) { return d.kind == kind; });
  }

  /// Spares that are not written at all: what all else on them rests on is in doubt or was not agreed to.
  [[nodiscard]] bool is_fenced(unsigned n) const {
    const spare_state& s = f_.spares[n];
    if (s.removed)
      return false; // nothing to do there
    if (!s.super || s.conflict)
      return true;
    const auto who = static_cast<int>(n);
    return std::any_of(f_.found.begin(), f_.found.end(), [&](const damage& d) {
      const bool base = d.kind == damage_kind::superblock_gone || d.kind == damage_kind::geometry ||
                        d.kind == damage_kind::chunk_unmarked;
      return base && d.spare == who && !(chosen_(d.kind, who) && f_.complete);
    });
  }

  void put(unsigned member, std::uint64_t unit, repair_step step, unsigned group, std::string reason,
           const block_bytes& now) {
    block_write w;
    w.member = member;
    w.unit = unit;
    w.step = step;
    w.group = group;
    w.reason = std::move(reason);
    w.now = now;
    w.readable = read_unit(*f_.spares[member].io, spare_unit(unit), w.old);
    if (w.readable && w.old.bytes == w.now.bytes)
      return;
    plan_.writes.push_back(std::move(w));
  }

  [[nodiscard]] unsigned holder_of(unsigned spare, unsigned replica) const {
    return replica == sixth_replica ? static_cast<unsigned>(f_.spares[spare].sixth_host) : spare;
  }

  [[nodiscard]] bool is_used(const spare_state& s, const table_source& source, std::uint32_t chunk) const {
    return s.super->is_good(source.replica, chunk) || (source.replica != sixth_replica && unmarked(s, chunk));
  }
  [[nodiscard]] static bool unmarked(const spare_state& s, std::uint32_t chunk) {
    return std::find(s.tables.unmarked.begin(), s.tables.unmarked.end(), chunk) != s.tables.unmarked.end();
  }

  // --- blocks with new content

  struct change {
    std::vector<const slot_problem*> slots;
    bool releases = false, known = false; ///< known: the block is gone, its content is not
  };

  void plan_slots() {
    if (!logic_)
      return;
    std::map<std::pair<unsigned, std::uint32_t>, change> changes;
    const bool releases = releases_allowed();
    for (const auto& p : f_.slots)
      if (facts_of(p.kind).fix != remedy::impossible && chosen_(p.kind, static_cast<int>(p.spare)) &&
          (p.kind != damage_kind::slot_superseded || releases)) {
        change& c = changes[{p.spare, geometry::block_of(p.unit)}];
        c.slots.push_back(&p);
        c.releases = c.releases || p.kind == damage_kind::slot_superseded;
      }
    for (unsigned n = 0; n < f_.spares.size(); ++n)
      for (const auto& b : f_.spares[n].tables.bad)
        if (b.source < 0 && is_known(n, b.number) && chosen_(damage_kind::table_known, static_cast<int>(n)))
          changes[{n, b.number}].known = true;
    for (const auto& [at, c] : changes)
      change_block(at.first, at.second, c);
  }

  /// A losing slot goes only once its winner is good in all copies: not where copies stay bad.
  [[nodiscard]] bool releases_allowed() const {
    return std::none_of(f_.found.begin(), f_.found.end(), [&](const damage& d) {
      const bool copies = d.kind == damage_kind::table_copy || d.kind == damage_kind::table_old;
      return d.kind == damage_kind::table_conflict || d.kind == damage_kind::table_destroyed ||
             (copies && !chosen_(d.kind, d.spare));
    });
  }

  [[nodiscard]] bool is_known(unsigned n, std::uint32_t number) const {
    const geometry& g = f_.spares[n].places();
    for (std::uint32_t i = 0; i < slots_per_block; ++i)
      if (!g.is_metadata(spare_unit(std::uint64_t{number} * slots_per_block + i)))
        return false;
    return f_.spares[n].own_tables();
  }

  void change_block(unsigned n, std::uint32_t number, const change& c) {
    const spare_state& s = f_.spares[n];
    const std::uint32_t chunk = s.places().chunk_of(number);
    const auto bad = std::find_if(s.tables.bad.begin(), s.tables.bad.end(),
                                  [&](const bad_block& b) { return b.number == number; });
    if (bad != s.tables.bad.end() && bad->conflict)
      return;
    std::vector<table_source> targets;
    for (const auto& source : sources_of(f_, n, true))
      if (is_used(s, source, chunk))
        targets.push_back(source);
    const auto own = std::count_if(targets.begin(), targets.end(),
                                   [](const table_source& t) { return t.replica != sixth_replica; });
    if (!s.own_tables() || own < 2)
      return; // one copy left: a torn write would be the end of it
    int source = bad == s.tables.bad.end() ? static_cast<int>(targets.back().replica) : bad->source;
    std::optional<table_block> t;
    if (c.known) {
      t.emplace();
      for (slot& one : t->slots)
        one = slot::make(slot_kind::metadata, main_unit(0), 0, 0, 0);
      source = -1;
    } else {
      for (const auto& from : sources_of(f_, n, false))
        if (static_cast<int>(from.replica) == source)
          t = read_block(from, low_half(s.super->spare_uuid), number);
    }
    if (!t)
      return;
    for (const slot_problem* p : c.slots) {
      slot fixed = p->kind == damage_kind::slot_superseded
                       ? slot::make(slot_kind::free, main_unit(0), 0, 0, next_++)
                       : p->fixed;
      if (fixed.serves() && fixed.sequence() == 0)
        fixed = slot::make(fixed.kind(), fixed.main(), fixed.lost(), fixed.main_may_answer(), next_++);
      t->slots[geometry::slot_of(p->unit)] = fixed;
    }
    t->sequence = next_++;
    changed_.insert({n, number});
    const auto reason = fmt::format("table block {} of {}: {}", number, s.path,
                                    c.known      ? "rebuilt"
                                    : c.releases ? "older slots released"
                                                 : "slots corrected");
    note(reason);
    // A bad copy first, else any but the one that is read from.
    std::stable_partition(targets.begin(), targets.end(), [&](const table_source& one) {
      return bad != s.tables.bad.end() && bad->copies[one.replica] != copy_state::valid &&
             one.replica != sixth_replica;
    });
    if (static_cast<int>(targets.front().replica) == source)
      std::swap(targets.front(), targets[1]);
    const auto first = c.releases ? repair_step::release_first : repair_step::slots_first;
    const auto rest = c.releases ? repair_step::release_rest : repair_step::slots_rest;
    const unsigned group = group_++;
    for (const auto& target : targets)
      put_table(n, target, *t, number, &target == &targets.front() ? first : rest, group, reason);
  }

  void put_table(unsigned n, const table_source& to, const table_block& t, std::uint32_t number,
                 repair_step step, unsigned group, const std::string& reason) {
    const spare_unit place(to.first + number);
    block_bytes bytes;
    encode_table_block(t, low_half(f_.spares[n].super->spare_uuid), number, place, bytes);
    put(holder_of(n, to.replica), place.value, step, group, reason, bytes);
  }

  // --- copies

  void plan_copies() {
    for (unsigned n = 0; n < f_.spares.size(); ++n) {
      const spare_state& s = f_.spares[n];
      if (!s.super || s.removed || fenced_[n])
        continue;
      const auto readers = sources_of(f_, n, false), writers = sources_of(f_, n, true);
      for (const auto& b : s.tables.bad)
        if (b.source >= 0 && !b.conflict && !changed_.contains({n, b.number}))
          copy_block(n, b, readers, writers);
    }
  }

  void copy_block(unsigned n, const bad_block& b, const std::vector<table_source>& readers,
                  const std::vector<table_source>& writers) {
    const spare_state& s = f_.spares[n];
    std::optional<table_block> t;
    for (const auto& from : readers)
      if (static_cast<int>(from.replica) == b.source)
        t = read_block(from, low_half(s.super->spare_uuid), b.number);
    bool first = true;
    const unsigned group = group_++;
    for (const auto& to : writers) {
      const unsigned holder = holder_of(n, to.replica);
      const copy_state state = b.copies[to.replica];
      const auto kind = state == copy_state::old ? damage_kind::table_old : damage_kind::table_copy;
      if (!t || (b.good >> to.replica & 1) == 0 || state == copy_state::valid || fenced_[holder] ||
          !chosen_(kind, static_cast<int>(holder)))
        continue;
      put_table(
          n, to, *t, b.number, first ? repair_step::copies_first : repair_step::copies_rest, group,
          fmt::format("table block {} of {}, replica {}: {}", b.number, s.path, to.replica, text_of(state)));
      ++copied_;
      first = false;
    }
  }

  // --- superblocks

  void plan_supers() {
    const bool slots_written =
        std::any_of(plan_.writes.begin(), plan_.writes.end(),
                    [](const block_write& w) { return w.step >= repair_step::slots_first; });
    bool new_version = slots_written;
    superblock record = f_.record->newest;
    std::vector<superblock> wanted(f_.spares.size());
    for (unsigned n = 0; n < f_.spares.size(); ++n)
      if (f_.spares[n].super)
        wanted[n] = *f_.spares[n].super;
    for (const auto& fix : f_.fixes) {
      if (!chosen_(fix.kind, fix.spare))
        continue;
      new_version = new_version || logic_;
      plan_.marks_chunks = plan_.marks_chunks || (logic_ && fix.kind == damage_kind::chunk_unmarked);
      fix.apply(fix.spare < 0 ? record : wanted[static_cast<std::size_t>(fix.spare)]);
    }
    for (const auto& s : f_.spares)
      new_version = new_version || (logic_ && s.super && !s.found && !s.removed);
    if (new_version && logic_)
      write_versions(record, wanted);
    else
      for (unsigned n = 0; n < f_.spares.size(); ++n)
        copy_supers(n);
    if (copied_ != 0)
      note(fmt::format("{} bad copies of table blocks written anew", copied_));
  }

  /// All spares in use get the superblock under new sequences, the one that the others follow last.
  void write_versions(superblock record, std::vector<superblock>& wanted) {
    std::vector<unsigned> order;
    unsigned leader = 0;
    for (unsigned n = 0; n < f_.spares.size(); ++n)
      if (f_.spares[n].super && f_.spares[n].super->spare_uuid == record.spare_uuid)
        leader = n;
    for (unsigned n = 0; n < f_.spares.size(); ++n)
      if (f_.spares[n].super && f_.spares[n].in_use && n != leader)
        order.push_back(n);
    order.push_back(leader);
    record.sequence_next = record.sequence_end = std::max(next_ + order.size(), record.sequence_end);
    for (const unsigned n : order) {
      superblock s = wanted[n];
      copy_set_fields(record, s);
      s.sequence = next_++;
      if (!f_.spares[n].found)
        s.super_good = (1u << super_copies) - 1;
      write_version(n, s, n == leader);
    }
    for (unsigned n = 0; n < f_.spares.size(); ++n) // one that was away keeps what it holds
      if (f_.spares[n].returned) {
        if (f_.spares[n].found)
          copy_supers(n);
        else
          write_version(n, wanted[n], false);
      }
  }

  void write_version(unsigned n, const superblock& s, bool leader) {
    const spare_state& state = f_.spares[n];
    std::vector<const super_copy*> targets;
    for (const auto& c : state.supers)
      if ((s.super_good >> c.copy & 1) != 0)
        targets.push_back(&c);
    if (targets.size() < 2)
      return; // one copy left: a torn write would be the end of it
    // Never first over the only one that is sound.
    std::stable_partition(targets.begin(), targets.end(),
                          [](const super_copy* c) { return c->state != copy_state::valid; });
    const auto reason = fmt::format("superblock of {}", state.path);
    note(reason + " written under a new sequence");
    const unsigned group = group_++;
    for (const auto* c : targets) {
      const bool first = c == targets.front();
      put_super(n, s, *c,
                leader ? (first ? repair_step::record_first : repair_step::record_rest)
                       : (first ? repair_step::supers_first : repair_step::supers_rest),
                group, reason);
    }
    if (state.head && !state.sixth_doubtful && s.sixth_host != no_host)
      put_super(n, s, *state.head, leader ? repair_step::record_rest : repair_step::supers_rest, group,
                reason);
  }

  /// Bad copies from the newest good one.
  void copy_supers(unsigned n) {
    const spare_state& s = f_.spares[n];
    if (!s.found || s.removed || fenced_[n])
      return;
    std::vector<super_copy> all = s.supers;
    if (s.head && !s.sixth_doubtful)
      all.push_back(*s.head);
    bool first = true;
    const unsigned group = group_++;
    for (const auto& c : all) {
      const bool head = c.copy == sixth_super_copy;
      const unsigned holder = head ? static_cast<unsigned>(s.sixth_host) : n;
      const auto kind =
          c.state == copy_state::old ? damage_kind::superblock_old : damage_kind::superblock_copy;
      if (c.state == copy_state::valid || (!head && (s.found->super_good >> c.copy & 1) == 0) ||
          fenced_[holder] || !chosen_(kind, static_cast<int>(holder)))
        continue;
      const auto reason = fmt::format("superblock copy {} of {}: {}", c.copy, s.path, text_of(c.state));
      note(reason);
      put_super(n, *s.found, c, first ? repair_step::supers_first : repair_step::supers_rest, group, reason);
      first = false;
    }
  }

  void put_super(unsigned n, const superblock& s, const super_copy& c, repair_step step, unsigned group,
                 const std::string& reason) {
    const bool head = c.copy == sixth_super_copy;
    block_bytes bytes;
    encode_superblock(s, c.copy, c.place, bytes);
    put(head ? static_cast<unsigned>(f_.spares[n].sixth_host) : n, c.place.value, step, group, reason, bytes);
  }

  void note(std::string line) { plan_.summary.push_back(std::move(line)); }

  const set_findings& f_;
  const repair_choice& chosen_;
  repair_plan plan_;
  std::vector<bool> fenced_;
  bool logic_ = false;
  std::uint64_t next_;
  unsigned group_ = 0;
  std::uint64_t copied_ = 0;
  std::set<std::pair<unsigned, std::uint32_t>> changed_; // blocks with new content
};

} // namespace

bool is_safe(damage_kind kind, int) {
  return facts_of(kind).fix == remedy::safe;
}

bool is_repairable(damage_kind kind, int) {
  return facts_of(kind).fix == remedy::safe || facts_of(kind).fix == remedy::decide;
}

repair_plan make_plan(const set_findings& f, const repair_choice& chosen) {
  return planner(f, chosen).make();
}

std::uint64_t fingerprint_of(const set_findings& f) {
  return std::accumulate(f.spares.begin(), f.spares.end(), std::uint64_t{0},
                         [](std::uint64_t sum, const spare_state& s) { return sum + s.fingerprint; });
}

std::uint64_t mark_of_write(const block_write& w) {
  return mark_of(spare_unit(w.unit), w.readable ? &w.old : nullptr);
}

std::uint64_t marks_of_supers(const repair_plan& plan, const std::vector<std::shared_ptr<store>>& members) {
  std::set<std::pair<std::size_t, std::uint64_t>> written;
  for (const auto& w : plan.writes)
    written.insert({w.member, w.unit});
  const geometry anywhere; // these places are the same on every spare
  std::uint64_t sum = 0;
  for (std::size_t n = 0; n < members.size(); ++n)
    for (unsigned copy = 0; copy < fixed_supers; ++copy)
      if (const spare_unit place = anywhere.super_place(copy); !written.contains({n, place.value})) {
        block_bytes there;
        sum += (n + 1) * mark_of(place, read_unit(*members[n], place, there) ? &there : nullptr);
      }
  return sum;
}

} // namespace dmremap::fsck
