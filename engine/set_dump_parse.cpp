// SPDX-License-Identifier: GPL-2.0-or-later
// Reading the text of a dump. Every number is bounded before it is used.
#include "engine/set_dump.h"

#include <charconv>
#include <fmt/format.h>
#include <limits>
#include <set>
#include <zlib.h>

namespace dmremap {
namespace {

template <class Number>
bool read_number(std::string_view text, Number& out, int base = 10) {
  const char* const end = text.data() + text.size();
  const auto [at, failed] = std::from_chars(text.data(), end, out, base);
  return !text.empty() && failed == std::errc{} && at == end;
}

bool read_quoted(std::string_view text, std::string& out) {
  if (text.size() < 2 || text.front() != '"' || text.back() != '"')
    return false;
  auto plain = unescaped(text.substr(1, text.size() - 2));
  if (plain)
    out = std::move(*plain);
  return plain.has_value();
}

bool read_uuid(std::string_view text, uuid_bytes& out) {
  const auto uuid = parse_uuid(std::string(text));
  out = uuid.value_or(uuid_bytes{});
  return uuid.has_value();
}

bool read_flag(std::string_view text, bool& out) {
  out = text == "yes";
  return out || text == "no";
}

bool read_spare(std::string_view text, int& out) {
  unsigned index = 0;
  const bool good = read_number(text, index) && index < max_spares;
  out = good ? static_cast<int>(index) : -1;
  return good;
}

/// Words between spaces; one in quotes is a word with its spaces.
std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> out;
  std::size_t at = 0;
  while ((at = line.find_first_not_of(" \t\r", at)) != std::string_view::npos && line[at] != '#') {
    std::size_t end = line[at] == '"' ? line.find('"', at + 1) : line.find_first_of(" \t\r", at);
    if (end == std::string_view::npos)
      end = line.size();
    else if (line[at] == '"')
      ++end;
    out.push_back(line.substr(at, end - at));
    at = end;
  }
  return out;
}

/// As a message can show it: one line, nothing that a terminal obeys.
std::string shown(std::string_view line) {
  std::string out(line.substr(0, 80));
  for (char& c : out)
    c = c >= ' ' && c <= '~' ? c : '?';
  return out;
}

/// Sets the field that has the name of the line.
struct field_reader {
  std::string_view wanted, value;
  bool found = false, good = true;
  void operator()(const char* name, bool& v) {
    take(name, [&] { return read_flag(value, v); });
  }
  void operator()(const char* name, std::uint32_t& v) {
    take(name, [&] { return read_number(value, v); });
  }
  void operator()(const char* name, std::uint64_t& v) {
    take(name, [&] { return read_number(value, v); });
  }
  void operator()(const char* name, std::string& v) {
    take(name, [&] { return read_quoted(value, v); });
  }
  template <class Read>
  void take(const char* name, Read&& read) {
    if (wanted == name) {
      found = true;
      good = read();
    }
  }
};

class text_reader {
public:
  text_reader(std::string_view text, const std::string& name) : text_(text), name_(name) {}

  result<set_dump> read(bool any_checksum) {
    std::size_t at = 0;
    while (at < text_.size()) {
      const auto end = std::min(text_.find('\n', at), text_.size());
      const auto words = words_of(text_.substr(at, end - at));
      ++line_;
      if (!line_is_first_ && !words.empty() && words.front() == "end") {
        CHECK_OK(finish_set());
        CHECK_OK(finish_spare());
        CHECK_OK(check_end(words, at, std::min(end + 1, text_.size()), any_checksum));
        return std::move(dump_);
      }
      if (!words.empty() && !take(words))
        return fail("dump-syntax", fmt::format("{}, line {}", name_, line_),
                    "is not understood: " + shown(text_.substr(at, end - at)));
      if (!words.empty() && words.front() == "spare")
        CHECK_OK(finish_spare());
      if (!words.empty() && words.front() == "spare")
        begin_spare();
      at = end + 1;
    }
    return fail("dump-truncated", name_, "has no last line `end`: it is only a part of a dump");
  }

private:
  using word_list = std::vector<std::string_view>;

  bool take(const word_list& w) {
    if (line_is_first_ && !(w.size() == 2 && w[0] == "dmremap-dump" && w[1] == "1"))
      return false;
    if (line_is_first_) {
      line_is_first_ = false;
      return true;
    }
    if (w[0] == "spare")
      return w.size() == 3 && read_number(w[1], next_index_) && next_index_ < max_spares &&
             read_uuid(w[2], next_uuid_);
    return spare_open_ ? take_spare_line(w) : take_set_line(w);
  }

