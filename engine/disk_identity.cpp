// SPDX-License-Identifier: GPL-2.0-or-later
// What a spare remembers of its main, and whether a main is that one (promise 7).
#include "engine/disk_impl.h"

namespace dmremap {
namespace {

/// CRC32 of one sampled unit of main; nothing where it cannot be read.
std::optional<std::uint32_t> take_sample(store& main, std::uint64_t main_sectors, unsigned index) {
  const std::uint64_t units = main_sectors / unit_sectors;
  if (units == 0)
    return std::nullopt;
  block_bytes bytes;
  if (!main.read(bytes.span(), sample_unit(units, index).value * unit_bytes))
    return std::nullopt;
  return crc32_of(bytes.span());
}

bool differs(const std::string& remembered, const std::string& found) {
  return !remembered.empty() && !found.empty() && remembered != found;
}

/// Superblocks of a spare at the front of what should be main: the two were swapped, or it is some set's
/// spare.
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

std::string mismatch(const superblock& s, store& main) {
  const store_identity& found = main.identity();
  if (differs(s.main_serial, found.serial))
    return "serial number " + found.serial + ", the set's main has " + s.main_serial;
  if (differs(s.main_wwn, found.wwn))
    return "WWN " + found.wwn + ", the set's main has " + s.main_wwn;
  if (differs(s.main_partuuid, found.partuuid))
    return "partition UUID " + found.partuuid + ", the set's main has " + s.main_partuuid;
  if (!s.samples_valid)
    return {}; // written since: content proves nothing
  unsigned taken = 0, wrong = 0;
  for (unsigned i = 0; i < s.samples.size(); ++i) {
    if ((s.sample_mask >> i & 1) == 0)
      continue;
    const auto sample = take_sample(main, s.main_sectors, i);
    if (!sample)
      continue; // a sector that went bad meanwhile is what this program is for
    ++taken;
    wrong += *sample != s.samples[i] ? 1u : 0u;
  }
  if (wrong != 0)
    return std::to_string(wrong) + " of " + std::to_string(taken) +
           " content samples differ from what main held when the set was last closed";
  return {};
}

} // namespace

void record_main(superblock& s, store& main, const std::function<bool(main_unit)>& skip) {
  const store_identity& identity = main.identity();
  s.main_sectors = main.size() / sector_bytes;
  s.main_block_device = identity.block_device;
  s.main_block_size = main.block_size();
  s.main_serial = identity.serial;
  s.main_wwn = identity.wwn;
  s.main_partuuid = identity.partuuid;
  s.sample_mask = 0;
  for (unsigned i = 0; i < s.samples.size(); ++i) {
    s.samples[i] = 0;
    const std::uint64_t units = s.main_sectors / unit_sectors;
    if (units == 0 || skip(sample_unit(units, i)))
      continue;
    if (const auto sample = take_sample(main, s.main_sectors, i)) {
      s.samples[i] = *sample;
      s.sample_mask |= 1u << i;
    }
  }
  s.samples_valid = true;
}

void disk::impl::describe_main(superblock& s) {
  record_main(s, *main.io, [this](main_unit u) { return set->lookup(u).present(); });
  s.read_errors += counts.main_read_errors + counts.spare_read_errors;
  s.write_errors += counts.main_write_errors + counts.spare_write_errors;
}

result<void> disk::impl::check_not_spare(store& main, const open_options& options) {
  if (looks_like_spare(main) && !options.accept_main)
    return fail(
        "main-is-spare", main.identity().path,
        "carries dmremap metadata, so it is a spare; were main and spare swapped? Nothing was written");
  return {};
}

/// A spare that was restored from a copy, or belongs to another day, would bring old data back.
result<void> disk::impl::check_age(const superblock& s, const open_options& options) {
  if (!options.last_seen || s.sequence_end >= *options.last_seen)
    return {};
  return fail(
      "spare-older", s.set_name,
      "its metadata is older than what this host saw of the set before: a spare is missing, or was restored "
      "from a copy; if you are sure, open it with -o accept_older. Nothing was written",
      exit_code::damaged);
}

result<void> disk::impl::check_main(const superblock& s, store& main, const open_options& options,
                                    std::vector<std::string>& notices) {
  const std::string& path = main.identity().path;
  if (main.size() / sector_bytes != s.main_sectors)
    return fail("main-wrong-size", path,
                "has " + std::to_string(main.size() / sector_bytes) + " sectors, the main of set " +
                    s.set_name + " has " + std::to_string(s.main_sectors) + "; nothing was written");
  const std::string evidence = mismatch(s, main);
  if (evidence.empty())
    return {};
  if (!options.accept_main)
    return fail("main-mismatch", path,
                "is not the main of set " + s.set_name + ": " + evidence +
                    "; if you are sure that it is, open it with -o accept_main. Nothing was written");
  notices.push_back("main was accepted by hand although it does not match: " + evidence);
  return {};
}

} // namespace dmremap
