// SPDX-License-Identifier: GPL-2.0-or-later
// The metadata of dm-remap 4, read only. Its structure has 84,288 bytes, little-endian: a header of 40 bytes
// (magic, version, sequence, time, checksum, number of the copy, size), 200 of devices, 56 of health, 16 of
// the table's head, and 2048 entries of 40 bytes (sector of main, sector of the spare, time, counts, flags).
#include "engine/member.h"
#include "engine/units.h"
#include "recover/import_lists.h"

#include <cstring>
#include <zlib.h>

namespace dmremap::recover {
namespace {

constexpr std::size_t structure_bytes = 84288, entries_at = 312, entry_bytes = 40, most_entries = 2048;
constexpr std::size_t checksum_at = 24, copy_at = 28, main_sectors_at = 120, active_at = 296;

template <class Number>
Number number_at(const std::vector<std::byte>& bytes, std::size_t at) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < sizeof(Number); ++i)
    value |= std::to_integer<std::uint64_t>(bytes[at + i]) << (8 * i);
  return static_cast<Number>(value);
}

/// The kernel's crc32() from 0, which turns no bits at the beginning and the end, over all but the checksum.
std::uint32_t checksum_of(const std::vector<std::byte>& bytes, std::uint8_t copy) {
  auto with = bytes;
  with[copy_at] = std::byte{copy};
  const auto* data = reinterpret_cast<const Bytef*>(with.data());
  const uLong first = ::crc32(0xFFFFFFFFu, data, checksum_at);
  const uLong all = ::crc32(first, data + copy_at, static_cast<uInt>(structure_bytes - copy_at));
  return ~static_cast<std::uint32_t>(all);
}

std::optional<v4_table> table_at(store& spare, std::uint64_t sector) {
  std::vector<std::byte> bytes(align_up(structure_bytes, unit_bytes));
  const std::uint64_t at = sector * sector_bytes;
  if (at + bytes.size() > spare.size() || !spare.read(bytes, at) || number_at<std::uint32_t>(bytes, 4) != 4)
    return std::nullopt;
  const auto wanted = number_at<std::uint32_t>(bytes, checksum_at);
  bool right = checksum_of(bytes, std::to_integer<std::uint8_t>(bytes[copy_at])) == wanted;
  for (std::uint8_t copy = 0; copy < 5 && !right; ++copy) // it may have been taken before the number was set
    right = checksum_of(bytes, copy) == wanted;
  const auto active = number_at<std::uint32_t>(bytes, active_at);
  if (!right || active > most_entries)
    return std::nullopt;
  v4_table out;
  out.main_sectors = number_at<std::uint64_t>(bytes, main_sectors_at);
  out.sequence = number_at<std::uint64_t>(bytes, 8);
  for (std::size_t n = 0; n < active; ++n)
    out.remaps.push_back({number_at<std::uint64_t>(bytes, entries_at + n * entry_bytes),
                          number_at<std::uint64_t>(bytes, entries_at + n * entry_bytes + 8)});
  return out;
}

} // namespace

result<v4_table> read_v4(store& spare) {
  std::optional<v4_table> newest;
  for (const std::uint64_t sector : upstream_v4_copies(spare))
    if (auto found = table_at(spare, sector); found && (!newest || found->sequence > newest->sequence))
      newest = std::move(found);
  if (!newest)
    return fail("no-v4-metadata", spare.identity().path,
                "has no copy of dm-remap 4's metadata whose checksum is right");
  return std::move(*newest);
}

} // namespace dmremap::recover
