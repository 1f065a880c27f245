// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/restore.h"

#include "engine/control_client.h"
#include "engine/counted.h"
#include "engine/durable_file.h"
#include "engine/host_state.h"
#include "engine/metadata_backup.h"
#include "engine/parse_number.h"
#include "engine/progress.h"
#include "recover/cli.h"
#include "recover/dump_json.h"
#include "recover/dump_load.h"
#include "recover/restore_check.h"
#include "recover/restore_write.h"
#include "recover/spare_view.h"

#include <cerrno>
#include <cstring>
#include <ctime>
#include <fmt/chrono.h>
#include <nlohmann/json.hpp>

namespace dmremap::recover {
namespace {

using nlohmann::json;

struct line {
  std::string file;
  std::vector<std::string> words; ///< [INDEX=]SPARE
  restore_consent told;
  bool dry_run = false, edited = false, no_keep = false;
  int progress_fd = -1;
  std::string answer; ///< --help, --version
};

result<line> parse(int argc, const char* const* argv) {
  line l;
  CLI::App app("Writes the metadata of spares from a dump of dmremap-dump.", "dmremap-restore");
  add_common(
      app, "dmremap-restore [-n] [--json] [--accept-older] [--data-in-place | --data-lost] [--wipe TYPE]...\n"
           "                       [--destroy-set UUID] [--edited] [--no-keep] [--progress FD] FILE "
           "[INDEX=]SPARE...");
  app.add_flag("-n,--dry-run", l.dry_run, "check everything; open nothing for writing");
  app.add_flag("--accept-older", l.told.accept_older,
               "also where the dump is, or may be, older than the set");
  auto* in_place = app.add_flag("--data-in-place", l.told.data_in_place,
                                "the moved units lie on the spare, though nothing on it shows that");
  app.add_flag("--data-lost", l.told.data_lost,
               "the moved units are not on the spare: every sector of them becomes lost")
      ->excludes(in_place);
  app.add_option("--wipe", l.told.wipe, "a type of signature on the spare that may be overwritten")
      ->type_name("TYPE");
  app.add_option("--destroy-set", l.told.destroy_set, "another set whose spare may be overwritten")
      ->type_name("UUID");
  app.add_flag("--edited", l.edited, "the dump was edited by hand: its checksum does not count");
  app.add_flag("--no-keep", l.no_keep, "do not keep a dump of what is overwritten");
  app.add_option("--progress", l.progress_fd, "write lines \"DONE ALL\" of blocks to this descriptor")
      ->type_name("FD")
      ->check(why_no_number<unsigned>, "");
  app.add_option("FILE", l.file, "the dump, text or JSON; - for standard input")->type_name("")->required();
  app.add_option("SPARE", l.words, "a spare; INDEX=, where nothing on it says which of the set it is")
      ->type_name("")
      ->required();
  l.answer = TRY(parse_line(app, argc, argv));
  if (l.told.data_lost)
    l.told.data_in_place = true; // nothing needs to lie there
  return l;
}

/// A spare on the command line.
struct wanted_spare {
  member_spec spec;
  const dumped_spare* spare = nullptr;
};

const dumped_spare* by_index(const set_dump& dump, std::uint64_t index) {
  for (const auto& d : dump.spares)
    if (d.super.spare_index == index)
      return &d;
  return nullptr;
}

/// Of which spare of the dump something is left there.
result<const dumped_spare*> identify(const set_dump& dump, const member_spec& spec, store& io) {
  const dumped_spare* found = nullptr;
  unsigned present = 0;
  for (const auto& d : dump.spares) {
    present += d.away ? 0 : 1;
    if (!d.away && shows(io, d))
      found = found == nullptr ? &d : found;
  }
  if (found != nullptr)
    return found;
  if (present == 1)
    for (const auto& d : dump.spares)
      if (!d.away)
        return &d;
  return fail("which-spare", spec.text(),
              "nothing on it shows which spare of the set it is; give its index: INDEX=" + spec.text(),
              exit_code::usage);
}

result<std::vector<wanted_spare>> wanted_spares(const line& l, const set_dump& dump) {
  std::vector<wanted_spare> all;
  for (const auto& word : l.words) {
    wanted_spare w;
    const auto equals = word.find('=');
    const auto index = equals == std::string::npos ? std::nullopt : parse_number(word.substr(0, equals));
    w.spec = TRY(parse_member(index ? word.substr(equals + 1) : word));
    const auto io = TRY(open_to_read(w.spec));
    w.spare = index ? by_index(dump, *index) : TRY(identify(dump, w.spec, *io));
    if (w.spare == nullptr)
      return fail("which-spare", word, fmt::format("the dump has no spare {}", *index), exit_code::usage);
    if (w.spare->away)
      return fail(
          "spare-away", word,
          fmt::format("spare {} was absent when the dump was made: its table is restored with spare {}, "
                      "and what lies on it is brought up to date at the next start",
                      w.spare->super.spare_index, w.spare->map_on));
    for (const auto& other : all)
      if (other.spare == w.spare)
        return fail("which-spare", word,
                    fmt::format("is spare {} of the set, and so is {}", w.spare->super.spare_index,
                                other.spec.text()),
                    exit_code::usage);
    all.push_back(std::move(w));
  }
  return all;
}

result<void> check_not_running(const set_dump& dump) {
  const auto uuid = to_text(dump.newest().set_uuid);
  if (const auto set = find_running_set(uuid); set && set->alive)
    return fail("set-running", set->name, "is running; `dmremap detach " + set->name + "` first");
  return {};
}

/// Every sector that had moved there is lost; main must not answer for any.
result<void> lose_data(set_dump& dump) {
  if (dump.spares.size() > 1)
    return fail(
        "data-lost-of-many", dump.newest().set_name,
        "--data-lost is for sets of one spare; start the set without the one that is gone (-o degraded) "
        "and forget it: `dmremap spare forget`",
        exit_code::usage);
  const std::uint64_t sectors = dump.spares.front().super.main_sectors;
  for (auto& one : dump.spares.front().slots)
    if (one.value.serves()) {
      const std::uint64_t left = sectors - first_sector(one.value.main()).value;
      const auto lost = static_cast<std::uint8_t>(left >= unit_sectors ? 0xFF : (1u << left) - 1);
      one.value = slot::make(one.value.kind(), one.value.main(), lost, 0, one.value.sequence());
    }
  return {};
}

/// A new name each time: the dump of what was overwritten first is worth no less than that of the last.
result<std::string> write_kept(const std::string& uuid, const std::string& text) {
  const auto name =
      fmt::format("{}.replaced.{:%Y%m%dT%H%M%SZ}", backup_path(uuid), fmt::gmtime(std::time(nullptr)));
  for (unsigned n = 1;; ++n) {
    const auto path = n == 1 ? name : fmt::format("{}.{}", name, n);
    const auto written = write_durably(path, text, existing_file::keep);
    if (written)
      return path;
    if (written.error().number != EEXIST)
      return fail("backup-unwritable", path,
                  fmt::format("cannot {}: {}; nothing was changed; to go on without: --no-keep",
                              written.error().action, std::strerror(written.error().number)));
  }
}

/// What is overwritten, as a dump: of each spare with a sound superblock what can be read of its table.
result<std::string> keep_old(const std::vector<examined_spare>& spares,
                             const std::vector<wanted_spare>& wanted, const std::string& uuid) {
  std::vector<member_spec> specs;
  for (std::size_t n = 0; n < spares.size(); ++n)
    if (spares[n].there.supers != 0)
      specs.push_back(wanted[n].spec);
  if (specs.empty())
    return std::string();
  dump_options how;
  how.claimed = how.best_effort = true;
  const auto old = load_dump(specs, how);
  const auto lacks = [](const std::string& who, const std::string& why) {
    return fail("nothing-kept", who,
                "what lies on it cannot be kept as a dump before it is overwritten: " + why +
                    "; nothing was changed; to go on without: --no-keep");
  };
  if (!old)
    return lacks(specs.front().text(), old.error().text());
  for (std::size_t n = 0; n < spares.size(); ++n)
    if (const auto* had = old->find(spares[n].spare->super.spare_uuid);
        spares[n].there.supers != 0 && (had == nullptr || had->away))
      return lacks(wanted[n].spec.text(), "its table cannot be read");
  return write_kept(uuid, dump_text(*old));
}

void report(const program_context& c, const line& l, const set_dump& dump,
            const std::vector<wanted_spare>& wanted, const restore_counts& counts, const std::string& kept) {
  const superblock& s = dump.newest();
  std::string next = "dmremap-scan";
  json rows = json::array();
  for (const auto& w : wanted) {
    std::uint64_t units = 0;
    for (const auto& one : w.spare->slots)
      units += one.value.serves() ? 1 : 0;
    next += " " + w.spec.text();
    rows.push_back({{"member", w.spec.text()},
                    {"index", w.spare->super.spare_index},
                    {"uuid", to_text(w.spare->super.spare_uuid)},
                    {"remapped_units", units}});
    if (!c.json)
      c.out << fmt::format("{}: {} spare {} of the set {}: {} remapped\n", w.spec.text(),
                           l.dry_run ? "would be" : "is", w.spare->super.spare_index, s.set_name,
                           counted(units, "unit"));
  }
  if (c.json)
    return c.print({{"name", s.set_name},
                    {"uuid", to_text(s.set_uuid)},
                    {"outcome", l.dry_run ? "planned" : "restored"},
                    {"spares", std::move(rows)},
                    {"blocks_written", counts.blocks},
                    {"copies_failed", counts.failed},
                    {"kept", kept.empty() ? json(nullptr) : json(kept)},
                    {"next", next}});
  if (!kept.empty())
    c.out << "what was there before: " << kept << '\n';
  if (counts.failed != 0)
    c.out << counts.failed << " copies could not be written; the set does without them\n";
  c.out << "next: " << next << '\n';
}

result<exit_code> restore(const program_context& c, const line& l) {
  auto dump = TRY(read_dump(l.file, l.edited));
  CHECK_OK(check_whole(dump, l.file));
  CHECK_OK(check_not_running(dump));
  if (l.told.data_lost)
    CHECK_OK(lose_data(dump));
  const auto wanted = TRY(wanted_spares(l, dump));
  std::vector<std::pair<member_role, member_spec>> roles;
  for (const auto& w : wanted)
    roles.emplace_back(member_role::spare, w.spec);
  const auto members = TRY(open_members(roles, l.dry_run ? access_mode::read_only : access_mode::read_write));
  name_claims(members, dump.newest().set_name);
  const auto uuid = to_text(dump.newest().set_uuid);
  std::string trouble;
  const auto seen = read_host_state(uuid, trouble);
  if (!trouble.empty())
    c.note(trouble);
  std::vector<examined_spare> spares;
  std::vector<const dumped_spare*> restored;
  bool older = false;
  for (std::size_t n = 0; n < wanted.size(); ++n) {
    progress bar(c.err, "looking", l.progress_fd, "blocks");
    spares.push_back({wanted[n].spare, members[n].io,
                      look_for(*members[n].io, *wanted[n].spare, dump,
                               [&](std::uint64_t done, std::uint64_t all) { bar.show(done, all); })});
    restored.push_back(wanted[n].spare);
    older = TRY(check_target(*members[n].io, dump, *wanted[n].spare, spares.back().there,
                             seen ? std::optional(seen->sequence_end) : std::nullopt, l.told)) ||
            older;
  }
  CHECK_OK(check_together(dump, restored, older));
  restore_counts counts;
  std::string kept;
  if (!l.dry_run) {
    if (!l.no_keep)
      kept = TRY(keep_old(spares, wanted, uuid));
    progress bar(c.err, "restoring", l.progress_fd, "blocks");
    counts = TRY(write_restore(dump, make_targets(spares),
                               [&](std::uint64_t done, std::uint64_t all) { bar.show(done, all); }));
  }
  report(c, l, dump, wanted, counts, kept);
  return exit_code::ok;
}

} // namespace

int run_restore(int argc, const char* const* argv, std::ostream& out, std::ostream& err) {
  return run_tool("dmremap-restore", argc, argv, out, err, parse, restore);
}

} // namespace dmremap::recover
