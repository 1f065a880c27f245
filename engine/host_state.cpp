// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/host_state.h"

#include "engine/codec.h"
#include "engine/durable_file.h"
#include "engine/paths.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <unistd.h>

namespace dmremap {
namespace {

using nlohmann::json;

constexpr int state_schema = 1;

std::string lower_case(std::string uuid) {
  std::transform(uuid.begin(), uuid.end(), uuid.begin(),
                 [](unsigned char c) { return static_cast<char>(c >= 'A' && c <= 'F' ? c + 32 : c); });
  return uuid;
}

/// Nothing where `uuid` is none: it becomes the name of a file.
std::string path_of(const std::string& uuid) {
  const std::string name = lower_case(uuid);
  if (name.size() != 36 || name.find_first_not_of("0123456789abcdef-") != std::string::npos)
    return "";
  return state_dir() + "/sets/" + name + ".json";
}

std::string field_text(const json& doc, const char* key) {
  const auto at = doc.find(key);
  return at != doc.end() && at->is_string() ? at->get<std::string>() : "";
}

} // namespace

std::optional<host_state> parse_host_state(std::string_view text, const std::string& uuid) {
  const auto doc = json::parse(text, nullptr, false);
  const auto schema = doc.find("schema"), end = doc.find("sequence_end");
  if (!doc.is_object() || schema == doc.end() || *schema != state_schema || end == doc.end() ||
      !end->is_number_unsigned() || lower_case(field_text(doc, "uuid")) != lower_case(uuid))
    return std::nullopt;
  host_state state;
  state.uuid = uuid;
  state.name = field_text(doc, "name");
  state.sequence_end = end->get<std::uint64_t>();
  if (state.sequence_end > sequence_limit)
    return std::nullopt;
  if (const auto spares = doc.find("spares"); spares != doc.end() && spares->is_object())
    for (const auto& [spare, member] : spares->items())
      if (member.is_string())
        state.spares[spare] = member.get<std::string>();
  return state;
}

std::string host_state_text(const host_state& state) {
  const json doc = {{"schema", state_schema},
                    {"uuid", state.uuid},
                    {"name", state.name},
                    {"sequence_end", state.sequence_end},
                    {"spares", state.spares}};
  return doc.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

std::optional<host_state> read_host_state(const std::string& uuid, std::string& trouble) {
  const auto path = path_of(uuid);
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    if (errno != ENOENT)
      trouble = path + " cannot be read: " + std::strerror(errno) +
                "; whether the spares are older than what this host saw last is not known";
    return std::nullopt;
  }
  auto state = parse_host_state(std::string(std::istreambuf_iterator<char>(in), {}), uuid);
  if (!state)
    trouble = path + " is damaged; whether the spares are older than what this host saw last is not known";
  return state;
}

result<void> write_host_state(const host_state& state) {
  const auto path = path_of(state.uuid);
  if (path.empty())
    return fail("state-unwritable", state.uuid, "is no UUID");
  if (const auto written = write_durably(path, host_state_text(state), existing_file::replace); !written)
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
