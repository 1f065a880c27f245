// SPDX-License-Identifier: GPL-2.0-or-later
// Every file of the corpus and every input that ever showed an error, through the functions that the fuzzers
// call.
#include "tests/fuzz/fuzz.h"

#include <algorithm>
#include <boost/filesystem.hpp>
#include <catch2/catch.hpp>
#include <fstream>
#include <iterator>

using namespace dmremap;
namespace fs = boost::filesystem;

namespace {

std::vector<std::uint8_t> bytes_of(const fs::path& file) {
  std::ifstream in(file.string(), std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

std::vector<fs::path> files_in(const std::string& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(fs::path(DMREMAP_SOURCE_DIR) / "tests/fuzz" / folder))
    if (entry.path().filename() != ".gitkeep")
      files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

void run_all(const std::string& target, void (*run)(fuzz::input_bytes)) {
  const auto corpus = files_in("corpus/" + target);
  CHECK(corpus.size() >= 10);
  auto files = files_in("reproducers/" + target);
  files.insert(files.end(), corpus.begin(), corpus.end());
  for (const auto& file : files) {
    INFO(file.filename().string());
    CHECK_NOTHROW(run(bytes_of(file)));
  }
}

} // namespace

TEST_CASE("corpus and reproducers: superblocks and table blocks") {
  run_all("codec", fuzz::run_codec);
}

TEST_CASE("corpus and reproducers: damaged sets") {
  run_all("set", fuzz::run_set);
}

TEST_CASE("corpus and reproducers: damaged sets that are repaired") {
  run_all("set", fuzz::run_fsck);
  run_all("fsck", fuzz::run_fsck);
}

TEST_CASE("corpus and reproducers: texts") {
  run_all("text", fuzz::run_text);
}

TEST_CASE("corpus and reproducers: signatures and statistics") {
  run_all("foreign", fuzz::run_foreign);
}

TEST_CASE("what the mutators make, they make again from the same seed, and it is judged") {
  std::minstd_rand one(7), other(7);
  std::vector<std::uint8_t> a, b;
  for (int i = 0; i < 200; ++i) {
    fuzz::mutate_codec(a, one);
    fuzz::mutate_codec(b, other);
    REQUIRE(a == b);
    REQUIRE_NOTHROW(fuzz::run_codec(a));
  }
}
