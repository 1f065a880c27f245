// SPDX-License-Identifier: GPL-2.0-or-later
// JSON and back. The text is the one that is checked: JSON is turned into it, and parsed as such.
#include "recover/dump_json.h"

#include "engine/input_file.h"

#include <algorithm>
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
              {"set_name", escaped(s.set_name)},
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

/// What is no such value, or not there, makes a line that the parser refuses.
constexpr const char* no_word = "?";

/// A value as one word of the text.
std::string word(const json& value) {
  if (value.is_boolean())
    return value.get<bool>() ? "yes" : "no";
  if (value.is_number_unsigned())
    return fmt::to_string(value.get<std::uint64_t>());
  if (!value.is_string())
    return no_word;
  const auto& text = value.get_ref<const std::string&>();
  const bool one = std::all_of(text.begin(), text.end(),
                               [](char c) { return c > ' ' && c <= '~' && c != '"' && c != '#'; });
  return one && !text.empty() ? text : no_word;
}

std::string word(const json& object, const char* key) {
  const auto at = object.find(key);
  return at != object.end() ? word(*at) : no_word;
}

/// Where null stands for none.
std::string word_or_none(const json& object, const char* key) {
  const auto at = object.find(key);
  return at != object.end() && at->is_null() ? "-" : word(object, key);
}

std::string mask(const json& object, const char* key) {
  const auto at = object.find(key);
  return at != object.end() && at->is_number_unsigned() ? fmt::format("{:02x}", at->get<std::uint64_t>())
                                                        : no_word;
}

/// Nothing that a text holds may end it, or its line.
std::string quoted(const json& text) {
  if (!text.is_string() || text.get_ref<const std::string&>().find_first_of("\"\n") != std::string::npos)
    return no_word;
  return '"' + text.get_ref<const std::string&>() + '"';
}

std::string quoted(const json& object, const char* key) {
  const auto at = object.find(key);
  return at != object.end() ? quoted(*at) : no_word;
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

/// Nothing of it is copied: copying JSON is a recursion, and a file may be nested deeply.
const json& object_of(const json& item) {
  static const json empty = json::object();
  return item.is_object() ? item : empty;
}

template <class Each>
void each_of(std::string& out, const json& object, const char* key, Each&& each) {
  const auto at = object.find(key);
  if (at == object.end() || !at->is_array()) {
    out += fmt::format("  {} {}\n", key, no_word);
    return;
  }
  for (const auto& item : *at)
    each(item);
}

void add_spare(std::string& out, const json& o) {
  out += fmt::format("spare {} {}\n  member {}\n  map_from {}\n  set_name {}\n", word(o, "index"),
                     word(o, "uuid"), quoted(o, "member"), word(o, "map_from"), quoted(o, "set_name"));
  const superblock names;
  each_dump_field(from_fields{o, out}, names);
  out += fmt::format("  session {}\n  supers_good {}\n  samples", word(o, "session"), word(o, "supers_good"));
  each_of(out, o, "samples", [&](const json& sample) { out += " " + word(sample); });
  out += '\n';
  each_of(out, o, "replicas", [&](const json& item) {
    const json& r = object_of(item);
    out += fmt::format("  replica {} start {} good {}\n", word(r, "replica"), word_or_none(r, "start"),
                       word(r, "good"));
  });
  each_of(out, o, "places", [&](const json& item) {
    const json& p = object_of(item);
    out += fmt::format("  place {} {} held {} given {} hosted {} blocks {} map_on {}\n", word(p, "index"),
                       word(p, "uuid"), word(p, "held"), word(p, "given"), word(p, "hosted"),
                       word(p, "blocks"), word_or_none(p, "map_on"));
  });
  each_of(out, o, "damage", [&](const json& text) { out += fmt::format("  damage {}\n", quoted(text)); });
  each_of(out, o, "blocks", [&](const json& item) {
    const json& b = object_of(item);
    out +=
        fmt::format("  blocks {}+{} sequence {}\n", word(b, "first"), word(b, "count"), word(b, "sequence"));
  });
  each_of(out, o, "slots", [&](const json& item) {
    const json& s = object_of(item);
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
           {"name", escaped(s.set_name)},
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
  each_of(text, doc, "spares", [&](const json& spare) { add_spare(text, object_of(spare)); });
  text += "end " + word(doc, "checksum") + "\n";
  return parse_dump_text(text, name, any_checksum);
}

result<set_dump> parse_dump(std::string_view text, const std::string& name, bool any_checksum) {
  const auto first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos || text[first] != '{')
    return parse_dump_text(text, name, any_checksum);
  const auto doc = json::parse(text, nullptr, false);
  if (doc.is_discarded())
    return fail("dump-syntax", name, "is no whole JSON text");
  return parse_dump_json(doc, name, any_checksum);
}

result<set_dump> read_dump(const std::string& path, bool any_checksum) {
  return parse_dump(TRY(read_all(path)), path, any_checksum);
}

} // namespace dmremap::recover
