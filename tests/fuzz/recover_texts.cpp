// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/fuzz/recover_texts.h"

#include "engine/host_state.h"
#include "engine/set_dump.h"
#include "recover/deep_members.h"
#include "recover/deep_resume.h"
#include "recover/dump_json.h"
#include "recover/import_lists.h"
#include "recover/import_plan.h"
#include "tests/fuzz/fuzz.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

namespace dmremap::fuzz {
namespace {

using nlohmann::json;
using namespace dmremap::recover;

constexpr std::uint64_t most_bytes = std::uint64_t{1} << 63;

void require_id(const error& e, const std::set<std::string>& ids) {
  require(ids.count(e.id) == 1, "an error is one of those that are announced, not " + e.id);
  require(!e.why.empty() && e.why.find('\n') == std::string::npos, "an error says why, in one line");
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);)
    lines.push_back(line);
  return lines;
}

/// Words of the lines that have some; what follows a '#' is none of them.
std::vector<std::vector<std::string>> words_in(const std::string& text) {
  std::vector<std::vector<std::string>> all;
  for (const auto& line : split(text)) {
    std::istringstream in(line.substr(0, line.find('#')));
    std::vector<std::string> words;
    for (std::string word; in >> word;)
      words.push_back(word);
    if (!words.empty())
      all.push_back(words);
  }
  return all;
}

bool same(const std::vector<byte_range>& a, const std::vector<byte_range>& b) {
  return a == b;
}

/// The document with the edits of the text.
json edited(json doc, const std::string& text) {
  for (const auto& line : split(text)) {
    const auto blank = std::min(line.find(' '), line.size());
    try { // pointers that are none, or that lead nowhere
      const json::json_pointer to(line.substr(0, blank));
      if (to.empty())
        continue;
      json& parent = doc.at(to.parent_pointer());
      auto value = json::parse(line.substr(std::min(blank + 1, line.size())), nullptr, false);
      if (value.is_discarded()) {
        if (parent.is_object())
          parent.erase(to.back());
      } else if (parent.is_object()) {
        parent[to.back()] = std::move(value);
      } else if (parent.is_array() && to.back() == "-") {
        parent.push_back(std::move(value));
      } else if (parent.is_array()) {
        doc.at(to) = std::move(value);
      }
    } catch (const json::exception&) {
      continue;
    }
  }
  return doc;
}

/// The edited document as text, or the text itself.
std::string document(const json& base, const std::string& text) {
  return text.starts_with('{') ? text
                               : edited(base, text).dump(-1, ' ', false, json::error_handler_t::replace);
}

uuid_bytes some_uuid(std::uint8_t filled) {
  uuid_bytes uuid;
  uuid.fill(filled);
  return uuid;
}

/// Two spares, each with the other's table.
set_dump sample_dump() {
  set_dump d;
  for (unsigned n = 0; n < 2; ++n) {
    auto& one = d.spares.emplace_back();
    one.member = "/dev/fuzz" + std::to_string(n);
    superblock& s = one.super;
    s.sequence = 70 + n;
    s.set_uuid = some_uuid(0x22);
    s.set_name = "fuzz";
    s.spare_count = 2;
    s.spare_index = n;
    s.main_sectors = 8192;
    s.places = make_geometry(16u << 20).value();
    s.super_good = 0x3FF;
    s.sequence_next = 80, s.sequence_end = 1000;
    s.session = 5;
    s.main_serial = "serial";
    for (unsigned i = 0; i < 2; ++i) {
      s.spare_uuids[i] = some_uuid(static_cast<std::uint8_t>(0x31 + i));
      s.sessions[i] = {5, 5};
    }
    s.spare_uuid = s.spare_uuids[n];
    s.sixth_host = 1 - n, s.sixth_start = 3500;
    s.hosted_start[1 - n] = 3500, s.hosted_blocks[1 - n] = s.places.table_blocks;
    s.hosted_protected = 2u >> n;
    for (unsigned r = 0; r <= own_replicas; ++r)
      for (const unsigned chunk : {4u, 5u})
        s.set_good(r, chunk, true);
    one.blocks = {{4, 1, 9}, {5, 1, 11}};
    one.slots = {{1100, slot::make(slot_kind::remap, main_unit(3 + n), 0x81, 0x80, 8)},
                 {1101, slot::make(slot_kind::retired, main_unit(0), 0, 0, 9)},
                 {1300, slot::make(slot_kind::explicit_remap, main_unit(700 + n), 0, 0, 10)}};
  }
  require(check_dump(d, "sample").has_value(), "the sample is sound");
  return d;
}

