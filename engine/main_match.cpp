// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/main_match.h"

#include <algorithm>
#include <array>

namespace dmremap {
namespace {

/// The CRC32 of a unit of zeros: what most of a new disk is made of, so it tells nothing.
std::uint32_t blank_sample() {
  static const std::uint32_t crc = crc32_of(std::array<std::byte, unit_bytes>{});
  return crc;
}

void compare_devices(const superblock& record, const store_identity& found, main_match& m) {
  struct pair {
    const char* what;
    const std::string &remembered, &found;
  };
  for (const pair& p :
       {pair{"serial number", record.main_serial, found.serial}, pair{"WWN", record.main_wwn, found.wwn},
        pair{"partition UUID", record.main_partuuid, found.partuuid}}) {
    if (p.remembered.empty() || p.found.empty())
      continue;
    if (p.remembered != p.found && m.device != main_match::identity::differs) {
      m.device = main_match::identity::differs;
      m.difference = std::string(p.what) + " " + p.found + ", the set's main has " + p.remembered;
    } else if (m.device == main_match::identity::unknown) {
      m.device = main_match::identity::same;
    }
  }
}

void compare_content(const superblock& record, store& main, main_match& m) {
  for (unsigned i = 0; i < record.samples.size(); ++i) {
    if ((record.sample_mask >> i & 1) == 0)
      continue;
    const auto sample = take_sample(main, record.main_sectors, i);
    if (!sample)
      continue; // a sector that went bad meanwhile is what this program is for
    ++m.taken;
    m.wrong += *sample != record.samples[i] ? 1u : 0u;
    m.telling += *sample == record.samples[i] && *sample != blank_sample() ? 1u : 0u;
  }
}

} // namespace

std::optional<std::uint32_t> take_sample(store& main, std::uint64_t main_sectors, unsigned index) {
  const std::uint64_t units = main_sectors / unit_sectors;
  if (units == 0)
    return std::nullopt;
  block_bytes bytes;
  if (!main.read(bytes.span(), sample_unit(units, index).value * unit_bytes))
    return std::nullopt;
  return crc32_of(bytes.span());
}

main_match match_main(const superblock& record, store& main) {
  main_match m;
  m.size_fits = main.size() / sector_bytes == record.main_sectors;
  compare_devices(record, main.identity(), m);
  m.samples_valid = record.samples_valid; // else written since: content proves nothing
  if (m.size_fits && m.samples_valid)
    compare_content(record, main, m);
  return m;
}

bool looks_like_spare(store& main) {
  for (unsigned copy = 0; copy < fixed_supers; ++copy) {
    const spare_unit place = geometry{}.super_place(copy);
    block_bytes bytes;
    if (byte_of(place) + unit_bytes <= main.size() && main.read(bytes.span(), byte_of(place)) &&
        decode_superblock(bytes, copy, place))
      return true;
  }
  return false;
}

} // namespace dmremap
