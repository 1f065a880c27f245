// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/spare_pool.h"

#include "engine/candidate.h"
#include "engine/config.h"
#include "engine/device_identity.h"
#include "engine/device_use.h"
#include "engine/dust_store.h"
#include "engine/geometry.h"
#include "engine/host_state.h"
#include "engine/wipe.h"
#include "fusedisk/replies.h"

#include <algorithm>
#include <boost/filesystem.hpp>
#include <fmt/format.h>
#include <strings.h>

namespace dmremap {
namespace {

constexpr unsigned most_spares = 16;

bool same_text(const std::string& a, const std::string& b) {
  return strcasecmp(a.c_str(), b.c_str()) == 0;
}

/// A line of the configuration that names this member, however it is written.
bool names(const std::string& line, const std::string& member) {
  const auto spec = parse_member(line);
  return line == member || (spec && spec->text() == member);
}

/// Whether the spares may list one that was not added: then the set asks for it at the next start.
bool may_be_listed(const error& add_failed) {
  return add_failed.id == "add-in-doubt";
}

} // namespace

spare_pool::spare_pool(disk& set, event_log& log, set_members from, const disk_info& now, bool read_only,
                       std::string device)
    : set_(set), log_(log), read_only_(read_only), device_(std::move(device)), set_name_(now.set_name),
      set_uuid_(now.set_uuid), main_(from.members.front()), keeper_(from.keeper) {
  std::string trouble;
  const auto before = read_host_state(set_uuid_, trouble);
  for (const auto& spare : now.spares) {
    if (const auto* member = spare.present || spare.readable ? member_at(from.members, spare.path) : nullptr)
      spares_.emplace(spare.index, held_spare{spare.uuid, *member});
    else if (before && before->spares.contains(spare.uuid))
      away_[spare.uuid] = before->spares.at(spare.uuid);
  }
  for (const auto& one : from.left_out)
    if (one.member)
      parked_.push_back(*one.member);
}

void spare_pool::stop() {
  {
    const std::lock_guard lock(evacuation_mutex_);
    stop_evacuation_ = stopped_ = true;
  }
  const std::lock_guard change(change_mutex_);
  if (evacuator_.joinable())
    evacuator_.join();
}

result<void> spare_pool::check_running() const {
  const std::lock_guard lock(evacuation_mutex_);
  if (stopped_)
    return fail("stopping", set_name_, "the set is being closed; nothing was done");
  return {};
}

// --- what there is -----------------------------------------------------------------------------------------

std::string spare_pool::main_text() const {
  return main_.spec.text();
}

std::vector<std::string> spare_pool::spare_texts() const {
  const std::lock_guard lock(members_mutex_);
  std::vector<std::string> texts;
  for (const auto& [index, held] : spares_)
    texts.push_back(held.member.spec.text());
  return texts;
}

std::vector<open_member> spare_pool::all_members() const {
  const std::lock_guard lock(members_mutex_);
  std::vector<open_member> members = {main_};
  for (const auto& [index, held] : spares_)
    members.push_back(held.member);
  return members;
}

std::string spare_pool::known_text(const std::string& uuid) const {
  const std::lock_guard lock(members_mutex_);
  for (const auto& [index, held] : spares_)
    if (held.uuid == uuid)
      return held.member.spec.text();
  const auto at = away_.find(uuid);
  return at != away_.end() ? at->second : "";
}

void spare_pool::describe(disk_info& info) const {
  for (auto& spare : info.spares) {
    if (spare.present)
      continue;
    if (const auto known = known_text(spare.uuid); !known.empty() || !spare.readable)
      spare.path = known;
    const std::string named = "spare " + spare.uuid;
    for (auto& notice : info.notices)
      if (const auto at = notice.find(named); at != std::string::npos && !spare.path.empty())
        notice.insert(at + named.size(), " (" + spare.path + ")");
  }
  // What the start was made without: told until it is here, or the set can do without.
  const bool some_away =
      std::any_of(info.spares.begin(), info.spares.end(), [](const auto& s) { return !s.present; });
  const auto members = all_members();
  std::erase_if(info.notices, [&](const std::string& notice) {
    if (!notice.starts_with("opened without "))
      return false;
    return (!some_away && notice.find("; the set does not list it") == std::string::npos) ||
           std::any_of(members.begin(), members.end(), [&](const open_member& m) {
             return notice.starts_with("opened without " + m.spec.text() + " (");
           });
  });
  if (const auto trouble = record_trouble();
      !trouble.empty() && std::find(info.notices.begin(), info.notices.end(), trouble) == info.notices.end())
    info.notices.push_back(trouble);
}

std::string spare_pool::record_trouble() const {
  return keeper_ ? keeper_->trouble() : "";
}

result<std::shared_ptr<dust_control>> spare_pool::dust(const std::string& store) const {
  const std::lock_guard lock(members_mutex_);
  std::string known = "main";
  const auto is_it = [&](const open_member& member, const std::string& role) {
    const auto text = member.spec.text();
    return store == role || store == text || "dust:" + store == text;
  };
  const auto control_of = [&](const open_member& member) -> result<std::shared_ptr<dust_control>> {
    if (!member.dust)
      return fail("not-dust", store,
                  "this member fails nothing on command: give it as dust:" + member.spec.text());
    return member.dust;
  };
  if (is_it(main_, "main"))
    return control_of(main_);
  for (const auto& [index, held] : spares_) {
    const auto role = "spare" + std::to_string(index);
    if (is_it(held.member, role))
      return control_of(held.member);
    known += ", " + role;
  }
  return fail("no-such-store", store, "the set has " + known);
}

void spare_pool::rename(const std::string& name) {
  const std::lock_guard change(change_mutex_);
  set_name_ = name;
  name_claims(all_members(), name);
}

// --- records beside the set --------------------------------------------------------------------------------

void spare_pool::take(open_member member, const std::string& uuid) {
  const auto index = set_.find_spare(uuid);
  const std::lock_guard lock(members_mutex_);
  if (index)
    spares_.insert_or_assign(*index, held_spare{uuid, std::move(member)});
}

/// Its claim goes with it, unless it is one with that of a member that stays: then the place stays ours, and
/// the member can be added again. Whether the place is free now.
bool spare_pool::drop(const std::string& uuid) {
  const std::lock_guard lock(members_mutex_);
  away_.erase(uuid);
  const auto at =
      std::find_if(spares_.begin(), spares_.end(), [&](const auto& one) { return one.second.uuid == uuid; });
  if (at == spares_.end())
    return true;
  const auto claim = at->second.member.held;
  parked_.push_back(std::move(at->second.member));
  spares_.erase(at);
  std::erase_if(parked_, [&](const open_member& parked) {
    return parked.held != main_.held && std::none_of(spares_.begin(), spares_.end(), [&](const auto& one) {
             return one.second.member.held == parked.held;
           });
  });
  return std::none_of(parked_.begin(), parked_.end(),
                      [&](const open_member& parked) { return parked.held == claim; });
}

/// Whether a spare of the set, here or away, is known by that text.
bool spare_pool::is_named(const std::string& text) const {
  const std::lock_guard lock(members_mutex_);
  return std::any_of(spares_.begin(), spares_.end(),
                     [&](const auto& one) { return one.second.member.spec.text() == text; }) ||
         std::any_of(away_.begin(), away_.end(), [&](const auto& one) { return one.second == text; });
}

/// After a change: what this host remembers, and a spare that is `gone` from the configuration, unless
/// another one has its place there. Says what could not be kept: the change itself is done.
std::string spare_pool::keep_record(const std::string& gone, std::string note) {
  const auto add = [&](const std::string& text) { note += (note.empty() ? "" : "; ") + text; };
  if (!gone.empty() && !is_named(gone)) {
    const auto changed = change_configured_spares(set_uuid_, [&](std::vector<std::string>& lines) {
      return std::erase_if(lines, [&](const std::string& line) { return names(line, gone); }) != 0;
    });
    if (!changed)
      add("the configuration may still name " + gone + ": " + changed.error().text());
  }
  if (auto info = set_.info(); info && keeper_) {
    if (const auto kept = keeper_->remember(*info, all_members()); !kept)
      add(kept.error().text());
  }
  if (!note.empty())
    log_.warn(note);
  return note;
}

// --- add ---------------------------------------------------------------------------------------------------

/// A spare on what the set itself serves would wait for itself.
result<void> spare_pool::check_place(const member_spec& spec) const {
  const auto below = devices_below(spec.path);
  if (std::any_of(below.begin(), below.end(), [&](dev_t device) { return dev_text(device) == device_; }))
    return fail("member-is-image", spec.text(),
                "lies on the disk that this very set serves; use another device");
  return {};
}

/// A spare that is away has no claim, but its place all the same. What is written as one that is away takes
/// its line over: a new drive in the place of a dead one.
result<void> spare_pool::check_own_places(const member_spec& spec) const {
  std::vector<std::string> away;
  {
    const std::lock_guard lock(members_mutex_);
    for (const auto& [uuid, text] : away_)
      away.push_back(text);
  }
  if (const auto other = find_overlap(spec, away); !other.empty())
    return fail("members-overlap", spec.text(),
                "shares sectors with " + other +
                    ", a spare of this set that is absent; use another place, or give that spare up first "
                    "(dmremap spare forget)");
  if (const auto other = find_overlap(spec, TRY(configured_spares(set_uuid_))); !other.empty())
    return fail("members-overlap", spec.text(),
                "shares sectors with " + other +
                    ", which the configuration of this set names; use another place, or take that line out "
                    "if it is no spare of the set any more");
  return {};
}

result<open_member> spare_pool::open_candidate(const member_spec& spec, bool dry_run) {
  {
    const std::lock_guard lock(members_mutex_);
    for (const auto& parked : parked_)
      if (parked.spec.text() == spec.text())
        return parked;
  }
  auto opened = TRY(
      open_members({{member_role::spare, spec}}, dry_run ? access_mode::read_only : access_mode::read_write));
  return std::move(opened.front());
}

bool spare_pool::is_member(const member_spec& spec) const {
  const auto members = all_members();
  return std::any_of(members.begin(), members.end(), [&](const open_member& m) {
    boost::system::error_code failed;
    return m.spec.start == spec.start && boost::filesystem::equivalent(m.spec.path, spec.path, failed);
  });
}

/// Whether something on it has to be wiped.
result<bool> spare_pool::check_candidate(const open_member& member, const spare_add_request& request,
                                         const disk_info& info) const {
  const auto found = TRY(probe_signatures(*member.io));
  const bool some_absent =
      std::any_of(info.spares.begin(), info.spares.end(), [](const spare_status& s) { return !s.present; });
  for (const auto& uuid : spares_named_on(*member.io))
    for (const auto& spare : info.spares)
      if (spare.present && same_text(spare.uuid, uuid)) // no claim tells two paths to one drive
        return fail(
            "spare-in-set", member.spec.text(),
            "is spare " + uuid + ", which the set uses as " + known_text(uuid) +
                ": another path to the same storage, or a copy of it; only a copy may be overwritten, "
                "by hand (blkdiscard, or zeros), and then added");
  for (const auto& one : found) {
    if (one.type != "dmremap" || !same_text(one.set_uuid, info.set_uuid))
      continue;
    if (some_absent)
      return fail("spare-in-set", member.spec.text(),
                  "is a spare of this very set, which lacks one: stop the set and start it with this member; "
                  "if it is to be given up, `dmremap spare forget` comes first");
    if (!same_text(request.destroy_set, info.set_uuid))
      return fail(
          "spare-in-set", member.spec.text(),
          "was a spare of this set, which has been forgotten or removed since; to take it as a new one, what "
          "is still on it erased: --destroy-set " +
              info.set_uuid);
  }
  if (!same_text(request.destroy_set, info.set_uuid))
    CHECK_OK(check_gives_up_no_running(request.destroy_set));
  const bool wipe = TRY(check_spare(*member.io, found, request.wipe, request.destroy_set));
  CHECK_OK(check_configured({member.spec}, {request.destroy_set, info.set_uuid}));
  CHECK_OK(check_own_places(member.spec));
  CHECK_OK(check_surroundings(main_.spec, member.spec, request.wipe));
  return wipe;
}

/// What was on it goes first, then the configuration: it must name a spare before that can hold data, and one
/// that it names and that bears nothing is passed over at the next start. One of another set would not be.
/// Before that the set says that it can take one: it may still list this very one on disk, where an add
/// could not be taken back.
result<void> spare_pool::put_into_set(const open_member& member, bool wipe, preallocation room,
                                      spare_add_reply& reply) {
  const std::string wiped = "; what was known on it before is wiped all the same";
  CHECK_OK(set_.ready_for_spare(reply.member));
  if (wipe)
    CHECK_OK(wipe_signatures(*member.io));
  bool written = false;
  const auto named = change_configured_spares(set_uuid_, [&](std::vector<std::string>& lines) {
    if (std::any_of(lines.begin(), lines.end(), [&](const std::string& l) { return names(l, reply.member); }))
      return false;
    lines.push_back(reply.member);
    return written = true;
  });
  if (!named) {
    error e = named.error();
    e.why += wipe ? wiped : "";
    return tl::unexpected<error>(std::move(e));
  }
  const auto back_out = [&](error e) {
    if (written && !may_be_listed(e))
      if (const auto undone = keep_record(reply.member); !undone.empty())
        e.why += "; " + undone;
    return tl::unexpected<error>(std::move(e));
  };
  room.keep();
  auto index = set_.add_spare(member.io);
  if (!index) {
    error e = std::move(index.error());
    const std::string nothing = "; nothing changed";
    if (const auto at = e.why.find(nothing); wipe && at != std::string::npos)
      e.why.replace(at, nothing.size(), wiped);
    return back_out(std::move(e));
  }
  reply.index = *index;
  return {};
}

result<spare_add_reply> spare_pool::add(const spare_add_request& request) {
  const std::lock_guard change(change_mutex_);
  CHECK_OK(check_running());
  const std::string bare = request.member.rfind("dust:", 0) == 0 ? request.member.substr(5) : request.member;
  if (bare.empty() || bare.front() != '/')
    return fail("bad-member", request.member, "give the whole path: the daemon works in a folder of its own",
                exit_code::usage);
  const auto spec = TRY(parse_member(request.member));
  if (read_only_)
    return fail("read-only", set_name_, "the set is open read-only");
  const auto info = TRY(set_.info());
  if (info.spares.size() >= most_spares)
    return fail("too-many-spares", spec.text(), "a set has at most 16 spares");
  CHECK_OK(check_place(spec));
  auto opened = open_candidate(spec, request.dry_run);
  if (!opened && opened.error().id == "in-use" && is_member(spec))
    return fail("in-use", spec.text(), "is a member of this set already");
  auto member = TRY(std::move(opened));
  const bool wipe = TRY(check_candidate(member, request, info));
  spare_add_reply reply;
  reply.member = spec.text();
  reply.units = TRY(make_geometry(member.io->size())).data_units();
  if (wipe)
    for (const auto& one : TRY(probe_signatures(*member.io)))
      reply.wiped.push_back(one.type);
  if (request.dry_run)
    return reply;
  preallocation room;
  if (!request.sparse)
    room = TRY(preallocation::take(spec));
  CHECK_OK(put_into_set(member, wipe, std::move(room), reply));
  const auto now = set_.info();
  if (const auto* added = now ? spare_at(*now, reply.index) : nullptr)
    reply.uuid = added->uuid;
  {
    const std::lock_guard lock(members_mutex_);
    std::erase_if(parked_, [&](const open_member& parked) { return parked.spec.text() == reply.member; });
  }
  name_claims({member}, set_name_);
  take(std::move(member), reply.uuid);
  reply.configuration = keep_record("");
  log_.info(fmt::format("spare {} ({}) added as spare {}", reply.member, reply.uuid, reply.index));
  return reply;
}

// --- remove and forget -------------------------------------------------------------------------------------

result<spare_change_reply> spare_pool::remove(const std::string& uuid, bool dry_run) {
  const std::lock_guard change(change_mutex_);
  CHECK_OK(check_running());
  const auto info = TRY(set_.info());
  const auto* spare = TRY(listed(info, uuid));
  if (const auto now = evacuation(); now.running && now.uuid == spare->uuid)
    return fail("evacuation-running", spare->path, "is being emptied; remove it when that is done");
  spare_change_reply reply{known_text(spare->uuid), spare->uuid, "", true, true};
  if (dry_run) {
    CHECK_OK(set_.plan_remove(spare->index));
    return reply;
  }
  reply.erased = TRY(set_.remove_spare(spare->index));
  reply.freed = drop(reply.uuid);
  reply.configuration = keep_record(reply.member); // named there in vain until this is done
  log_.info(fmt::format("spare {} ({}) removed{}", reply.member, reply.uuid,
                        reply.erased ? "" : "; not all of its superblocks could be erased"));
  return reply;
}

result<spare_forget_reply> spare_pool::forget(const std::string& uuid, bool dry_run) {
  const std::lock_guard change(change_mutex_);
  CHECK_OK(check_running());
  const auto info = TRY(set_.info());
  const auto* spare = TRY(listed(info, uuid));
  if (dry_run)
    return spare_forget_reply{TRY(set_.plan_forget(spare->index)), ""};
  const auto text = known_text(spare->uuid);
  spare_forget_reply done{TRY(set_.forget_spare(spare->index)), ""};
  drop(spare->uuid);
  done.configuration =
      keep_record(text, text.empty() ? "where spare " + spare->uuid +
                                           " was is not known here: take its line out of the configuration"
                                     : "");
  log_.warn(fmt::format("spare {} {} forgotten: {} units with {} sectors are lost", spare->uuid, text,
                        done.units, done.lost_sectors));
  return done;
}

result<const spare_status*> spare_pool::listed(const disk_info& now, const std::string& uuid) {
  for (const auto& spare : now.spares)
    if (same_text(spare.uuid, uuid))
      return &spare;
  return fail("no-such-spare", uuid, "the set has no such spare; `dmremap spare list` names them");
}

} // namespace dmremap