  bool take_set_line(const word_list& w) {
    if (!set_seen_.insert(std::string(w[0])).second)
      return false;
    std::string name;
    if (w[0] == "set")
      return w.size() == 3 && read_quoted(w[1], name) && read_uuid(w[2], set_uuid_);
    if (w[0] == "live")
      return w.size() == 2 && read_flag(w[1], dump_.live);
    return w[0] == "complete" && w.size() == 2 && read_flag(w[1], dump_.complete);
  }

  bool take_spare_line(const word_list& w) {
    dumped_spare& d = dump_.spares.back();
    if (w[0] == "place")
      return take_place(d.super, w);
    if (w[0] == "replica")
      return take_replica(d.super, w);
    if (w[0] == "blocks")
      return take_blocks(d, w);
    if (w[0] == "damage") {
      d.damage.emplace_back();
      return w.size() == 2 && read_quoted(w[1], d.damage.back());
    }
    if (const auto kind = slot_kind_of(w[0]))
      return take_slot(d, *kind, w);
    if (!seen_.insert(std::string(w[0])).second || w.size() < 2)
      return false;
    if (w[0] == "samples")
      return take_samples(d.super, w);
    if (w.size() != 2)
      return false;
    if (w[0] == "member")
      return read_quoted(w[1], d.member);
    if (w[0] == "set_name")
      return read_quoted(w[1], d.super.set_name);
    if (w[0] == "map_from") {
      d.away = w[1] != "own";
      return !d.away || w[1] == "memory" || read_spare(w[1], d.map_on);
    }
    if (w[0] == "session")
      return read_number(w[1], d.super.session, 16);
    if (w[0] == "supers_good")
      return take_supers(d.super, w[1]);
    field_reader field{w[0], w[1]};
    each_dump_field(field, d.super);
    return field.found && field.good;
  }

  static bool take_supers(superblock& s, std::string_view text) {
    std::vector<bool> bits(super_copies);
    const bool good = parse_bits(text, bits);
    for (unsigned c = 0; c < super_copies; ++c)
      s.super_good |= bits[c] ? 1u << c : 0u;
    return good;
  }

  static bool take_samples(superblock& s, const word_list& w) {
    bool good = w.size() == s.samples.size() + 1;
    for (std::size_t n = 0; good && n < s.samples.size(); ++n)
      good = read_number(w[n + 1], s.samples[n], 16);
    return good;
  }

  bool take_place(superblock& s, const word_list& w) {
    dumped_place p;
    const bool good = w.size() == 13 && read_number(w[1], p.index) && p.index < max_spares &&
                      read_uuid(w[2], p.uuid) && w[3] == "held" && read_number(w[4], p.sessions.held, 16) &&
                      w[5] == "given" && read_number(w[6], p.sessions.given, 16) && w[7] == "hosted" &&
                      read_number(w[8], p.hosted_start) && w[9] == "blocks" &&
                      read_number(w[10], p.hosted_blocks) && w[11] == "map_on" &&
                      (w[12] == "-" || (read_number(w[12], p.map_on) && p.map_on++ < max_spares));
    if (!good || !seen_.insert("place " + std::to_string(p.index)).second)
      return false;
    set_place(s, p);
    return true;
  }

  bool take_replica(superblock& s, const word_list& w) {
    unsigned r = 0;
    std::vector<bool> chunks(chunk_count);
    if (w.size() != 6 || !read_number(w[1], r) || r > own_replicas || w[2] != "start" || w[4] != "good" ||
        !(r == own_replicas ? w[3] == "-" : read_number(w[3], s.places.replica_start[r])) ||
        !parse_bits(w[5], chunks) || !seen_.insert("replica " + std::to_string(r)).second)
      return false;
    for (std::uint32_t c = 0; c < chunk_count; ++c)
      s.set_good(r, c, chunks[c]);
    return true;
  }

  static bool take_blocks(dumped_spare& d, const word_list& w) {
    dumped_blocks run;
    const auto plus = w.size() == 4 ? w[1].find('+') : std::string_view::npos;
    if (plus == std::string_view::npos || !read_number(w[1].substr(0, plus), run.first) ||
        !read_number(w[1].substr(plus + 1), run.count) || w[2] != "sequence" ||
        !read_number(w[3], run.sequence))
      return false;
    d.blocks.push_back(run);
    return true;
  }

