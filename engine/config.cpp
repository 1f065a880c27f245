// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/config.h"

#include "engine/durable_file.h"
#include "engine/paths.h"
#include "engine/unique_fd.h"
#include "engine/uuid.h"

#include <algorithm>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/stat.h>

namespace dmremap {
namespace {

namespace fs = boost::filesystem;

constexpr std::size_t max_config_bytes = 256 * 1024;

std::string trimmed(const std::string& text) {
  const auto first = text.find_first_not_of(" \t\r");
  return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

tl::unexpected<error> errno_failure(const std::string& path, const char* action, int number) {
  const std::string id = number == EACCES || number == EPERM ? "no-permission" : "config-io";
  return fail(id, path, fmt::format("cannot {}: {}", action, std::strerror(number)));
}

result<std::string> read_file(const std::string& path) {
  const unique_fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) {
    if (errno == ENOENT)
      return fail("no-such-set", path, "there is no such file");
    return errno_failure(path, "open", errno);
  }
  std::string text(max_config_bytes, '\0');
  std::size_t used = 0;
  while (used < text.size()) {
    const auto got = ::read(file.get(), text.data() + used, text.size() - used);
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0)
      return errno_failure(path, "read", errno);
    if (got == 0) {
      text.resize(used);
      return text;
    }
    used += static_cast<std::size_t>(got);
  }
  return fail("bad-config", path, "is too long to be the configuration of a set");
}

tl::unexpected<error> errno_failure(const write_failure& failed) {
  return errno_failure(failed.path, failed.action, failed.number);
}

/// Sets one key; false where the key is not known or came before.
bool take_key(set_config& config, const std::string& key, const std::string& value) {
  const auto once = [&](std::string& place) {
    const bool fresh = place.empty();
    place = value;
    return fresh;
  };
  if (key == "name")
    return once(config.name);
  if (key == "uuid")
    return once(config.uuid);
  if (key == "main")
    return once(config.main);
  if (key == "spare") {
    config.spares.push_back(value);
    return true;
  }
  if (key != "options")
    return false;
  std::size_t from = 0;
  while (from <= value.size()) {
    const auto comma = std::min(value.find(',', from), value.size());
    if (const auto option = trimmed(value.substr(from, comma - from)); !option.empty())
      config.options.push_back(option);
    from = comma + 1;
  }
  return true;
}

bool known_key(const std::string& key) {
  return key == "name" || key == "uuid" || key == "main" || key == "spare" || key == "options";
}

bool valid_uuid(const std::string& text) {
  if (text.size() != 36)
    return false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    const bool good = dash ? text[i] == '-' : std::strchr("0123456789abcdefABCDEF", text[i]) != nullptr;
    if (!good || text[i] == '\0')
      return false;
  }
  return true;
}

result<void> check_whole(const set_config& config, const std::string& path) {
  const auto bad = [&](const std::string& why) { return fail("bad-config", path, why); };
  if (!valid_set_name(config.name))
    return bad(config.name.empty() ? "has no line 'name = NAME'"
                                   : "'" + config.name + "' is no name of a set");
  if (!valid_uuid(config.uuid))
    return bad(config.uuid.empty() ? "has no line 'uuid = UUID'" : "'" + config.uuid + "' is no UUID");
  if (config.main.empty())
    return bad("has no line 'main = MEMBER'");
  if (config.spares.empty())
    return bad("has no line 'spare = MEMBER'");
  return {};
}

result<void> check_value(const std::string& value, bool in_list) {
  const bool holds = !value.empty() && trimmed(value) == value && value.find('\n') == std::string::npos &&
                     value.find('\0') == std::string::npos &&
                     (!in_list || value.find(',') == std::string::npos);
  if (!holds)
    return fail(
        "bad-config-value", value,
        "cannot be kept in a configuration file (a line break, or a blank at an end); use another path, or "
        "--no-persist");
  return {};
}