const set_dump& sample() {
  static const set_dump d = sample_dump();
  return d;
}

void require_sound_spare(const dumped_spare& one) {
  const superblock& s = one.super;
  require(s.spare_index < s.spare_count && s.spare_count <= max_spares, "there is room for the spare");
  require(one.map_on < static_cast<int>(max_spares), "a map lies on a spare");
  std::int64_t before = -1;
  for (const auto& slot : one.slots) {
    const std::uint32_t block = slot.unit / slots_per_block;
    require(slot.unit > before, "slots are in order");
    require(std::any_of(one.blocks.begin(), one.blocks.end(),
                        [&](const dumped_blocks& run) {
                          return block >= run.first && block - run.first < run.count;
                        }),
            "a slot lies in a block");
    if (slot.value.serves())
      require(slot.value.main().value * unit_sectors < s.main_sectors && slot.unit < s.places.units,
              "what has moved lies on main and on the spare");
    before = slot.unit;
  }
  for (const auto& run : one.blocks)
    require(std::uint64_t{run.first} + run.count <= s.places.table_blocks, "a block lies in the table");
}

/// Nothing that a restore would write lies on anything else.
void require_apart(const set_dump& d) {
  for (const auto& host : d.spares) {
    std::set<std::uint64_t> taken;
    const auto take = [&](std::uint64_t first, std::uint64_t count) {
      for (std::uint64_t u = first; u < first + count; ++u)
        require(u < host.super.places.units && taken.insert(u).second,
                "metadata lies on the spare, and apart");
    };
    const geometry& g = host.super.places;
    if (g.units > 65536) // too much to look at
      continue;
    for (unsigned c = 0; c < fixed_supers; ++c)
      take(g.super_place(c).value, 1);
    for (const auto start : g.replica_start)
      take(start, g.table_blocks + 1);
    for (const auto& guest : d.spares)
      if (const auto start = sixth_on(guest, host); start != 0)
        take(start, guest.super.places.table_blocks + 1);
    for (const auto& slot : host.slots)
      if (slot.value.serves())
        take(slot.unit, 1);
  }
}

block_bytes super_bytes(const dumped_spare& one) {
  block_bytes bytes;
  encode_superblock(one.super, 0, spare_unit(0), bytes);
  return bytes;
}

/// Whether a place in a spare's JSON holds a word of the other form: "/session", "/slots/3/kind".
bool holds_word(const std::string& at) {
  static const std::set<std::string> words{"/uuid",          "/map_from",    "/session",     "/supers_good",
                                           "/replicas/good", "/places/uuid", "/places/held", "/places/given",
                                           "/slots/kind",    "/samples"};
  std::string plain;
  std::istringstream parts(at.substr(std::min<std::size_t>(1, at.size())));
  for (std::string part; std::getline(parts, part, '/');)
    if (part.empty() || part.find_first_not_of("0123456789") != std::string::npos)
      plain += '/' + part;
  return words.count(plain) == 1;
}

/// Nothing of what was taken is missing, or more than it says.
void require_whole(const json& doc) {
  for (const auto& spare : doc.at("spares")) {
    for (const char* list : {"samples", "replicas", "places", "damage", "blocks", "slots"})
      require(spare.is_object() && spare.contains(list) && spare.at(list).is_array(), "a list is there");
    for (const auto& replica : spare.at("replicas"))
      require(replica.contains("good"), "a replica has its good chunks");
    const auto fields = spare.flatten();
    for (const auto& [at, value] : fields.items())
      if (value.is_string() && holds_word(at))
        require(value.get<std::string>().find_first_of(" \n\"#") == std::string::npos, "a word is one word");
  }
}

