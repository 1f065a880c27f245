// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/scan_report.h"

#include "engine/counted.h"
#include "engine/shell_word.h"

#include <algorithm>
#include <fmt/format.h>
#include <ostream>

namespace dmremap::recover {
namespace {

std::string listed(const std::vector<std::string>& words) {
  return fmt::format("{}", fmt::join(words, ", "));
}

std::string supers_text(const spare_view& v) {
  std::string text = fmt::format("superblocks {} of {}", v.valid_supers(), super_copies);
  for (std::size_t state = 1; state < copy_states; ++state) {
    std::vector<std::string> copies;
    for (const auto& one : v.supers)
      if (one.state == static_cast<copy_state>(state) && one.expected)
        copies.push_back(std::to_string(one.copy));
    if (!copies.empty())
      text += fmt::format(" ({}: {})", name_of(static_cast<copy_state>(state)), listed(copies));
  }
  return text;
}

/// "table 12 blocks, 6 copies" and what is not as it should be.
std::string tables_text(const spare_view& v) {
  if (v.tables.empty())
    return "";
  std::uint64_t blocks = 0;
  std::string text;
  for (const auto& replica : v.tables) {
    blocks = std::max(blocks, replica.all());
    for (std::size_t state = 1; state < copy_states; ++state)
      if (const auto count = replica.blocks[state]; count != 0)
        text +=
            fmt::format(", copy {}: {} {}", replica.replica, count, name_of(static_cast<copy_state>(state)));
  }
  if (v.destroyed_blocks != 0)
    text += fmt::format(", {} without a valid copy", v.destroyed_blocks);
  return fmt::format("; table {} in {} copies{}", counted(blocks, "block"), v.tables.size(), text);
}

void print_row(std::ostream& out, const std::string& what, const std::string& member,
               const std::string& text) {
  out << fmt::format("  {:<9} {:<30} {}\n", what, member, text);
}

void print_spare(std::ostream& out, const set_view& set, const spare_row& row) {
  const auto what = fmt::format("spare {}", row.index);
  if (row.found.empty()) {
    std::string text = row.uuid;
    if (!row.last_seen.empty())
      text += ", last seen as " + row.last_seen;
    text += row.map_on >= 0 ? fmt::format("; protected by spare {}", row.map_on)
            : set.record    ? "; not protected"
                            : "";
    return print_row(out, what, "missing", text);
  }
  for (const auto* v : row.found)
    print_row(out, what, v->spec.text(),
              supers_text(*v) + tables_text(*v) + (row.returned ? "; was away, its copies are old" : "") +
                  (row.found.size() > 1
                       ? fmt::format("; a copy of spare {}, sequence {}", row.uuid, v->super().sequence)
                       : ""));
}

void print_running(std::ostream& out, const running_set& running) {
  print_row(out, "main", running.main, "");
  for (std::size_t n = 0; n < running.spares.size(); ++n)
    print_row(out, fmt::format("spare {}", n), running.spares[n], "");
}

void print_set(std::ostream& out, const set_view& set, const std::vector<std::string>& paths) {
  out << fmt::format("set {}  {}  {}\n", set.name, set.uuid, state_of(set));
  if (set.spares.empty() && set.running)
    print_running(out, *set.running);
  for (const auto& main : set.mains)
    print_row(out, "main", main.spec.text(),
              fmt::format("{}: {}{}", name_of(main.rating), evidence(main.match, main.configured),
                          main.carries.empty() ? "" : "; carries " + main.carries));
  if (set.mains.empty() && !set.spares.empty() && !set.image)
    print_row(out, "main", "missing", fmt::format("{} sectors", set.newest.main_sectors));
  for (const auto& row : set.spares)
    print_spare(out, set, row);
  for (const auto* v : set.outsiders)
    print_row(out, "foreign", v->spec.text(), "was removed from the set or forgotten: leave it out");
  for (const auto& one : troubles(set))
    out << "  ! " << one << '\n';
  if (const auto next = next_command(set, paths); !next.empty())
    out << "  next: " << next << '\n';
}

} // namespace

std::string state_of(const set_view& set) {
  if (set.serving())
    return "running";
  if (set.running)
    return "died";
  if (set.image)
    return "image";
  if (set.ambiguous_spares() || set.best_mains().size() > 1)
    return "ambiguous";
  if (set.problem)
    return set.problem->id == "forked-set" ? "forked" : "damaged";
  if (!set.missing().empty() || set.best_mains().empty())
    return "incomplete";
  if (set.older)
    return "old";
  return set.damaged() ? "damaged" : "complete";
}

std::string next_command(const set_view& set, const std::vector<std::string>& paths) {
  if (set.serving())
    return "dmremap status " + set.name;
  if (set.running)
    return "dmremap detach " + set.name;
  if (set.destroyed() || set.image) {
    std::string command = "dmremap-fsck -n";
    for (const auto& row : set.spares)
      for (const auto* v : row.found)
        command += " " + shell_word(v->spec.text());
    return command;
  }
  if (set.ambiguous_spares() || set.best_mains().size() != 1 || set.problem || set.unprotected())
    return "";
  const bool accept = set.best_mains().front()->rating == pairing::accept;
  if (set.as_configured && set.missing().empty() && !accept && !set.older)
    return "dmremap attach " + set.configuration;
  std::string command = "dmremap-reassemble " + set.name;
  command += set.missing().empty() ? "" : " --degraded";
  command += accept ? " --accept-main" : "";
  command += set.older ? " --accept-older" : "";
  for (const auto& path : paths)
    command += " " + shell_word(path);
  return command;
}

std::vector<std::string> troubles(const set_view& set) {
  std::vector<std::string> lines;
  if (set.serving())
    return lines;
  if (set.image)
    lines.push_back("metadata images of dmremap-dump, which hold no data: nothing can be started from them");
  for (const auto& row : set.spares) {
    if (row.found.size() > 1) {
      std::vector<std::string> copies;
      for (const auto* v : row.found)
        copies.push_back(v->spec.text());
      lines.push_back(fmt::format("{} are copies of spare {}: name only the one that was in use last",
                                  listed(copies), row.index));
    } else if (row.found.empty() && set.record && row.map_on < 0) {
      lines.push_back(fmt::format("spare {} ({}) is missing, and no other knows what is on it: connect it{}",
                                  row.index, row.uuid,
                                  row.last_seen.empty() ? "" : "; it was " + row.last_seen));
    }
  }
  if (set.problem)
    lines.push_back(set.problem->text());
  const auto best = set.best_mains();
  if (best.size() > 1) {
    std::vector<std::string> candidates;
    for (const auto* one : best)
      candidates.push_back(one->spec.text());
    lines.push_back(fmt::format("{} may each be main, and nothing tells them apart: name the one that it is",
                                listed(candidates)));
  } else if (best.empty() && !set.spares.empty() && !set.image) {
    lines.push_back(set.mains.empty() ? "main is not among what was looked at"
                                      : "nothing of main's size is main: connect it, or name it");
  }
  if (set.older)
    lines.push_back(
        "its metadata is older than what this host saw of the set: a spare is missing, or was restored "
        "from a copy");
  if (set.damaged() && !set.destroyed() && !set.image)
    lines.push_back("damaged copies: the next start mends them from the others");
  return lines;
}

void print_survey(std::ostream& out, const survey& s, const survey_options& options) {
  for (const auto& set : s.sets)
    print_set(out, set, options.paths);
  for (const auto& one : s.upstream)
    out << fmt::format(
        "{}: metadata of the earlier dm-remap 4, copies at sectors {}\n  next: dmremap-import, which "
        "takes its remaps into a set\n",
        one.member, fmt::join(one.sectors, ", "));
  for (const auto& one : s.damaged)
    out << fmt::format("{}: {}\n", one.what, one.why);
  for (const auto& one : s.passed)
    out << fmt::format("{}: passed over: {} at sector {}{}: {}\n", one.path,
                       one.find.supers != 0        ? fmt::format("metadata of set {}", one.find.set_name)
                       : one.find.set_name.empty() ? fmt::format("{} table blocks", one.find.table_blocks)
                                                   : fmt::format("{} table blocks of set {}",
                                                                 one.find.table_blocks, one.find.set_name),
                       one.find.start / static_cast<std::int64_t>(sector_bytes),
                       !one.find.set_name.empty() ? fmt::format(" (spare {})", to_text(one.find.spare)) : "",
                       one.why);
  if (options.deep)
    out << fmt::format("{} bytes searched, {} of them unreadable{}{}\n", s.searched, s.unreadable,
                       s.searched_earlier != 0 ? fmt::format(", {} in an earlier run", s.searched_earlier)
                                               : "",
                       s.stopped ? "; stopped before the end" : "");
  if (s.sets.empty() && s.upstream.empty() && s.damaged.empty() && s.passed.empty())
    out << "nothing of dmremap was found\n";
}

exit_code survey_exit(const survey& s) {
  const bool bad = !s.damaged.empty() || std::any_of(s.sets.begin(), s.sets.end(), [](const set_view& set) {
    const auto state = state_of(set);
    return state != "running" && state != "complete";
  });
  if (bad)
    return exit_code::damaged;
  return s.failed.empty() && !s.stopped ? exit_code::ok : exit_code::failed;
}

} // namespace dmremap::recover
