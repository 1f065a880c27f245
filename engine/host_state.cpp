// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/host_state.h"

#include "engine/durable_file.h"
#include "engine/paths.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <unistd.h>

namespace dmremap {
namespace {

using nlohmann::json;

/// Nothing where `uuid` is none: it becomes the name of a file.
std::string path_of(std::string uuid) {
  std::transform(uuid.begin(), uuid.end(), uuid.begin(),
                 [](unsigned char c) { return static_cast<char>(c >= 'A' && c <= 'F' ? c + 32 : c); });
  if (uuid.size() != 36 || uuid.find_first_not_of("0123456789abcdef-") != std::string::npos)
    return "";
  return state_dir() + "/sets/" + uuid + ".json";
}

std::optional<host_state> parse(const json& doc) {
  if (!doc.is_object() || !doc.contains("sequence_end") || !doc["sequence_end"].is_number_unsigned())
    return std::nullopt;
  host_state state;
  state.sequence_end = doc["sequence_end"].get<std::uint64_t>();
  if (doc.contains("name") && doc["name"].is_string())
    state.name = doc["name"].get<std::string>();
  if (doc.contains("spares") && doc["spares"].is_object())
    for (const auto& [uuid, member] : doc["spares"].items())
      if (member.is_string())
        state.spares[uuid] = member.get<std::string>();
  return state;
}

} // namespace

std::optional<host_state> read_host_state(const std::string& uuid, std::string& trouble) {
  const auto path = path_of(uuid);
  std::ifstream in(path);
  if (!in) {
    if (errno != ENOENT)
      trouble = path + " cannot be read: " + std::strerror(errno) +
                "; whether the spares are older than what this host saw last is not known";
    return std::nullopt;
  }
  auto state = parse(json::parse(in, nullptr, false));
  if (!state) {
    trouble = path + " is damaged; whether the spares are older than what this host saw last is not known";
    return std::nullopt;
  }
  state->uuid = uuid;
  return state;
}

result<void> write_host_state(const host_state& state) {
  const auto path = path_of(state.uuid);
  if (path.empty())
    return fail("state-unwritable", state.uuid, "is no UUID");
  const json doc = {{"schema", 1},
                    {"uuid", state.uuid},
                    {"name", state.name},
                    {"sequence_end", state.sequence_end},
                    {"spares", state.spares}};
  const auto text = doc.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
  if (const auto written = write_durably(path, text, existing_file::replace); !written)
    return fail("state-unwritable", written.error().path,
                std::string("cannot ") + written.error().action + ": " +
                    std::strerror(written.error().number) +
                    "; an old copy of a spare will not be noticed at the next start");
  return {};
}

void remove_host_state(const std::string& uuid) {
  if (const auto path = path_of(uuid); !path.empty())
    ::unlink(path.c_str());
}

} // namespace dmremap
