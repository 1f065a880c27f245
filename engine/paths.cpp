// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/paths.h"

#include "engine/uuid.h"

#include <algorithm>
#include <cstdlib>
#include <strings.h>
#include <unistd.h>

namespace dmremap {
namespace {

std::string from_environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

} // namespace

std::string run_dir() {
  if (auto dir = from_environment("DMREMAP_RUN_DIR"); !dir.empty())
    return dir;
  if (geteuid() == 0)
    return "/run/dmremap";
  if (auto dir = from_environment("XDG_RUNTIME_DIR"); !dir.empty())
    return dir + "/dmremap";
  return "/tmp/dmremap-" + std::to_string(geteuid());
}

std::string conf_dir() {
  if (auto dir = from_environment("DMREMAP_CONF_DIR"); !dir.empty())
    return dir;
  return "/etc/dmremap";
}

std::string state_dir() {
  if (auto dir = from_environment("DMREMAP_STATE_DIR"); !dir.empty())
    return dir;
  if (geteuid() == 0)
    return "/var/lib/dmremap";
  if (auto dir = from_environment("XDG_STATE_HOME"); !dir.empty())
    return dir + "/dmremap";
  return from_environment("HOME") + "/.local/state/dmremap";
}

std::string set_run_dir(const std::string& name) { return run_dir() + "/.sets/" + name; }
std::string claims_dir() { return run_dir() + "/.claims"; }
std::string set_conf_path(const std::string& name) { return conf_dir() + "/sets.d/" + name + ".conf"; }

bool valid_set_name(const std::string& name) {
  const auto plain = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  };
  return !name.empty() && name.size() <= 63 && plain(name.front()) &&
         std::all_of(name.begin(), name.end(),
                     [&](char c) { return plain(c) || c == '-' || c == '.' || c == '+'; });
}

bool valid_new_set_name(const std::string& name) {
  return valid_set_name(name) && !parse_uuid(name);
}

bool means_set(const std::string& asked, const std::string& name, const std::string& uuid) {
  return parse_uuid(asked) ? strcasecmp(asked.c_str(), uuid.c_str()) == 0 : asked == name;
}

} // namespace dmremap
