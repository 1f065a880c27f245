// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/set_members.h"

#include <algorithm>

namespace dmremap {
namespace {

/// The UUID of the set that each member speaks of; empty where it speaks of none.
std::vector<std::string> sets_on(const std::vector<open_member>& members) {
  std::vector<std::string> uuids;
  for (const auto& member : members) {
    std::string uuid;
    const auto found =
        &member == &members.front() ? std::vector<signature>{} : probe_set_signatures(*member.io);
    for (const auto& one : found)
      uuid = one.type == "dmremap" ? one.set_uuid : one.type; // upstream's: for the engine to refuse
    uuids.push_back(uuid);
  }
  return uuids;
}

void leave_out(set_members& from, std::vector<std::string>& sets, std::size_t n, error why) {
  open_member out = std::move(from.members[n]);
  from.members.erase(from.members.begin() + static_cast<std::ptrdiff_t>(n));
  from.left_out.push_back({out.spec, std::move(why), std::nullopt});
  if (std::any_of(from.members.begin(), from.members.end(),
                  [&](const open_member& m) { return m.held == out.held; }))
    from.left_out.back().member = std::move(out);
  sets.erase(sets.begin() + static_cast<std::ptrdiff_t>(n));
}

/// A spare that was to be added, or was removed, when the machine went down.
void leave_out_blank(set_members& from, std::vector<std::string>& sets) {
  if (std::all_of(sets.begin(), sets.end(), [](const std::string& s) { return s.empty(); }))
    return;
  for (std::size_t n = sets.size(); n-- > 1;)
    if (sets[n].empty())
      leave_out(from, sets, n,
                {"no-superblock", from.members[n].io->identity().path,
                 "carries no metadata of a set that can be read", exit_code::failed});
}

/// Where the set is open without the named one all the same, it has no place there. A spare of another set
/// was named by mistake, which is another matter.
bool may_be_left_out(const error& e, const set_members& from, const std::vector<std::string>& sets,
                     std::size_t n, bool degraded) {
  if (from.members.size() <= 2)
    return false;
  if (e.id == "spare-unreadable")
    return degraded;
  return (e.id == "foreign-spare" || (degraded && (e.id == "no-superblock" || e.id == "wrong-size"))) &&
         std::all_of(sets.begin() + 1, sets.end(), [&](const std::string& s) { return s == sets[n]; });
}

error name_left_out(error e, const set_members& from) {
  if (from.left_out.empty() || (e.id != "spare-missing" && e.id != "spare-unprotected"))
    return e;
  std::string names, reasons;
  for (const auto& one : from.left_out) {
    names += (names.empty() ? "" : ", ") + one.spec.text();
    reasons += one.why.text() + "; ";
  }
  e.why = reasons + "set " + e.what + ": " + e.why;
  e.what = names;
  return e;
}

void note_left_out(const disk_info& info, const set_members& from, std::vector<std::string>& notices) {
  const bool some_absent =
      std::any_of(info.spares.begin(), info.spares.end(), [](const spare_status& s) { return !s.present; });
  for (const auto& one : from.left_out)
    notices.push_back("opened without " + one.spec.text() + " (" + one.why.why + ")" +
                      (some_absent ? "" : "; the set does not list it: take it out of the configuration"));
}

/// What this host saw last goes to the open, and what it sees now is kept before anything is written under
/// it.
void keep_record(set_members& from, const std::vector<std::string>& sets, open_options& how,
                 bool accept_older, std::vector<std::string>& notices) {
  const auto named = std::find_if(sets.begin(), sets.end(), [](const std::string& s) { return !s.empty(); });
  if (named == sets.end())
    return; // spares of two sets are refused anyway
  std::string trouble;
  from.keeper = std::make_shared<host_keeper>(*named, trouble);
  if (!trouble.empty())
    notices.push_back(trouble);
  if (!accept_older)
    how.last_seen = from.keeper->last_seen();
  how.on_record = [keeper = from.keeper](std::uint64_t sequence_end) { keeper->note_record(sequence_end); };
}

} // namespace

bool is_away(const error& e) {
  return e.id == "not-found" || e.id == "open-failed" || e.id == "empty-member";
}

result<set_members> open_set_members(const member_spec& main, const std::vector<member_spec>& spares,
                                     access_mode mode) {
  set_members out;
  std::vector<member_spec> wanted = spares;
  for (;;) {
    std::vector<std::pair<member_role, member_spec>> specs = {{member_role::main, main}};
    for (const auto& spare : wanted)
      specs.emplace_back(member_role::spare, spare);
    auto opened = open_members(specs, mode);
    if (opened) {
      out.members = std::move(*opened);
      return out;
    }
    const error& e = opened.error();
    const auto away = std::find_if(wanted.begin(), wanted.end(), [&](const member_spec& s) {
      return e.what == s.path || e.what == s.text();
    });
    if (!is_away(e) || e.what == main.path || e.what == main.text() || away == wanted.end())
      return tl::make_unexpected(e);
    if (wanted.size() == 1)
      return tl::make_unexpected(out.left_out.empty() ? e : out.left_out.front().why);
    out.left_out.push_back({*away, e, std::nullopt});
    wanted.erase(away);
  }
}

const open_member* member_at(const std::vector<open_member>& members, const std::string& path) {
  for (const auto& member : members)
    if (member.io->identity().path == path)
      return &member;
  return nullptr;
}

result<std::unique_ptr<disk>> open_disk(set_members& from, open_options how, bool accept_older,
                                        std::vector<std::string>& notices) {
  auto sets = sets_on(from.members);
  leave_out_blank(from, sets);
  keep_record(from, sets, how, accept_older, notices);
  for (;;) {
    std::vector<std::shared_ptr<store>> spares;
    for (std::size_t n = 1; n < from.members.size(); ++n)
      spares.push_back(from.members[n].io);
    auto opened = disk::open(from.members.front().io, std::move(spares), how);
    if (opened) {
      const auto info = TRY((*opened)->info());
      note_left_out(info, from, notices);
      if (!how.read_only && from.keeper)
        if (const auto kept = from.keeper->remember(info, from.members); !kept)
          notices.push_back(kept.error().text());
      return opened;
    }
    const auto* blamed = member_at(from.members, opened.error().what);
    const auto n = blamed == nullptr ? 0 : static_cast<std::size_t>(blamed - from.members.data());
    if (n == 0 || !may_be_left_out(opened.error(), from, sets, n, how.degraded))
      return tl::make_unexpected(name_left_out(std::move(opened).error(), from));
    leave_out(from, sets, n, opened.error());
  }
}

host_keeper::host_keeper(const std::string& uuid, std::string& trouble) {
  if (auto before = read_host_state(uuid, trouble)) {
    last_seen_ = before->sequence_end;
    state_ = std::move(*before);
  }
  state_.uuid = uuid;
  state_.sequence_end = 0; // what is seen now counts, also where it is older and was accepted by hand
}

void host_keeper::note_record(std::uint64_t sequence_end) {
  const std::lock_guard lock(mutex_);
  state_.sequence_end = std::max(state_.sequence_end, sequence_end);
  (void)write();
}

std::string host_keeper::trouble() const {
  const std::lock_guard lock(trouble_mutex_);
  return trouble_;
}

result<void> host_keeper::write() {
  auto written = write_host_state(state_);
  const std::lock_guard lock(trouble_mutex_);
  trouble_ = written ? "" : written.error().text();
  return written;
}

result<void> host_keeper::remember(const disk_info& info, const std::vector<open_member>& members) {
  const std::lock_guard lock(mutex_);
  const auto before = std::move(state_.spares);
  state_.name = info.set_name;
  state_.spares.clear();
  for (const auto& spare : info.spares) {
    const auto* member = spare.present || spare.readable ? member_at(members, spare.path) : nullptr;
    if (member != nullptr)
      state_.spares[spare.uuid] = member->spec.text();
    else if (const auto at = before.find(spare.uuid); at != before.end())
      state_.spares[spare.uuid] = at->second; // absent: where it was
  }
  return write();
}

} // namespace dmremap
