// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/import.h"

#include "engine/config.h"
#include "engine/control_client.h"
#include "engine/counted.h"
#include "engine/input_file.h"
#include "engine/metadata_backup.h"
#include "engine/parse_number.h"
#include "engine/progress.h"
#include "engine/set_daemon.h"
#include "recover/cli.h"
#include "recover/import_lists.h"
#include "recover/import_plan.h"
#include "recover/named_dump.h"
#include "recover/spare_view.h"

#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

namespace dmremap::recover {
namespace {

using nlohmann::json;

constexpr std::uint64_t sectors_per_request = 64 * unit_sectors; // the progress goes on at these steps

struct line {
  std::string name, file, format, data;
  std::optional<std::int64_t> offset;
  std::optional<std::uint64_t> block_size;
  bool unsure = false, any_drive = false, dry_run = false;
  int progress_fd = -1;
  std::string answer; ///< --help, --version
};

result<line> parse(int argc, const char* const* argv) {
  line l;
  CLI::App app("Moves what other programs list as bad to the spares of a set.", "dmremap-import");
  add_common(app,
             "dmremap-import [-n] [--json] --format FORMAT [--offset SECTORS] [--block-size BYTES]\n"
             "                      [--unsure] [--any-drive] [--data main|spare] [--progress FD] NAME FILE");
  app.add_flag("-n,--dry-run", l.dry_run, "say what would be moved; open nothing for writing");
  app.add_option("--format", l.format, "what FILE is: ddrescue, badblocks, smartctl, sectors or v4")
      ->check(CLI::IsMember({"ddrescue", "badblocks", "smartctl", "sectors", "v4"}))
      ->type_name("FORMAT")
      ->required();
  app.add_option(
         "--offset", l.offset,
         "the sector of main at which the list's position 0 lies; negative where main begins behind it")
      ->type_name("SECTORS")
      ->check(why_no_number<std::int64_t>, "");
  app.add_option("--block-size", l.block_size, "what the list's numbers count")
      ->type_name("BYTES")
      ->check(why_no_number<std::uint64_t>, "");
  app.add_flag("--unsure", l.unsure, "ddrescue: also what was not tried to the end (* and /)");
  app.add_flag("--any-drive", l.any_drive, "smartctl: also where the drive is not the one that main is on");
  app.add_option("--data", l.data, "v4: take the data of moved sectors from main or from dm-remap 4's spare")
      ->check(CLI::IsMember({"main", "spare"}))
      ->type_name("main|spare");
  app.add_option("--progress", l.progress_fd, "write lines \"DONE ALL\" of sectors to this descriptor")
      ->type_name("FD")
      ->check(why_no_number<unsigned>, "");
  app.add_option("NAME", l.name, "name or UUID of the set, running or configured")->type_name("")->required();
  app.add_option("FILE", l.file, "the list, - for standard input; v4: the spare of dm-remap 4")
      ->type_name("")
      ->required();
  l.answer = TRY(parse_line(app, argc, argv));
  return l;
}

/// What the format does not tell must be given.
result<void> check_line(const line& l) {
  if (l.format != "v4" && !l.offset)
    return fail(
        "offset-wanted", l.file,
        "the list does not tell where in main its position 0 lies: --offset 0 where it is about the very "
        "device that is main; -START where main is a partition that begins at sector START of it",
        exit_code::usage);
  if (l.format == "badblocks" && !l.block_size)
    return fail("block-size-wanted", l.file,
                "the list does not tell the size of a block: --block-size, what badblocks had as -b (1024 "
                "where it had none)",
                exit_code::usage);
  constexpr std::int64_t most_offset = std::int64_t{1} << 54;
  if (l.offset && (*l.offset < -most_offset || *l.offset > most_offset))
    return fail("bad-number", fmt::to_string(*l.offset), "is no offset in sectors of a disk",
                exit_code::usage);
  if (l.block_size && (*l.block_size < sector_bytes || *l.block_size % sector_bytes != 0 ||
                       *l.block_size > (std::uint64_t{1} << 30)))
    return fail("bad-number", fmt::to_string(*l.block_size), "is no size of a block: a multiple of 512",
                exit_code::usage);
  if (l.format == "v4" && l.data.empty())
    return fail("data-wanted", l.file,
                "dm-remap 4 does not tell where the newest data of a moved sector is: on its spare where the "
                "sector was written after it had moved (--data spare), else on main (--data main)",
                exit_code::usage);
  return {};
}

result<std::string> read_file(const std::string& path) {
  auto text = read_input_file(path);
  if (!text)
    return fail(text.error().no_file ? "not-a-file" : "bad-list", path, text.error().why);
  return std::move(*text);
}

/// The list, and what dm-remap 4 had moved where it is one of its spares.
struct source {
  bad_list list;
  std::optional<v4_table> v4;
  std::shared_ptr<store> v4_spare;
};

result<source> read_source(const line& l) {
  source s;
  if (l.format == "v4") {
    const auto spec = TRY(parse_member(l.file));
    s.v4_spare = TRY(open_to_read(spec));
    s.v4 = TRY(read_v4(*s.v4_spare));
    for (const auto& moved : s.v4->remaps) {
      if (moved.main > UINT64_MAX / sector_bytes - 1 || moved.spare >= s.v4_spare->size() / sector_bytes)
        return fail("no-v4-metadata", l.file,
                    fmt::format("its remap of sector {} is impossible", moved.main));
      s.list.ranges.push_back({moved.main * sector_bytes, (moved.main + 1) * sector_bytes});
    }
    return s;
  }
  const auto text = TRY(read_file(l.file));
  if (l.format == "ddrescue")
    s.list = TRY(parse_ddrescue(text, l.file, l.unsure));
  else if (l.format == "smartctl")
    s.list = TRY(parse_smartctl(text, l.file, l.block_size));
  else
    s.list = TRY(parse_blocks(text, l.file, l.block_size.value_or(sector_bytes), l.format == "sectors"));
  return s;
}

result<void> check_drive(const line& l, const source& s, const superblock& set) {
  if (l.any_drive)
    return {};
  if (s.v4 && s.v4->main_sectors != 0 && s.v4->main_sectors != set.main_sectors)
    return fail(
        "wrong-drive", l.file,
        fmt::format("is the spare of a main of {} sectors; that of {} has {}; if it is the right one: "
                    "--any-drive",
                    s.v4->main_sectors, set.set_name, set.main_sectors));
  if (l.format != "smartctl")
    return {};
  if (!s.list.serial.empty() && !set.main_serial.empty() && s.list.serial != set.main_serial)
    return fail("wrong-drive", l.file,
                fmt::format("is about the drive {}; main of {} is on {}; if it is the right one: --any-drive",
                            s.list.serial, set.set_name, set.main_serial));
  const std::int64_t begin = -*l.offset;
  if (s.list.capacity &&
      (begin < 0 || static_cast<std::uint64_t>(begin) + set.main_sectors > *s.list.capacity / sector_bytes))
    return fail(
        "wrong-drive", l.file,
        fmt::format("is about a drive of {} bytes, on which main does not lie with this --offset; if it "
                    "is the right one: --any-drive",
                    *s.list.capacity));
  return {};
}

/// What came of it.
struct outcome {
  std::uint64_t units = 0, already = 0, lost_sectors = 0, copied_sectors = 0;
  bool online = false;
};

using remapper = std::function<result<remap_reply>(std::uint64_t sector, std::uint64_t sectors)>;

result<void> move_all(const program_context& c, const line& l, const import_plan& plan, const remapper& remap,
                      outcome& out) {
  progress bar(c.err, "moving", l.progress_fd, "sectors");
  std::uint64_t done = 0;
  for (const auto& range : plan.ranges)
    for (std::uint64_t at = range.first; at < range.first + range.count; at += sectors_per_request) {
      const auto count = std::min(sectors_per_request, range.first + range.count - at);
      auto moved = remap(at, count);
      if (!moved) {
        if (out.units != 0)
          moved.error().why += fmt::format("; moved before, and stays so: {}; the same command goes on",
                                           counted(out.units, "unit"));
        return tl::make_unexpected(std::move(moved).error());
      }
      out.units += moved->units;
      out.already += moved->already;
      out.lost_sectors += moved->lost_sectors;
      bar.show(done += count, plan.sectors);
    }
  return {};
}

std::uint64_t number_of(const json& reply, const char* key) {
  const json value = reply.value("result", json::object()).value(key, json(0));
  return value.is_number_unsigned() ? value.get<std::uint64_t>() : 0;
}

/// Nothing where the daemon does not tell.
result<std::optional<std::uint64_t>> room_of_running(const running_set& set) {
  const auto reply = TRY(ask(set, "status", {}));
  const json now = reply.value("result", json::object());
  const json spares = now.value("spares", json::array());
  std::uint64_t room = 0;
  for (const auto& spare : spares) {
    const json units = spare.is_object() ? spare.value("free_units", json()) : json();
    if (!units.is_number_unsigned())
      return std::nullopt;
    room += units.get<std::uint64_t>();
  }
  return room;
}

result<void> import_online(const program_context& c, const line& l, const import_plan& plan,
                           const running_set& set, outcome& out) {
  out.online = true;
  return move_all(
      c, l, plan,
      [&](std::uint64_t sector, std::uint64_t sectors) -> result<remap_reply> {
        const auto reply = TRY(ask(set, "remap", {{"sector", sector}, {"sectors", sectors}}));
        remap_reply r;
        r.units = number_of(reply, "units");
        r.already = number_of(reply, "already");
        r.lost_sectors = number_of(reply, "lost_sectors");
        return r;
      },
      out);
}

/// Sectors of main whose newest data is on dm-remap 4's spare, and where there.
using v4_places = std::map<std::uint64_t, std::uint64_t>;

v4_places places_of(const line& l, const source& s, const import_plan& plan) {
  v4_places places;
  for (const auto& moved : s.v4->remaps) // as listed, these lie within what an offset may be
    if (const auto at = static_cast<std::int64_t>(moved.main) + l.offset.value_or(0);
        at >= 0 && static_cast<std::uint64_t>(at) < plan.main_sectors)
      places.insert_or_assign(static_cast<std::uint64_t>(at), moved.spare);
  return places;
}

result<void> read_v4_sector(store& spare, std::uint64_t sector, std::span<std::byte> into) {
  const std::uint64_t piece = spare.block_size(), at = sector * sector_bytes;
  std::vector<std::byte> block(piece);
  if (const auto read = spare.read(block, align_down(at, piece)); !read)
    return fail("v4-data", fmt::format("sector {}", sector),
                fmt::format("of {} cannot be read: {}; its unit was not moved", spare.identity().path,
                            name_of(read.error())));
  std::copy_n(block.begin() + static_cast<std::ptrdiff_t>(at % piece), sector_bytes, into.begin());
  return {};
}

/// A unit moves together with what dm-remap 4's spare has of it: a run that was cut off leaves no unit half
/// done.
newer_data data_of(store& spare, const v4_places& places, outcome& out) {
  return [&](main_unit u, std::span<std::byte> data) -> result<std::uint8_t> {
    unsigned has = 0;
    for (std::uint64_t s = 0; s < unit_sectors; ++s)
      if (const auto at = places.find(u.value * unit_sectors + s); at != places.end()) {
        CHECK_OK(read_v4_sector(spare, at->second, data.subspan(s * sector_bytes, sector_bytes)));
        has |= 1u << s;
        ++out.copied_sectors;
      }
    return static_cast<std::uint8_t>(has);
  };
}

/// Units that were moved before keep their data, which may be newer; but nobody has written what is lost.
result<void> fill_lost(disk& set, store& spare, const v4_places& places, outcome& out) {
  const auto io = set.make_context();
  std::vector<std::byte> data(sector_bytes);
  for (const auto& range : set.lost())
    for (auto at = places.lower_bound(range.first.value);
         at != places.end() && at->first < range.first.value + range.count; ++at) {
      CHECK_OK(read_v4_sector(spare, at->second, data));
      if (const auto wrote = set.write(*io, data, at->first * sector_bytes); !wrote)
        return fail("v4-data", fmt::format("sector {}", at->first),
                    fmt::format("is lost, and its data cannot be written: {}", name_of(wrote.error())));
      ++out.copied_sectors;
    }
  if (!set.flush())
    return fail("v4-data", spare.identity().path, "the data that was copied could not be flushed");
  return {};
}

result<void> import_offline(const program_context& c, const line& l, const source& s, const import_plan& plan,
                            outcome& out) {
  const auto config = TRY(find_set_config(l.name));
  auto members = TRY(claim_configured(config, access_mode::read_write));
  CHECK_OK(check_same_set(config, members));
  std::vector<std::string> notices;
  const auto set = TRY(open_disk(members, {}, false, notices));
  name_claims(members.members, config.name);
  for (const auto& notice : notices)
    c.note(notice);
  const bool from_v4 = s.v4 && l.data == "spare";
  const v4_places places = from_v4 ? places_of(l, s, plan) : v4_places{};
  const newer_data newer = from_v4 ? data_of(*s.v4_spare, places, out) : newer_data{};
  auto moved = move_all(
      c, l, plan,
      [&](std::uint64_t sector, std::uint64_t sectors) {
        return set->remap(sector_number(sector), sectors, newer);
      },
      out);
  if (moved && from_v4)
    moved = fill_lost(*set, *s.v4_spare, places, out);
  const auto closed = set->close();
  if (closed)
    if (const auto why = backup_or_why(*set); !why.empty())
      c.note(why);
  CHECK_OK(moved);
  return closed;
}

void report(const program_context& c, const line& l, const import_plan& plan, const outcome& out,
            const std::string& name) {
  if (c.json)
    return c.print({{"name", name},
                    {"outcome", l.dry_run ? "planned" : "imported"},
                    {"online", out.online},
                    {"listed_sectors", plan.sectors},
                    {"outside_sectors", plan.outside},
                    {"units", out.units},
                    {"already_units", out.already},
                    {"lost_sectors", out.lost_sectors},
                    {"copied_sectors", out.copied_sectors}});
  c.out << fmt::format("{}: {} listed; {} {}, {} already", name, counted(plan.sectors, "sector"),
                       counted(out.units, "unit"), l.dry_run ? "would move" : "moved", out.already);
  if (!l.dry_run)
    c.out << fmt::format(", {} lost", counted(out.lost_sectors, "sector"));
  if (out.copied_sectors != 0)
    c.out << fmt::format(", {} copied from dm-remap 4's spare", counted(out.copied_sectors, "sector"));
  c.out << '\n';
  if (plan.outside != 0)
    c.out << "outside main: " << counted(plan.outside, "listed sector") << '\n';
}

result<exit_code> import_list(const program_context& c, const line& l) {
  CHECK_OK(check_line(l));
  const auto s = TRY(read_source(l));
  const auto running = find_running_set(l.name);
  const bool online = running && running->alive;
  if (online && s.v4 && l.data == "spare")
    return fail("set-running", running->name,
                "is running; to copy data from dm-remap 4's spare: `dmremap detach " + running->name +
                    "` first");
  const auto dump = TRY(dump_named(l.name, {}));
  CHECK_OK(check_drive(l, s, dump.newest()));
  const auto free_now = online ? TRY(room_of_running(*running)) : std::nullopt;
  const auto plan = TRY(make_import_plan(s.list.ranges, l.offset.value_or(0), dump, l.file, free_now));
  outcome out;
  if (l.dry_run) {
    out.online = online;
    out.units = plan.new_units;
    out.already = plan.already_units;
  } else if (plan.ranges.empty()) {
    out.online = online;
  } else if (online) {
    CHECK_OK(import_online(c, l, plan, *running, out));
  } else {
    CHECK_OK(import_offline(c, l, s, plan, out));
  }
  report(c, l, plan, out, dump.newest().set_name);
  return exit_code::ok;
}

} // namespace

int run_import(int argc, const char* const* argv, std::ostream& out, std::ostream& err) {
  return run_tool("dmremap-import", argc, argv, out, err, parse, import_list);
}

} // namespace dmremap::recover
