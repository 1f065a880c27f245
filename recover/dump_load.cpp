// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/dump_load.h"

#include "engine/set_record.h"
#include "recover/in_use.h"
#include "recover/spare_view.h"

#include <algorithm>
#include <fmt/format.h>
#include <optional>

namespace dmremap::recover {
namespace {

constexpr std::uint32_t piece_blocks = 256; // 1 MiB a read
const commit_rules rules;

class table_taker {
public:
  table_taker(dumped_spare& into, const std::vector<table_source>& sources)
      : into_(into), sources_(sources), buffer_(sources.size() * piece_blocks) {}

  void take() {
    const geometry& g = into_.super.places;
    for (std::uint32_t chunk = 0; chunk < g.chunks(); ++chunk) {
      if (std::none_of(sources_.begin(), sources_.end(),
                       [&](const table_source& s) { return into_.super.is_good(s.replica, chunk); }))
        continue; // never initialised
      for (std::uint32_t b = g.chunk_first(chunk); b < g.chunk_end(chunk); b += piece_blocks)
        piece(chunk, b, std::min(piece_blocks, g.chunk_end(chunk) - b));
    }
    tell_destroyed(0);
  }

private:
  void piece(std::uint32_t chunk, std::uint32_t first, std::uint32_t count) {
    std::vector<bool> readable(sources_.size() * count, false);
    for (std::size_t n = 0; n < sources_.size(); ++n) {
      const auto& s = sources_[n];
      if (!into_.super.is_good(s.replica, chunk))
        continue;
      const std::uint64_t at = (s.first + first) * unit_bytes;
      block_bytes* const to = &buffer_[n * piece_blocks];
      const std::span<std::byte> all(to->bytes.data(), std::size_t{count} * unit_bytes);
      const bool whole = at + all.size() <= s.io->size() && s.io->read(all, at);
      for (std::uint32_t i = 0; i < count; ++i) // one bad place must not cost its neighbours
        readable[n * count + i] = whole || (at + (i + 1) * unit_bytes <= s.io->size() &&
                                            s.io->read(to[i].span(), at + i * unit_bytes).has_value());
    }
    for (std::uint32_t i = 0; i < count; ++i)
      block(first, i, count, readable);
  }

  void block(std::uint32_t first, std::uint32_t i, std::uint32_t count, const std::vector<bool>& readable) {
    std::optional<table_block> newest;
    table_block one;
    for (std::size_t n = 0; n < sources_.size(); ++n)
      if (readable[n * count + i] &&
          decode_table_block(buffer_[n * piece_blocks + i], low_half(into_.super.spare_uuid), first + i,
                             spare_unit(sources_[n].first + first + i), one) &&
          (!newest || one.sequence > newest->sequence))
        newest = one;
    if (!newest) {
      if (destroyed_ == 0)
        first_destroyed_ = first + i;
      else if (first_destroyed_ + destroyed_ != first + i)
        tell_destroyed(first + i);
      ++destroyed_;
      return;
    }
    add_block(into_, first + i, newest->sequence, &*newest);
  }

  void tell_destroyed(std::uint32_t next) {
    if (destroyed_ != 0)
      into_.damage.push_back(fmt::format(
          "blocks {}+{}: no valid copy is left; the slots of spare sectors {} to {} are not known",
          first_destroyed_, destroyed_, std::uint64_t{first_destroyed_} * slots_per_block * unit_sectors,
          std::min(into_.super.places.units,
                   (std::uint64_t{first_destroyed_} + destroyed_) * slots_per_block) *
                  unit_sectors -
              1));
    first_destroyed_ = next;
    destroyed_ = 0;
  }

  dumped_spare& into_;
  const std::vector<table_source>& sources_;
  std::vector<block_bytes> buffer_;
  std::uint32_t first_destroyed_ = 0, destroyed_ = 0;
};

class loader {
public:
  loader(const std::vector<member_spec>& specs, const dump_options& how) : specs_(specs), how_(how) {}

  result<set_dump> load() {
    CHECK_OK(open_all());
    std::vector<std::unique_ptr<spare_metadata>> loaded;
    for (auto& v : views_) {
      supers_.push_back(v.super());
      supers_.back().feature_incompat &= ~image_incompat; // the dump is of the spare
      loaded.push_back(std::move(v.meta));
    }
    auto record = choose_record(loaded);
    if (!record && !how_.best_effort)
      return tl::make_unexpected(also_best_effort(record.error()));
    if (record) {
      CHECK_OK(take_record(*record));
    } else {
      for (std::size_t n = 0; n < views_.size(); ++n)
        take_present(n, nullptr);
      dump_.spares.front().damage.push_back(record.error().text());
    }
    std::sort(dump_.spares.begin(), dump_.spares.end(),
              [](const auto& a, const auto& b) { return a.super.spare_index < b.super.spare_index; });
    CHECK_OK(judge());
    CHECK_OK(check_unchanged());
    return std::move(dump_);
  }

private:
  static error also_best_effort(error e) {
    e.why += "; with --best-effort what is there is dumped";
    e.code = exit_code::damaged;
    return e;
  }

  result<void> open_all() {
    for (const auto& spec : specs_) {
      if (!how_.claimed)
        CHECK_OK(check_not_served(spec));
      auto view = view_spare(spec, TRY(open_to_read(spec)));
      if (view)
        views_.push_back(std::move(*view));
      else if (how_.best_effort && specs_.size() > 1)
        unread_.push_back(view.error().text());
      else
        return tl::make_unexpected(std::move(view).error());
    }
    if (views_.empty())
      return fail("no-superblock", specs_.front().text(), unread_.front());
    return {};
  }

