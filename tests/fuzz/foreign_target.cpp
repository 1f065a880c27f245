// SPDX-License-Identifier: GPL-2.0-or-later
// What other programs wrote: signatures on a device that is to become a member, and the statistics segment of
// a daemon. An input: kind 1 byte, size 1 byte; then pieces: place 2 bytes, length 1 byte, the bytes.
#include "engine/codec.h"
#include "engine/member.h"
#include "engine/stats_segment.h"
#include "engine/unique_fd.h"
#include "engine/wipe.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/memory_store.h"
#include "tests/support/temp_dir.h"

#include <algorithm>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

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

} // namespace

void run_foreign(input_bytes bytes) {
  input in(bytes);
  const unsigned kind = in.byte() % 4;
  if (kind == 3)
    return statistics(in);
  probe(in, kind != 0);
}

} // namespace dmremap::fuzz