/// Whether it is a dump. In the form in which it came it is written and read again.
bool read_dump_of(const std::string& text) {
  const auto d = parse_dump(text, "fuzz", true);
  if (!d) {
    require_id(d.error(), {"dump-syntax", "dump-truncated", "dump-impossible"});
    return false;
  }
  require(!d->spares.empty(), "a dump has a spare");
  for (const auto& one : d->spares)
    require_sound_spare(one);
  require_apart(*d);
  const std::string written = dump_text(*d);
  const auto again = parse_dump(text.starts_with('{') ? dump_json(*d).dump() : written, "fuzz", false);
  require(again && dump_text(*again) == written, "a dump survives being written and read");
  for (std::size_t n = 0; n < d->spares.size(); ++n)
    require(super_bytes(d->spares[n]).bytes == super_bytes(again->spares[n]).bytes,
            "a superblock survives being written and read");
  auto on_disk = *d;
  for (auto& one : on_disk.spares) {
    const auto back = decode_superblock(super_bytes(one), 0, spare_unit(0));
    require(back.has_value(), "what is restored is a superblock");
    one.super = *back;
  }
  require(dump_text(on_disk) == written, "what is restored is what was dumped");
  return true;
}

} // namespace

void ddrescue_map(const std::string& text) {
  const auto bad = parse_ddrescue(text, "map", false), all = parse_ddrescue(text, "map", true);
  require(bad.has_value() == all.has_value(), "what is asked for does not make a map bad");
  if (!bad)
    return require_id(bad.error(), {"bad-list"});
  auto lines = words_in(text);
  require(lines.size() >= 2 && lines[0].size() >= 2, "a map has a first line, and another");
  lines.erase(lines.begin());
  std::vector<byte_range> wanted, more;
  std::uint64_t end = std::stoull(lines[0][0], nullptr, 0);
  for (const auto& w : lines) {
    require(w.size() == 3 && w[2].size() == 1, "a line has three words");
    const std::uint64_t start = std::stoull(w[0], nullptr, 0), size = std::stoull(w[1], nullptr, 0);
    require(start == end && size <= most_bytes - start, "a map has no gaps, and ends on a device");
    end = start + size;
    if (size != 0 && w[2] == "-")
      wanted.push_back({start, end});
    if (size != 0 && std::string("-*/").find(w[2]) != std::string::npos)
      more.push_back({start, end});
  }
  require(same(bad->ranges, wanted) && same(all->ranges, more), "a map says what stands in it");
  std::string written = "0 + 1\n0 0 +\n";
  end = 0;
  for (const auto& range : wanted) {
    written += std::to_string(end) + ' ' + std::to_string(range.start - end) + " +\n" +
               std::to_string(range.start) + ' ' + std::to_string(range.end - range.start) + " -\n";
    end = range.end;
  }
  const auto again = parse_ddrescue(written, "map", true);
  require((again && same(again->ranges, wanted)) || end > most_bytes / 2,
          "a map survives being written and read");
}

void block_list(const std::string& text) {
  const std::size_t head = std::min(text.find('\n'), text.size());
  std::istringstream first(text.substr(0, head));
  unsigned shift = 0, counts = 0;
  first >> shift >> counts;
  const std::uint64_t size = std::uint64_t{512} << shift % 22;
  const std::string rest = text.substr(std::min(head + 1, text.size()));
  const auto list = parse_blocks(rest, "list", size, counts == 1);
  if (!list)
    return require_id(list.error(), {"bad-list"});
  std::vector<byte_range> wanted;
  std::string written;
  for (const auto& w : words_in(rest)) {
    require(w.size() == 1 || (w.size() == 2 && counts == 1), "a line has a number, or two");
    const std::uint64_t start = std::stoull(w[0]), count = w.size() == 2 ? std::stoull(w[1]) : 1;
    require(count != 0 && start < most_bytes / size && count < most_bytes / size, "a block lies on a device");
    wanted.push_back({start * size, (start + count) * size});
    written += std::to_string(start) + ' ' + std::to_string(count) + '\n';
  }
  require(same(list->ranges, wanted), "a list says what stands in it");
  const auto again = parse_blocks(written, "list", size, true);
  require(again && same(again->ranges, wanted), "a list survives being written and read");
}

