// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "admin/context.h"
#include "engine/error.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

/// The commands of `dmremap`, one function each. Every one prints its report and returns the exit status; an
/// error is returned, not printed. NAME is the name or the UUID of a set.
namespace dmremap::admin {

struct create_options {
  std::string name;
  std::string main;
  std::vector<std::string> spares;
  std::string table;             ///< instead of main and spares
  std::vector<std::string> wipe; ///< types of signatures that may go
  std::string destroy_set;       ///< UUID of a set that may go
  bool sparse = false;           ///< spare files are left with the space that they have
  bool no_persist = false;
  bool no_udev = false; ///< keeps a configuration, but no udev rule
  bool dry_run = false;
};
[[nodiscard]] result<exit_code> create(context&, const create_options&);

struct list_options {
  bool all = false;
};
[[nodiscard]] result<exit_code> list(context&, const list_options&);

struct report_options {
  std::string name;
  std::string format;
  std::uint64_t block_size = 4096; ///< of badblocks lists
  bool files = false;              ///< lost: the files that the sectors belong to
  int progress = -1;               ///< lost: descriptor that gets lines "DONE ALL"
};
[[nodiscard]] result<exit_code> status(context&, const report_options&);
[[nodiscard]] result<exit_code> stats(context&, const report_options&);
[[nodiscard]] result<exit_code> table(context&, const report_options&);
[[nodiscard]] result<exit_code> lost(context&, const report_options&);

struct attach_options {
  std::string name; ///< empty: all
  std::string mountpoint;
  bool degraded = false;     ///< also with spares absent
  bool accept_older = false; ///< also with spares older than what this host saw last
  bool accept_main = false;  ///< also where main does not match
  bool dry_run = false;
};
[[nodiscard]] result<exit_code> attach(context&, const attach_options&);
[[nodiscard]] result<exit_code> detach(context&, const attach_options&);

struct sector_options {
  std::string name;
  std::string sector; ///< a number
  bool dry_run = false;
};
[[nodiscard]] result<exit_code> remap(context&, const sector_options&);
[[nodiscard]] result<exit_code> unmap(context&, const sector_options&);
struct salvage_options {
  std::string name;
  std::string sector; ///< a number or "all"
  bool dry_run = false;
  int progress = -1; ///< descriptor that gets lines "DONE ALL"
};
[[nodiscard]] result<exit_code> salvage(context&, const salvage_options&);
struct sync_options {
  std::string name;
  bool dry_run = false;
};
[[nodiscard]] result<exit_code> sync(context&, const sync_options&);
struct set_options {
  std::string name;
  std::string setting; ///< KEY=VALUE
  bool dry_run = false;
};
[[nodiscard]] result<exit_code> set(context&, const set_options&);
/// `key` empty: all.
[[nodiscard]] result<exit_code> get(context&, const std::string& name, const std::string& key);
[[nodiscard]] result<exit_code> message(context&, const std::string& name, const std::string& sector,
                                        const std::vector<std::string>& words);
[[nodiscard]] result<exit_code> dust(context&, const std::string& name, const std::string& store,
                                     const std::vector<std::string>& words);
struct spare_options {
  std::string operation; ///< list, add, remove, evacuate, forget
  std::string name;
  std::string member;            ///< of all but list: a member, or what names a spare of the set
  std::vector<std::string> wipe; ///< add: types of signatures that may go
  std::string destroy_set;       ///< add: UUID of a set that may go
  bool sparse = false;           ///< add: a file is left with the space that it has
  bool dry_run = false;
  bool yes = false;     ///< forget: do not ask
  bool partial = false; ///< evacuate: as many units as the others have room for
  bool cancel = false;  ///< evacuate: stop it, and let the spare take new data again
  int progress = -1;    ///< evacuate: descriptor that gets lines "DONE ALL"
};
[[nodiscard]] result<exit_code> spare(context&, const spare_options&);

/// What is wrong and what to do next. `name` empty: of every set.
[[nodiscard]] result<exit_code> doctor(context&, const std::string& name);

struct rename_options {
  std::string name, new_name;
  bool dry_run = false;
};
[[nodiscard]] result<exit_code> rename(context&, const rename_options&);

struct destroy_options {
  std::string name;
  bool write_back = false;
  std::string abandon; ///< UUID
  int progress = -1;   ///< of writing back: descriptor that gets lines "DONE ALL"
  bool dry_run = false;
};
[[nodiscard]] result<exit_code> destroy(context&, const destroy_options&);

} // namespace dmremap::admin
