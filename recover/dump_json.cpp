// SPDX-License-Identifier: GPL-2.0-or-later
// JSON and back. The text is the one that is checked: JSON is turned into it, and parsed as such.
#include "recover/dump_json.h"

#include "engine/input_file.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace dmremap::recover {
namespace {

using nlohmann::json;

struct to_fields {
  json& object;
  void operator()(const char* name, const std::string& v) const { object[name] = escaped(v); }
  template <class T>
  void operator()(const char* name, const T& v) const {
    object[name] = v;
  }
};

json spare_json(const dumped_spare& d) {
  const superblock& s = d.super;
  json object{{"index", s.spare_index},
              {"uuid", to_text(s.spare_uuid)},
              {"member", escaped(d.member)},
              {"map_from", !d.away        ? json("own")
                           : d.map_on < 0 ? json("memory")
                                          : json(d.map_on)},
              {"set_name", s.set_name},
              {"session", fmt::format("{:016x}", s.session)},
              {"samples", json::array()},
              {"replicas", json::array()},
              {"places", json::array()},
              {"damage", json::array()},
              {"blocks", json::array()},
              {"slots", json::array()}};
  each_dump_field(to_fields{object}, s);
  std::vector<bool> supers(super_copies);
  for (unsigned c = 0; c < super_copies; ++c)
    supers[c] = (s.super_good >> c & 1) != 0;
  object["supers_good"] = bits_text(supers);
  for (const auto sample : s.samples)
    object["samples"].push_back(fmt::format("{:08x}", sample));
  for (unsigned r = 0; r < s.good.size(); ++r) {
    std::vector<bool> chunks(s.places.chunks());
    for (std::uint32_t c = 0; c < chunks.size(); ++c)
      chunks[c] = s.is_good(r, c);
    object["replicas"].push_back(
        {{"replica", r},
         {"start", r < own_replicas ? json(s.places.replica_start[r]) : json(nullptr)},
         {"good", bits_text(chunks)}});
  }
  for (unsigned i = 0; i < max_spares; ++i)
    if (const auto p = place_at(s, i); !p.empty())
      object["places"].push_back({{"index", i},
                                  {"uuid", to_text(p.uuid)},
                                  {"held", fmt::format("{:016x}", p.sessions.held)},
                                  {"given", fmt::format("{:016x}", p.sessions.given)},
                                  {"hosted", p.hosted_start},
                                  {"blocks", p.hosted_blocks},
                                  {"map_on", p.map_on == 0 ? json(nullptr) : json(p.map_on - 1)}});
  for (const auto& text : d.damage)
    object["damage"].push_back(escaped(text));
  for (const auto& run : d.blocks)
    object["blocks"].push_back({{"first", run.first}, {"count", run.count}, {"sequence", run.sequence}});
  for (const auto& one : d.slots)
    object["slots"].push_back({{"kind", name_of(one.value.kind())},
                               {"spare_sector", std::uint64_t{one.unit} * unit_sectors},
                               {"main_sector", first_sector(one.value.main()).value},
                               {"lost", unsigned{one.value.lost()}},
                               {"answers", unsigned{one.value.main_may_answer()}},
                               {"sequence", one.value.sequence()}});
  return object;
}

/// A value as a word of the text. What is no such value makes a line that the parser refuses.
std::string word(const json& object, const char* key) {
  const auto at = object.find(key);
  if (at == object.end() || at->is_null())
    return "-";
  if (at->is_boolean())
    return at->get<bool>() ? "yes" : "no";
  if (at->is_string())
    return at->get<std::string>();
  return at->is_number_unsigned() ? fmt::to_string(at->get<std::uint64_t>()) : "?";
}

std::string mask(const json& object, const char* key) {
  const auto at = object.find(key);
  return at != object.end() && at->is_number_unsigned() ? fmt::format("{:02x}", at->get<std::uint64_t>())
                                                        : "?";
}

/// Nothing that a value holds may end its line.
std::string quoted(const json& object, const char* key) {
  return '"' + word(object, key) + '"';
}

struct from_fields {
  const json& object;
  std::string& out;
  void operator()(const char* name, const std::string&) const {
    out += fmt::format("  {} {}\n", name, quoted(object, name));
  }
  template <class T>
  void operator()(const char* name, const T&) const {
    out += fmt::format("  {} {}\n", name, word(object, name));
  }
};

/// Objects of an array; others are as if they were empty.
template <class Each>
void each_of(const json& object, const char* key, Each&& each) {
  const auto at = object.find(key);
  if (at != object.end() && at->is_array())
    for (const auto& item : *at)
      each(item.is_object() ? item : json::object());
}

void add_spare(std::string& out, const json& o) {
  out += fmt::format("spare {} {}\n  member {}\n  map_from {}\n  set_name {}\n", word(o, "index"),
                     word(o, "uuid"), quoted(o, "member"), word(o, "map_from"), quoted(o, "set_name"));
  const superblock names;
  each_dump_field(from_fields{o, out}, names);
  out += fmt::format("  session {}\n  supers_good {}\n  samples", word(o, "session"), word(o, "supers_good"));
  const auto samples = o.find("samples");
  if (samples != o.end() && samples->is_array())
    for (const auto& sample : *samples)
      out += " " + (sample.is_string() ? sample.get<std::string>() : "?");
  out += '\n';
  each_of(o, "replicas", [&](const json& r) {
    out +=
        fmt::format("  replica {} start {} good {}\n", word(r, "replica"), word(r, "start"), word(r, "good"));
  });
  each_of(o, "places", [&](const json& p) {
    out += fmt::format("  place {} {} held {} given {} hosted {} blocks {} map_on {}\n", word(p, "index"),
                       word(p, "uuid"), word(p, "held"), word(p, "given"), word(p, "hosted"),
                       word(p, "blocks"), word(p, "map_on"));
  });
  const auto damage = o.find("damage");
  if (damage != o.end() && damage->is_array())
    for (const auto& text : *damage)
      out += fmt::format("  damage \"{}\"\n", text.is_string() ? text.get<std::string>() : "?");
  each_of(o, "blocks", [&](const json& b) {
    out +=
        fmt::format("  blocks {}+{} sequence {}\n", word(b, "first"), word(b, "count"), word(b, "sequence"));
  });
  each_of(o, "slots", [&](const json& s) {
    out += fmt::format("  {} {} main {} lost {} answers {} sequence {}\n", word(s, "kind"),
                       word(s, "spare_sector"), word(s, "main_sector"), mask(s, "lost"), mask(s, "answers"),
                       word(s, "sequence"));
  });
}

result<std::string> read_all(const std::string& path) {
  auto text = read_input_file(path);
  if (!text)
    return fail(text.error().no_file ? "not-a-file" : "dump-unreadable", path, text.error().why);
  return std::move(*text);
}

} // namespace

