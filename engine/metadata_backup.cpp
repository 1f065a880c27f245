// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/metadata_backup.h"

#include "engine/durable_file.h"
#include "engine/paths.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace dmremap {

std::string backup_path(const std::string& uuid) {
  return state_dir() + "/backup/" + uuid + ".dump";
}

result<bool> keep_backup(const set_dump& d) {
  std::size_t slots = 0;
  for (const auto& spare : d.spares)
    slots += spare.slots.size();
  if (slots > most_backup_slots)
    return false;
  const auto path = backup_path(to_text(d.newest().set_uuid));
  const auto unwritable = [&](const char* action, int number) {
    return fail("backup-unwritable", path,
                std::string("cannot ") + action + ": " + std::strerror(number) +
                    "; there is no backup of the metadata as it is now");
  };
  // The new one is whole before the one before moves: a full disk costs neither.
  const auto fresh = path + ".new";
  if (const auto written = write_durably(fresh, dump_text(d), existing_file::replace); !written)
    return unwritable(written.error().action, written.error().number);
  if (::rename(path.c_str(), (path + ".1").c_str()) != 0 && errno != ENOENT)
    return unwritable("keep the one before", errno);
  if (::rename(fresh.c_str(), path.c_str()) != 0)
    return unwritable("put it in place", errno);
  if (const auto synced = sync_folder(path.substr(0, path.rfind('/'))); !synced)
    return unwritable(synced.error().action, synced.error().number);
  return true;
}

std::string backup_or_why(disk& set) {
  bool kept = false;
  if (set.stats().remapped_units <= most_backup_slots) { // else it is not even copied
    const auto done = keep_backup(*set.dump());
    if (!done)
      return done.error().text();
    kept = *done;
  }
  return kept ? ""
              : "no backup of the metadata was kept: there are too many remaps; " +
                    backup_path(set.info()->set_uuid) + " is older, where it is there";
}

} // namespace dmremap
