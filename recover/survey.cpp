// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/survey.h"

#include "recover/deep_resume.h"
#include "recover/in_use.h"

#include <algorithm>
#include <map>
#include <strings.h>

namespace dmremap::recover {
namespace {

constexpr std::chrono::seconds keep_interval{5};

/// A target that could be opened.
struct looked_at {
  target what;
  std::shared_ptr<store> io;
  bool spare = false; ///< as a whole
};

class surveyor {
public:
  explicit surveyor(const survey_options& options) : options_(options) {}

  result<survey> run() {
    auto list = find_targets(options_.paths, options_.image_dir);
    s_.failed = std::move(list.failed);
    std::uint64_t done = 0;
    for (auto& one : list.targets) {
      look(std::move(one));
      if (options_.on_look)
        options_.on_look(++done, list.targets.size());
    }
    if (options_.deep)
      CHECK_OK(search());
    group_sets(s_, possible_mains());
    drop_found_in_mains();
    name_orphans();
    add_running();
    if (options_.tables)
      for (auto& set : s_.sets)
        if (!set.serving())
          read_tables(set);
    return std::move(s_);
  }

private:
  void look(target one) {
    if (const auto owner = served_by(one.place)) {
      served_.insert({owner->set, one.spec.text()});
      return;
    }
    auto io = open_to_read(one.spec);
    if (!io) {
      if (one.named)
        s_.failed.push_back(io.error());
      else if (io.error().id == "no-permission")
        ++s_.unread;
      return;
    }
    looked_.push_back({std::move(one), std::move(*io), false});
    looked_.back().spare = take_spare(looked_.back().what.spec, looked_.back().io, false);
  }

  /// Whether a spare, or something that was one, begins there.
  bool take_spare(const member_spec& spec, const std::shared_ptr<store>& io, bool deep) {
    auto view = view_spare(spec, io);
    if (view) {
      view->deep = deep;
      s_.spares.push_back(std::move(*view));
      return true;
    }
    const auto& id = view.error().id;
    if (auto sectors = upstream_v4_copies(*io);
        !sectors.empty() && (id == "upstream-v4" || id == "spare-too-small")) {
      s_.upstream.push_back({spec.text(), std::move(sectors)});
      return true;
    }
    if (id == "spare-too-small" || (id == "no-superblock" && !has_letters(*io)))
      return false;
    s_.damaged.push_back(view.error());
    return true;
  }

  /// Our letters where a superblock should be, in a block that is no sound one. A sound one from elsewhere is
  /// that of a spare in a partition.
  static bool has_letters(store& io) {
    for (unsigned copy = 0; copy < fixed_supers; ++copy) {
      const spare_unit place = geometry{}.super_place(copy);
      block_bytes block;
      if (byte_of(place) + unit_bytes > io.size() || !io.read(block.span(), byte_of(place)) ||
          kind_of_block(block.bytes.data()) != block_kind::super)
        continue;
      const auto said = stated_place_of(block, block_kind::super);
      if (!decode_superblock(block, said.number, said.unit))
        return true;
    }
    return false;
  }

  result<void> search() {
    auto resume = TRY(resume_file::open(options_.resume));
    std::uint64_t all = 0, before = 0;
    for (const auto& one : looked_)
      all += searched(one) ? one.io->size() : 0;
    const std::size_t count = looked_.size(); // what is found is not searched again
    for (std::size_t n = 0; n < count && !s_.stopped; ++n) {
      const looked_at one = looked_[n];
      if (!searched(one))
        continue;
      const auto name = one.what.spec.text();
      const std::uint64_t bytes = one.io->size();
      const device_mark mark = options_.resume.empty() ? device_mark{} : mark_of(*one.io);
      auto state = resume.state_of(name, mark);
      s_.searched_earlier += state.done;
      result<void> kept;
      const auto done = search_device(*one.io, one.what.partitions, state, [&] {
        if (options_.on_progress)
          options_.on_progress(before + state.done, all);
        kept = resume.keep(name, mark, state, keep_interval);
        s_.stopped = options_.stop && options_.stop();
        return kept && !s_.stopped;
      });
      CHECK_OK(kept);
      CHECK_OK(resume.keep(name, mark, state, std::chrono::milliseconds(0)));
      if (!done)
        s_.failed.push_back(done.error());
      before += bytes;
      s_.searched += state.done;
      s_.unreadable += state.unreadable;
      take_members(one, state);
    }
    return {};
  }

  /// The range of a device that is searched as a whole is not searched once more.
  [[nodiscard]] bool searched(const looked_at& one) const {
    return !one.what.spec.start || std::none_of(looked_.begin(), looked_.end(), [&](const looked_at& other) {
      return !other.what.spec.start && other.what.spec.path == one.what.spec.path;
    });
  }

