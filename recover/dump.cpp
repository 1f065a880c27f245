// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/dump.h"

#include "engine/counted.h"
#include "engine/durable_file.h"
#include "engine/parse_number.h"
#include "engine/progress.h"
#include "recover/cli.h"
#include "recover/dump_json.h"
#include "recover/metadata_image.h"
#include "recover/named_dump.h"

#include <boost/filesystem.hpp>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <sstream>

namespace dmremap::recover {
namespace {

struct line {
  std::vector<std::string> words;
  std::string output, image;
  int progress_fd = -1;
  dump_options how;
  std::string answer; ///< --help, --version
};

result<line> parse(int argc, const char* const* argv) {
  line l;
  CLI::App app("Prints all metadata of a set as text, or as JSON. Opens nothing for writing.",
               "dmremap-dump");
  add_common(app,
             "dmremap-dump [--json] [--best-effort] [--output FILE | --metadata-image DIR [--progress FD]]\n"
             "                    NAME | SPARE...");
  app.add_flag("--best-effort", l.how.best_effort,
               "dump what can be read, and tell the rest, where some of it is damaged or missing");
  auto* output =
      app.add_option("--output", l.output, "write to this new file, durably, instead of standard output")
          ->type_name("FILE");
  auto* image = app.add_option("--metadata-image", l.image,
                               "instead, copy the metadata of each spare to a sparse file in this folder")
                    ->type_name("DIR")
                    ->excludes(output);
  app.add_option("--progress", l.progress_fd,
                 "with --metadata-image: write lines \"DONE ALL\" of bytes to this descriptor")
      ->type_name("FD")
      ->check(why_no_number<unsigned>, "")
      ->needs(image);
  app.add_option("SPARE", l.words,
                 "NAME: name or UUID of a set that runs or is configured; SPARE: the spares of one set")
      ->type_name("")
      ->required();
  l.answer = TRY(parse_line(app, argc, argv));
  return l;
}

/// A name has no slash, and a path that could be taken for a name can be given as ./PATH.
bool is_name(const line& l) {
  return l.words.size() == 1 && l.words.front().find('/') == std::string::npos;
}

result<std::vector<member_spec>> members_of(const line& l) {
  std::vector<member_spec> specs;
  if (is_name(l))
    return named_spares(l.words.front());
  for (const auto& word : l.words)
    specs.push_back(TRY(parse_member(word)));
  return specs;
}

/// What somebody who is to help needs, and no data.
result<exit_code> images(const program_context& c, const line& l) {
  unsigned number = 0;
  nlohmann::json rows = nlohmann::json::array();
  const auto folder = boost::filesystem::absolute(l.image).string();
  const auto members = TRY(members_of(l));
  for (const auto& spec : members) {
    const auto made = TRY([&] {
      progress bar(c.err, "copying " + spec.text(), l.progress_fd, "bytes");
      return write_metadata_image(spec, folder, number++,
                                  [&](std::uint64_t done, std::uint64_t all) { bar.show(done, all); });
    }());
    rows.push_back({{"member", spec.text()},
                    {"image", made.path},
                    {"bytes", made.bytes},
                    {"unreadable_units", made.unreadable}});
    if (!c.json)
      c.out << fmt::format("{}: {} bytes of {}\n", made.path, made.bytes, spec.text());
    if (made.unreadable != 0)
      c.note(
          fmt::format("{}: cannot be read: {} of metadata", spec.text(), counted(made.unreadable, "unit")));
  }
  if (c.json)
    c.print({{"images", std::move(rows)}});
  return exit_code::ok;
}

result<set_dump> collect(const line& l) {
  if (is_name(l))
    return dump_named(l.words.front(), l.how);
  const auto specs = TRY(members_of(l));
  return load_dump(specs, l.how);
}

result<void> write_out(const program_context& c, const line& l, const set_dump& d) {
  if (l.output.empty()) {
    if (c.json)
      c.print(dump_json(d));
    else
      write_dump_text(d, [&](std::string_view piece) { c.out << piece; });
    return {};
  }
  const auto path = boost::filesystem::absolute(l.output).string();
  std::ostringstream text, unused;
  const program_context into{text, unused, c.json, c.program};
  if (c.json)
    into.print(dump_json(d));
  const auto written = write_in_folder(path, c.json ? text.str() : dump_text(d), existing_file::keep);
  if (!written)
    return fail(
        "output-failed", written.error().path,
        written.error().number == EEXIST
            ? "is there already, and is not overwritten; name another file"
            : fmt::format("cannot {}: {}", written.error().action, std::strerror(written.error().number)));
  return {};
}

result<exit_code> dump(const program_context& c, const line& l) {
  if (!l.image.empty())
    return images(c, l);
  const auto d = TRY(collect(l));
  CHECK_OK(write_out(c, l, d));
  for (const auto& one : d.spares)
    for (const auto& why : one.damage)
      c.note(fmt::format("{}: {}", one.member.empty() ? to_text(one.super.spare_uuid) : one.member, why));
  return d.complete ? exit_code::ok : exit_code::damaged;
}

} // namespace

int run_dump(int argc, const char* const* argv, std::ostream& out, std::ostream& err) {
  return run_tool("dmremap-dump", argc, argv, out, err, parse, dump);
}

} // namespace dmremap::recover
