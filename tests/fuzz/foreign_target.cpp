// SPDX-License-Identifier: GPL-2.0-or-later
// What other programs wrote: signatures on a device that is to become a member, and the statistics segment of
// a daemon. An input: kind 1 byte, size 1 byte; then pieces: place 2 bytes, length 1 byte, the bytes.
// The tables of dm-remap 4 have a form of their own: see upstream_tables().
#include "engine/codec.h"
#include "engine/member.h"
#include "engine/stats_segment.h"
#include "engine/unique_fd.h"
#include "engine/wipe.h"
#include "recover/import_lists.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/memory_store.h"
#include "tests/support/temp_dir.h"

#include <algorithm>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

namespace dmremap::fuzz {
namespace {

using test::memory_store;
using test::page_image;

struct piece {
  std::size_t place;
  input_bytes bytes;
};

piece read_piece(input& in) {
  const std::size_t place = in.half();
  return {place, in.take(std::size_t{in.byte()} + 1)};
}

/// Places count in 64 bytes from the start; with the highest bit set, back from the end.
page_image device_of(input& in, std::uint64_t bytes) {
  page_image image(bytes);
  while (!in.empty()) {
    const piece p = read_piece(in);
    const std::uint64_t distance = (p.place & 0x7FFFU) * 64;
    if (distance >= bytes || p.bytes.empty())
      continue;
    const std::uint64_t at = (p.place & 0x8000U) == 0
                                 ? distance
                                 : bytes - distance - std::min<std::uint64_t>(bytes - distance, 64);
    image.write(std::as_bytes(p.bytes.first(std::min<std::size_t>(p.bytes.size(), bytes - at))), at);
  }
  return image;
}

/// Superblocks of ours: with a right checksum, so that they are looked into.
void seal_supers(page_image& image) {
  for (std::uint64_t unit = 0; unit < image.pages(); ++unit) {
    if (image.at(unit) == nullptr || (unit + 1) * unit_bytes > image.size())
      continue;
    auto block = std::make_unique<block_bytes>();
    image.read(block->span(), unit * unit_bytes);
    if (!hint_of_superblock(*block))
      continue;
    const std::uint32_t crc = crc32_of(block->span().subspan(4));
    std::memcpy(block->bytes.data(), &crc, sizeof crc); // the tests run on little-endian machines only
    image.write(block->span(), unit * unit_bytes);
  }
}

void probe(input& in, bool sealed) {
  const std::uint64_t size = std::uint64_t{1} << (16 + in.byte() % 6); // 64 KiB to 2 MiB
  page_image image = device_of(in, size);
  if (sealed)
    seal_supers(image);
  memory_store member(image);
  const auto found = probe_signatures(member);
  const auto own = probe_set_signatures(member);
  require(member.image().hash() == image.hash() && member.counts().writes == 0, "a probe writes nothing");
  if (!found)
    return require(!found.error().id.empty(), "an error says what it is");
  for (const auto& s : own)
    require(std::any_of(found->begin(), found->end(), [&](const signature& f) { return f.type == s.type; }),
            "the probe for everything finds sets, too");
  if (found->empty())
    return;
  for (const auto& s : *found)
    require(!s.type.empty(), "a signature has a type");
  if (const auto wiped = wipe_signatures(member); !wiped)
    return require(!wiped.error().id.empty(), "an error says what it is");
  const auto left = probe_signatures(member);
  require(left && left->empty(), "after a wipe nothing is found" +
                                     (left && !left->empty() ? ": " + left->front().type : std::string{}));
}

std::string make_segment() {
  const test::temp_dir folder;
  auto made = stats_segment::create(folder / "stats");
  require(made.has_value(), "a segment can be made");
  stats_snapshot snapshot;
  snapshot.name = "fuzz";
  snapshot.stats.state = "ok";
  (*made)->publish(snapshot);
  return test::slurp(folder / "stats");
}

void statistics(input& in) {
  static const std::string good = make_segment();
  static const unique_fd file(::memfd_create("dmremap-fuzz", MFD_CLOEXEC));
  std::string bytes = good;
  bytes.resize(bytes.size() - bytes.size() * in.byte() / 1024); // some are short
  while (!in.empty()) {
    const piece p = read_piece(in);
    const std::size_t at = p.place % bytes.size();
    std::copy_n(p.bytes.begin(), std::min(p.bytes.size(), bytes.size() - at),
                bytes.begin() + static_cast<std::ptrdiff_t>(at));
  }
  require(::ftruncate(file.get(), 0) == 0 &&
              ::pwrite(file.get(), bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()),
          "the segment can be written");
  const auto read = read_stats_segment("/proc/self/fd/" + std::to_string(file.get()));
  if (!read)
    return require(!read.error().id.empty(), "an error says what it is");
  require(bytes.size() == good.size(), "a segment that is cut short is refused");
  require(read->name.size() < 128 && read->dm_line.size() < 1024, "texts end where their room ends");
}

/// One copy of dm-remap 4's table.
struct upstream_copy {
  std::vector<std::uint8_t> bytes = std::vector<std::uint8_t>(84288);
  recover::v4_table table;
  bool sound = true;

