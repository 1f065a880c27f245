// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "admin/run.h"
#include "tests/support/temp_dir.h"

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

namespace dmremap::test {

struct program_result {
  int status = 0;
  std::string out, err;
  [[nodiscard]] nlohmann::json json() const { return nlohmann::json::parse(out); }
  /// The stable identifier of the error that --json printed.
  [[nodiscard]] std::string error_id() const { return json().at("error").at("id").get<std::string>(); }
};

/// Runs the body of dmremap in this process.
[[nodiscard]] inline program_result dmremap_with(const std::vector<std::string>& words) {
  std::vector<const char*> argv{"dmremap"};
  for (const auto& word : words)
    argv.push_back(word.c_str());
  std::ostringstream out, err;
  const int status = admin::run(static_cast<int>(argv.size()), argv.data(), out, err);
  return {status, out.str(), err.str()};
}

/// Run, configuration and state folders of their own.
struct private_folders {
  temp_dir dir;
  scoped_env run{"DMREMAP_RUN_DIR", dir / "run"};
  scoped_env conf{"DMREMAP_CONF_DIR", dir / "conf"};
  scoped_env state{"DMREMAP_STATE_DIR", dir / "state"};
};

} // namespace dmremap::test
