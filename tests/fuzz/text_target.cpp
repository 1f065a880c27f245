// SPDX-License-Identifier: GPL-2.0-or-later
// Everything that is read as text: the first byte of an input says as what.
#include "admin/command_line.h"
#include "admin/lookup.h"
#include "admin/status_format.h"
#include "admin/table_format.h"
#include "admin/table_line.h"
#include "engine/claim.h"
#include "engine/config.h"
#include "engine/control_client.h"
#include "engine/dust_store.h"
#include "engine/mount_table.h"
#include "engine/paths.h"
#include "engine/units.h"
#include "engine/uuid.h"
#include "fsck/command_line.h"
#include "fsck/repair_file.h"
#include "fusedisk/control_commands.h"
#include "fusedisk/messages.h"
#include "fusedisk/options.h"
#include "recover/named_dump.h"
#include "tests/fusedisk/fake_target.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/recover_texts.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

namespace dmremap::fuzz {
namespace {

using nlohmann::json;

void require_error(const error& e) {
  require(!e.id.empty() && !e.why.empty(), "an error says what it is");
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);)
    lines.push_back(line);
  return lines;
}

void require_round_trip(const member_spec& spec) {
  const auto again = parse_member(spec.text());
  require(again && again->path == spec.path && again->dust == spec.dust && again->start == spec.start &&
              again->length == spec.length,
          "a member survives being written and read: " + spec.text());
}

void member(const std::string& text) {
  const auto spec = parse_member(text);
  if (!spec)
    return require_error(spec.error());
  require(spec->path.starts_with('/'), "the path is absolute");
  require(!spec->start ||
              (*spec->start % unit_sectors == 0 && *spec->length % unit_sectors == 0 && *spec->length > 0),
          "a range is of whole units");
  require_round_trip(*spec);
}

/// "MAIN-SECTORS SPARE-SECTORS PHYSICAL-BYTES" and the table line, on two lines.
void table_line(const std::string& text) {
  const std::size_t end = std::min(text.find('\n'), text.size());
  const auto line = admin::parse_table_line(text.substr(std::min(end + 1, text.size())));
  if (!line)
    return require_error(line.error());
  std::istringstream words(text.substr(0, end));
  admin::member_measure main, spare;
  unsigned shift = 0;
  words >> main.sectors >> spare.sectors >> shift;
  constexpr std::uint64_t most = std::uint64_t{1} << 53U; // of any device, in sectors
  main.sectors %= most, spare.sectors %= most;
  spare.physical_bytes = 512U << shift % 8;
  // A member with a range of its own is as large as that; see create.
  const auto given_main = parse_member(line->main), given_spare = parse_member(line->spare);
  if (given_main && given_main->length)
    main.sectors = *given_main->length;
  if (given_spare && given_spare->length)
    spare.sectors = *given_spare->length;
  const auto made = admin::apply_table_line(*line, main, spare);
  if (!made)
    return require_error(made.error());
  require_round_trip(made->main);
  require_round_trip(made->spare);
  for (const auto& [spec, given, whole] : {std::tuple{&made->main, &given_main, main.sectors},
                                           std::tuple{&made->spare, &given_spare, spare.sectors}}) {
    const auto base = (*given)->start.value_or(0);
    require(!spec->start || (*spec->start >= base && *spec->start - base + *spec->length <= whole),
            "the range lies on the member");
  }
}

void config(const std::string& text) {
  const auto read = parse_set_config(text, "fuzz.conf");
  if (!read)
    return require_error(read.error());
  const auto written = format_set_config(*read);
  require(written.has_value(), "a configuration that was read can be written");
  const auto again = parse_set_config(*written, "fuzz.conf");
  require(again && again->name == read->name && again->uuid == read->uuid && again->main == read->main &&
              again->spares == read->spares && again->options == read->options,
          "a configuration survives being written and read");
}

/// One request, as a client sends it.
void request(const std::string& text) {
  dust_control dust(4096);
  fake_target target;
  target.dust_now = &dust;
  target.remaps.push_back({main_unit(3), 0, spare_unit(900), 1, 1, false, 7});
  std::string reply;
  static_cast<void>(request_waits_for_drives(text));
  answer_request(target, text, [&](std::string_view piece) {
    reply += piece;
    return true;
  });
  require(!reply.empty() && reply.find('\n') == reply.size() - 1, "a reply is one line");
  const json parsed = json::parse(reply, nullptr, false);
  require(parsed.is_object() && parsed.value("v", 0) == 1 && parsed.contains("ok") &&
              parsed["ok"].is_boolean(),
          "a reply is an object of version 1");
  const auto read = parse_control_reply(reply, "fuzz");
  require(read.has_value() == parsed["ok"].get<bool>(), "the client understands each reply");
  if (!read)
    require_error(read.error());
}

void message(const std::string& text) {
  fake_target target;
  auto words = lines_of(text);
  static_cast<void>(waits_for_drives(words));
  std::uint64_t sector = 0;
  if (!words.empty() && words.back() == "1")
    sector = 1;
  const auto answer = run_message(target, words, sector);
  if (!answer)
    require_error(answer.error());
}

void options(const std::string& text) {
  mount_options made;
  if (const auto applied = apply_options(text, made); !applied)
    require_error(applied.error());
  require(made.workers >= 1 && made.workers <= 128 && made.open.read_retries <= 100,
          "numbers are in their ranges");
}

template <class Parse>
void arguments(const char* program, const std::string& text, Parse&& parse) {
  std::vector<std::string> words = lines_of(text);
  words.insert(words.begin(), program);
  std::vector<const char*> argv;
  for (const auto& word : words)
    argv.push_back(word.c_str());
  argv.push_back(nullptr);
  parse(static_cast<int>(words.size()), argv.data());
}

