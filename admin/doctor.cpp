// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/doctor.h"

#include "admin/commands.h"
#include "admin/figures.h"
#include "admin/live_status.h"
#include "admin/lookup.h"
#include "admin/spare_status.h"
#include "admin/stopped_set.h"
#include "engine/member.h"
#include "engine/paths.h"
#include "engine/shell_word.h"

#include <algorithm>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <ostream>
#include <sys/stat.h>

namespace dmremap::admin {
namespace {

using nlohmann::json;

constexpr double slow_seconds = 5; // a request that waits longer is worth a word
constexpr unsigned nearly_full_percent = 90;

/// The device that a member is or lies on, as smartctl wants it; empty for a file.
std::string drive_under(const std::string& member) {
  const auto spec = parse_member(member);
  struct stat facts {};
  if (!spec || (::stat(spec->path.c_str(), &facts) == 0 && S_ISREG(facts.st_mode)))
    return "";
  return shell_word(spec->path);
}

class examination {
public:
  explicit examination(const json& status)
      : status_(status), stats_(part_of(status, "stats")), name_(text_in(status, "name")),
        main_(text_in(part_of(status, "main"), "path")), drive_(drive_under(main_)) {}

  std::vector<finding> run() {
    if (!flag_in(status_, "answers", true))
      hangs();
    look_at_main();
    const auto& spares = part_of(status_, "spares");
    for (const auto& spare : spares.is_array() ? spares : json::array())
      if (spare.is_object())
        look_at_spare(spare, spares.size());
    look_at_data();
    look_at_room(spares);
    look_at_settings();
    std::stable_sort(found_.begin(), found_.end(),
                     [](const auto& a, const auto& b) { return a.problem && !b.problem; });
    return std::move(found_);
  }

private:
  [[nodiscard]] std::uint64_t n(const char* key) const { return number_in(stats_, key); }
  [[nodiscard]] std::string command(const std::string& words) const {
    return fmt::format(fmt::runtime(words), name_);
  }
  void problem(const char* id, std::string text, std::vector<std::string> next) {
    found_.push_back({id, true, std::move(text), std::move(next)});
  }
  void remark(const char* id, std::string text, std::vector<std::string> next = {}) {
    found_.push_back({id, false, std::move(text), std::move(next)});
  }

  /// Commands that begin with a look at the drive, where main lies on one.
  [[nodiscard]] std::vector<std::string> smart(const std::string& what, std::vector<std::string> more) const {
    if (!drive_.empty())
      more.insert(more.begin(), "smartctl " + what + " " + drive_);
    return more;
  }

  void hangs() {
    problem("daemon-hangs",
            fmt::format(
                "the daemon (process {}) has not answered for {:.0f} seconds: it is stopped, or waits for a "
                "drive. Nothing is lost by waiting; what was flushed is safe. The figures below are old",
                number_in(status_, "pid"), real_in(status_, "age_seconds")),
            {fmt::format("ps -o pid,stat,wchan:32,cmd -p {}", number_in(status_, "pid")), "dmesg | tail",
             command("dmremap status {}")});
  }

  void look_at_main() {
    if (flag_in(stats_, "main_gone"))
      problem("main-gone",
              main_ + " does not answer at all: the whole device is gone, not single sectors. Units on the "
                      "spares are "
                      "still served, all others answer EIO, and no spare units are spent on it. Look at "
                      "cable, power and "
                      "controller; when the device is back, stop and start the set: all data is as it was",
              {"dmesg | tail", command("dmremap detach {}"), command("dmremap attach {}")});
    if (flag_in(stats_, "breaker_open"))
      problem("breaker-open",
              "too many writes to " + main_ +
                  " failed in a short time, so automatic remapping has stopped: writes to bad "
                  "places now answer EIO. If the drive is dying, copy the data away; if the "
                  "cause is gone, let remapping go on",
              smart("-a", {command("dmremap message {} 0 reset_breaker")}));
    if (const auto oldest = real_in(status_, "oldest_request_seconds");
        number_in(status_, "requests_away") != 0 && oldest > slow_seconds)
      problem("requests-wait",
              fmt::format(
                  "{} wait for a device, the oldest for {:.0f} seconds. Others are served meanwhile. A drive "
                  "that tries a bad place again and again does this; a drive's own limit helps",
                  counted(number_in(status_, "requests_away"), "request"), oldest),
              smart("-l scterc", {"dmesg | tail"}));
    const auto errors = n("main_read_errors") + n("main_write_errors");
    if (errors != 0 && !flag_in(stats_, "main_gone"))
      remark(
          "main-fails",
          fmt::format(
              "{} failed {} and {} since the set was opened. {} time to have another drive and a backup at "
              "hand",
              main_, counted(n("main_read_errors"), "read"), counted(n("main_write_errors"), "write"),
              no_capacity() ? "It is" : "Nothing has to be done now, but it is"),
          smart("-a", {}));
  }

