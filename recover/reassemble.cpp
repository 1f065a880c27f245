// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/reassemble.h"

#include "engine/loop_control.h"
#include "engine/paths.h"
#include "engine/program_context.h"
#include "engine/run_lock.h"
#include "engine/set_attach.h"
#include "engine/uuid.h"
#include "recover/cli.h"
#include "recover/judge.h"

#include <algorithm>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <optional>

namespace dmremap::recover {
namespace {

using nlohmann::json;

struct line {
  std::string name; ///< empty: every set
  bool all = false;
  bool dry_run = false;
  allowances allowed;
  survey_options look;
  std::string answer; ///< --help, --version
};

result<line> parse(int argc, const char* const* argv) {
  line l;
  std::vector<std::string> words;
  CLI::App app("Finds the members of sets, starts fusedisk on them, and puts a loop device on each image.",
               "dmremap-reassemble");
  add_common(app, "dmremap-reassemble [-n] [--json] [--all | NAME] [--degraded] [--accept-main] "
                  "[--accept-older]\n"
                  "                          [--image-dir DIR] [PATH...]");
  app.add_flag("-n,--dry-run", l.dry_run, "say what would be started; open nothing for writing");
  app.add_flag("--all", l.all, "every set that is found");
  app.add_flag("--degraded", l.allowed.degraded, "also with spares missing that others protect");
  app.add_flag("--accept-main", l.allowed.accept_main, "also with a main that is likely but not certain");
  app.add_flag("--accept-older", l.allowed.accept_older,
               "also with spares older than what this host saw last");
  app.add_option("--image-dir", l.look.image_dir, "look at the files in this folder, too")->type_name("DIR");
  app.add_option("PATH", words,
                 "NAME: name or UUID of a set, unless --all is given; PATH: devices, files, ranges and "
                 "folders to look "
                 "at, and nothing else")
      ->type_name("");
  l.answer = TRY(parse_line(app, argc, argv));
  // A name has no slash, and a path that could be taken for a name can be given as ./PATH.
  if (!l.all && !words.empty() && words.front().find('/') == std::string::npos) {
    l.name = words.front();
    words.erase(words.begin());
  }
  l.look.paths = std::move(words);
  l.look.tables = false; // the rehearsal reads them
  if (l.name.empty() && !l.all)
    l.dry_run = true;
  return l;
}

/// One set, judged, and what came of it.
struct outcome {
  const set_view* set = nullptr;
  judgement judged;
  std::optional<attached_set> made;
  std::optional<error> failed; ///< of the start

