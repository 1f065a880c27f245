// SPDX-License-Identifier: GPL-2.0-or-later
// What a spare remembers of its main, and whether a main is that one (promise 7).
#include "engine/disk_impl.h"
#include "engine/main_match.h"

namespace dmremap {
namespace {

std::string mismatch(const superblock& s, store& main) {
  const main_match m = match_main(s, main);
  if (m.device == main_match::identity::differs)
    return m.difference;
  if (m.wrong != 0)
    return std::to_string(m.wrong) + " of " + std::to_string(m.taken) +
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

/// A spare that was restored from a copy, or belongs to another day, would bring old data back. What this
/// host saw was durable on all that held the session before it was told; one that was only being given it, as
/// it came back, may be older.
result<void> disk::impl::check_age(std::span<const std::unique_ptr<spare_metadata>> spares,
                                   const set_record& record, const open_options& options) {
  if (!options.last_seen)
    return {};
  const char* const sure = "; if you are sure, open it with -o accept_older. Nothing was written";
  if (record.newest.sequence_end < *options.last_seen)
    return fail("spare-older", record.newest.set_name,
                std::string("its metadata is older than what this host saw of the set before: a spare is "
                            "missing, or was restored from a copy") +
                    sure,
                exit_code::damaged);
  for (const auto& m : spares)
    if (m->super.session == record.newest.session && m->super.sequence_end < *options.last_seen)
      return fail("spare-older", m->path(),
                  std::string("is older than what this host saw of set ") + record.newest.set_name +
                      " before: it was restored from a copy" + sure,
                  exit_code::damaged);
  return {};
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