json dump_json(const set_dump& d) {
  const superblock& s = d.newest();
  json doc{{"format", "dmremap-dump"},
           {"version", 1},
           {"name", s.set_name},
           {"uuid", to_text(s.set_uuid)},
           {"live", d.live},
           {"complete", d.complete},
           {"checksum", fmt::format("{:08x}", write_dump_text(d, [](std::string_view) {}))},
           {"spares", json::array()}};
  for (const auto& one : d.spares)
    doc["spares"].push_back(spare_json(one));
  return doc;
}

result<set_dump> parse_dump_json(const json& doc, const std::string& name, bool any_checksum) {
  if (!doc.is_object() || word(doc, "format") != "dmremap-dump")
    return fail("dump-syntax", name, "is no dump of dmremap-dump");
  if (word(doc, "version") != "1")
    return fail("dump-syntax", name, "is a dump of a version that this program does not know");
  std::string text = "dmremap-dump 1\n";
  text += fmt::format("set {} {}\nlive {}\ncomplete {}\n", quoted(doc, "name"), word(doc, "uuid"),
                      word(doc, "live"), word(doc, "complete"));
  each_of(doc, "spares", [&](const json& spare) { add_spare(text, spare); });
  text += "end " + word(doc, "checksum") + "\n";
  return parse_dump_text(text, name, any_checksum);
}

result<set_dump> read_dump(const std::string& path, bool any_checksum) {
  const std::string text = TRY(read_all(path));
  const auto first = text.find_first_not_of(" \t\r\n");
  if (first == std::string::npos || text[first] != '{')
    return parse_dump_text(text, path, any_checksum);
  const auto doc = json::parse(text, nullptr, false);
  if (doc.is_discarded())
    return fail("dump-syntax", path, "is no whole JSON text");
  return parse_dump_json(doc, path, any_checksum);
}

} // namespace dmremap::recover
