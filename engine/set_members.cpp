// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/set_members.h"

#include "engine/host_state.h"

#include <algorithm>

namespace dmremap {
namespace {

bool is_away(const error& e) {
  return e.id == "not-found" || e.id == "open-failed" || e.id == "empty-member";
}

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
  from.left_out.push_back({from.members[n].spec, std::move(why)});
  from.members.erase(from.members.begin() + static_cast<std::ptrdiff_t>(n));
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
  return e.id == "foreign-spare" &&
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

} // namespace

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
    out.left_out.push_back({*away, e});
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
  for (const auto& uuid : sets) {
    std::string trouble;
    if (const auto seen = uuid.empty() || accept_older ? std::nullopt : read_host_state(uuid, trouble))
      how.last_seen = seen->sequence_end;
    if (!trouble.empty())
      notices.push_back(trouble);
    if (!uuid.empty())
      how.on_record = [uuid](std::uint64_t end) { // before anything is written under the record
        std::string unread;
        host_state now = read_host_state(uuid, unread).value_or(host_state{uuid, "", 0, {}});
        now.sequence_end = std::max(now.sequence_end, end);
        (void)write_host_state(now); // a host without the folder is told so once the set is open
      };
    if (!uuid.empty())
      break; // spares of two sets are refused anyway
  }
  for (;;) {
    std::vector<std::shared_ptr<store>> spares;
    for (std::size_t n = 1; n < from.members.size(); ++n)
      spares.push_back(from.members[n].io);
    auto opened = disk::open(from.members.front().io, std::move(spares), how);
    if (opened) {
      const auto info = TRY((*opened)->info());
      note_left_out(info, from, notices);
      if (!how.read_only)
        if (const auto kept = remember_set(info, from.members); !kept)
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

result<void> remember_set(const disk_info& info, const std::vector<open_member>& members) {
  std::string trouble;
  const auto before = read_host_state(info.set_uuid, trouble);
  host_state now{info.set_uuid, info.set_name, info.sequence_end, {}};
  for (const auto& spare : info.spares) {
    const auto* member = spare.present ? member_at(members, spare.path) : nullptr;
    if (member != nullptr)
      now.spares[spare.uuid] = member->spec.text();
    else if (before && before->spares.contains(spare.uuid))
      now.spares[spare.uuid] = before->spares.at(spare.uuid); // absent: where it was
  }
  return write_host_state(now);
}

} // namespace dmremap
