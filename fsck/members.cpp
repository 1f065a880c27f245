// SPDX-License-Identifier: GPL-2.0-or-later
#include "fsck/members.h"

#include "engine/config.h"
#include "engine/paths.h"

#include <algorithm>
#include <sys/stat.h>

namespace dmremap::fsck {
namespace {

/// What the command line names.
struct wanted {
  std::vector<std::string> spares;
  std::string main, uuid;
  bool configured = false;
};

result<wanted> look_up(const std::vector<std::string>& names) {
  if (names.size() == 1 && names.front().find('/') == std::string::npos) {
    const auto config = find_set_config(names.front());
    if (config)
      return wanted{config->spares, config->main, config->uuid, true};
    struct stat ignored {};
    const auto spec = parse_member(names.front());
    if (!spec || ::stat(spec->path.c_str(), &ignored) != 0)
      return tl::make_unexpected(config.error());
  }
  return wanted{names, "", "", false};
}

bool is_away(const error& e) {
  return e.id == "not-found" || e.id == "open-failed" || e.id == "empty-member";
}

} // namespace

result<fsck_members> open_to_check(const std::vector<std::string>& names, const std::string& main,
                                   bool writing) {
  const wanted w = TRY(look_up(names));
  fsck_members out;
  out.uuid = w.uuid;
  std::vector<std::pair<member_role, member_spec>> specs;
  for (const auto& one : w.spares)
    specs.emplace_back(member_role::spare, TRY(parse_member(one)));
  for (;;) {
    auto opened = open_members(specs, writing ? access_mode::read_write : access_mode::read_only);
    if (opened) {
      for (const auto& m : *opened)
        out.spares.push_back({m.spec.text(), m.io});
      break;
    }
    const error e = opened.error();
    const auto away = std::find_if(specs.begin(), specs.end(), [&](const auto& s) {
      return e.what == s.second.path || e.what == s.second.text();
    });
    if (!w.configured || !is_away(e) || away == specs.end() || specs.size() == 1)
      return tl::make_unexpected(e);
    out.notes.push_back(e.text());
    specs.erase(away);
  }
  const std::string wanted_main = main.empty() ? w.main : main;
  if (wanted_main.empty())
    return out;
  auto opened = open_members({{member_role::main, TRY(parse_member(wanted_main))}}, access_mode::read_only);
  if (!opened && !main.empty())
    return tl::make_unexpected(opened.error());
  if (opened)
    out.main = opened->front().io;
  else
    out.notes.push_back(opened.error().text() + " (main is not looked at)");
  return out;
}

} // namespace dmremap::fsck