/// The configurations of the set with this UUID: two while it is renamed, none where it was not to be kept.
result<std::vector<set_config>> configs_of(const std::string& uuid) {
  auto all = list_set_configs();
  std::erase_if(all.sets,
                [&](const set_config& config) { return strcasecmp(config.uuid.c_str(), uuid.c_str()) != 0; });
  if (all.sets.empty() && !all.bad.empty() && config_is_kept()) {
    auto& e = all.bad.front();
    e.why += "; this may be the configuration of the set: mend it, or take it away";
    return tl::unexpected<error>(std::move(e));
  }
  return std::move(all.sets);
}

/// One at a time reads a configuration and writes it anew, or takes it away. Who only reads needs it not: a
/// file is there whole.
result<unique_fd> lock_configs() {
  const auto path = conf_dir() + "/sets.d/.lock";
  unique_fd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600)); // stays there
  if (!file)
    return errno_failure(path, "open", errno);
  while (::flock(file.get(), LOCK_EX) != 0)
    if (errno != EINTR)
      return errno_failure(path, "lock", errno);
  return file;
}

/// With lock_configs(). One that is gone already: no error.
result<void> remove_files(const std::vector<std::string>& paths) {
  for (const auto& path : paths)
    if (::unlink(path.c_str()) != 0 && errno != ENOENT)
      return errno_failure(path, "remove", errno);
  if (const auto synced = sync_folder(conf_dir() + "/sets.d"); !synced)
    return errno_failure(synced.error());
  return {};
}

} // namespace

result<set_config> parse_set_config(const std::string& text, const std::string& path) {
  set_config config;
  std::size_t from = 0;
  for (unsigned number = 1; from < text.size(); ++number) {
    const auto end = std::min(text.find('\n', from), text.size());
    const auto line = trimmed(text.substr(from, end - from));
    from = end + 1;
    if (line.empty() || line.front() == '#')
      continue;
    const auto bad = [&](const std::string& why) {
      return fail("bad-config", path, fmt::format("line {}: {}", number, why));
    };
    if (line.find('\0') !=
        std::string::npos) // a path would end there: another member than the one that is shown
      return bad("holds a zero byte");
    const auto equals = line.find('=');
    if (equals == std::string::npos)
      return bad("is not 'key = value'");
    const auto key = trimmed(line.substr(0, equals)), value = trimmed(line.substr(equals + 1));
    if (!known_key(key))
      return bad("unknown key '" + key + "'; known are name, uuid, main, spare, options");
    if (value.empty() && key != "options")
      return bad("the key '" + key + "' has no value");
    if (!take_key(config, key, value))
      return bad("the key '" + key + "' was given before");
  }
  CHECK_OK(check_whole(config, path));
  return config;
}

result<std::string> format_set_config(const set_config& config) {
  if (!valid_set_name(config.name))
    return fail("bad-name", config.name, "is no name of a set: 1 to 63 letters, digits and -_.+");
  CHECK_OK(check_value(config.uuid, false));
  CHECK_OK(check_value(config.main, false));
  std::string text = "# A set of dmremap; `dmremap attach " + config.name + "` uses it.\n";
  text += fmt::format("name = {}\nuuid = {}\nmain = {}\n", config.name, config.uuid, config.main);
  for (const auto& spare : config.spares) {
    CHECK_OK(check_value(spare, false));
    text += "spare = " + spare + "\n";
  }
  for (const auto& option : config.options)
    CHECK_OK(check_value(option, true));
  if (!config.options.empty())
    text += fmt::format("options = {}\n", fmt::join(config.options, ","));
  CHECK_OK(check_whole(config, set_conf_path(config.name)));
  return text;
}

result<set_config> load_set_config(const std::string& name) {
  if (!valid_set_name(name))
    return fail("no-such-set", name, "is no name of a set");
  const auto path = set_conf_path(name);
  const auto text = TRY(read_file(path));
  auto config = TRY(parse_set_config(text, path));
  if (config.name != name) // after a copy by hand two files would both claim one set
    return fail("bad-config", path,
                "says name = " + config.name + "; the file must be called " + config.name + ".conf");
  return config;
}