  [[nodiscard]] exit_code code() const {
    if (failed)
      return failed->code;
    return judged.start || judged.found == verdict::running ? exit_code::ok : exit_code::damaged;
  }
};

void start(const program_context& c, outcome& o) {
  std::vector<std::string> notices;
  const auto& config = o.judged.members;
  const auto turn = lock_set(config.name, config.uuid, [&](const std::string& text) { c.note(text); });
  auto made = turn ? start_on_loop(config, "", o.judged.options, notices) : tl::make_unexpected(turn.error());
  if (made) {
    o.made = std::move(*made);
    if (!o.made->direct)
      notices.push_back(o.made->loop + ": the kernel refuses direct I/O; it works, slower");
  } else {
    o.failed = made.error();
  }
  for (const auto& notice : notices)
    c.note(notice);
}

json as_json(const outcome& o) {
  const auto& set = *o.set;
  json missing = json::array();
  for (const auto* row : set.missing())
    missing.push_back({{"index", row->index},
                       {"uuid", row->uuid},
                       {"last_seen", row->last_seen.empty() ? json(nullptr) : json(row->last_seen)}});
  const auto error_of = [](const error& e) { return json{{"id", e.id}, {"what", e.what}, {"why", e.why}}; };
  json value{{"name", set.name},
             {"uuid", set.uuid},
             {"verdict", name_of(o.judged.found)},
             {"started", o.made.has_value()},
             {"missing", std::move(missing)},
             {"candidates", o.judged.candidates},
             {"notices", o.judged.notices},
             {"main", nullptr},
             {"spares", json::array()},
             {"options", o.judged.options},
             {"loop", nullptr},
             {"image", nullptr},
             {"error", nullptr}};
  if (o.judged.start) {
    value["main"] = o.judged.members.main;
    value["spares"] = o.judged.members.spares;
  }
  if (o.failed)
    value["error"] = error_of(*o.failed);
  else if (!o.judged.start && o.judged.found != verdict::running)
    value["error"] = error_of(o.judged.why);
  if (o.made) {
    value["loop"] = o.made->loop;
    value["image"] = o.made->set.image;
  } else if (set.serving()) {
    const auto loops = loops_on(set.running->image);
    value["loop"] = loops.empty() ? json(nullptr) : json(loops.front());
    value["image"] = set.running->image;
  }
  return value;
}

void tell(const program_context& c, const outcome& o, bool dry_run) {
  const auto& set = *o.set;
  for (const auto& notice : o.judged.notices)
    c.note(set.name + ": " + notice);
  if (o.failed)
    return c.note(fmt::format("{}: not started: {}", set.name, o.failed->text()));
  if (o.judged.found == verdict::running)
    return c.note(set.name + ": is running already");
  if (!o.judged.start)
    return c.note(fmt::format("{}: {}: {}", set.name, name_of(o.judged.found),
                              o.judged.why.what == set.name ? o.judged.why.why : o.judged.why.text()));
  if (c.json)
    return;
  if (dry_run)
    c.out << fmt::format(
        "{} {}: main {}, spares {}{}\n", set.name, name_of(o.judged.found), o.judged.members.main,
        fmt::join(o.judged.members.spares, " "),
        o.judged.options.empty() ? "" : fmt::format(", with {}", fmt::join(o.judged.options, ",")));
  else if (o.made)
    c.out << set.name << ' ' << o.made->loop << '\n';
}

/// Two sets of one name that were found: neither is started by name alone.
bool shares_name(const survey& s, const set_view& set, const std::string& asked) {
  return !parse_uuid(asked) && std::count_if(s.sets.begin(), s.sets.end(), [&](const set_view& other) {
                                 return !other.image && other.name == set.name;
                               }) > 1;
}

/// Of a set that is there itself, too.
bool is_mere_image(const survey& s, const set_view& set) {
  return set.image && std::any_of(s.sets.begin(), s.sets.end(), [&](const set_view& other) {
           return !other.image && other.uuid == set.uuid;
         });
}

result<exit_code> reassemble(const program_context& c, const line& l) {
  const auto s = TRY(look_around(l.look));
  exit_code worst = exit_code::ok;
  for (const auto& failed : s.failed) {
    c.note(failed.text());
    worst = exit_code::failed;
  }
  for (const auto& damaged : s.damaged) // a spare that is missing for that
    c.note(damaged.text());
  if (s.unread != 0)
    c.note(fmt::format("not looked at, for want of permission: {}; run it as root", s.unread));
  json rows = json::array();
  for (const auto& set : s.sets) {
    if (!l.name.empty() && !means_set(l.name, set.name, set.uuid))
      continue;
    if (is_mere_image(s, set)) {
      c.note(set.name + ": metadata images of it were found, too, which hold no data; they are left alone");
      continue;
    }
    outcome o;
    o.set = &set;
    o.judged = judge(set, l.allowed);
    if (o.judged.start && shares_name(s, set, l.name)) {
      o.judged.start = false;
      o.judged.found = verdict::refused;
      o.judged.why = {"name-taken", set.name,
                      "is the name of two sets that were found; give the UUID: " + set.uuid,
                      exit_code::damaged};
    }
    if (o.judged.start && !l.dry_run)
      start(c, o);
    tell(c, o, l.dry_run);
    worst = std::max(worst, o.code());
    rows.push_back(as_json(o));
  }
  if (!l.name.empty() && rows.empty())
    return fail("no-such-set", l.name, "is not among the sets found; dmremap-scan shows what there is");
  if (c.json)
    c.print({{"sets", std::move(rows)}, {"dry_run", l.dry_run}});
  else if (rows.empty())
    c.out << "no set was found\n";
  return worst;
}

} // namespace

int run_reassemble(int argc, const char* const* argv, std::ostream& out, std::ostream& err) {
  return run_tool("dmremap-reassemble", argc, argv, out, err, parse, reassemble);
}

} // namespace dmremap::recover
