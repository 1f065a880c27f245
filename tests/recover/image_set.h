// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/disk.h"
#include "engine/file_store.h"
#include "engine/paths.h"
#include "engine/spare_metadata.h"
#include "recover/dump.h"
#include "tests/support/temp_dir.h"

#include <catch2/catch.hpp>
#include <fcntl.h>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

namespace dmremap::test {

/// Run, configuration and state folders of a test's own, in a folder of images.
struct host {
  temp_dir dir;
  scoped_env run{"DMREMAP_RUN_DIR", dir / "run"}, conf{"DMREMAP_CONF_DIR", dir / "conf"},
      state{"DMREMAP_STATE_DIR", dir / "state"};
  std::string images = dir / "images";
  host() { boost::filesystem::create_directories(images); }
  [[nodiscard]] std::string image(const std::string& name) const { return images + "/" + name; }
};

inline std::shared_ptr<store> open_file(const std::string& path) {
  file_store::options how;
  auto io = file_store::open(path, how);
  if (!io)
    FAIL(io.error().text());
  return *io;
}

inline void make_file(const std::string& path, std::uint64_t bytes) {
  std::ofstream(path).flush();
  boost::filesystem::resize_file(path, bytes);
}

/// A set in files NAME.main and NAME.0, NAME.1, ...: closed cleanly, some units moved to each spare.
struct image_set {
  image_set(const host& h, std::string set_name, unsigned count, std::uint64_t spare_bytes = 16u << 20)
      : name(std::move(set_name)), main(h.image(name + ".main")) {
    std::string content(4u << 20, '\0');
    for (std::size_t i = 0; i < content.size(); ++i)
      content[i] = static_cast<char>((i / 512 * 7 + std::hash<std::string>{}(name)) % 251 + 1);
    std::ofstream(main, std::ios::binary) << content;
    const auto main_io = open_file(main);
    std::vector<std::shared_ptr<store>> ios;
    std::vector<store*> all;
    for (unsigned n = 0; n < count; ++n) {
      spares.push_back(h.image(name + "." + std::to_string(n)));
      make_file(spares.back(), spare_bytes);
      ios.push_back(open_file(spares.back()));
      all.push_back(ios.back().get());
    }
    format_options options;
    options.name = name;
    const auto made = disk::format(*main_io, all, options);
    if (!made)
      FAIL(made.error().text());
    work([](disk& d) {
      for (const std::uint64_t unit : {1u, 2u, 3u, 700u})
        REQUIRE(d.remap(sector_number(unit * unit_sectors)));
    });
  }

  /// Opens the set, does something, closes it cleanly or leaves it as a crash does.
  template <class Do>
  void work(Do&& what, bool clean = true, std::vector<unsigned> without = {}) {
    std::vector<std::shared_ptr<store>> ios;
    for (unsigned n = 0; n < spares.size(); ++n)
      if (std::find(without.begin(), without.end(), n) == without.end())
        ios.push_back(open_file(spares[n]));
    open_options how;
    how.degraded = !without.empty();
    auto opened = disk::open(open_file(main), ios, how);
    if (!opened)
      FAIL(opened.error().text());
    what(**opened);
    uuid = (*opened)->info()->set_uuid;
    if (clean)
      REQUIRE((*opened)->close());
  }

  [[nodiscard]] superblock super(unsigned n) const {
    const auto loaded = spare_metadata::load_supers(open_file(spares[n]), rules());
    if (!loaded)
      FAIL(loaded.error().text());
    return (*loaded)->super;
  }
  static const commit_rules& rules() {
    static const commit_rules all;
    return all;
  }

  std::string name, uuid, main;
  std::vector<std::string> spares;
};

inline std::string read_bytes(const std::string& path, std::uint64_t at, std::uint64_t count) {
  std::ifstream in(path, std::ios::binary);
  in.seekg(static_cast<std::streamoff>(at));
  std::string bytes(count, '\0');
  in.read(bytes.data(), static_cast<std::streamsize>(count));
  REQUIRE(in.gcount() == static_cast<std::streamsize>(count));
  return bytes;
}

inline void write_bytes(const std::string& path, std::uint64_t at, const std::string& bytes) {
  std::fstream out(path, std::ios::binary | std::ios::in | std::ios::out);
  out.seekp(static_cast<std::streamoff>(at));
  out << bytes;
  out.flush();
  REQUIRE(out.good());
}

inline void damage(const std::string& path, spare_unit unit) {
  auto bytes = read_bytes(path, byte_of(unit), unit_bytes);
  bytes[3000] = static_cast<char>(bytes[3000] ^ 0x10);
  write_bytes(path, byte_of(unit), bytes);
}

/// One run of a program.
struct ran {
  int status = -1;
  std::string out, err;
  [[nodiscard]] nlohmann::json json() const {
    auto doc = nlohmann::json::parse(out, nullptr, false);
    if (doc.is_discarded())
      FAIL("no JSON: " + out + err);
    return doc;
  }
};

template <class Program>
ran run_program_with(Program program, const char* name, const std::vector<std::string>& words) {
  std::vector<const char*> argv{name};
  for (const auto& word : words)
    argv.push_back(word.c_str());
  std::ostringstream out, err;
  ran r;
  r.status = program(static_cast<int>(argv.size()), argv.data(), out, err);
  r.out = out.str();
  r.err = err.str();
  return r;
}

/// The first words of the rows of a man page's table: items of the list in section `section`.
[[nodiscard]] std::vector<std::string> page_items(const std::string& page, const std::string& section);

inline std::string whole_file(const std::string& path) {
  return read_bytes(path, 0, boost::filesystem::file_size(path));
}

/// The text of dmremap-dump.
inline std::string dump_of(const std::vector<std::string>& spares) {
  return run_program_with(recover::run_dump, "dmremap-dump", spares).out;
}

inline void erase_metadata(const std::string& spare, const geometry& g) {
  for (unsigned c = 0; c < super_copies; ++c)
    write_bytes(spare, byte_of(g.super_place(c)), std::string(unit_bytes, '\0'));
  for (unsigned r = 0; r < own_replicas; ++r)
    write_bytes(spare, byte_of(g.block_place(r, 0)), std::string(g.table_blocks * unit_bytes, '\0'));
}

} // namespace dmremap::test