config_list list_set_configs() {
  config_list all;
  const std::string folder = conf_dir() + "/sets.d";
  boost::system::error_code failed;
  std::vector<std::string> names;
  for (fs::directory_iterator at(folder, failed), end; !failed && at != end; at.increment(failed)) {
    const auto& file = at->path();
    if (file.extension() == ".conf" && valid_set_name(file.stem().string()))
      names.push_back(file.stem().string());
  }
  if (failed && failed.value() != ENOENT)
    all.bad.push_back(errno_failure(folder, "read the folder", failed.value()).value());
  std::sort(names.begin(), names.end());
  for (const auto& name : names) {
    if (auto config = load_set_config(name))
      all.sets.push_back(std::move(*config));
    else
      all.bad.push_back(std::move(config).error());
  }
  return all;
}

result<set_config> find_set_config(const std::string& name_or_uuid) {
  if (!parse_uuid(name_or_uuid)) {
    auto by_name = load_set_config(name_or_uuid);
    if (by_name || by_name.error().id != "no-such-set")
      return by_name;
  }
  for (auto& config : list_set_configs().sets)
    if (means_set(name_or_uuid, config.name, config.uuid))
      return config;
  return fail(
      "no-such-set", name_or_uuid,
      "no set of this name or UUID is running or configured; `dmremap list --all` shows what there is");
}

result<void> save_set_config(const set_config& config, config_write mode) {
  const auto text = TRY(format_set_config(config));
  const auto path = set_conf_path(config.name);
  const auto written =
      write_durably(path, text, mode == config_write::create ? existing_file::keep : existing_file::replace);
  if (written)
    return {};
  if (written.error().number == EEXIST)
    return fail("name-taken", config.name, "is configured already in " + path);
  return errno_failure(written.error());
}

result<void> copy_set_config(const std::string& name, const std::string& new_name) {
  const auto lock = TRY(lock_configs());
  auto config = TRY(load_set_config(name));
  config.name = new_name;
  return save_set_config(config, config_write::create);
}

result<void> remove_set_config(const std::string& name) {
  const auto path = set_conf_path(name);
  if (::access(path.c_str(), F_OK) != 0 && errno == ENOENT)
    return {};
  const auto lock = TRY(lock_configs());
  return remove_files({path});
}

result<void> remove_other_configs(const std::string& uuid, const std::string& keep) {
  const auto lock = TRY(lock_configs());
  const auto configs = TRY(configs_of(uuid));
  if (!keep.empty() && std::none_of(configs.begin(), configs.end(),
                                    [&](const set_config& config) { return config.name == keep; }))
    return {};
  std::vector<std::string> paths;
  for (const auto& config : configs)
    if (config.name != keep)
      paths.push_back(set_conf_path(config.name));
  return remove_files(paths);
}

result<bool> change_configured_spares(const std::string& uuid,
                                      const std::function<bool(std::vector<std::string>&)>& change) {
  const auto lock = lock_configs();
  auto configs = TRY(configs_of(uuid));
  for (auto& config : configs)
    if (change(config.spares)) { // where nothing is to be written /etc may be read-only
      if (!lock)
        return tl::unexpected<error>(lock.error());
      CHECK_OK(save_set_config(config, config_write::replace));
    }
  return !configs.empty();
}

result<std::vector<std::string>> configured_spares(const std::string& uuid) {
  std::vector<std::string> lines;
  for (const auto& config : TRY(configs_of(uuid)))
    lines.insert(lines.end(), config.spares.begin(), config.spares.end());
  return lines;
}

bool config_is_kept() {
  const char* moved = std::getenv("DMREMAP_CONF_DIR");
  return geteuid() == 0 || (moved != nullptr && *moved != '\0');
}

} // namespace dmremap