void fusedisk_line(const std::string& text) {
  arguments("fusedisk", text, [](int argc, const char* const* argv) {
    const auto line = dmremap::parse_command_line(argc, argv);
    if (!line)
      return require_error(line.error());
    require(line->answer || (!line->mountpoint.empty() && (line->main || !line->name.empty())),
            "what is accepted can be served");
  });
}

void dmremap_line(const std::string& text) {
  arguments("dmremap", text, [](int argc, const char* const* argv) { // parsed, never carried out
    const auto line = admin::parse_command_line(argc, argv);
    if (!line)
      return require_error(line.error());
    require(line->action || !line->answer.empty(), "a line does something or says something");
  });
}

void fsck_line(const std::string& text) {
  arguments("dmremap-fsck", text, [](int argc, const char* const* argv) {
    if (const auto line = fsck::parse_command_line(argc, argv); !line)
      require_error(line.error());
  });
}

void repair_plan(const std::string& text) {
  const auto plan = fsck::parse_plan(text, "plan");
  if (!plan)
    return require_error(plan.error());
  const auto again = fsck::parse_plan(fsck::format_plan(*plan), "plan");
  require(again && again->writes.size() == plan->writes.size(), "a plan survives being written and read");
}

/// The list of bad sectors is in order, within the device and joined; the counter is its sum.
void require_order(const dust_control& dust, std::uint64_t sectors) {
  std::uint64_t sum = 0, end = 0;
  dust_mode last = dust_mode::none;
  for (const auto& range : dust.list()) {
    require(range.count > 0 && range.first >= end && range.first + range.count <= sectors,
            "ranges are in order");
    require(sum == 0 || range.first > end || range.mode != last, "equal neighbours are joined");
    require(dust.query(range.first) == range.mode && dust.query(range.first + range.count - 1) == range.mode,
            "a query tells what the list tells");
    sum += range.count, end = range.first + range.count, last = range.mode;
  }
  require(sum == dust.count(), "the count is that of the list");
}

void dust_commands(const std::string& text) {
  constexpr std::uint64_t sectors = 64;
  dust_control dust(sectors);
  for (const auto& line : lines_of(text)) {
    std::istringstream in(line);
    std::vector<std::string> words;
    for (std::string word; in >> word;)
      words.push_back(word);
    if (const auto answer = dust.command(words); !answer)
      require_error(answer.error());
    require_order(dust, sectors);
  }
}

void dust_file(const std::string& text) {
  constexpr std::uint64_t sectors = 64;
  dust_control dust(sectors);
  if (const auto loaded = dust.load(text, "fuzz.dust"); !loaded) {
    require_error(loaded.error());
    require(dust.count() == 0, "a file is read whole or not at all");
  }
  require_order(dust, sectors);
}

void numbers(const std::string& text) {
  if (const auto n = admin::parse_number(text, "number"))
    require(admin::parse_number(std::to_string(*n), "number") == *n,
            "a number survives being written and read");
  if (const auto uuid = parse_uuid(text))
    require(parse_uuid(to_text(*uuid)) == *uuid, "a UUID survives being written and read");
  static_cast<void>(valid_set_name(text));
  static_cast<void>(parse_dust_mode(text));
}

void reply(const std::string& text) {
  const auto answered = parse_control_reply(text, "fuzz");
  if (!answered)
    return;
  static const json none;
  const auto at = answered->find("result");
  const json& result = at != answered->end() ? *at : none;
  static_cast<void>(admin::status_text(result));
  static_cast<void>(admin::status_dm(result));
  static_cast<void>(admin::status_prometheus(result));
  static_cast<void>(admin::stats_text(result, result));
  static_cast<void>(admin::status_exit(result));
  const auto ranges = admin::read_lost(result);
  static_cast<void>(admin::lost_text(ranges));
  static_cast<void>(admin::ddrescue_map(ranges, 4096));
  if (const auto dump = recover::dump_in_reply(*answered, "fuzz"); !dump)
    require_error(dump.error());
  const auto table = admin::read_table(result, result);
  if (!table)
    return require_error(table.error());
  static_cast<void>(admin::table_text(*table));
  static_cast<void>(admin::table_dmsetup(*table));
  static_cast<void>(admin::remapped_ranges(*table));
}

void mounts(const std::string& text) {
  std::istringstream in(text);
  const auto table = parse_mount_table(in);
  for (const auto& entry : table)
    require(topmost_at(table, entry.point) != nullptr, "a mount point is found again");
}

void claim_record(const std::string& text) {
  std::istringstream in(text);
  const byte_range wanted{4096, 8192};
  if (const auto owner = read_claim_record(in, "b8:16", wanted)) {
    require(owner->range.overlaps(wanted), "the claim that is found overlaps");
    static_cast<void>(owner->text());
  }
}

} // namespace

void run_text(input_bytes bytes) {
  input in(bytes);
  const auto kind = static_cast<char>(in.byte());
  struct reader {
    char kind;
    void (*read)(const std::string&);
  };
  static constexpr reader readers[] = {
      {'m', member},        {'t', table_line},   {'c', config},        {'r', request},
      {'w', message},       {'o', options},      {'f', fusedisk_line}, {'a', dmremap_line},
      {'d', dust_commands}, {'D', dust_file},    {'n', numbers},       {'j', reply},
      {'p', mounts},        {'k', claim_record}, {'F', fsck_line},     {'u', repair_plan},
      {'M', ddrescue_map},  {'B', block_list},   {'S', smartctl_log},  {'I', import_plan_of},
      {'x', dump_lines},    {'J', dump_fields},  {'R', resume_state},  {'h', host_record},
  };
  const std::string text = in.text();
  for (const auto& r : readers)
    if (r.kind == kind)
      r.read(text);
}

} // namespace dmremap::fuzz
