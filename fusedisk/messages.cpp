// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/messages.h"

#include "fusedisk/replies.h"

#include <array>
#include <charconv>
#include <fmt/format.h>
#include <sstream>
#include <strings.h>

namespace dmremap {
namespace {

using word_list = std::vector<std::string>;
using std::chrono::milliseconds;

/// How long a message that tells the spares' state waits for them before it tells what it knew before.
constexpr milliseconds info_patience{500};

tl::unexpected<error> bad_message(const std::string& what, const std::string& why) {
  return fail("bad-message", what, why, exit_code::usage);
}

result<std::uint64_t> number(const std::string& text, const std::string& what) {
  std::uint64_t value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (status != std::errc{} || end != text.data() + text.size())
    return bad_message(text, "it is not a number; " + what + " is wanted");
  return value;
}

/// Sector numbers end where a byte offset would not fit 63 bits.
result<sector_number> sector(const std::string& text) {
  const std::uint64_t value = TRY(number(text, "a sector"));
  if (value > (std::uint64_t{1} << 54U))
    return bad_message(text, "there is no such sector");
  return sector_number(value);
}

result<std::string> on_remap(control_target& t, const word_list& w) {
  const auto where = TRY(sector(w[1]));
  return text_of(TRY(t.remap(where, 1)));
}

result<std::string> on_remove_remap(control_target& t, const word_list& w) {
  const auto where = TRY(sector(w[1]));
  CHECK_OK(t.unmap(where));
  return "sector " + w[1] + ": written back to main; its remap is gone";
}

result<std::string> on_add_remap(control_target& t, const word_list& w) {
  std::optional<sector_number> source;
  if (w[2] != "auto")
    source = TRY(sector(w[2]));
  const auto dest = TRY(sector(w[1]));
  const auto length = TRY(number(w[3], "a length in sectors"));
  std::optional<unsigned> spare;
  if (w.size() > 4)
    spare = TRY(find_spare(t.info(info_patience).info, w[4])).index;
  return text_of(TRY(add_remap_by_hand(t, dest, source, length, spare)));
}

result<std::string> on_set_auto_remap(control_target& t, const word_list& w) {
  if (w[1] != "0" && w[1] != "1")
    return bad_message(w[1], "set_auto_remap takes 0 or 1");
  t.set_auto_remap(w[1] == "1");
  return "auto_remap=" + w[1];
}

result<std::string> on_save(control_target& t, const word_list&) {
  CHECK_OK(t.save());
  return "metadata saved";
}

result<std::string> on_sync(control_target& t, const word_list&) {
  CHECK_OK(t.sync());
  return "metadata and data synced";
}

result<std::string> on_metadata_status(control_target& t, const word_list&) {
  return metadata_status_text(t.info(info_patience).info);
}

/// A message takes away no signature: `dmremap spare add --wipe` does.
result<std::string> on_spare_add(control_target& t, const word_list& w) {
  return text_of(TRY(t.spare_add({w[1], {}, "", false, false})));
}

result<std::string> on_spare_remove(control_target& t, const word_list& w) {
  const auto spare = TRY(find_spare(t.info(info_patience).info, w[1]));
  auto done = t.spare_remove(spare.uuid, false);
  if (!done && done.error().id == "spare-in-use")
    done.error().what =
        "Error"; // scripts know the line "Error: Cannot remove spare PATH: N active allocations"
  return text_of(TRY(std::move(done)));
}

result<std::string> on_spare_stats(control_target& t, const word_list&) {
  return spare_stats_text(t.stats(), t.info(info_patience).info);
}

result<std::string> on_status(control_target& t, const word_list&) {
  return dm_line(t.stats(), t.info(info_patience).info);
}

result<std::string> on_stats(control_target& t, const word_list&) {
  return stats_text(t.stats());
}

result<std::string> on_health(control_target& t, const word_list&) {
  return health_text(t.stats(), t.info(info_patience).info);
}

result<std::string> on_clear_stats(control_target& t, const word_list&) {
  t.clear_stats();
  return "statistics cleared";
}

result<std::string> on_reset_breaker(control_target& t, const word_list&) {
  t.reset_breaker();
  return "breaker reset; automatic remapping goes on";
}

result<std::string> on_debug(control_target& t, const word_list& w) {
  const auto level = TRY(number(w[1], "a level from 0 to 3"));
  if (level > 3)
    return bad_message(w[1], "debug takes a level from 0 (errors only) to 3 (everything)");
  t.set_logging(static_cast<log_level>(level));
  return "log_level=" + std::string(name_of(t.logging()));
}

result<std::string> on_ping(control_target&, const word_list&) {
  return std::string("pong");
}
result<std::string> on_help(control_target&, const word_list&);

struct message {
  std::string_view name, arguments;
  std::size_t least, most; ///< words behind the name
  bool slow;               ///< may wait for a drive without a limit
  result<std::string> (*run)(control_target&, const word_list&);
};

constexpr std::array messages = {
    message{"remap", "SECTOR", 1, 1, true, on_remap},
    message{"add_remap", "DEST SRC|auto LENGTH [SPARE]", 3, 4, true, on_add_remap},
    message{"remove_remap", "SECTOR", 1, 1, true, on_remove_remap},
    message{"set_auto_remap", "0|1", 1, 1, false, on_set_auto_remap},
    message{"save", "", 0, 0, true, on_save},
    message{"sync", "", 0, 0, true, on_sync},
    message{"metadata_status", "", 0, 0, false, on_metadata_status},
    message{"spare_add", "PATH", 1, 1, true, on_spare_add},
    message{"spare_remove", "PATH", 1, 1, true, on_spare_remove},
    message{"spare_stats", "", 0, 0, false, on_spare_stats},
    message{"status", "", 0, 0, false, on_status},
    message{"stats", "", 0, 0, false, on_stats},
    message{"health", "", 0, 0, false, on_health},
    message{"clear_stats", "", 0, 0, false, on_clear_stats},
    message{"reset_breaker", "", 0, 0, false, on_reset_breaker},
    message{"debug", "N", 1, 1, false, on_debug},
    message{"ping", "", 0, 0, false, on_ping},
    message{"help", "", 0, 0, false, on_help},
};

std::string all_messages(const char* separator) {
  std::string out;
  for (const auto& m : messages)
    out += fmt::format("{}{}{}{}", out.empty() ? "" : separator, m.name, m.arguments.empty() ? "" : " ",
                       m.arguments);
  return out;
}

result<std::string> on_help(control_target&, const word_list&) {
  return all_messages("\n");
}

/// A message as one argument is taken apart at blanks; several arguments stay as they are: a path may hold
/// blanks.
word_list split(const word_list& words) {
  if (words.size() != 1)
    return words;
  std::istringstream in(words[0]);
  word_list out;
  for (std::string part; in >> part;)
    out.push_back(part);
  return out;
}

const message* find(const word_list& words) {
  for (const auto& m : messages)
    if (!words.empty() && words[0] == m.name)
      return &m;
  return nullptr;
}

} // namespace

std::string text_of(const remap_reply& r) {
  std::string out = fmt::format("{} unit{} remapped", r.units, r.units == 1 ? "" : "s");
  if (r.units + r.already != 0)
    out += fmt::format(", served from spare sector {} on", r.spare_sector.value);
  if (r.already != 0)
    out += fmt::format("; {} {} so before", r.already, r.already == 1 ? "was" : "were");
  if (r.lost_sectors != 0)
    out += fmt::format("; {} sector{} could not be read and {} lost", r.lost_sectors,
                       r.lost_sectors == 1 ? "" : "s", r.lost_sectors == 1 ? "is" : "are");
  return out;
}

std::string text_of(const salvage_reply& r) {
  return fmt::format("{} lost sectors tried, {} recovered, {} still lost, {} that main may not answer",
                     r.tried, r.recovered, r.still_lost, r.not_allowed);
}

std::string text_of(const spare_add_reply& r) {
  std::string out = r.uuid.empty() ? fmt::format("{} would be added, with {} units", r.member, r.units)
                                   : fmt::format("spare {} added: {} ({} units)", r.index, r.uuid, r.units);
  if (!r.wiped.empty())
    out += fmt::format("; {} on it {}", fmt::join(r.wiped, ", "), r.uuid.empty() ? "would go" : "is gone");
  return r.configuration.empty() ? out : out + "; " + r.configuration;
}

std::string text_of(const spare_change_reply& r) {
  const std::string out =
      "spare " + r.uuid + " removed" +
      (!r.erased ? ", but not all of its superblocks could be erased from " + r.member +
                       ": wipe it before it is used for anything else"
       : r.member.empty() ? ""
       : r.freed          ? ": " + r.member + " is free"
                          : ": " + r.member + " is free when the set uses no other range of that device");
  return r.configuration.empty() ? out : out + "; " + r.configuration;
}

result<spare_status> find_spare(const disk_info& info, const std::string& text) {
  const bool dust = text.rfind("dust:", 0) == 0;
  for (const auto& s : info.spares)
    if (strcasecmp(text.c_str(), s.uuid.c_str()) == 0 || text == std::to_string(s.index) ||
        (!s.path.empty() &&
         (text == s.path || "dust:" + text == s.path || (dust && text.substr(5) == s.path))))
      return s;
  return fail("no-such-spare", text, "the set has no such spare; `dmremap spare list` names them");
}

static std::uint64_t units_of(std::uint64_t sectors) {
  return sectors / unit_sectors + (sectors % unit_sectors != 0 ? 1 : 0);
}

result<remap_reply> add_remap_by_hand(control_target& t, sector_number dest,
                                      std::optional<sector_number> source, std::uint64_t sectors,
                                      std::optional<unsigned> spare) {
  if (spare)
    return t.add_remap(dest, source, sectors, *spare);
  const auto info = t.info(info_patience).info;
  if (source)
    return t.add_remap(dest, source, sectors, choose_spare(info, sectors));
  const std::uint64_t units = units_of(sectors);
  std::optional<error> refused;
  unsigned tried = 0;
  for (const auto& s : info.spares) {
    if (s.free_units < units)
      continue;
    auto done = t.add_remap(dest, source, sectors, s.index);
    if (done || done.error().id != "no-spare-capacity")
      return done;
    ++tried;
    if (!refused)
      refused = done.error();
  }
  if (!refused)
    return t.add_remap(dest, source, sectors, choose_spare(info, sectors)); // which says why not
  if (tried > 1)
    refused->why += "; nor has another spare such a run";
  return tl::make_unexpected(std::move(*refused));
}

unsigned choose_spare(const disk_info& info, std::uint64_t sectors) {
  const spare_status* first = nullptr;
  for (const auto& s : info.spares) {
    if (!s.present || s.draining)
      continue;
    if (s.usable_units >= s.allocated_units + units_of(sectors))
      return s.index;
    first = first == nullptr ? &s : first;
  }
  return first != nullptr ? first->index : 0;
}

bool waits_for_drives(const std::vector<std::string>& words) {
  const auto* m = find(split(words));
  return m != nullptr && m->slow;
}

result<std::string> run_message(control_target& target, const std::vector<std::string>& words,
                                std::uint64_t sector_arg) {
  const word_list parts = split(words);
  if (sector_arg != 0)
    return bad_message(std::to_string(sector_arg), "the SECTOR of a message must be 0");
  if (parts.empty())
    return bad_message("", "an empty message; try help");
  const auto* m = find(parts);
  if (m == nullptr)
    return fail("unknown-message", parts[0], "there is no such message; there are: " + all_messages(", "),
                exit_code::usage);
  if (parts.size() - 1 < m->least || parts.size() - 1 > m->most)
    return bad_message(parts[0], fmt::format("the message is: {}{}{}", m->name,
                                             m->arguments.empty() ? "" : " ", m->arguments));
  return m->run(target, parts);
}

} // namespace dmremap
