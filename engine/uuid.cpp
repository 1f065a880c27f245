// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/uuid.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/random.h>
#include <utility>

namespace dmremap {
namespace {

thread_local std::uint64_t* counted = nullptr; ///< tests only; see counted_numbers

/// Bits that look like any others, the same for one `n` in every process (splitmix64). Each n has its own.
std::uint64_t number_of(std::uint64_t n) {
  n = (n + 1) * 0x9e3779b97f4a7c15ull;
  n = (n ^ (n >> 30)) * 0xbf58476d1ce4e5b9ull;
  n = (n ^ (n >> 27)) * 0x94d049bb133111ebull;
  return n ^ (n >> 31);
}

void fill_random(void* out, std::size_t size) {
  auto* at = static_cast<char*>(out);
  for (; counted != nullptr && size > 0; size -= std::min(size, sizeof(std::uint64_t))) {
    const std::uint64_t number = number_of((*counted)++);
    std::memcpy(at, &number, std::min(size, sizeof number));
    at += std::min(size, sizeof number);
  }
  while (size > 0) {
    const ssize_t got = getrandom(at, size, 0);
    if (got < 0)
      continue; // EINTR is the only error that getrandom without flags can give
    at += got;
    size -= static_cast<std::size_t>(got);
  }
}

} // namespace

counted_numbers::counted_numbers(std::uint64_t& next) : before_(std::exchange(counted, &next)) {}

counted_numbers::~counted_numbers() {
  counted = before_;
}

uuid_bytes random_uuid() {
  uuid_bytes u;
  fill_random(u.data(), u.size());
  u[6] = static_cast<std::uint8_t>((u[6] & 0x0F) | 0x40);
  u[8] = static_cast<std::uint8_t>((u[8] & 0x3F) | 0x80);
  return u;
}

std::uint64_t random_u64() {
  std::uint64_t v = 0;
  while (v == 0)
    fill_random(&v, sizeof v);
  return v;
}

std::string to_text(const uuid_bytes& u) {
  std::string text;
  for (std::size_t i = 0; i < u.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10)
      text += '-';
    char pair[3];
    std::snprintf(pair, sizeof pair, "%02x", u[i]);
    text += pair;
  }
  return text;
}

std::optional<uuid_bytes> parse_uuid(const std::string& text) {
  if (text.size() != 36)
    return std::nullopt;
  const auto digit = [](char c) -> int {
    if (c >= '0' && c <= '9')
      return c - '0';
    if (c >= 'a' && c <= 'f')
      return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
      return c - 'A' + 10;
    return -1;
  };
  uuid_bytes u{};
  std::size_t at = 0;
  for (std::size_t i = 0; i < text.size();) {
    if (i == 8 || i == 13 || i == 18 || i == 23) {
      if (text[i++] != '-')
        return std::nullopt;
      continue;
    }
    const int high = digit(text[i]), low = digit(text[i + 1]);
    if (high < 0 || low < 0)
      return std::nullopt;
    u[at++] = static_cast<std::uint8_t>(high * 16 + low);
    i += 2;
  }
  return u;
}

std::uint64_t low_half(const uuid_bytes& u) {
  std::uint64_t v = 0;
  for (std::size_t i = 8; i-- > 0;)
    v = v << 8 | u[i];
  return v;
}

} // namespace dmremap