  /// Not where it was stopped by hand.
  [[nodiscard]] bool evacuation_failed() const {
    const auto& error = part_of(part_of(status_, "evacuation"), "error");
    return error.is_object() && text_in(error, "id") != "cancelled";
  }

  /// It runs or failed, which is said of it by itself.
  [[nodiscard]] bool evacuation_is_told(const std::string& spare) const {
    const auto& evacuation = part_of(status_, "evacuation");
    return text_in(evacuation, "spare") == spare && (flag_in(evacuation, "running") || evacuation_failed());
  }

  void look_at_spare(const json& spare, std::size_t count) {
    const auto state = text_in(spare, "state", "present");
    const auto path = text_in(spare, "path"), uuid = text_in(spare, "uuid");
    const auto who = "spare " + (path.empty() ? uuid : path);
    if (state == "absent")
      problem(
          "spare-absent",
          fmt::format(
              "{} is not there: what lies on it answers EIO, everything else is served. Bring it back, and "
              "stop and start the set; give it up only if it will never come back: its data is lost then",
              who),
          {command("dmremap detach {}"), command("dmremap attach {}"),
           command("dmremap spare forget {} ") + uuid});
    else if (state == "unwritable")
      problem("spare-unwritable",
              who + " takes no writes any more, but is read: move off it what it holds, then give it up",
              {command("dmremap spare evacuate {} ") + uuid, command("dmremap spare forget {} ") + uuid});
    else if (state == "failed")
      problem("spare-failed",
              "none of the superblocks of " + who +
                  " can be read: move off it what it holds while it can be read",
              {command("dmremap spare evacuate {} ") + uuid});
    else if (state == "host-full")
      problem("host-full",
              "the file system that " + who +
                  " lies on is full: writes that need space there fail with EIO until there "
                  "is room; nothing is lost",
              {"df -h " + path, command("dmremap sync {}")});
    else if (state == "draining" && !evacuation_is_told(uuid))
      remark(
          "draining",
          who + " takes no new data, for emptying it was begun and stopped: go on, or let it take data again",
          {command("dmremap spare evacuate {} ") + uuid,
           command("dmremap spare evacuate {} ") + uuid + " --cancel"});
    if (state == "absent")
      return;
    const auto supers = number_in(spare, "super_copies_valid", 5),
               weakest = number_in(spare, "weakest_block_copies", 5);
    if (supers < 5 || weakest < 5) {
      const auto text =
          fmt::format("{} of 5 superblocks of {} are good, and every block of its table is there at least {}",
                      supers, who, weakest == 1 ? "once" : fmt::format("{} times", weakest));
      if (supers < 2 || weakest < 2)
        problem("copies-few", text + ": one more bad place can cost the map. Add a spare and empty this one",
                {command("dmremap sync {}"), command("dmremap spare add {} /dev/NEW"),
                 command("dmremap spare evacuate {} ") + uuid});
      else
        remark("copies-missing", text + ". What can be written again is written with the next change",
               {command("dmremap sync {}")});
    }
    if (count > 1 && text_in(spare, "protected_by").empty())
      remark("not-protected",
             "no other spare holds a copy of the map of " + who +
                 ": were it lost, it would not be known which units it held",
             {command("dmremap sync {}"), command("dmremap spare list {}")});
    if (!flag_in(spare, "direct", true))
      remark("buffered", who + " is used through the page cache: slower, not wrong");
  }

  void look_at_data() {
    if (n("lost_sectors") != 0)
      problem(
          "lost-sectors",
          fmt::format(
              "{} could not be read from anywhere and answer EIO; they are never made up. Reading them from "
              "main once more may help; else restore the files that they belong to: a sector that is "
              "written whole is good again",
              counted(n("lost_sectors"), "sector")),
          {command("dmremap salvage {} all"), command("dmremap lost {} --files")});
    if (n("flush_errors") != 0)
      problem(
          "flush-errors",
          fmt::format(
              "{} failed: a device reported errors that name no sector, so what was written before may not "
              "be on the medium. Programs that asked got the error",
              n("flush_errors") == 1 ? "a flush" : fmt::format("{} flushes", n("flush_errors"))),
          {"dmesg | tail", command("dmremap sync {}")});
    const auto& evacuation = part_of(status_, "evacuation");
    if (flag_in(evacuation, "running"))
      remark("evacuating",
             fmt::format("spare {} is being emptied: {} of {} units moved", text_in(evacuation, "path"),
                         number_in(evacuation, "done"), number_in(evacuation, "all")));
    else if (evacuation_failed())
      problem("evacuation-failed",
              fmt::format("emptying spare {} stopped: {}", text_in(evacuation, "path"),
                          text_in(part_of(evacuation, "error"), "why")),
              evacuate_again(text_in(evacuation, "spare"),
                             text_in(part_of(evacuation, "error"), "id") == "no-spare-capacity"));
  }

  [[nodiscard]] std::vector<std::string> evacuate_again(const std::string& spare, bool no_room) const {
    std::vector<std::string> next = {command("dmremap spare evacuate {} ") + spare};
    if (no_room)
      next.insert(next.begin(), command("dmremap spare add {} /dev/NEW"));
    return next;
  }

