// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"

#include <functional>
#include <string>
#include <vector>

namespace dmremap {

/// What conf_dir()/sets.d/NAME.conf says of a set, so that it can be attached again tomorrow.
///
/// The file is text, one "key = value" a line; blank lines and lines that start with '#' are skipped, blanks
/// around key and value too. Keys: name, uuid, main (once each), spare (once or more), options
/// (comma-separated options of fusedisk; may be repeated). A key that is not known is an error that names the
/// line.
struct set_config {
  std::string name, uuid;
  std::string main;                 ///< as parse_member takes it
  std::vector<std::string> spares;  ///< likewise, in the order of the set
  std::vector<std::string> options; ///< "key=value" or "key"
};

/// All that sets.d holds: what could be read, and what could not.
struct config_list {
  std::vector<set_config> sets; ///< by name
  std::vector<error> bad;
};

/// Errors: "bad-config" (what is the file and the line). `path` is for messages only.
[[nodiscard]] result<set_config> parse_set_config(const std::string& text, const std::string& path);
/// The file's text; parse_set_config gives the same set_config back. Errors: "bad-config-value" (a value that
/// a line cannot hold), "bad-name".
[[nodiscard]] result<std::string> format_set_config(const set_config& config);

/// Errors: "no-such-set" (no file), "bad-config", "no-permission", "config-io".
[[nodiscard]] result<set_config> load_set_config(const std::string& name);
/// No folder: an empty list.
[[nodiscard]] config_list list_set_configs();
/// By name or UUID (case does not matter in the UUID). Errors as load_set_config.
[[nodiscard]] result<set_config> find_set_config(const std::string& name_or_uuid);

enum class config_write { create, replace };
/// Atomic and durable on return: the old file, or the new one, whole. Mode 0600; makes the folders.
/// Errors: "name-taken" (create only, a file is there), "bad-config-value", "bad-name", "no-permission",
/// "config-io".
[[nodiscard]] result<void> save_set_config(const set_config& config, config_write mode);
/// The lines of the spares of the set with this UUID; empty where it has no configuration. Errors:
/// "bad-config", "no-permission", "config-io" where none is found, and one that cannot be read may be it.
[[nodiscard]] result<std::vector<std::string>> configured_spares(const std::string& uuid);
/// Lets `change` edit the list of spares of the set with this UUID, and writes the file anew, durably, where
/// it returns true. The answer: whether there is a configuration of the set at all. Errors as
/// save_set_config and configured_spares. One change of this host's configurations at a time, here and in the
/// three functions below.
[[nodiscard]] result<bool>
change_configured_spares(const std::string& uuid,
                         const std::function<bool(std::vector<std::string>&)>& change);
/// The same set under another name, too: `new_name` is the name in the new file. Durable on return. Errors as
/// load_set_config, save_set_config (create).
[[nodiscard]] result<void> copy_set_config(const std::string& name, const std::string& new_name);
/// Durable on return. No such file: no error.
[[nodiscard]] result<void> remove_set_config(const std::string& name);
/// The same for all configurations of the set with this UUID but the one called `keep`: a rename that was cut
/// off leaves two. Where none is called so, none goes, but for an empty `keep`: then all do. Errors also as
/// configured_spares.
[[nodiscard]] result<void> remove_other_configs(const std::string& uuid, const std::string& keep);

/// True where `create` keeps a configuration: for root, and where DMREMAP_CONF_DIR is set.
[[nodiscard]] bool config_is_kept();

} // namespace dmremap
