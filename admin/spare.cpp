// SPDX-License-Identifier: GPL-2.0-or-later
// dmremap spare: the spares of a running set, listed and changed.
#include "admin/commands.h"
#include "admin/figures.h"
#include "admin/lookup.h"
#include "admin/spare_status.h"
#include "engine/member.h"
#include "engine/progress.h"
#include "engine/unique_fd.h"
#include "engine/units.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <ostream>
#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

namespace dmremap::admin {
namespace {

using nlohmann::json;

constexpr int look_ms = 100; ///< how often an evacuation is asked how far it is

/// SIGINT and SIGTERM as a descriptor, for as long as this lives.
class caught_signals {
public:
  caught_signals() {
    sigset_t stops;
    sigemptyset(&stops);
    sigaddset(&stops, SIGINT);
    sigaddset(&stops, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &stops, &before_);
    fd_ = unique_fd(::signalfd(-1, &stops, SFD_CLOEXEC | SFD_NONBLOCK));
  }
  ~caught_signals() {
    taken_within(0); // or it would end us here, after all was reported
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  caught_signals(const caught_signals&) = delete;
  caught_signals& operator=(const caught_signals&) = delete;

  /// Waits for one.
  bool taken_within(int milliseconds) {
    pollfd poll_fd{fd_.get(), POLLIN, 0};
    if (::poll(&poll_fd, 1, milliseconds) <= 0)
      return false;
    signalfd_siginfo taken{};
    return ::read(fd_.get(), &taken, sizeof taken) == sizeof taken;
  }

private:
  sigset_t before_{};
  unique_fd fd_;
};

/// What names a spare to the daemon: numbers and UUIDs as they are, paths whole.
result<std::string> spare_word(const std::string& text) {
  const bool number = !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
  const bool uuid =
      text.size() == 36 && text.find_first_not_of("0123456789abcdefABCDEF-") == std::string::npos;
  if (number || uuid)
    return text;
  return TRY(parse_member(text)).text();
}

void show(const context& c, const std::string& name, const json& reply) {
  if (c.json) {
    json value = part_of(reply, "result");
    if (!value.is_object())
      value = json::object();
    value["name"] = name;
    value["text"] = text_in(reply, "text");
    c.print(std::move(value));
  } else {
    c.out << text_in(reply, "text") << '\n';
  }
}

result<exit_code> list_spares(const context& c, const running_set& set) {
  const auto reply = TRY(ask(set, "status", {}));
  const auto& status = part_of(reply, "result");
  const auto& spares = part_of(status, "spares");
  if (c.json) {
    c.print({{"name", text_in(status, "name", set.name)},
             {"spares", spares},
             {"evacuation", part_of(status, "evacuation")},
             {"notices", part_of(status, "notices")}});
    return exit_code::ok;
  }
  for (std::size_t i = 0; spares.is_array() && i < spares.size(); ++i) {
    const auto& one = spares[i];
    const auto usable = number_in(one, "usable_units"), used = number_in(one, "allocated_units");
    const auto host = text_in(one, "protected_by");
    const std::string protection = spares.size() < 2 ? ""
                                   : host.empty()    ? "  not protected"
                                                     : "  protected by " + host;
    c.out << fmt::format("{}  {}  {}  {}  {} of {} units used ({} MiB free){}\n", number_in(one, "index", i),
                         text_in(one, "uuid"), text_in(one, "path", "-"), text_in(one, "state", "present"),
                         used, usable, free_units(one) * unit_bytes / (1024 * 1024), protection);
  }
  return exit_code::ok;
}

result<exit_code> add_spare(const context& c, const running_set& set, const spare_options& o) {
  const auto member = TRY(parse_member(o.member)).text();
  const auto reply = TRY(ask(set, "spare_add",
                             {{"member", member},
                              {"wipe", o.wipe},
                              {"destroy_set", o.destroy_set},
                              {"sparse", o.sparse},
                              {"dry_run", o.dry_run}}));
  show(c, set.name, reply);
  return exit_code::ok;
}

result<exit_code> remove_spare(const context& c, const running_set& set, const spare_options& o) {
  const auto word = TRY(spare_word(o.member));
  const auto reply = TRY(ask(set, "spare_remove", {{"spare", word}, {"dry_run", o.dry_run}}));
  show(c, set.name, reply);
  return exit_code::ok;
}

/// Only "yes" is yes.
bool confirmed(const context& c, const std::string& question) {
  c.err << question << " Type yes to go on: " << std::flush;
  std::string answer;
  for (char one = 0; ::read(STDIN_FILENO, &one, 1) == 1 && one != '\n';)
    answer += one;
  return answer == "yes";
}

result<exit_code> forget_spare(const context& c, const running_set& set, const spare_options& o) {
  const auto word = TRY(spare_word(o.member));
  const auto plan = TRY(ask(set, "spare_forget", {{"spare", word}, {"dry_run", true}}));
  if (o.dry_run) {
    show(c, set.name, plan);
    return exit_code::ok;
  }
  const auto& figures = part_of(plan, "result");
  const auto what =
      fmt::format("Forgetting spare {} of {}: {} with {} become lost for good; {} free on other spares.",
                  o.member, set.name, counted(number_in(figures, "units"), "unit"),
                  counted(number_in(figures, "lost_sectors"), "sector"),
                  counted(number_in(figures, "free_units"), "unit"));
  if (!o.yes) {
    if (::isatty(STDIN_FILENO) != 1)
      return fail("not-confirmed", o.member, what + " Without a terminal, --yes says so", exit_code::usage);
    if (!confirmed(c, what))
      return fail("not-confirmed", o.member, "was not forgotten; nothing changed");
  } else if (!c.json) {
    c.note(what);
  }
  show(c, set.name, TRY(ask(set, "spare_forget", {{"spare", word}})));
  return exit_code::ok;
}

error error_of(const json& said) {
  error e{text_in(said, "id"), text_in(said, "what"), text_in(said, "why"), exit_code::failed};
  if (number_in(said, "code", 1) == static_cast<std::uint64_t>(exit_code::damaged))
    e.code = exit_code::damaged;
  return e;
}

/// The evacuation's state once it does not run any more; a signal asks the daemon to stop it.
result<json> follow(const context& c, const running_set& set, json state, int fd) {
  caught_signals signals;
  const auto number = number_in(state, "number");
  progress bar(c.err, "evacuating " + text_in(state, "path"), fd);
  while (flag_in(state, "running") && number_in(state, "number") == number) {
    bar.show(number_in(state, "done"), number_in(state, "all"));
    if (signals.taken_within(look_ms)) // "no-evacuation": it had just come to its end
        [[maybe_unused]]
      const auto stopped = ask(set, "stop_evacuation", {});
    state = part_of(TRY(ask(set, "evacuation", {})), "result");
  }
  if (number_in(state, "number") != number)
    return fail(
        "evacuation-unknown", set.name,
        "another evacuation began since; how this one ended: dmremap spare list, and the daemon's log");
  bar.show(number_in(state, "done"), number_in(state, "all"));
  return state;
}

/// An evacuation of this spare that runs is stopped; one that was stopped before left the spare draining.
result<exit_code> cancel_evacuation(const context& c, const running_set& set, const std::string& word) {
  const auto reply = TRY(ask(set, "status", {}));
  const auto& status = part_of(reply, "result");
  const auto spare = TRY(find_spare(status, word));
  const auto& now = part_of(status, "evacuation");
  const bool runs = flag_in(now, "running") && text_in(now, "spare") == text_in(spare, "uuid");
  if (!runs && !flag_in(spare, "draining"))
    return fail("no-evacuation", word, "is not being emptied: there is nothing to cancel");
  if (runs)
    if (const auto stopped = ask(set, "stop_evacuation", {}); // it may have come to its end just now
        !stopped && stopped.error().id != "no-evacuation")
      return tl::make_unexpected(stopped.error());
  show(c, set.name, TRY(ask(set, "spare_refill", {{"spare", word}})));
  return exit_code::ok;
}

json evacuation_words(const std::string& word, const spare_options& o) {
  json words = {{"spare", word}};
  if (o.dry_run)
    words["dry_run"] = true;
  if (o.partial)
    words["partial"] = true;
  return words;
}

result<exit_code> plan_evacuation(const context& c, const running_set& set, const std::string& word,
                                  const spare_options& o) {
  const auto reply = TRY(ask(set, "spare_evacuate", evacuation_words(word, o)));
  const auto& plan = part_of(reply, "result");
  const auto units = number_in(plan, "all");
  show(c, set.name,
       {{"text", fmt::format("{} would move to the other spares", counted(units, "unit"))},
        {"result",
         {{"dry_run", true},
          {"spare", text_in(plan, "spare")},
          {"path", text_in(plan, "path")},
          {"all", units}}}});
  return exit_code::ok;
}

/// What is to be done with a spare that was emptied: one that takes no writes cannot be taken out in order.
const char* what_is_next(const running_set& set, const std::string& word) {
  const auto reply = ask(set, "status", {});
  const auto spare = reply ? find_spare(part_of(*reply, "result"), word) : result<json>();
  return spare && !flag_in(*spare, "present", true) ? "forget" : "remove";
}

result<exit_code> evacuate_spare(const context& c, const running_set& set, const spare_options& o) {
  const auto word = TRY(spare_word(o.member));
  if (o.cancel)
    return cancel_evacuation(c, set, word);
  if (o.dry_run)
    return plan_evacuation(c, set, word, o);
  const auto begun = TRY(ask(set, "spare_evacuate", evacuation_words(word, o)));
  auto state = TRY(follow(c, set, part_of(begun, "result"), o.progress));
  if (const auto& said = part_of(state, "error"); said.is_object()) {
    auto failed = error_of(said);
    if (failed.id == "cancelled")
      failed.why += "; the spare takes no new data until `dmremap spare evacuate " + set.name + " " + word +
                    " --cancel`";
    return tl::make_unexpected(std::move(failed));
  }
  const auto moved = number_in(state, "moved"), lost = number_in(state, "lost_sectors");
  const auto text = fmt::format(
      "{} moved to the other spares{}; next: dmremap spare {} {} {}", counted(moved, "unit"),
      lost == 0 ? "" : ", " + counted(lost, "sector") + " lost", what_is_next(set, word), set.name, word);
  show(c, set.name, {{"text", text}, {"result", std::move(state)}});
  return lost == 0 ? exit_code::ok : exit_code::damaged;
}

/// One command line for five operations: what is not for this one is not passed over.
result<void> check_usage(const spare_options& o) {
  const auto usage = [&](const std::string& why) {
    return fail("bad-usage", "spare " + o.operation, why, exit_code::usage);
  };
  if (o.operation == "list" && !o.member.empty())
    return usage("takes no MEMBER");
  if (o.operation != "list" && o.member.empty())
    return usage("needs a MEMBER; `dmremap spare list NAME` shows them");
  if (o.operation != "add" && (!o.wipe.empty() || !o.destroy_set.empty() || o.sparse))
    return usage("takes no --wipe, --destroy-set or --sparse, which are for 'add'");
  if (o.operation != "evacuate" && (o.cancel || o.partial || o.progress >= 0))
    return usage("takes no --cancel, --partial or --progress, which are for 'evacuate'");
  if (o.operation != "forget" && o.yes)
    return usage("takes no --yes, which is for 'forget'");
  if (o.cancel && (o.dry_run || o.partial || o.progress >= 0))
    return usage("--cancel goes with neither --dry-run, --partial nor --progress");
  return {};
}

} // namespace

result<exit_code> spare(context& c, const spare_options& o) {
  CHECK_OK(check_usage(o));
  const auto set = TRY(need_running(o.name));
  if (o.operation == "list")
    return list_spares(c, set);
  if (o.operation == "add")
    return add_spare(c, set, o);
  if (o.operation == "remove")
    return remove_spare(c, set, o);
  if (o.operation == "forget")
    return forget_spare(c, set, o);
  return evacuate_spare(c, set, o);
}

} // namespace dmremap::admin
