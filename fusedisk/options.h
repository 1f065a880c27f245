// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/disk.h"
#include "engine/error.h"
#include "engine/member.h"
#include "fusedisk/log.h"

#include <optional>
#include <string>
#include <vector>

namespace dmremap {

/// What `-o` says. Where an option is given twice, the last one counts.
struct mount_options {
  open_options open;
  bool accept_older = false; ///< spares older than what this host saw last
  unsigned workers = 4;
  bool allow_other = false;
  log_level level = log_level::info;
};

/// Adds the options of one comma-separated list. Errors: "bad-option" (usage), naming the option.
[[nodiscard]] result<void> apply_options(const std::string& list, mount_options& into);

/// A command line of fusedisk, read and checked as far as that goes without touching anything.
struct command_line {
  bool foreground = false;
  bool dry_run = false;
  bool json = false; ///< known here for --help; run_fusedisk looks for it itself
  std::string name;  ///< --name; empty: members on the command line
  std::optional<member_spec> main;
  std::vector<member_spec> spares;
  std::string mountpoint;
  std::vector<std::string> option_lists; ///< as given; see apply_options
  std::optional<std::string> answer;     ///< --help or --version: print this and stop
};

/// Errors, all usage: "bad-usage", "bad-option", "bad-member".
[[nodiscard]] result<command_line> parse_command_line(int argc, const char* const* argv);

} // namespace dmremap
