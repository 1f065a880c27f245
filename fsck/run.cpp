// SPDX-License-Identifier: GPL-2.0-or-later
#include "fsck/run.h"

#include "engine/counted.h"
#include "engine/host_state.h"
#include "engine/program_context.h"
#include "engine/progress.h"
#include "engine/stop_signals.h"
#include "engine/uuid.h"
#include "fsck/apply.h"
#include "fsck/command_line.h"
#include "fsck/members.h"
#include "fsck/repair_file.h"
#include "fsck/report.h"

#include <algorithm>
#include <fmt/format.h>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>
#include <tuple>

namespace dmremap::fsck {
namespace {

/// One run, from the members to the exit status.
class session {
public:
  session(const streams& io, const program_context& c, const command_line& l) : io_(io), c_(c), line_(l) {}

  result<int> run() {
    if (!line_.undo_apply.empty() || !line_.apply.empty())
      return run_file();
    members_ = TRY(open_to_check(line_.names, line_.main, line_.writes()));
    say_notes();
    const set_findings f = TRY(look());
    if (f.stopped)
      return cancelled();
    outcome_.mode = line_.plan.empty() ? name_of_mode() : "plan";
    if (!line_.plan.empty())
      return plan(f);
    const auto chosen = choice(f);
    if (!chosen)
      return cancelled();
    if (!c_.json)
      print_found(io_.out, f, *chosen, line_.verbose);
    return repair(f, make_plan(f, *chosen));
  }

private:
  [[nodiscard]] std::string name_of_mode() const {
    switch (line_.mode) {
    case fsck_mode::preen:
      return "preen";
    case fsck_mode::all:
      return "all";
    case fsck_mode::ask:
      return "ask";
    default:
      return "look";
    }
  }

  void say_notes() {
    for (const auto& note : members_.notes)
      c_.note(note);
  }

  int cancelled() {
    c_.note("cancelled; nothing was written");
    return exit_cancelled;
  }

  result<set_findings> look() {
    progress bar(io_.err, "checking", line_.progress_fd, "bytes");
    inspect_options options;
    options.main = members_.main;
    options.stop = stop_signals::asked;
    options.on_progress = [&](std::uint64_t done, std::uint64_t all) { bar.show(done, all); };
    options.last_seen = [&](const std::string& uuid) -> std::optional<std::uint64_t> {
      std::string trouble;
      const auto state = read_host_state(uuid, trouble);
      if (!trouble.empty())
        c_.note(trouble);
      return state ? std::optional(state->sequence_end) : std::nullopt;
    };
    auto f = TRY(inspect(members_.spares, options));
    if (const auto uuid = f.set_uuid(); !members_.uuid.empty() && !uuid.empty() && uuid != members_.uuid)
      return fail(
          "wrong-set", line_.names.front(),
          fmt::format("is the set {} by its configuration, but what lies on the spares named there is the "
                      "set {} ({}): the devices have other names now; dmremap-scan finds them",
                      members_.uuid, f.set_name(), uuid));
    return f;
  }

  /// What is to be repaired. Nothing: the person who was asked has stopped it.
  std::optional<repair_choice> choice(const set_findings& f) {
    if (line_.mode == fsck_mode::preen)
      return is_safe;
    if (line_.mode == fsck_mode::all)
      return is_repairable;
    if (line_.mode != fsck_mode::ask)
      return [](damage_kind, int) { return false; };
    std::map<std::pair<damage_kind, int>, bool> answers;
    bool all = false;
    for (const auto& d : f.found) {
      if (!is_repairable(d.kind, d.spare) || answers.contains({d.kind, d.spare}))
        continue;
      if (!all) {
        const auto reply = ask(f, d);
        if (!reply)
          return std::nullopt;
        all = *reply == 'a';
        answers[{d.kind, d.spare}] = *reply != 'n';
      } else {
        answers[{d.kind, d.spare}] = true;
      }
    }
    return [answers = std::move(answers)](damage_kind kind, int spare) {
      const auto at = answers.find({kind, spare});
      return at != answers.end() && at->second;
    };
  }

  /// 'y', 'n' or 'a' (yes to all); nothing: q, or the end of the input.
  std::optional<char> ask(const set_findings& f, const damage& d) {
    const auto more = std::count_if(f.found.begin(), f.found.end(), [&](const damage& other) {
      return other.kind == d.kind && other.spare == d.spare;
    });
    io_.out << fmt::format("{}: {}{}\n  {}? [y/n/a/q] ", fsck::name_of(facts_of(d.kind).level), line_of(d),
                           more > 1 ? fmt::format(", and {} more ranges", more - 1) : "",
                           facts_of(d.kind).repair)
            << std::flush;
    for (std::string word; io_.in >> word && !stop_signals::asked();) {
      if (word == "y" || word == "n" || word == "a")
        return word.front();
      if (word == "q")
        return std::nullopt;
      io_.out << "y, n, a (yes to all) or q (stop): " << std::flush;
    }
    return std::nullopt;
  }

