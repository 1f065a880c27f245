// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/judge.h"

#include "engine/device_identity.h"
#include "engine/disk.h"
#include "engine/host_state.h"
#include "engine/set_attach.h"

#include <algorithm>
#include <fmt/format.h>
#include <strings.h>

namespace dmremap::recover {
namespace {

bool same_uuid(const std::string& a, const std::string& b) {
  return strcasecmp(a.c_str(), b.c_str()) == 0;
}

class court {
public:
  court(const set_view& set, const allowances& allowed) : set_(set), allowed_(allowed) {}

  judgement decide() {
    if (set_.serving()) {
      j_.found = verdict::running;
      return std::move(j_);
    }
    if (set_.image) {
      refuse(j_, "metadata-image", first_member(), holds_no_data);
      return std::move(j_);
    }
    const auto clear = spares_clear() && main_clear() && name_clear();
    if (!clear)
      return std::move(j_);
    collect();
    if (unused() && rehearse()) {
      j_.found = main_->rating == pairing::certain ? verdict::certain : verdict::accept;
      j_.start = true;
    }
    return std::move(j_);
  }

private:
  static bool refuse(judgement& j, std::string id, std::string what, std::string why) {
    j.found = verdict::refused;
    j.why = {std::move(id), std::move(what), std::move(why), exit_code::damaged};
    return false;
  }

  static std::string place_of(const spare_row& row) {
    return row.last_seen.empty() ? row.uuid : row.uuid + ", last seen as " + row.last_seen;
  }

  [[nodiscard]] std::string first_member() const {
    for (const auto& row : set_.spares)
      if (!row.found.empty())
        return row.found.front()->spec.text();
    return set_.name;
  }

  bool spares_clear() {
    if (set_.running)
      return refuse(j_, "daemon-died", set_.name,
                    "its daemon died without stopping; `dmremap detach " + set_.name +
                        "` clears away what is left");
    for (const auto& row : set_.spares) {
      if (row.found.size() < 2)
        continue;
      for (const auto* v : row.found)
        j_.candidates.push_back(v->spec.text());
      return refuse(
          j_, "set-copies", set_.name,
          fmt::format("{} are copies of one spare, {}; name the members to look at, with only the one that "
                      "was in use last",
                      fmt::join(j_.candidates, " and "), row.uuid));
    }
    if (set_.problem) {
      j_.why = *set_.problem;
      j_.why.code = exit_code::damaged;
      return false;
    }
    for (const auto* row : set_.missing())
      if (row->map_on < 0)
        return refuse(j_, "spare-unprotected", set_.name,
                      fmt::format("spare {} ({}) is missing, and no other protects it: connect it",
                                  row->index, place_of(*row)));
    if (const auto missing = set_.missing(); !missing.empty() && !allowed_.degraded)
      return refuse(j_, "spare-missing", set_.name,
                    fmt::format("spare {} ({}) is missing: connect it, or start without it with --degraded",
                                missing.front()->index, place_of(*missing.front())));
    if (set_.older && !allowed_.accept_older)
      return refuse(
          j_, "spare-older", set_.name,
          "its metadata is older than what this host saw of the set before: a spare is missing, or was "
          "restored from a copy; if you are sure, --accept-older");
    return true;
  }

  bool main_clear() {
    const auto best = set_.best_mains();
    if (best.size() > 1) {
      for (const auto* one : best)
        j_.candidates.push_back(one->spec.text());
      return refuse(
          j_, "main-copies", set_.name,
          fmt::format("{} may each be main, and nothing tells them apart; name the members to look at, with "
                      "only the one that it is",
                      fmt::join(j_.candidates, " and ")));
    }
    if (best.empty() && set_.mains.empty())
      return refuse(j_, "main-missing", set_.name,
                    fmt::format("nothing of its main's size ({} sectors) was found: connect it, or name it",
                                set_.newest.main_sectors));
    if (best.empty())
      return refuse(j_, "main-mismatch", set_.mains.front().spec.text(),
                    "is not the main of set " + set_.name + ": " +
                        evidence(set_.mains.front().match, set_.mains.front().configured));
    main_ = best.front();
    if (main_->rating == pairing::accept && !allowed_.accept_main) {
      refuse(j_, "main-mismatch", main_->spec.text(),
             "may be the main of set " + set_.name + ": " + evidence(main_->match, main_->configured) +
                 "; if you are sure that it is, --accept-main");
      j_.found = verdict::accept;
      return false;
    }
    return true;
  }