  static bool take_slot(dumped_spare& d, slot_kind kind, const word_list& w) {
    std::uint64_t spare = 0, main = 0, sequence = 0;
    unsigned lost = 0, answers = 0;
    const bool good = w.size() == 10 && read_number(w[1], spare) && w[2] == "main" &&
                      read_number(w[3], main) && w[4] == "lost" && read_number(w[5], lost, 16) &&
                      lost <= 0xFF && w[6] == "answers" && read_number(w[7], answers, 16) &&
                      answers <= 0xFF && w[8] == "sequence" && read_number(w[9], sequence);
    if (!good || spare % unit_sectors != 0 || main % unit_sectors != 0 ||
        spare / unit_sectors > std::numeric_limits<std::uint32_t>::max() ||
        main / unit_sectors >= main_unit_limit || sequence >= sequence_limit)
      return false;
    d.slots.push_back({static_cast<std::uint32_t>(spare / unit_sectors),
                       slot::make(kind, main_unit(main / unit_sectors), static_cast<std::uint8_t>(lost),
                                  static_cast<std::uint8_t>(answers), sequence)});
    return true;
  }

  void begin_spare() {
    dump_.spares.emplace_back();
    dump_.spares.back().super.set_uuid = set_uuid_;
    dump_.spares.back().super.spare_index = next_index_;
    dump_.spares.back().super.spare_uuid = next_uuid_;
    seen_.clear();
    spare_open_ = true;
  }

  /// The lines that stand before the spares.
  result<void> finish_set() const {
    for (const char* name : {"set", "live", "complete"})
      if (set_seen_.count(name) == 0)
        return fail("dump-syntax", name_, fmt::format("has no line `{}`", name));
    return {};
  }

  /// Every line that a spare has must be there.
  result<void> finish_spare() {
    if (!spare_open_)
      return {};
    std::string missing;
    const auto want = [&](const std::string& name) {
      if (seen_.count(name) == 0 && missing.empty())
        missing = name;
    };
    for (const char* name : {"member", "map_from", "set_name", "session", "supers_good", "samples"})
      want(name);
    each_dump_field([&](const char* name, const auto&) { want(name); }, dump_.spares.back().super);
    for (unsigned r = 0; r <= own_replicas; ++r)
      want("replica " + std::to_string(r));
    if (!missing.empty())
      return fail("dump-syntax", fmt::format("{}, line {}", name_, line_),
                  fmt::format("spare {} has no line `{}`", dump_.spares.back().super.spare_index, missing));
    return {};
  }

  /// `before`, `behind`: where the last line begins, and ends.
  result<void> check_end(const word_list& w, std::size_t before, std::size_t behind,
                         bool any_checksum) const {
    std::uint32_t said = 0;
    if (w.size() != 2 || !read_number(w[1], said, 16))
      return fail("dump-syntax", fmt::format("{}, line {}", name_, line_), "`end` has no checksum");
    if (text_.find_first_not_of(" \t\r\n", behind) != std::string_view::npos)
      return fail("dump-syntax", name_, "goes on behind its last line `end`: two dumps in one file?");
    const auto found = ::crc32_z(0, reinterpret_cast<const Bytef*>(text_.data()), before);
    if (found != said && !any_checksum)
      return fail("dump-checksum", name_,
                  "is damaged, or was edited: its checksum is wrong; if you edited it yourself: --edited");
    return check_dump(dump_, name_);
  }

  const std::string_view text_;
  const std::string& name_;
  std::uint64_t line_ = 0;
  bool line_is_first_ = true, spare_open_ = false;
  uuid_bytes set_uuid_{}, next_uuid_{};
  std::uint32_t next_index_ = 0;
  std::set<std::string> set_seen_, seen_; ///< lines of the set; of the spare that is open
  set_dump dump_;
};

} // namespace

bool parse_bits(std::string_view text, std::vector<bool>& bits) {
  std::fill(bits.begin(), bits.end(), false);
  if (text == "-")
    return true;
  for (bool more = true; more;) {
    const auto comma = text.find(',');
    const auto part = text.substr(0, comma);
    more = comma != std::string_view::npos;
    text.remove_prefix(more ? comma + 1 : text.size());
    const auto dash = part.find('-');
    std::size_t first = 0, last = 0;
    if (!read_number(part.substr(0, dash), first))
      return false;
    last = first;
    if (dash != std::string_view::npos && !read_number(part.substr(dash + 1), last))
      return false;
    if (first > last || last >= bits.size())
      return false;
    std::fill(bits.begin() + static_cast<std::ptrdiff_t>(first),
              bits.begin() + static_cast<std::ptrdiff_t>(last) + 1, true);
  }
  return true;
}

std::optional<std::string> unescaped(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      out += text[i];
      continue;
    }
    unsigned value = 0;
    if (i + 3 >= text.size() || text[i + 1] != 'x' || !read_number(text.substr(i + 2, 2), value, 16))
      return std::nullopt;
    out += static_cast<char>(value);
    i += 3;
  }
  return out;
}

result<set_dump> parse_dump_text(std::string_view text, const std::string& name, bool any_checksum) {
  return text_reader(text, name).read(any_checksum);
}

} // namespace dmremap