  static std::vector<damage> without_notices(const std::vector<damage>& all) {
    std::vector<damage> out;
    std::copy_if(all.begin(), all.end(), std::back_inserter(out),
                 [](const damage& d) { return facts_of(d.kind).level != severity::notice; });
    return out;
  }

  int finish(const set_findings& f) {
    outcome_.exit_status |= outcome_.written != 0 ? exit_corrected : 0;
    outcome_.exit_status |= outcome_.left.empty() && outcome_.failures.empty() ? 0 : exit_left;
    if (c_.json)
      c_.print(outcome_json(f, outcome_));
    else
      print_outcome(io_.out, f, outcome_, line_.verbose);
    return outcome_.exit_status;
  }

  result<int> plan(const set_findings& f) {
    const repair_choice chosen = line_.mode == fsck_mode::preen ? is_safe : is_repairable;
    const repair_plan p = make_plan(f, chosen);
    if (!c_.json)
      print_found(io_.out, f, chosen, line_.verbose);
    outcome_.left = without_notices(f.found);
    if (p.empty()) {
      c_.note("there is nothing that could be repaired; no plan was written");
    } else {
      CHECK_OK(save_plan(p, line_.plan));
      outcome_.plan_file = line_.plan;
    }
    return finish(f);
  }

  result<int> repair(const set_findings& f, const repair_plan& p) {
    if (p.empty()) {
      outcome_.left = without_notices(f.found);
      return finish(f);
    }
    std::vector<std::shared_ptr<store>> stores;
    for (const auto& s : members_.spares)
      stores.push_back(s.io);
    return carry_out(f, p, stores);
  }

  result<int> carry_out(const set_findings& f, const repair_plan& p,
                        const std::vector<std::shared_ptr<store>>& stores) {
    if (stop_signals::asked())
      return cancelled();
    if (!line_.no_undo) {
      outcome_.undo_log = line_.undo.empty() ? new_undo_path(p) : line_.undo;
      const auto saved = save_plan(p, outcome_.undo_log);
      if (!saved)
        return fail(saved.error().id, saved.error().what,
                    saved.error().why + " (--undo FILE puts the undo log elsewhere)");
    }
    const auto done = [&] {
      progress bar(io_.err, "repairing", line_.progress_fd, "bytes");
      return apply_plan(p, stores, [&](std::uint64_t bytes, std::uint64_t all) { bar.show(bytes, all); });
    }();
    if (!done) { // part of it is written, or may be
      c_.report(done.error());
      return exit_left | exit_operational;
    }
    outcome_.written = done->written;
    outcome_.failures = done->failures;
    stop_signals::forget();
    const auto before = without_notices(f.found);
    const auto after = look();      // what is there now, not what should be
    if (!after || after->stopped) { // then nothing counts as repaired
      outcome_.left = before;
      outcome_.exit_status = after ? exit_cancelled : exit_operational;
      c_.note(fmt::format("{} of the repair written; what is left was not looked at: {}; run dmremap-fsck -n",
                          counted(outcome_.written, "block"),
                          after ? "stopped by a signal" : after.error().text()));
      return finish(f);
    }
    outcome_.left = without_notices(after->found);
    const auto key = [](const damage& d) { return std::tuple(d.kind, d.spare, std::string_view(d.text)); };
    std::set<std::tuple<damage_kind, int, std::string_view>> still;
    for (const auto& d : outcome_.left)
      still.insert(key(d));
    std::copy_if(before.begin(), before.end(), std::back_inserter(outcome_.repaired),
                 [&](const damage& d) { return !still.contains(key(d)); });
    return finish(*after);
  }

  // --- plans and undo logs

  result<int> run_file() {
    const bool undo = !line_.undo_apply.empty();
    const repair_plan p = TRY(load_plan(undo ? line_.undo_apply : line_.apply));
    std::vector<std::string> names = line_.names;
    if (names.empty())
      for (const auto& m : p.members)
        names.push_back(m.path);
    members_ = TRY(open_to_check(names, line_.main, true));
    say_notes();
    outcome_.mode = undo ? "undo" : "apply";
    return undo ? take_back(p) : apply_file(p);
  }

