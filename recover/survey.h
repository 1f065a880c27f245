// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/control_client.h"
#include "engine/set_record.h"
#include "recover/deep_members.h"
#include "recover/pairing.h"
#include "recover/spare_view.h"

#include <functional>
#include <optional>
#include <string>
#include <vector>

/// What there is of sets on the devices and files that are looked at. Nothing is opened for writing.
namespace dmremap::recover {

/// Something of the size of a set's main.
struct main_candidate {
  member_spec spec;
  storage place;
  main_match match;
  bool configured = false;
  pairing rating = pairing::refused;
  std::string carries; ///< what libblkid finds there, in words
};

/// One place of a set's list of spares.
struct spare_row {
  unsigned index = 0;
  std::string uuid;
  std::vector<spare_view*> found; ///< more than one: copies of one spare
  bool returned = false;          ///< was away while the set was in use
  int map_on = -1;                ///< missing or returned: index of the spare that knows what is on it
  std::string last_seen;          ///< the member that it was on this host
};

struct set_view {
  std::string name, uuid;
  bool image = false;                 ///< of metadata images: nothing is served from them
  std::optional<running_set> running; ///< also one whose daemon died
  std::optional<set_record> record;   ///< nothing where the spares do not follow one
  superblock newest;                  ///< valid where there are rows
  std::vector<spare_row> spares;
  std::vector<const spare_view*> outsiders; ///< of the set, but not listed by it any more
  std::optional<error> problem;             ///< why there is no record
  std::vector<main_candidate> mains;        ///< best first
  bool older = false;                       ///< than what this host saw last
  std::string configuration;                ///< name of this host's configuration of the set; empty: none
  bool as_configured = false;               ///< all members were found where the configuration says

  [[nodiscard]] bool serving() const { return running && running->alive; }
  [[nodiscard]] bool ambiguous_spares() const;
  [[nodiscard]] std::vector<const spare_row*> missing() const;
  /// A missing spare that no other protects.
  [[nodiscard]] bool unprotected() const;
  [[nodiscard]] bool damaged() const;   ///< a copy of metadata that should be good is not
  [[nodiscard]] bool destroyed() const; ///< all copies of a block are gone
  /// Candidates that nothing tells apart: as good as each other, and the best; one: it is the one.
  [[nodiscard]] std::vector<const main_candidate*> best_mains() const;
};

struct upstream_find {
  std::string member;
  std::vector<std::uint64_t> sectors;
};

struct survey {
  std::vector<spare_view> spares;
  std::vector<set_view> sets; ///< by name
  std::vector<upstream_find> upstream;
  std::vector<passed_find> passed;            ///< of a search
  std::vector<error> damaged;                 ///< members with metadata of which nothing can be made
  std::vector<error> failed;                  ///< what was named and could not be looked at
  unsigned unread = 0;                        ///< devices that this user may not read
  bool stopped = false;                       ///< the search was interrupted
  std::uint64_t searched = 0, unreadable = 0; ///< bytes, of a search
  std::uint64_t searched_earlier = 0;         ///< of `searched`: in the runs that it goes on from
};

struct survey_options {
  std::vector<std::string> paths;
  std::string image_dir;
  bool tables = true; ///< look at table blocks, too
  bool deep = false;
  std::string resume;                                            ///< file that keeps how far a search is
  std::function<void(std::uint64_t, std::uint64_t)> on_progress; ///< of a search: bytes done, all
  std::function<void(std::uint64_t, std::uint64_t)> on_look;     ///< devices looked at, all
  std::function<bool()> stop;                                    ///< true: end the search
};

/// Errors: "resume-file", "device-gone" is told in `failed`.
[[nodiscard]] result<survey> look_around(const survey_options& options);

/// Groups what was found into sets; part of look_around(), for itself testable. `mains`: what may be a main.
struct possible_main {
  member_spec spec;
  storage place;
  std::shared_ptr<store> io;
};
void group_sets(survey& s, const std::vector<possible_main>& mains);

} // namespace dmremap::recover