  void take_members(const looked_at& one, const deep_state& state) {
    std::vector<byte_range> known;
    for (const auto& other : looked_)
      if (other.what.spec.path == one.what.spec.path && other.what.spec.start)
        known.push_back({*other.what.spec.start * sector_bytes,
                         (*other.what.spec.start + *other.what.spec.length) * sector_bytes});
    auto found = members_among(one.what.spec.path, one.io->size(), state, carried_by(*one.io), known);
    for (auto& spec : found.members) {
      if (one.what.spec.start) { // a range of a range
        spec.start = *one.what.spec.start + spec.start.value_or(0);
        spec.length = spec.length.value_or(*one.what.spec.length);
      }
      const bool there = std::any_of(s_.spares.begin(), s_.spares.end(),
                                     [&](const spare_view& v) { return v.spec.text() == spec.text(); });
      const auto place = storage_of(spec);
      if (there || !place || served_by(*place))
        continue;
      if (auto io = open_to_read(spec))
        take_spare(spec, *io, true);
    }
    for (auto& one_passed : found.passed)
      s_.passed.push_back(std::move(one_passed));
  }

  /// A file system or the like that is the whole of it; a partition table is not.
  static std::string carried_by(store& io) {
    const auto found = probe_signatures(io);
    if (found)
      for (const auto& one : *found)
        if (one.type != "gpt" && one.type != "dos" && one.type != "PMBR" && one.type != "dmremap" &&
            one.type != "dm-remap-v4")
          return one.type;
    return {};
  }

  [[nodiscard]] std::vector<possible_main> possible_mains() const {
    std::vector<possible_main> mains;
    for (const auto& one : looked_)
      if (!one.spare)
        mains.push_back({one.what.spec, one.what.place, one.io});
    return mains;
  }

  /// A spare that a search met on the main of a set is a file there.
  void drop_found_in_mains() {
    std::vector<storage> certain;
    for (const auto& set : s_.sets)
      for (const auto* main : set.best_mains())
        if (main->rating == pairing::certain)
          certain.push_back(main->place);
    const auto before = s_.spares.size();
    std::vector<std::string> dropped;
    std::erase_if(s_.spares, [&](const spare_view& v) {
      const bool inside = v.deep && std::any_of(certain.begin(), certain.end(),
                                                [&](const storage& m) { return m.overlaps(v.place); });
      if (inside) {
        deep_find f;
        f.start = static_cast<std::int64_t>(v.spec.start.value_or(0) * sector_bytes);
        f.spare = v.super().spare_uuid;
        f.set = v.super().set_uuid;
        f.set_name = v.super().set_name;
        f.units = v.super().places.units;
        f.supers = v.valid_supers() > 0 ? (1u << v.valid_supers()) - 1 : 0;
        s_.passed.push_back({v.spec.path, f, "lies in the data of a set's main: a backup image"});
      }
      return inside;
    });
    if (s_.spares.size() == before)
      return;
    s_.sets.clear(); // they pointed at what has moved
    group_sets(s_, possible_mains());
  }

  /// Table blocks without a superblock: other spares of the set may know whose they are.
  void name_orphans() {
    for (auto& one : s_.passed) {
      if (one.find.supers != 0)
        continue;
      for (const auto& set : s_.sets)
        for (const auto& row : set.spares)
          if (const auto uuid = parse_uuid(row.uuid); uuid && low_half(*uuid) == one.find.owner_low) {
            one.find.spare = *uuid;
            one.find.set = set.newest.set_uuid;
            one.find.set_name = set.name;
          }
    }
  }

  void add_running() {
    for (auto& running : list_running_sets()) {
      const auto at = std::find_if(s_.sets.begin(), s_.sets.end(), [&](const set_view& set) {
        return !set.image && strcasecmp(set.uuid.c_str(), running.uuid.c_str()) == 0;
      });
      if (at != s_.sets.end()) {
        at->running = std::move(running);
      } else if (options_.paths.empty() || served_.count(running.name) != 0) {
        set_view set;
        set.name = running.name;
        set.uuid = running.uuid;
        set.running = std::move(running);
        s_.sets.push_back(std::move(set));
      }
    }
  }

  static void read_tables(set_view& set) {
    for (auto& row : set.spares)
      for (auto* found : row.found)
        view_tables(*found, host_of(set, row.index, found->super()));
  }

  /// The spare on which the sixth replica of `guest` lies, where both superblocks say so.
  static const spare_view* host_of(const set_view& set, unsigned index, const superblock& guest) {
    for (const auto& row : set.spares) {
      if (row.index != guest.sixth_host || row.index == index || row.found.size() != 1 || row.returned)
        continue;
      const superblock& host = row.found.front()->super();
      if (host.hosted_start[index] == guest.sixth_start && guest.sixth_start != 0 &&
          (host.hosted_protected >> index & 1) != 0)
        return row.found.front();
    }
    return nullptr;
  }

  const survey_options& options_;
  survey s_;
  std::vector<looked_at> looked_;
  std::multimap<std::string, std::string> served_; ///< set, member
};

} // namespace

result<survey> look_around(const survey_options& options) {
  return surveyor(options).run();
}

} // namespace dmremap::recover