void smartctl_log(const std::string& text) {
  static const json base = json::parse(R"({
    "smartctl": {"exit_status": 64}, "serial_number": "SN-1", "user_capacity": {"bytes": 4096000},
    "logical_block_size": 4096,
    "ata_pending_defects_log": {"table": [{"lba": 3}, {"lba": 4, "power_on_hours": 7}]},
    "ata_smart_self_test_log": {"extended": {"table": [
      {"lba": 9, "status": {"value": 121, "passed": false}}, {"lba": 77, "status": {"passed": true}}]}},
    "ata_smart_error_log": {"extended": {"table": [
      {"completion_registers": {"lba": 10, "error": 64}}, {"completion_registers": {"lba": 11, "error": 4}}]}}})");
  const std::string whole = document(base, text);
  const auto list = parse_smartctl(whole, "smart", 512);
  if (!list)
    return require_id(list.error(), {"bad-list", "block-size-wanted"});
  const auto doc = json::parse(whole);
  std::set<std::uint64_t> named;
  const auto flat = doc.flatten();
  for (const auto& [at, value] : flat.items())
    if (at.ends_with("/lba") && value.is_number_unsigned())
      named.insert(value.get<std::uint64_t>());
  for (const auto& range : list->ranges) {
    const std::uint64_t size = range.end - range.start;
    require(range.end > range.start && range.end <= most_bytes / 2 && (size == 512 || size == 4096) &&
                range.start % size == 0 && named.count(range.start / size) == 1,
            "a bad place is a block that the log names");
  }
  const json::json_pointer defects("/ata_pending_defects_log/table");
  if (!doc.contains(defects) || !doc.at(defects).is_array())
    return;
  for (const auto& row : doc.at(defects))
    require(row.is_object() && row.contains("lba") && row.at("lba").is_number_unsigned() &&
                std::any_of(list->ranges.begin(), list->ranges.end(),
                            [&](const byte_range& r) {
                              return r.start / (r.end - r.start) == row.at("lba").get<std::uint64_t>();
                            }),
            "no pending defect is left out");
}

void import_plan_of(const std::string& text) {
  const auto lines = split(text);
  std::istringstream head(lines.empty() ? "" : lines[0]);
  std::uint64_t main_sectors = 0;
  std::int64_t offset = 0;
  head >> main_sectors >> offset;
  set_dump set = sample();
  for (auto& one : set.spares)
    one.super.main_sectors = main_sectors = main_sectors % 4096 + 1;
  constexpr std::int64_t most_offset = std::int64_t{1} << 54;
  offset %= most_offset;
  std::vector<byte_range> listed;
  for (std::size_t n = 1; n < lines.size(); ++n) {
    std::istringstream in(lines[n]);
    byte_range range;
    if (in >> range.start >> range.end && range.start < range.end && range.end <= most_bytes)
      listed.push_back(range);
  }
  const auto plan = make_import_plan(listed, offset, set, "list", 200);
  if (!plan)
    return require_id(plan.error(), {"list-outside", "no-spare-capacity"});
  const auto bad = [&](std::uint64_t sector) {
    const auto at = static_cast<std::int64_t>(sector) - offset;
    return at >= 0 && std::any_of(listed.begin(), listed.end(), [&](const byte_range& r) {
             return static_cast<std::uint64_t>(at) >= r.start / sector_bytes &&
                    static_cast<std::uint64_t>(at) <= (r.end - 1) / sector_bytes;
           });
  };
  std::uint64_t sectors = 0;
  std::set<std::uint64_t> units, mapped;
  for (std::uint64_t s = 0; s < main_sectors; ++s)
    if (bad(s)) {
      ++sectors;
      units.insert(s / unit_sectors);
    }
  for (const auto& one : set.spares)
    for (const auto& slot : one.slots)
      if (slot.value.serves() && units.count(slot.value.main().value) == 1)
        mapped.insert(slot.value.main().value);
  require(plan->sectors == sectors, "the plan has the bad sectors of main");
  require(plan->already_units == mapped.size() && plan->new_units == units.size() - mapped.size(),
          "the plan has their units");
  std::uint64_t sum = 0, end = 0;
  for (const auto& run : plan->ranges) {
    require(run.count != 0 && (sum == 0 || run.first > end) && run.first + run.count <= main_sectors,
            "ranges are ascending and apart, and lie on main");
    end = run.first + run.count;
    sum += run.count;
  }
  require(sum == sectors, "the ranges are those sectors");
  std::map<std::uint64_t, int> edges; // of all that is listed, in sectors of the list
  for (const auto& r : listed) {
    ++edges[r.start / sector_bytes];
    --edges[(r.end - 1) / sector_bytes + 1];
  }
  std::uint64_t all = 0, from = 0;
  int depth = 0;
  for (const auto& [at, change] : edges) {
    all += depth > 0 ? at - from : 0;
    depth += change;
    from = at;
  }
  require(plan->outside == all - sectors, "what lies outside main is counted once");
}

