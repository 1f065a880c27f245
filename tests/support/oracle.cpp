// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/oracle.h"

#include <algorithm>
#include <cstring>

namespace dmremap::test {

namespace {

constexpr std::size_t tag_sector_bytes = 512;
constexpr std::uint64_t tag_magic = 0x6761742d72746376ull;

} // namespace

void fill_tag(std::span<std::byte> bytes, std::uint64_t sector, version v) {
  if (v == zeros_version) {
    std::fill(bytes.begin(), bytes.end(), std::byte{0});
    return;
  }
  std::uint64_t words[tag_sector_bytes / 8];
  words[0] = tag_magic;
  words[1] = sector;
  words[2] = v;
  std::uint64_t x = (sector + 1) * 0x9e3779b97f4a7c15ull ^ (v * 0xd6e8feb86659fd93ull);
  for (std::size_t i = 3; i < std::size(words); ++i) {
    x = x * 6364136223846793005ull + 1442695040888963407ull;
    words[i] = x;
  }
  std::memcpy(bytes.data(), words, tag_sector_bytes);
}

void fill_tags(std::span<std::byte> bytes, std::uint64_t first_sector, version v) {
  for (std::size_t at = 0; at < bytes.size(); at += tag_sector_bytes)
    fill_tag(bytes.subspan(at, tag_sector_bytes), first_sector + at / tag_sector_bytes, v);
}

version read_tag(std::span<const std::byte> bytes, std::uint64_t sector) {
  std::uint64_t head[3];
  std::memcpy(head, bytes.data(), sizeof head);
  std::byte expected[tag_sector_bytes];
  const version claimed =
      head[0] == tag_magic && head[1] == sector ? static_cast<version>(head[2]) : zeros_version;
  fill_tag(expected, sector, claimed);
  return std::memcmp(expected, bytes.data(), tag_sector_bytes) == 0 ? claimed : garbage_version;
}

std::string name_of_version(version v) {
  if (v == lost_version)
    return "an error";
  if (v == garbage_version)
    return "bytes never written to it";
  if (v == zeros_version)
    return "zeros";
  return "version " + std::to_string(v);
}

oracle::oracle(std::uint64_t sectors, version initial) : history_(sectors) {
  for (sector_history& history : history_)
    history.candidates.push_back({initial, 1, false});
  if (initial != lost_version && initial != garbage_version)
    last_version_ = initial;
}

void oracle::forget_before(sector_history& history, std::size_t index) {
  history.candidates.erase(history.candidates.begin(),
                           history.candidates.begin() + static_cast<std::ptrdiff_t>(index));
}

void oracle::begin(std::uint64_t first, std::uint64_t count, version v) {
  for (std::uint64_t s = first; s < first + count; ++s)
    history_.at(s).candidates.push_back({v, 0, false});
}

void oracle::acknowledge(std::uint64_t first, std::uint64_t count) {
  ++clock_;
  for (std::uint64_t s = first; s < first + count; ++s)
    history_.at(s).candidates.back().acknowledged = clock_;
}

void oracle::give_up(std::uint64_t, std::uint64_t) {}

void oracle::withdraw(std::uint64_t first, std::uint64_t count) {
  for (std::uint64_t s = first; s < first + count; ++s)
    if (history_.at(s).candidates.back().acknowledged == 0)
      history_.at(s).candidates.pop_back();
}

void oracle::make_durable(std::uint64_t first, std::uint64_t count) {
  for (std::uint64_t s = first; s < first + count; ++s) {
    sector_history& history = history_.at(s);
    for (std::size_t i = history.candidates.size(); i-- > 0;) {
      if (history.candidates[i].acknowledged == 0)
        continue;
      forget_before(history, i);
      break;
    }
  }
}

std::uint64_t oracle::begin_flush() {
  return ++clock_;
}

void oracle::end_flush(std::uint64_t begun) {
  for (sector_history& history : history_) {
    std::size_t newest = 0;
    for (std::size_t i = 0; i < history.candidates.size(); ++i)
      if (history.candidates[i].acknowledged != 0 && history.candidates[i].acknowledged < begun &&
          !history.candidates[i].given_up)
        newest = i;
    forget_before(history, newest);
  }
}

void oracle::fail_flush(std::uint64_t begun) {
  for (sector_history& history : history_)
    for (std::size_t i = 1; i < history.candidates.size(); ++i)
      if (history.candidates[i].acknowledged != 0 && history.candidates[i].acknowledged < begun)
        history.candidates[i].given_up = true;
}

void oracle::leave_behind(std::uint64_t first, std::uint64_t count) {
  for (std::uint64_t s = first; s < first + count; ++s)
    for (std::size_t i = 1; i < history_.at(s).candidates.size(); ++i)
      history_.at(s).candidates[i].given_up = true;
}

void oracle::doubt(std::uint64_t sector) {
  sector_history& history = history_.at(sector);
  for (candidate& each : history.candidates)
    each.acknowledged = 0;
  history.candidates.front().acknowledged = 1;
}

void oracle::set_unreadable(std::uint64_t first, std::uint64_t count, bool unreadable) {
  for (std::uint64_t s = first; s < first + count; ++s)
    history_.at(s).unreadable = unreadable;
}

std::string oracle::expected(const sector_history& history, std::size_t from) const {
  std::string text;
  for (std::size_t i = from; i < history.candidates.size(); ++i)
    text += (text.empty() ? "" : " or ") + name_of_version(history.candidates[i].value);
  if (history.unreadable)
    text += " or an error";
  return text;
}

std::optional<std::string> oracle::check_after_crash(std::uint64_t sector, version seen) const {
  const sector_history& history = history_.at(sector);
  if (seen == lost_version && history.unreadable)
    return std::nullopt;
  for (const candidate& c : history.candidates)
    if (c.value == seen)
      return std::nullopt;
  return "sector " + std::to_string(sector) + " shows " + name_of_version(seen) + " after the crash, not " +
         expected(history, 0);
}

std::optional<std::string> oracle::check_now(std::uint64_t sector, version seen) const {
  const sector_history& history = history_.at(sector);
  if (seen == lost_version && history.unreadable)
    return std::nullopt;
  std::size_t from = 0;
  for (std::size_t i = 0; i < history.candidates.size(); ++i)
    if (history.candidates[i].acknowledged != 0)
      from = i;
  for (std::size_t i = from; i < history.candidates.size(); ++i)
    if (history.candidates[i].value == seen)
      return std::nullopt;
  return "sector " + std::to_string(sector) + " shows " + name_of_version(seen) + ", not " +
         expected(history, from);
}

version oracle::current(std::uint64_t sector) const {
  const sector_history& history = history_.at(sector);
  for (std::size_t i = history.candidates.size(); i-- > 0;)
    if (history.candidates[i].acknowledged != 0)
      return history.candidates[i].value;
  return history.candidates.front().value;
}

void oracle::settle(std::uint64_t sector, version seen) {
  sector_history& history = history_.at(sector);
  history.candidates.assign(1, candidate{seen, 1, false});
}

} // namespace dmremap::test
