// SPDX-License-Identifier: GPL-2.0-or-later
#include "fusedisk/control_arguments.h"

namespace dmremap {

using nlohmann::json;

tl::unexpected<error> bad_request(const std::string& what, const std::string& why) {
  return fail("bad-request", what, why, exit_code::usage);
}

result<std::string> text_argument(const json& args, const char* key) {
  const auto it = args.find(key);
  if (it == args.end() || !it->is_string())
    return bad_request(key, "a text is wanted");
  return it->get<std::string>();
}

result<std::uint64_t> number_argument(const json& args, const char* key) {
  const auto it = args.find(key);
  if (it == args.end() || !it->is_number_unsigned())
    return bad_request(key, "a number that is not negative is wanted");
  return it->get<std::uint64_t>();
}

bool is_absent(const json& args, const char* key) {
  const auto it = args.find(key);
  return it == args.end() || it->is_null();
}

result<sector_number> sector_argument(const json& args, const char* key) {
  const std::uint64_t value = TRY(number_argument(args, key));
  if (value > (std::uint64_t{1} << 54U)) // 2^63 bytes
    return bad_request(key, "there is no such sector");
  return sector_number(value);
}

result<bool> flag_argument(const json& args, const char* key) {
  if (is_absent(args, key))
    return false;
  if (!args.at(key).is_boolean())
    return bad_request(key, "true or false is wanted");
  return args.at(key).get<bool>();
}

result<std::vector<std::string>> list_argument(const json& args, const char* key) {
  std::vector<std::string> out;
  if (is_absent(args, key))
    return out;
  if (!args.at(key).is_array())
    return bad_request(key, "a list of texts is wanted");
  for (const auto& word : args.at(key)) {
    if (!word.is_string())
      return bad_request(key, "a list of texts is wanted");
    out.push_back(word.get<std::string>());
  }
  return out;
}

} // namespace dmremap