  /// The stores of a plan's members: by what the spares say they are, else by their paths.
  result<std::vector<std::shared_ptr<store>>> pair_members(const repair_plan& p) {
    std::vector<std::shared_ptr<store>> stores;
    std::vector<std::string> uuids;
    for (const auto& s : members_.spares) {
      spare_state state;
      state.path = s.path;
      state.io = s.io;
      std::vector<damage> ignored;
      const auto read = read_supers(state, 0, ignored);
      uuids.push_back(read && state.super ? to_text(state.super->spare_uuid) : "");
    }
    for (const auto& m : p.members) {
      std::shared_ptr<store> found;
      for (std::size_t n = 0; n < uuids.size(); ++n)
        if (!m.uuid.empty() && uuids[n] == m.uuid)
          found = members_.spares[n].io;
      for (std::size_t n = 0; n < uuids.size(); ++n)
        if (!found && members_.spares[n].path == m.path && (uuids[n].empty() || m.uuid.empty()))
          found = members_.spares[n].io;
      if (!found)
        return fail("spare-missing", m.path,
                    "the file was made for this spare (" + m.uuid + "), which is not among those given");
      stores.push_back(std::move(found));
    }
    return stores;
  }

  result<int> take_back(const repair_plan& p) {
    const auto stores = TRY(pair_members(p));
    CHECK_OK(check_blocks(p, stores));
    if (marks_of_supers(p, stores) != p.supers)
      return fail(
          "metadata-changed", p.set_name,
          "the set was in use since the repair, or repaired anew: what was there before it would destroy "
          "newer metadata; nothing was written");
    CHECK_OK(check_copies_left(p, stores, TRY(inspect(members_.spares, {}))));
    const auto done = [&] {
      progress bar(io_.err, "taking back", line_.progress_fd, "bytes");
      return undo_plan(p, stores, [&](std::uint64_t bytes, std::uint64_t all) { bar.show(bytes, all); });
    }();
    if (!done) {
      c_.report(done.error());
      return exit_left | exit_operational;
    }
    outcome_.written = done->written;
    outcome_.failures = done->failures;
    outcome_.exit_status = done->failures.empty() ? exit_clean : exit_left;
    if (c_.json)
      c_.print({{"set", p.set_name},
                {"uuid", p.set_uuid},
                {"mode", "undo"},
                {"blocks_written", done->written},
                {"failures", done->failures},
                {"cleared", done->cleared},
                {"exit_status", outcome_.exit_status}});
    for (const auto& one : done->cleared)
      c_.note(one);
    for (const auto& failure : done->failures)
      c_.note("not restored: " + failure);
    if (!c_.json)
      io_.out << fmt::format("{}: {}: {}\n", p.set_name,
                             done->failures.empty() ? "as before the repair"
                                                    : "not all is as before the repair",
                             counted(done->written, "block"));
    return outcome_.exit_status;
  }

  result<int> apply_file(const repair_plan& p) {
    const auto stores = TRY(pair_members(p));
    const set_findings f = TRY(look());
    if (f.stopped)
      return cancelled();
    CHECK_OK(check_blocks(p, stores));
    std::uint64_t rest = fingerprint_of(f);
    bool done = true;
    for (const auto& w : p.writes) {
      block_bytes there;
      const bool readable = read_unit(*stores[w.member], spare_unit(w.unit), there);
      rest -= mark_of(spare_unit(w.unit), readable ? &there : nullptr);
      done = done && readable && there.bytes == w.now.bytes;
    }
    if (done) {
      c_.note("what the plan says is done already");
      outcome_.left = without_notices(f.found);
      return finish(f);
    }
    if (rest != p.fingerprint)
      return fail("metadata-changed", p.set_name,
                  "the metadata has changed since the plan was made; nothing was written. Make a new plan");
    return carry_out(f, p, stores);
  }

  const streams& io_;
  const program_context& c_;
  const command_line& line_;
  fsck_members members_;
  outcome outcome_;
};

} // namespace

int run(int argc, const char* const* argv, const streams& io) {
  const program_context c{io.out, io.err, asks_for_json(argc, argv), "dmremap-fsck"};
  std::optional<int> verdict; // of the run itself
  const int status = run_program_body(c, [&]() -> int {
    auto line = parse_command_line(argc, argv);
    if (!line) {
      c.report(line.error());
      verdict = exit_usage;
    } else if (!line->answer.empty()) {
      io.out << line->answer;
      verdict = exit_clean;
    } else {
      if (line->mode == fsck_mode::unset) // as -n where nobody can be asked
        line->mode = io.terminal && !c.json ? fsck_mode::ask : fsck_mode::look;
      const stop_signals signals(stop_signals::again::noted); // a repair that has begun is brought to its end
      const auto done = session(io, c, *line).run();
      if (!done)
        c.report(done.error());
      verdict = done                                    ? *done
                : done.error().code == exit_code::usage ? static_cast<int>(exit_usage)
                                                        : static_cast<int>(exit_operational);
    }
    return *verdict;
  });
  // What failed around it (an exception, an output that could not be written) has another number elsewhere.
  return verdict == status ? status : verdict.value_or(0) | exit_operational;
}

} // namespace dmremap::fsck