  /// Names are places in the run folder: a second set of the name would have none.
  bool name_clear() {
    const auto taken = [&](const std::string& uuid, const std::string& by) {
      return same_uuid(uuid, set_.uuid) ||
             refuse(j_, "name-taken", set_.name,
                    "is the name of another set, too (" + uuid + ", " + by +
                        "); give one of them another with `dmremap rename`, or the UUID");
    };
    for (const auto& other : list_running_sets())
      if (other.name == set_.name && !taken(other.uuid, "running"))
        return false;
    for (const auto& other : list_set_configs().sets) {
      if (other.name == set_.name && !taken(other.uuid, "configured"))
        return false;
      if (same_uuid(other.uuid, set_.uuid))
        j_.members.options = other.options;
    }
    return true;
  }

  void collect() {
    j_.members.name = set_.name;
    j_.members.uuid = set_.uuid;
    j_.members.main = main_->spec.text();
    for (const auto& row : set_.spares)
      if (!row.found.empty())
        j_.members.spares.push_back(row.found.front()->spec.text());
    if (!set_.missing().empty())
      j_.options.emplace_back("degraded");
    if (main_->rating == pairing::accept)
      j_.options.emplace_back("accept_main");
    if (set_.older)
      j_.options.emplace_back("accept_older");
    for (const auto* v : set_.outsiders)
      j_.notices.push_back(v->spec.text() + " was removed from the set or forgotten; it is left alone");
    if (!set_.configuration.empty() && !set_.as_configured)
      j_.notices.push_back("its configuration names other members; correct " + set_.configuration +
                           ".conf, or go on with dmremap-reassemble");
  }

  bool unused() {
    std::vector<member_spec> members{main_->spec};
    for (const auto& row : set_.spares)
      if (!row.found.empty())
        members.push_back(row.found.front()->spec);
    for (const auto& spec : members) {
      struct stat st {};
      if (::stat(spec.path.c_str(), &st) != 0)
        return refuse(j_, "not-found", spec.path, "is gone again");
      std::optional<device_use> use;
      if (S_ISBLK(st.st_mode)) {
        const auto extent = extent_of(st.st_rdev);
        byte_range range{extent.start, extent.start + extent.length};
        if (spec.start)
          range = {extent.start + *spec.start * sector_bytes,
                   extent.start + (*spec.start + *spec.length) * sector_bytes};
        use = find_disk_use(extent.disk, range);
      } else {
        use = find_file_use(st);
      }
      if (use)
        return refuse(j_, use->id, spec.text(), use->why);
    }
    return true;
  }

  /// What the engine says, read-only.
  bool rehearse() {
    auto main = open_to_read(main_->spec);
    if (!main)
      return refuse(j_, main.error().id, main.error().what, main.error().why);
    std::vector<std::shared_ptr<store>> spares;
    for (const auto& row : set_.spares)
      if (!row.found.empty())
        spares.push_back(row.found.front()->io);
    open_options how;
    how.read_only = true;
    how.degraded = allowed_.degraded;
    how.accept_main = main_->rating == pairing::accept;
    std::string trouble;
    if (const auto seen = read_host_state(set_.uuid, trouble); seen && !allowed_.accept_older)
      how.last_seen = seen->sequence_end;
    if (!trouble.empty())
      j_.notices.push_back(trouble);
    const auto opened = disk::open(std::move(*main), std::move(spares), how).map_error(with_long_options);
    return opened || refuse(j_, opened.error().id, opened.error().what, opened.error().why);
  }

  const set_view& set_;
  const allowances& allowed_;
  const main_candidate* main_ = nullptr;
  judgement j_;
};

} // namespace

const char* name_of(verdict v) noexcept {
  switch (v) {
  case verdict::certain:
    return name_of(pairing::certain);
  case verdict::accept:
    return name_of(pairing::accept);
  case verdict::refused:
    return name_of(pairing::refused);
  case verdict::running:
    return "running";
  }
  return "refused";
}

judgement judge(const set_view& set, const allowances& allowed) {
  return court(set, allowed).decide();
}

} // namespace dmremap::recover