  /// What the set itself says may be newer than the figures of the spares.
  [[nodiscard]] bool no_capacity() const {
    const auto& spares = part_of(status_, "spares");
    const bool known = spares.is_array() && std::any_of(spares.begin(), spares.end(), [](const json& spare) {
                         return spare.is_object() && number_in(spare, "usable_units") != 0 &&
                                flag_in(spare, "present", true);
                       });
    return (known && free_units(status_, nullptr) == 0) ||
           text_in(status_, "state") == "No spare capacity available";
  }

  /// The head of a spare, which no remap is given by itself, is not counted as room: else a spare that is
  /// full would never be found to be.
  void look_at_room(const json& spares) {
    if (no_capacity()) {
      problem("no-capacity",
              "no unit is free for remaps on any spare: writes to bad places of main fail with EIO, and what "
              "reads badly stays bad",
              {command("dmremap spare add {} /dev/NEW")});
      return;
    }
    std::uint64_t used = 0;
    for (const auto& spare : spares.is_array() ? spares : json::array())
      if (spare.is_object() && flag_in(spare, "present", true))
        used += number_in(spare, "allocated_units");
    const std::uint64_t room = spares.is_array() ? free_units(status_, nullptr) : 0;
    if (room != 0 && used * 100 >= (used + room) * nearly_full_percent)
      problem("nearly-full",
              fmt::format("{} of the spares {} free for remaps, {} used ({} %)", counted(room, "unit"),
                          room == 1 ? "is" : "are", used, used * 100 / (used + room)),
              {command("dmremap spare add {} /dev/NEW")});
  }

  void look_at_settings() {
    if (!flag_in(status_, "auto_remap", true) && !flag_in(status_, "read_only"))
      problem("auto-remap-off",
              "automatic remapping was switched off by hand: errors of main reach the programs",
              {command("dmremap set {} auto_remap=1")});
    if (flag_in(status_, "read_only"))
      remark("read-only", "the set is open for reading only");
    const auto& loops = part_of(status_, "loop");
    if (flag_in(status_, "answers", true) && (!loops.is_array() || loops.empty()))
      remark("no-loop-device", "no loop device stands on the disk's image, so no file system on it is in use",
             {command("dmremap attach {}")});
  }

  const json& status_;
  const json& stats_;
  const std::string name_, main_, drive_;
  std::vector<finding> found_;
};

struct diagnosis {
  listed_set set;
  std::vector<finding> findings;
};

result<diagnosis> examine(const listed_set& set) {
  if (set.state != "running")
    return diagnosis{set, findings_of_stopped(set)};
  const auto running = TRY(need_running(set.uuid));
  const auto status = TRY(live_status(running));
  return diagnosis{set, findings_of_status(status)};
}

void print_text(const context& c, const diagnosis& one) {
  c.out << fmt::format("{} ({}): {}\n", one.set.name, one.set.uuid.empty() ? one.set.state : one.set.uuid,
                       one.findings.empty() ? "well" : counted(one.findings.size(), "finding"));
  for (const auto& f : one.findings) {
    c.out << fmt::format("  {} {}: {}.\n", f.problem ? "!" : "-", f.id, f.text);
    for (const auto& command : f.next)
      c.out << "      # " << command << '\n';
  }
}

json as_json(const diagnosis& one) {
  json findings = json::array();
  for (const auto& f : one.findings)
    findings.push_back({{"id", f.id},
                        {"problem", f.problem},
                        {"text", f.text},
                        {"next", f.next},
                        {"error", f.error.empty() ? json(nullptr) : json(f.error)}});
  return {{"name", one.set.name},
          {"uuid", one.set.uuid.empty() ? json(nullptr) : json(one.set.uuid)},
          {"state", one.set.state},
          {"findings", findings}};
}

} // namespace

std::vector<finding> findings_of_status(const json& status) {
  return examination(status).run();
}

result<exit_code> doctor(context& c, const std::string& name) {
  std::vector<diagnosis> all;
  for (const auto& set : list_sets(true))
    if (name.empty() || means_set(name, set.name, set.uuid))
      all.push_back(TRY(examine(set)));
  if (all.empty() && !name.empty())
    return fail("no-such-set", name,
                "runs nowhere here, is not configured, and was found on no block device; `dmremap-scan PATH` "
                "looks at "
                "files and folders, too");
  if (c.json) {
    json sets = json::array();
    for (const auto& one : all)
      sets.push_back(as_json(one));
    c.print({{"sets", sets}});
  } else {
    for (const auto& one : all)
      print_text(c, one);
    if (all.empty())
      c.out << "no set runs here, is configured, or was found on a block device\n";
  }
  const bool wrong = std::any_of(all.begin(), all.end(), [](const auto& one) {
    return std::any_of(one.findings.begin(), one.findings.end(), [](const auto& f) { return f.problem; });
  });
  return wrong ? exit_code::damaged : exit_code::ok;
}

} // namespace dmremap::admin