  [[nodiscard]] std::vector<table_source> own_sources(std::size_t n) const {
    std::vector<table_source> sources;
    for (unsigned r = 0; r < own_replicas; ++r)
      sources.push_back({views_[n].io.get(), std::uint64_t{supers_[n].places.replica_start[r]} + 1, r});
    return sources;
  }

  /// The given spare on which the sixth replica of `guest` stands, as both superblocks say.
  [[nodiscard]] std::optional<std::size_t> host_of(const superblock& guest, const set_record& record) const {
    const std::uint32_t h = guest.sixth_host, g = guest.spare_index;
    if (h >= max_spares || h == g || record.places[h].given < 0 || record.places[h].returned ||
        guest.sixth_start == 0)
      return std::nullopt;
    const auto found = static_cast<std::size_t>(record.places[h].given);
    const superblock& host = supers_[found];
    const bool stands = host.hosted_start[g] == guest.sixth_start &&
                        host.hosted_blocks[g] == guest.places.table_blocks &&
                        (host.hosted_protected >> g & 1) != 0;
    return stands ? std::optional(found) : std::nullopt;
  }

  void take_present(std::size_t n, const set_record* record) {
    dumped_spare d;
    d.member = views_[n].spec.text();
    d.super = supers_[n];
    auto sources = own_sources(n);
    if (const auto host = record != nullptr ? host_of(d.super, *record) : std::nullopt)
      sources.push_back({views_[*host].io.get(), std::uint64_t{d.super.sixth_start} + 1, sixth_replica});
    read_table(d, sources);
    dump_.spares.push_back(std::move(d));
  }

  result<void> take_record(const set_record& record) {
    for (unsigned i = 0; i < max_spares; ++i) {
      const auto& p = record.places[i];
      if (!p.listed)
        continue;
      if (p.given >= 0 && !p.returned) {
        take_present(static_cast<std::size_t>(p.given), &record);
      } else if (!take_away(i, record)) {
        const auto uuid = to_text(record.newest.spare_uuids[i]);
        const auto why = p.given >= 0 ? "was away while the set was in use, and what is on it is old"
                                      : "is not given, and no other spare has a copy of its table";
        if (!how_.best_effort)
          return fail("spare-missing", record.newest.set_name,
                      fmt::format("spare {} ({}) {}; with --best-effort the others are dumped", i, uuid, why),
                      exit_code::damaged);
        unread_.push_back(fmt::format("spare {} ({}) {}", i, uuid, why));
      }
    }
    return {};
  }

  /// A spare that is not there, or that was away: from the copy of its table on another.
  bool take_away(unsigned index, const set_record& record) {
    const int from = record.places[index].map_from;
    if (from < 0 || record.places[static_cast<unsigned>(from)].given < 0)
      return false;
    const auto host = static_cast<std::size_t>(record.places[static_cast<unsigned>(from)].given);
    const std::uint32_t start = supers_[host].hosted_start[index];
    const auto head = start == 0 ? nullptr
                                 : spare_metadata::absent(views_[host].io, start, record.newest.set_uuid,
                                                          record.newest.spare_uuids[index], rules);
    if (!head || supers_[host].hosted_blocks[index] != head->places().table_blocks)
      return false;
    dumped_spare d;
    d.away = true;
    d.map_on = from;
    d.super = head->super;
    d.super.feature_incompat &= ~image_incompat;
    read_table(d, {{views_[host].io.get(), std::uint64_t{start} + 1, sixth_replica}});
    dump_.spares.push_back(std::move(d));
    return true;
  }

  /// Damage is an error, or a remark.
  result<void> judge() {
    for (const auto& why : unread_)
      dump_.spares.front().damage.push_back(why);
    for (auto& d : dump_.spares) {
      for (const auto& why : d.damage)
        if (!how_.best_effort)
          return fail("block-destroyed", d.member.empty() ? to_text(d.super.spare_uuid) : d.member,
                      why + "; with --best-effort the rest is dumped", exit_code::damaged);
      dump_.complete = dump_.complete && d.damage.empty();
    }
    if (const auto possible = check_dump(dump_, dump_.spares.front().super.set_name); !possible) {
      if (!how_.best_effort)
        return tl::make_unexpected(also_best_effort(possible.error()));
      dump_.spares.front().damage.push_back(possible.error().why);
      dump_.complete = false;
    }
    return {};
  }

  /// No lock keeps others away: what was read must still be there.
  result<void> check_unchanged() {
    for (std::size_t n = 0; n < views_.size(); ++n) {
      const auto now = spare_metadata::load_supers(views_[n].io, rules, image_incompat);
      if (!now || (*now)->super.sequence != supers_[n].sequence)
        return fail("changed-meanwhile", views_[n].spec.text(),
                    "was written while it was read; dump the set by its name where it runs");
    }
    return {};
  }

  const std::vector<member_spec>& specs_;
  const dump_options& how_;
  std::vector<spare_view> views_; ///< metadata taken out
  std::vector<superblock> supers_;
  std::vector<std::string> unread_;
  set_dump dump_;
};

} // namespace

void read_table(dumped_spare& into, const std::vector<table_source>& sources) {
  table_taker(into, sources).take();
}

result<set_dump> load_dump(const std::vector<member_spec>& spares, const dump_options& how) {
  return loader(spares, how).load();
}

} // namespace dmremap::recover
