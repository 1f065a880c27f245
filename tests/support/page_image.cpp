// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/page_image.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace dmremap::test {

namespace {

std::uint64_t mix(std::uint64_t value) {
  value ^= value >> 32;
  value *= 0xd6e8feb86659fd93ull;
  value ^= value >> 32;
  value *= 0xd6e8feb86659fd93ull;
  return value ^ (value >> 32);
}

/// Four lanes, so that the multiplications overlap; 0 where all bytes are 0.
std::uint64_t hash_page(const std::array<std::byte, page_bytes>& data) {
  std::uint64_t lanes[4] = {1, 2, 3, 4};
  std::uint64_t any = 0;
  for (std::size_t at = 0; at < page_bytes; at += 32) {
    std::uint64_t words[4];
    std::memcpy(words, data.data() + at, sizeof words);
    for (unsigned i = 0; i < 4; ++i) {
      any |= words[i];
      lanes[i] = std::rotl((lanes[i] ^ words[i]) * 0x9e3779b97f4a7c15ull, 29);
    }
  }
  if (any == 0)
    return 0;
  std::uint64_t sum = 0;
  for (std::uint64_t lane : lanes)
    sum = mix(sum ^ lane) + lane;
  return sum == 0 ? 1 : sum;
}

} // namespace

page::page(std::span<const std::byte, page_bytes> bytes) {
  std::copy(bytes.begin(), bytes.end(), data.begin());
}

std::uint64_t page::hash() const {
  if (!hashed_.load(std::memory_order_acquire)) {
    hash_.store(hash_page(data), std::memory_order_relaxed);
    hashed_.store(true, std::memory_order_release);
  }
  return hash_.load(std::memory_order_relaxed);
}

page_image::page_image(std::uint64_t size) : size_(size) {
  leaves_.resize((pages() + leaf_pages - 1) / leaf_pages);
}

const page* page_image::at(std::uint64_t number) const {
  const auto& holder = leaves_.at(number / leaf_pages);
  return holder ? holder->pages[number % leaf_pages].get() : nullptr;
}

page_ptr page_image::share(std::uint64_t number) const {
  const auto& holder = leaves_.at(number / leaf_pages);
  return holder ? holder->pages[number % leaf_pages] : nullptr;
}

void page_image::set(std::uint64_t number, page_ptr content) {
  auto& holder = leaves_.at(number / leaf_pages);
  auto changed = holder ? std::make_shared<leaf>(*holder) : std::make_shared<leaf>();
  changed->pages[number % leaf_pages] = std::move(content);
  holder = std::move(changed);
}

void page_image::set_sectors(std::uint64_t number, const page_ptr& content, unsigned mask) {
  if ((mask & 0xFF) == 0xFF) {
    set(number, content);
    return;
  }
  auto merged = std::make_shared<page>();
  if (const page* old = at(number))
    merged->data = old->data;
  constexpr std::size_t sector = page_bytes / page_sectors;
  for (unsigned i = 0; i < page_sectors; ++i) {
    if ((mask >> i & 1) == 0)
      continue;
    if (content)
      std::memcpy(merged->data.data() + i * sector, content->data.data() + i * sector, sector);
    else
      std::memset(merged->data.data() + i * sector, 0, sector);
  }
  set(number, std::move(merged));
}

void page_image::read(std::span<std::byte> buffer, std::uint64_t offset) const {
  for (std::size_t done = 0; done < buffer.size();) {
    const std::uint64_t within = (offset + done) % page_bytes;
    const std::size_t now = std::min<std::size_t>(buffer.size() - done, page_bytes - within);
    if (const page* held = at((offset + done) / page_bytes))
      std::memcpy(buffer.data() + done, held->data.data() + within, now);
    else
      std::memset(buffer.data() + done, 0, now);
    done += now;
  }
}

void page_image::write(std::span<const std::byte> buffer, std::uint64_t offset) {
  for (std::size_t done = 0; done < buffer.size();) {
    const std::uint64_t number = (offset + done) / page_bytes;
    const std::uint64_t within = (offset + done) % page_bytes;
    const std::size_t now = std::min<std::size_t>(buffer.size() - done, page_bytes - within);
    auto fresh = std::make_shared<page>();
    if (const page* old = at(number); old != nullptr && now != page_bytes)
      fresh->data = old->data;
    std::memcpy(fresh->data.data() + within, buffer.data() + done, now);
    set(number, std::move(fresh));
    done += now;
  }
}

void page_image::zero(std::uint64_t offset, std::uint64_t length) {
  static constexpr std::array<std::byte, page_bytes> zeros{};
  for (std::uint64_t done = 0; done < length;) {
    const std::uint64_t within = (offset + done) % page_bytes;
    const std::uint64_t now = std::min(length - done, page_bytes - within);
    if (now == page_bytes)
      set((offset + done) / page_bytes, nullptr);
    else
      write(std::span(zeros).first(now), offset + done);
    done += now;
  }
}

std::uint64_t page_image::leaf_hash(std::size_t index) const {
  const auto& holder = leaves_[index];
  if (!holder)
    return 1;
  std::uint64_t known = holder->hash.load(std::memory_order_relaxed);
  if (known != 0)
    return known;
  std::uint64_t sum = 0;
  for (unsigned i = 0; i < leaf_pages; ++i)
    if (const page* held = holder->pages[i].get())
      if (const std::uint64_t content = held->hash())
        sum += mix(content + i * 0x9e3779b97f4a7c15ull);
  known = sum == 0 ? 1 : sum;
  holder->hash.store(known, std::memory_order_relaxed);
  return known;
}

std::uint64_t page_image::hash() const {
  std::uint64_t sum = mix(size_ + 1);
  for (std::size_t i = 0; i < leaves_.size(); ++i)
    sum = std::rotl(sum, 7) * 0x9e3779b97f4a7c15ull + leaf_hash(i);
  return mix(sum);
}

} // namespace dmremap::test