void dump_lines(const std::string& text) {
  if (text.starts_with("dmremap-dump"))
    return static_cast<void>(read_dump_of(text));
  static const auto sound = split(dump_text(sample()));
  auto lines = sound;
  for (const auto& edit : split(text)) {
    const auto bar = edit.find('|');
    if (bar == std::string::npos || edit.find_first_of("=~+") != 0)
      continue;
    const std::string begin = edit.substr(1, bar - 1), line = edit.substr(bar + 1);
    const auto fits = [&](const std::string& one) {
      return one.compare(std::min(one.find_first_not_of(' '), one.size()), begin.size(), begin) == 0;
    };
    auto at = std::find_if(lines.begin(), lines.end(), fits);
    if (edit[0] == '~')
      if (const auto last = std::find_if(lines.rbegin(), lines.rend(), fits); last != lines.rend())
        at = last.base() - 1;
    if (at == lines.end())
      continue;
    if (edit[0] == '+')
      lines.insert(at, line);
    else
      *at = line;
  }
  std::string whole;
  for (const auto& line : lines)
    whole += line + '\n';
  static_cast<void>(read_dump_of(whole));
}

void dump_fields(const std::string& text) {
  static const json base = dump_json(sample());
  const std::string whole = document(base, text);
  if (read_dump_of(whole))
    require_whole(json::parse(whole));
}

void resume_state(const std::string& text) {
  static const json base = json::parse(R"({"kind": "dmremap-scan --deep", "devices": {"/dev/fuzz": {
    "bytes": 67108864, "who": "serial S", "done": 50331648, "unreadable": 4096, "left_out": 0, "finds": [
      {"start": 20971520, "owner": 5, "supers": 1023, "table_blocks": 85, "first": 20971520, "last": 37000000,
       "spare": "31313131-3131-3131-3131-313131313131", "set": "22222222-2222-2222-2222-222222222222",
       "name": "fuzz", "units": 4096, "sequence": 70},
      {"start": -4096, "owner": 6, "supers": 0, "table_blocks": 1, "first": 8192, "last": 8192}]}}})");
  const std::string whole = document(base, text);
  const auto file = resume_file::parse(whole, "keep");
  if (!file)
    return require_id(file.error(), {"resume-file"});
  const std::string written = file->text();
  const auto again = resume_file::parse(written, "keep");
  require(again && again->text() == written, "what is known survives being written and read");
  const auto doc = json::parse(whole);
  for (const auto& [member, device] : doc.at("devices").items()) {
    const auto bytes = device.at("bytes").get<std::uint64_t>();
    const auto state = file->state_of(member, {bytes, device.at("who").get<std::string>()});
    require(state.finds.size() == device.at("finds").size(), "every find is read");
    require(state.done <= bytes && state.unreadable <= bytes, "no more was searched than there is");
    for (const char* key : {"bytes", "done", "unreadable", "left_out"})
      require(device.at(key).is_number_unsigned(), "a number is one");
    for (const auto& [key, f] : state.finds)
      require(f.start <= static_cast<std::int64_t>(f.first) && f.first <= f.last && f.last <= state.done,
              "a find lies where the search was");
    const auto found = members_among(member, bytes, state, "", {});
    for (const auto& spec : found.members)
      require(!spec.length || (*spec.length != 0 && *spec.start <= bytes / sector_bytes &&
                               *spec.length <= bytes / sector_bytes - *spec.start),
              "a spare that is found lies on the device");
  }
}

void host_record(const std::string& text) {
  constexpr const char* uuid = "22222222-2222-2222-2222-2222222222ab";
  static const json base{{"schema", 1},
                         {"uuid", uuid},
                         {"name", "fuzz"},
                         {"sequence_end", 1000},
                         {"spares", {{"31313131-3131-3131-3131-313131313131", "/dev/fuzz0"}}}};
  const std::string whole = document(base, text);
  const auto state = parse_host_state(whole, uuid);
  if (!state)
    return;
  const auto doc = json::parse(whole);
  require(doc.at("sequence_end").is_number_unsigned() && state->sequence_end <= sequence_limit,
          "a number of a session is one");
  require(doc.at("uuid").get<std::string>().size() == state->uuid.size(),
          "it is of the set that was asked for");
  const auto again = parse_host_state(host_state_text(*state), uuid);
  require(again && again->name == state->name && again->sequence_end == state->sequence_end &&
              again->spares == state->spares,
          "what was seen survives being written and read");
}

} // namespace dmremap::fuzz