  void put(std::size_t at, std::uint64_t value, unsigned size) {
    for (unsigned i = 0; i < size; ++i)
      bytes[at + i] = static_cast<std::uint8_t>(value >> (8 * i));
  }
};

/// How 1 byte (1: changed after its checksum was taken; 2: its number set after that), its number 1, version
/// 1, sequence 1, entries 2, sectors of main 8, then 8 entries of 16; place 2 and bits 1 of a change.
upstream_copy read_copy(input& in) {
  upstream_copy c;
  const unsigned how = in.byte(), number = in.byte() % 8, version = in.byte();
  c.table.sequence = in.byte();
  const std::size_t entries = in.half();
  c.table.main_sectors = in.number(8);
  c.put(0, 0x444D5234, 4);
  c.put(4, version, 4);
  c.put(8, c.table.sequence, 8);
  c.put(28, (how & 2) != 0 ? 0 : number, 1);
  c.put(120, c.table.main_sectors, 8);
  c.put(296, entries, 4);
  for (std::size_t n = 0; n < 8; ++n) {
    const recover::v4_remap one{in.number(8), in.number(8)};
    c.put(312 + 40 * n, one.main, 8);
    c.put(320 + 40 * n, one.spare, 8);
    if (n < entries)
      c.table.remaps.push_back(one);
  }
  c.sound = version == 4 && entries <= 2048;
  if (c.sound)
    c.table.remaps.resize(entries);
  const auto first = ::crc32(0xFFFFFFFFu, c.bytes.data(), 24);
  c.put(24, ~::crc32(first, c.bytes.data() + 28, static_cast<uInt>(c.bytes.size() - 28)), 4);
  c.put(28, number, 1);
  if (const std::size_t place = in.half(); (how & 1) != 0 && place != 28) {
    c.bytes[place % c.bytes.size()] ^= static_cast<std::uint8_t>(in.byte() | 1u);
    c.sound = false;
  }
  return c;
}

/// Size 1 byte, copies 1 byte (bit n: at sector 256 * n), then those.
void upstream_tables(input& in) {
  constexpr std::uint64_t room = 86016; // whole blocks
  const std::uint64_t size = std::uint64_t{65536} * (1 + in.byte() % 12);
  page_image image(size);
  const recover::v4_table* newest = nullptr;
  std::vector<upstream_copy> copies;
  copies.reserve(5);
  const unsigned there = in.byte();
  for (unsigned n = 0; n < 5; ++n) {
    const std::uint64_t at = std::uint64_t{131072} * n;
    if ((there >> n & 1) == 0 || at >= size)
      continue;
    const auto& c = copies.emplace_back(read_copy(in));
    const input_bytes bytes(c.bytes);
    image.write(std::as_bytes(bytes.first(std::min<std::size_t>(bytes.size(), size - at))), at);
    if (c.sound && at + room <= size && (newest == nullptr || c.table.sequence > newest->sequence))
      newest = &c.table;
  }
  memory_store spare(image);
  const auto found = recover::read_v4(spare);
  require(spare.counts().writes == 0, "a look writes nothing");
  require(found.has_value() == (newest != nullptr), "a sound copy is found, and no other");
  if (!found)
    return require(found.error().id == "no-v4-metadata" && !found.error().why.empty(),
                   "an error says what it is");
  require(found->sequence == newest->sequence && found->main_sectors == newest->main_sectors &&
              found->remaps.size() == newest->remaps.size(),
          "the newest copy counts");
  for (std::size_t n = 0; n < found->remaps.size(); ++n)
    require(found->remaps[n].main == newest->remaps[n].main &&
                found->remaps[n].spare == newest->remaps[n].spare,
            "a table says what stands in it");
}

} // namespace

void run_foreign(input_bytes bytes) {
  input in(bytes);
  const unsigned first = in.byte(), kind = first % 4;
  if (first == 'v')
    return upstream_tables(in);
  if (kind == 3)
    return statistics(in);
  probe(in, kind != 0);
}

} // namespace dmremap::fuzz
