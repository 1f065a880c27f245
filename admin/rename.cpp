// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/commands.h"
#include "admin/create_checks.h"
#include "admin/figures.h"
#include "admin/lookup.h"
#include "admin/open_set.h"
#include "admin/udev_rule.h"
#include "engine/config.h"
#include "engine/disk.h"
#include "engine/metadata_backup.h"
#include "engine/run_lock.h"

#include <nlohmann/json.hpp>
#include <ostream>
#include <strings.h>

namespace dmremap::admin {
namespace {

/// The set that is to be renamed: running, configured, or both.
struct target {
  std::optional<running_set> running;
  std::optional<set_config> config;
  [[nodiscard]] const std::string& name() const { return running ? running->name : config->name; }
  [[nodiscard]] const std::string& uuid() const { return running ? running->uuid : config->uuid; }
};

result<target> find_target(const std::string& name) {
  target found;
  found.running = find_served(name);
  if (found.running && !found.running->alive)
    CHECK_OK(need_stopped(name)); // what the daemon left keeps the old name
  auto config = find_set_config(found.running ? found.running->uuid : name);
  if (config)
    found.config = std::move(*config);
  else if (!found.running || config.error().id != "no-such-set")
    return tl::unexpected<error>(std::move(config).error());
  return found;
}

/// A rename that was cut off may have left the new file.
bool is_configured_as(const std::string& name, const std::string& uuid) {
  const auto config = load_set_config(name);
  return config && strcasecmp(config->uuid.c_str(), uuid.c_str()) == 0;
}

/// The set's own record of its name, by its daemon or, where none runs, here.
result<void> rename_set(const context& c, const std::optional<running_set>& running,
                        const std::optional<set_config>& config, const std::string& new_name) {
  if (running) {
    static_cast<void>(TRY(ask(*running, "rename", {{"name", new_name}})));
    return {};
  }
  const auto opened = TRY(open_configured(c, *config, access_mode::read_write));
  CHECK_OK(opened.set->rename(new_name));
  const auto closed = opened.set->close();
  if (closed)
    if (const auto why = backup_or_why(*opened.set); !why.empty())
      c.note(why);
  return closed;
}

/// What would keep the set from taking another name.
result<void> rehearse(const context& c, const std::optional<running_set>& running,
                      const std::optional<set_config>& config) {
  if (!running)
    return open_configured(c, *config, access_mode::read_only).map([](const opened_set&) {});
  const auto status = TRY(ask(*running, "status", {}));
  if (flag_in(part_of(status, "result"), "read_only"))
    return fail("read-only", "rename", "the set is open read-only");
  return {};
}

} // namespace

result<exit_code> rename(context& c, const rename_options& options) {
  const auto& [name, new_name, dry_run] = options;
  auto found = TRY(find_target(name));
  unique_fd turn;
  if (!dry_run) {
    turn = TRY(lock_set(found.name(), found.uuid(), [&](const std::string& text) { c.note(text); }));
    found = TRY(find_target(name)); // as it is now that nobody else renames it
  }
  const auto& [running, config] = found;
  const auto old_name = found.name();
  if (old_name == new_name)
    return fail("same-name", new_name, "is its name already");
  const bool begun = is_configured_as(new_name, found.uuid());
  CHECK_OK(check_name(new_name, config_is_kept() && !begun));
  if (dry_run) {
    CHECK_OK(rehearse(c, running, config));
    if (c.json)
      c.print({{"name", new_name}, {"old_name", old_name}, {"dry_run", true}});
    else
      c.out << old_name << " would be called " << new_name << " (nothing is written now)\n";
    return exit_code::ok;
  }
  // The new file first: whatever fails behind it, the set is found under one of the two names by its UUID.
  if (config && !begun)
    CHECK_OK(copy_set_config(config->name, new_name));
  if (auto done = rename_set(c, running, config, new_name); !done) {
    if (config && !begun)
      static_cast<void>(remove_set_config(new_name));
    return tl::unexpected<error>(std::move(done).error());
  }
  if (config)
    CHECK_OK(remove_other_configs(found.uuid(), new_name));
  const auto rule = move_udev_rule(old_name, new_name, running ? running->image : "");
  if (!rule)
    c.note(rule.error());
  const auto rule_path = rule.value_or("");
  if (c.json)
    c.print({{"name", new_name},
             {"old_name", old_name},
             {"udev_rule", rule_path.empty() ? nlohmann::json(nullptr) : nlohmann::json(rule_path)}});
  else
    c.out << old_name << " is now called " << new_name
          << (rule_path.empty() ? "" : "; its udev rule is now " + rule_path) << '\n';
  return exit_code::ok;
}

} // namespace dmremap::admin
