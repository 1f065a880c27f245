// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/figures.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace dmremap::admin {

const nlohmann::json& part_of(const nlohmann::json& object, const char* key) {
  static const nlohmann::json none;
  if (!object.is_object())
    return none;
  const auto at = object.find(key);
  return at != object.end() ? *at : none;
}

std::uint64_t number_in(const nlohmann::json& object, const char* key, std::uint64_t otherwise) {
  const auto& part = part_of(object, key);
  return part.is_number_unsigned() || (part.is_number_integer() && part.get<std::int64_t>() >= 0)
             ? part.get<std::uint64_t>()
             : otherwise;
}

std::string text_in(const nlohmann::json& object, const char* key, const std::string& otherwise) {
  const auto& part = part_of(object, key);
  return part.is_string() ? part.get<std::string>() : otherwise;
}

bool flag_in(const nlohmann::json& object, const char* key, bool otherwise) {
  const auto& part = part_of(object, key);
  return part.is_boolean() ? part.get<bool>() : otherwise;
}

double real_in(const nlohmann::json& object, const char* key, double otherwise) {
  const auto& part = part_of(object, key);
  return part.is_number() ? part.get<double>() : otherwise;
}

std::string size_text(std::uint64_t bytes) {
  if (bytes < 10 * 1024)
    return fmt::format("{} bytes", bytes);
  static constexpr const char* names[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes) / 1024;
  unsigned name = 0;
  while (value >= 10240 && name < 5) {
    value /= 1024;
    ++name;
  }
  const bool whole = value == static_cast<double>(static_cast<std::uint64_t>(value));
  return whole ? fmt::format("{:.0f} {}", value, names[name]) : fmt::format("{:.1f} {}", value, names[name]);
}

} // namespace dmremap::admin
