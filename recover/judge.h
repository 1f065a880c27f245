// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/config.h"
#include "recover/survey.h"

#include <string>
#include <vector>

/// Whether a set may be started with what was found: the tables of dmremap-reassemble(8).
namespace dmremap::recover {

struct allowances {
  bool degraded = false, accept_main = false, accept_older = false;
};

enum class verdict { certain, accept, refused, running };
[[nodiscard]] const char* name_of(verdict v) noexcept; ///< as name_of(pairing); "running"

struct judgement {
  verdict found = verdict::refused;
  bool start = false;                  ///< nothing stands against it, with what is allowed
  error why;                           ///< where `start` is not set and the set does not run
  std::vector<std::string> candidates; ///< members that nothing tells apart
  set_config members;                  ///< what to start: found members, the options of the configuration
  std::vector<std::string> options;    ///< further mount options that were allowed and are needed
  std::vector<std::string> notices;
};

/// Judges one set. What the engine would object to is found by opening the set for reading only,
/// without a claim; nothing is opened for writing. Identifiers of errors: "set-copies", "main-copies",
/// "main-missing", "main-mismatch", "spare-missing", "spare-unprotected", "spare-older", "daemon-died",
/// "name-taken", those of who uses a member (mounted, swap, loop-backed, in-use), and the engine's.
[[nodiscard]] judgement judge(const set_view& set, const allowances& allowed);

} // namespace dmremap::recover
