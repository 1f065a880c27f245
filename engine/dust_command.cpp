// SPDX-License-Identifier: GPL-2.0-or-later
// The words and the file format that drive a dust store.
#include "engine/dust_store.h"

#include <charconv>
#include <sstream>

namespace dmremap {
namespace {

std::optional<std::uint64_t> parse_number(const std::string& text) {
  std::uint64_t value = 0;
  const auto [rest, bad] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (bad != std::errc{} || rest != text.data() + text.size())
    return std::nullopt;
  return value;
}

struct place {
  std::uint64_t first = 0;
  dust_mode mode = dust_mode::both;
  std::uint64_t count = 1;
};

/// SECTOR [read|write|both] [COUNT]
std::optional<place> parse_place(std::span<const std::string> words) {
  if (words.empty() || words.size() > 3)
    return std::nullopt;
  place p;
  const auto first = parse_number(words[0]);
  if (!first)
    return std::nullopt;
  p.first = *first;
  std::size_t at = 1;
  if (at < words.size()) {
    if (const auto mode = parse_dust_mode(words[at])) {
      p.mode = *mode;
      ++at;
    }
  }
  if (at < words.size()) {
    const auto count = parse_number(words[at++]);
    if (!count)
      return std::nullopt;
    p.count = *count;
  }
  return at == words.size() ? std::optional(p) : std::nullopt;
}

tl::unexpected<error> usage(const std::string& what) {
  return fail("dust-usage", what,
              "expected addbadblock|removebadblock SECTOR [read|write|both] [COUNT], queryblock SECTOR, "
              "countbadblocks, "
              "listbadblocks, clearbadblocks, enable, disable, heal on|off, delay SECTOR COUNT MILLISECONDS "
              "or status",
              exit_code::usage);
}

std::string sectors_text(std::uint64_t n) {
  return std::to_string(n) + (n == 1 ? " sector" : " sectors");
}

} // namespace

std::string to_text(dust_mode mode) {
  switch (mode) {
  case dust_mode::none:
    return "none";
  case dust_mode::read:
    return "read";
  case dust_mode::write:
    return "write";
  case dust_mode::both:
    return "both";
  }
  return "none";
}

std::optional<dust_mode> parse_dust_mode(const std::string& text) {
  for (const auto mode : {dust_mode::read, dust_mode::write, dust_mode::both})
    if (text == to_text(mode))
      return mode;
  return std::nullopt;
}

result<std::string> dust_control::range_command(std::span<const std::string> words) {
  const auto p = parse_place(words.subspan(1));
  if (!p)
    return usage(words[0]);
  if (words[0] == "queryblock") {
    CHECK_OK(check_range(p->first, 1));
    const dust_mode mode = query(p->first);
    return "sector " + std::to_string(p->first) +
           (mode == dust_mode::none ? " is good" : " is bad (" + to_text(mode) + ")");
  }
  const std::string where =
      sectors_text(p->count) + " from " + std::to_string(p->first) + " (" + to_text(p->mode) + ")";
  if (words[0] == "addbadblock") {
    CHECK_OK(add(p->first, p->count, p->mode));
    return "bad: " + where;
  }
  CHECK_OK(remove(p->first, p->count, p->mode));
  return "good: " + where;
}

result<std::string> dust_control::command(std::span<const std::string> words) {
  if (words.empty())
    return usage("dust");
  const std::string& verb = words[0];
  if (verb == "addbadblock" || verb == "removebadblock" || verb == "queryblock")
    return range_command(words);
  if (verb == "heal" && words.size() == 2 && (words[1] == "on" || words[1] == "off")) {
    set_heal(words[1] == "on");
    return "heal " + words[1];
  }
  if (verb == "delay" && words.size() == 4) {
    const auto first = parse_number(words[1]);
    const auto sectors = parse_number(words[2]);
    const auto delay = parse_number(words[3]);
    if (!first || !sectors || !delay || *delay > 3600'000)
      return usage(verb);
    CHECK_OK(set_read_delay(*first, *sectors, std::chrono::milliseconds(static_cast<std::int64_t>(*delay))));
    return "delay " + words[3] + " ms: " + sectors_text(*sectors) + " from " + words[1];
  }
  if (words.size() != 1)
    return usage(verb);
  if (verb == "countbadblocks")
    return std::to_string(count());
  if (verb == "clearbadblocks")
    return "cleared " + sectors_text(clear());
  if (verb == "enable" || verb == "disable") {
    enable(verb == "enable");
    return verb + "d";
  }
  if (verb == "listbadblocks") {
    std::string out;
    for (const auto& r : list())
      out += std::to_string(r.first) + " " + to_text(r.mode) + " " + std::to_string(r.count) + "\n";
    return out;
  }
  if (verb == "status")
    return std::string(enabled() ? "enabled" : "disabled") + ", " + sectors_text(count()) +
           " bad, failed reads " + std::to_string(failed_reads()) + ", failed writes " +
           std::to_string(failed_writes());
  return usage(verb);
}

result<void> dust_control::load(const std::string& text, const std::string& name) {
  std::istringstream lines(text);
  std::vector<place> places;
  std::string line;
  for (std::uint64_t number = 1; std::getline(lines, line); ++number) {
    std::istringstream stream(line.substr(0, line.find('#')));
    std::vector<std::string> words;
    for (std::string word; stream >> word;)
      words.push_back(word);
    if (words.empty())
      continue;
    const auto p = parse_place(words);
    if (!p || !check_range(p->first, p->count))
      return fail("bad-dust-file", name + ":" + std::to_string(number),
                  "expected SECTOR [read|write|both] [COUNT] within the member's " +
                      std::to_string(sectors_) + " sectors");
    places.push_back(*p);
  }
  for (const auto& p : places)
    CHECK_OK(add(p.first, p.count, p.mode));
  return {};
}

} // namespace dmremap
