// SPDX-License-Identifier: GPL-2.0-or-later
// The program as a whole, on files: exit statuses, modes, plans, undo logs, what it says.
#include "engine/config.h"
#include "engine/disk.h"
#include "engine/file_store.h"
#include "engine/host_state.h"
#include "engine/member.h"
#include "fsck/run.h"
#include "tests/fsck/corpus.h"
#include "tests/support/memory_store.h"
#include "tests/support/progress_lines.h"
#include "tests/support/temp_dir.h"

#include <catch2/catch.hpp>
#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <sstream>

using namespace dmremap;
using namespace dmremap::test;

namespace {

struct answer {
  int status = 0;
  std::string out, err;
};

/// A set of two spares in files; the first one can be damaged.
struct files {
  temp_dir dir;
  scoped_env run_dir{"DMREMAP_RUN_DIR", dir / "run"}, conf{"DMREMAP_CONF_DIR", dir / "conf"},
      state{"DMREMAP_STATE_DIR", dir / "state"};
  std::vector<std::string> spares;
  set_images images;

  explicit files(unsigned count = 2) : images(base_set(count, true)) {
    for (unsigned n = 0; n < count; ++n)
      spares.push_back(dir / ("spare" + std::to_string(n)));
    store_images();
  }
  void store_images() {
    for (unsigned n = 0; n < spares.size(); ++n) {
      std::string bytes(images.spares[n].size(), '\0');
      images.spares[n].read(std::as_writable_bytes(std::span(bytes)), 0);
      std::ofstream(spares[n], std::ios::binary) << bytes;
    }
  }
  void damage() {
    spare_editor e(images.spares[0]);
    e.fill(e.super(1), 1, 0);
    e.fill(e.super(2), 1, -1);
    store_images();
  }
  answer run(std::vector<std::string> words, const std::string& input = "", bool terminal = false) const {
    words.insert(words.begin(), "dmremap-fsck");
    std::vector<const char*> argv;
    for (const auto& w : words)
      argv.push_back(w.c_str());
    std::istringstream in(input);
    std::ostringstream out, err;
    const int status = fsck::run(static_cast<int>(argv.size()), argv.data(), {in, out, err, terminal});
    return {status, out.str(), err.str()};
  }
  [[nodiscard]] std::vector<std::string> with(std::vector<std::string> options) const {
    options.insert(options.end(), spares.begin(), spares.end());
    return options;
  }
  [[nodiscard]] std::vector<std::string> bytes() const {
    std::vector<std::string> all;
    for (const auto& s : spares)
      all.push_back(slurp(s));
    return all;
  }
  [[nodiscard]] std::string undo_log() const {
    boost::filesystem::directory_iterator at(dir / "state/undo"), end;
    return at == end ? "" : at->path().string();
  }
};

/// The table of the page's EXIT STATUS.
std::set<int> documented_statuses() {
  std::ifstream page(std::string(DMREMAP_SOURCE_DIR) + "/man/dmremap-fsck.8");
  std::set<int> found;
  bool inside = false;
  for (std::string line; std::getline(page, line);) {
    if (line.starts_with(".Sh "))
      inside = line == ".Sh EXIT STATUS";
    std::smatch match;
    if (inside && std::regex_match(line, match, std::regex(R"(\.It Li (\d+))")))
      found.insert(std::stoi(match[1]));
  }
  return found;
}

} // namespace

TEST_CASE("each exit status of the page occurs, and no other") {
  std::set<int> seen;
  const auto expect = [&](int status, const answer& a) {
    INFO(a.out << a.err);
    CHECK(a.status == status);
    seen.insert(a.status);
  };
  files set;
  expect(0, set.run(set.with({"-n"})));
  set.damage();
  expect(4, set.run(set.with({"-n"})));
  expect(4, set.run(set.with({}))); // nobody can be asked: as -n
  expect(32, set.run(set.with({}), "q\n", true));
  expect(32, set.run(set.with({}), "", true)); // the terminal went away
  expect(16, set.run(set.with({"--unknown"})));
  expect(16, set.run(set.with({"-n", "-y"})));
  expect(16, set.run({}));
  expect(8, set.run({"-n", set.dir / "not-there"}));
  expect(1, set.run(set.with({"-y"})));
  expect(0, set.run(set.with({"-y"})));
  spare_editor e(set.images.spares[0]); // one problem that can be repaired, one that cannot
  e.put_supers(144, 8, 2048);
  e.put(e.super(4), 144, 8, 9);
  set.images.spares[1] = base_set(2, true).spares[1];
  spare_editor other(set.images.spares[1]);
  other.fill(other.super(3), 1, 0);
  set.store_images();
  expect(5, set.run(set.with({"-y"})));
  seen.erase(5); // 1 and 4
  CHECK(seen == documented_statuses());
}

TEST_CASE("-n and --plan change no byte") {
  files set;
  set.damage();
  const auto before = set.bytes();
  CHECK(set.run(set.with({"-n"})).status == 4);
  CHECK(set.run(set.with({"--plan", set.dir / "plan"})).status == 4);
  CHECK(set.bytes() == before);
  CHECK(slurp(set.dir / "plan").starts_with("# dmremap-fsck: repair of set pool"));
}

TEST_CASE("a plan is carried out exactly, once, and not after a change") {
  files set;
  set.damage();
  const auto plan = set.dir / "plan";
  REQUIRE(set.run(set.with({"--plan", plan})).status == 4);
  CHECK(set.run(set.with({"--plan", plan})).status == 8); // an existing file stays
  SECTION("as it was") {
    const auto done = set.run({"--apply", plan});
    INFO(done.out << done.err);
    CHECK(done.status == 1);
    CHECK(set.run(set.with({"-n"})).status == 0);
    CHECK(set.run({"--apply", plan}).status == 0); // done already
  }
  SECTION("in another order of the spares, under other names") {
    boost::filesystem::rename(set.spares[0], set.dir / "x");
    set.spares = {set.spares[1], set.dir / "x"};
    CHECK(set.run(set.with({"--apply", plan})).status == 1);
    CHECK(set.run(set.with({"-n"})).status == 0);
  }
  SECTION("a block of the plan has changed") {
    spare_editor(set.images.spares[0]).fill(128, 1, 0x55);
    set.store_images();
    const auto before = set.bytes();
    const auto refused = set.run({"--apply", plan, "--json"});
    CHECK(refused.status == 8);
    CHECK(nlohmann::json::parse(refused.out)["error"]["id"] == "metadata-changed");
    CHECK(set.bytes() == before);
  }
  SECTION("another block of the metadata has changed") {
    spare_editor e(set.images.spares[1]);
    e.flip(e.super(7), 99);
    set.store_images();
    const auto before = set.bytes();
    CHECK(set.run({"--apply", plan}).status == 8);
    CHECK(set.bytes() == before);
  }
}

TEST_CASE("a repair keeps an undo log, which restores every byte") {
  files set;
  set.damage();
  const auto damaged = set.bytes();
  REQUIRE(set.run(set.with({"-p"})).status == 1);
  const auto log = set.undo_log();
  REQUIRE_FALSE(log.empty());
  CHECK(set.bytes() != damaged);
  SECTION("by its name") {
    const auto back = set.run({"--undo-apply", log});
    INFO(back.out << back.err);
    CHECK(back.status == 0);
    CHECK(set.bytes() == damaged);
    CHECK(set.run({"--undo-apply", log}).status == 0); // again
    CHECK(set.bytes() == damaged);
  }
  SECTION("not where the set was changed since") {
    set.images = base_set(2, false);
    set.store_images();
    const auto before = set.bytes();
    CHECK(set.run({"--undo-apply", log}).status == 8);
    CHECK(set.bytes() == before);
  }
}

TEST_CASE("a repair and its undoing show how far they are") {
  files set;
  set.damage();
  const progress_lines repaired, undone;
  REQUIRE(set.run(set.with({"-y", "--progress", repaired.fd()})).status == 1);
  const auto lines = repaired.lines();
  // The table that is read before and after is larger than two superblocks.
  const std::uint64_t written = 2 * unit_bytes;
  const auto at = std::find(lines.begin(), lines.end(), std::pair(unit_bytes, written));
  REQUIRE(at != lines.end());
  CHECK((at != lines.begin() && std::prev(at)->first == std::prev(at)->second));
  CHECK(std::find(at, lines.end(), std::pair(written, written)) != lines.end());
  CHECK((lines.back().first == lines.back().second && lines.back().second > written));
  REQUIRE(set.run({"--undo-apply", set.undo_log(), "--progress", undone.fd()}).status == 0);
  CHECK(undone.lines() ==
        std::vector<std::pair<std::uint64_t, std::uint64_t>>{{unit_bytes, written}, {written, written}});
}

TEST_CASE("a repair is not taken back once the set was in use") {
  files set(3);
  set_images later = base_set(3, true);
  // On a spare on which nothing happens then.
  std::optional<unsigned> quiet;
  std::uint32_t block = 0;
  const used_set used = use(later);
  REQUIRE(used.refused.empty());
  for (unsigned n = 0; n < 3; ++n)
    for (std::uint32_t number = 0; number < 17; ++number) {
      set_images now = used.after;
      spare_editor before(later.spares[n]), after(now.spares[n]);
      if (const auto sequence = before.get(before.block(0, number), 8, 8);
          sequence != 0 && after.get(after.block(0, number), 8, 8) == sequence) {
        quiet = n;
        block = number;
      }
    }
  REQUIRE(quiet);
  spare_editor e(set.images.spares[*quiet]);
  for (unsigned r = 1; r < own_replicas; ++r)
    e.fill(e.block(r, block), 1, -1);
  set.store_images();
  REQUIRE(set.run(set.with({"-p"})).status == 1);
  const auto log = set.undo_log();
  later = used.after;
  spare_editor after(later.spares[*quiet]);
  after.fill(after.block(0, block), 1, -1); // the copy that was good then
  set.images = later;
  set.store_images();
  const auto bytes = set.bytes();
  const auto refused = set.run({"--undo-apply", log});
  CHECK(refused.status == 8);
  CHECK(refused.err.find("was in use since the repair") != std::string::npos);
  CHECK(set.bytes() == bytes);
  CHECK(set.run(set.with({"-p"})).status == 1);
  CHECK(set.run(set.with({"-n"})).status == 0);
}

/// Noise over one block of a file.
void spoil(const std::string& path, std::uint64_t unit) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(unit * unit_bytes + 700));
  file << std::string(2000, 'x');
}

TEST_CASE("a repair is not taken back where its copies are all that is left") {
  files set(1);
  spare_editor e(set.images.spares[0]);
  std::vector<std::uint64_t> sound; // what the repair copies from
  SECTION("a block of the table") {
    const auto number = e.serving().at(0).first;
    for (unsigned r = 1; r < own_replicas; ++r)
      e.fill(e.block(r, number), 1, -1);
    sound = {e.block(0, number)};
  }
  SECTION("a block of the table of which an older copy is there, too") {
    const auto number = e.serving().at(0).first;
    for (unsigned r = 2; r < own_replicas; ++r)
      e.fill(e.block(r, number), 1, -1);
    e.put(e.block(1, number), 8, 8, 1);
    sound = {e.block(0, number)};
  }
  SECTION("a superblock") {
    sound = {e.super(5)}; // those at the fixed places are looked at anyhow
    for (unsigned copy = 0; copy < super_copies; ++copy)
      if (copy != 5)
        e.fill(e.super(copy), 1, -1);
  }
  set.store_images();
  const auto damaged = set.bytes();
  REQUIRE(set.run(set.with({"-p"})).status == 1);
  const auto log = set.undo_log();
  for (const std::uint64_t unit : sound)
    spoil(set.spares[0], unit);
  const auto before = set.bytes();
  const auto refused = set.run({"--undo-apply", log, "--json"});
  INFO(refused.out << refused.err);
  CHECK(refused.status == 8);
  CHECK(nlohmann::json::parse(refused.out)["error"]["id"] == "metadata-changed");
  CHECK(refused.out.find("all that is left") != std::string::npos);
  CHECK(set.bytes() == before);
  CHECK(set.run(set.with({"-p", "--no-undo"})).status == 1); // the block is there
  CHECK(set.run(set.with({"-n"})).status == 0);
  REQUIRE(set.run({"--undo-apply", log}).status == 0); // and now the rest can do without the repair's copies
  for (const std::uint64_t unit : sound)
    CHECK(set.bytes()[0].substr(unit * unit_bytes, unit_bytes) !=
          before[0].substr(unit * unit_bytes, unit_bytes));
  CHECK(set.run(set.with({"-n"})).status == 4);
  CHECK(set.run(set.with({"-p", "--no-undo"})).status == 1);
}

TEST_CASE("a block that could not be read before a repair does not keep it when it is taken back") {
  files set(1);
  spare_editor e(set.images.spares[0]);
  const auto [number, index] = e.serving().at(0);
  e.put_slot(number, index, e.get(e.block(0, number), 32 + 16 * index, 8) | 1ull << 60,
             e.get(e.block(0, number), 40 + 16 * index, 8));
  set.store_images();
  const auto unreadable = e.block(0, number);
  auto expected = set.bytes();
  std::fill_n(expected[0].begin() + static_cast<std::ptrdiff_t>(unreadable * unit_bytes), unit_bytes, '\0');
  const auto dust = set.spares[0] + ".dust";
  std::ofstream(dust) << unreadable * unit_sectors << " read " << unit_sectors << '\n';
  REQUIRE(set.run({"-y", "dust:" + set.spares[0]}).status == 1);
  boost::filesystem::remove(dust);
  const auto back = set.run({"--undo-apply", set.undo_log()});
  INFO(back.out << back.err);
  CHECK(back.status == 0);
  CHECK((set.bytes() == expected)); // 16 MiB are not shown
  CHECK(back.err.find("holds zeros now") != std::string::npos);
  const auto look = nlohmann::json::parse(set.run(set.with({"-n", "--json"})).out);
  std::multiset<std::string> ids;
  for (const auto& d : look["left"])
    ids.insert(d["id"]);
  CHECK(ids == std::multiset<std::string>{"slot-wrong", "table-copy"}); // no copy is newer than another
}

TEST_CASE("an older slot that cannot be released is no damage") {
  files set(1);
  spare_editor e(set.images.spares[0]);
  const auto [from, at] = e.serving().at(2);
  const auto [number, index] = e.free_slot();
  e.put_slot(number, index, e.get(e.block(0, from), 32 + 16 * at, 8), 1ull << 48 | 1);
  const auto good = GENERATE(1u, 2u); // copies of its chunk, which is one block on such a spare
  CAPTURE(good);
  for (unsigned r = good; r < own_replicas; ++r) {
    const unsigned offset = 1280 + 128 * r + number / 8;
    e.put_supers(offset, 1, e.get(0, offset, 1) & ~(std::uint64_t{1} << number % 8));
  }
  set.store_images();
  const auto before = set.bytes();
  const auto look = nlohmann::json::parse(set.run(set.with({"-n", "--json"})).out);
  CHECK(look["left"].size() == (good == 1 ? 0 : 1));
  if (good == 1) {
    std::set<std::string> notices;
    for (const auto& d : look["notices"])
      notices.insert(d["id"]);
    CHECK(notices.contains("slot-stays"));
    CHECK(look["exit_status"] == 0);
    CHECK(set.run(set.with({"-y"})).status == 0);
    CHECK(set.bytes() == before);
  } else {
    CHECK(set.run(set.with({"-y"})).status == 1);
    CHECK(set.run(set.with({"-n"})).status == 0);
  }
}

/// Sends SIGTERM to this process when the n-th line of a text comes.
class signalling_buffer final : public std::stringbuf {
public:
  signalling_buffer(std::string text, int n) : text_(std::move(text)), left_(n) {}

private:
  std::streamsize xsputn(const char* bytes, std::streamsize n) override {
    if (std::string_view(bytes, static_cast<std::size_t>(n)).find(text_) != std::string_view::npos &&
        --left_ == 0)
      (void)std::raise(SIGTERM);
    return std::stringbuf::xsputn(bytes, n);
  }
  std::string text_;
  int left_;
};

TEST_CASE("a signal while fsck looks again after a repair is no clean end") {
  files set;
  const auto uuid = nlohmann::json::parse(set.run(set.with({"-n", "--json"})).out)["uuid"].get<std::string>();
  REQUIRE(write_host_state({uuid, "pool", 1, {}}));
  for (boost::filesystem::recursive_directory_iterator at(set.dir / "state"), end; at != end; ++at)
    if (at->path().filename() == uuid + ".json")
      std::ofstream(at->path().string()) << "not JSON";
  set.damage();
  std::vector<std::string> words = set.with({"-p"});
  words.insert(words.begin(), "dmremap-fsck");
  std::vector<const char*> argv;
  for (const auto& w : words)
    argv.push_back(w.c_str());
  std::istringstream in;
  std::ostringstream out;
  signalling_buffer buffer(uuid, 2); // the note on the state file, of the second look
  std::ostream err(&buffer);
  const int status = fsck::run(static_cast<int>(argv.size()), argv.data(), {in, out, err, false});
  INFO(out.str() << buffer.str());
  CHECK(status == (1 | 4 | 32));
  CHECK(buffer.str().find("what is left was not looked at") != std::string::npos);
  CHECK(set.run(set.with({"-n"})).status == 0);
}

TEST_CASE("a set that the configuration names is not another one that lies there") {
  files set;
  const auto clean = nlohmann::json::parse(set.run(set.with({"-n", "--json"})).out);
  const std::string own = clean["uuid"].get<std::string>(), other = "11111111-2222-4333-8444-555555555555";
  set.damage();
  const auto bytes = set.bytes();
  REQUIRE(save_set_config({"a", other, set.dir / "main", set.spares, {}}, config_write::create));
  for (const char* mode : {"-n", "-p", "-y"}) {
    const auto refused = set.run({mode, "a"});
    CHECK(refused.status == 8);
    CHECK(refused.err.find(own) != std::string::npos);
    CHECK(set.bytes() == bytes);
  }
  REQUIRE(save_set_config({"a", own, set.dir / "main", set.spares, {}}, config_write::replace));
  CHECK(set.run({"-p", "a"}).status == 1);
}

TEST_CASE("what a returned spare served before is no damage") {
  set_images images = base_set(2, true);
  const auto main = std::make_shared<memory_store>(images.main);
  const auto other = std::make_shared<memory_store>(images.spares[1], 4096);
  open_options alone;
  alone.degraded = true;
  auto opened = disk::open(main, {other}, alone);
  REQUIRE(opened);
  std::vector<std::uint64_t> units;
  (*opened)->for_each_remap([&](const remap_entry& e) {
    if (e.spare_index == 0)
      units.push_back(e.main.value);
  });
  REQUIRE(units.size() > 1);
  {
    const auto io = (*opened)->make_context();
    for (const std::uint64_t u : units)
      REQUIRE((*opened)->write(*io, std::vector<std::byte>(4096, std::byte{7}), u * 4096));
  }
  REQUIRE((*opened)->close());
  images.main = main->image();
  images.spares[1] = other->image();
  const fsck_run found = look(images);
  CHECK_FALSE(found.damaged());
  CHECK(found.has(fsck::damage_kind::spare_returned));
  CHECK(found.has(fsck::damage_kind::returned_slots));
  CHECK_FALSE(found.has(fsck::damage_kind::slot_superseded));
  const used_set used = use(images);
  CHECK(used.refused.empty());
  CHECK_FALSE(look(used.after).has(fsck::damage_kind::returned_slots));
  CHECK_FALSE(look(used.after).damaged());
}

TEST_CASE("the undo log goes where it is told to, or there is none; without room for it nothing is written") {
  files set;
  set.damage();
  const auto damaged = set.bytes();
  CHECK(set.run(set.with({"-y", "--undo", "/proc/nowhere/log"})).status == 8);
  CHECK(set.bytes() == damaged);
  CHECK(set.run(set.with({"-y", "--undo", set.dir / "nosuch/log"})).status == 8);
  CHECK(set.run(set.with({"--plan", set.dir / "nosuch/plan"})).status == 8);
  CHECK_FALSE(boost::filesystem::exists(set.dir / "nosuch"));
  CHECK(set.bytes() == damaged);
  CHECK(set.run(set.with({"-y", "--undo", set.dir / "log"})).status == 1);
  CHECK(set.run({"--undo-apply", set.dir / "log"}).status == 0);
  CHECK(set.run(set.with({"-y", "--no-undo"})).status == 1);
  CHECK_FALSE(boost::filesystem::exists(set.dir / "state/undo"));
}

TEST_CASE("a set in use is refused, with and without force") {
  files set;
  set.damage();
  const auto held =
      open_members({{member_role::spare, *parse_member(set.spares[1])}}, access_mode::read_write);
  REQUIRE(held);
  const auto before = set.bytes();
  for (const char* mode : {"-n", "-p", "-a", "-y"})
    for (const bool force : {false, true}) {
      const auto refused =
          force ? set.run(set.with({mode, "--force", "--json"})) : set.run(set.with({mode, "--json"}));
      CHECK(refused.status == 8);
      CHECK(nlohmann::json::parse(refused.out)["error"]["id"] == "in-use");
    }
  CHECK(set.bytes() == before);
}

TEST_CASE("each kind of damage is asked for on a terminal") {
  files set;
  set.damage();
  const auto before = set.bytes();
  CHECK(set.run(set.with({}), "n\n", true).status == 4);
  CHECK(set.bytes() == before);
  const auto asked = set.run(set.with({}), "what\ny\n", true);
  CHECK(asked.status == 1);
  CHECK(asked.out.find("[y/n/a/q]") != std::string::npos);
  CHECK(set.run(set.with({"-n"})).status == 0);
}

TEST_CASE("what -p leaves to -y") {
  files set(1);
  spare_editor e(set.images.spares[0]);
  e.put_supers(176, 4, 1700); // a wrong place of replica 2
  set.store_images();
  const auto before = set.bytes();
  CHECK(set.run(set.with({"-p"})).status == 4);
  CHECK(set.bytes() == before);
  CHECK(set.run(set.with({"-y"})).status == 1);
  CHECK(set.run(set.with({"-n"})).status == 0);
}

TEST_CASE("damage is reported as ranges in order of severity, and as JSON") {
  files set(1);
  spare_editor e(set.images.spares[0]);
  for (unsigned n = 0; n < 3; ++n)
    e.fill(e.block(1, e.serving().front().first), 1, 0);
  e.put_supers(1160, 8, 1u << 30);
  e.fill(e.super(4), 1, 0);
  set.store_images();
  const auto run = set.run(set.with({"-n", "--json"}));
  CHECK(run.status == 4);
  const auto report = nlohmann::json::parse(run.out);
  CHECK(report["schema"] == 1);
  CHECK(report["exit_status"] == 4);
  CHECK(report["set"] == "pool");
  REQUIRE(report["left"].size() == 3);
  CHECK(report["left"][0]["id"] == "counters");
  CHECK(report["left"][1]["id"] == "superblock-copy");
  CHECK(report["left"][1]["first_unit"] == 1024);
  CHECK(report["left"][1]["first_sector"] == 8192);
  CHECK(report["left"][2]["id"] == "table-copy");
  const auto text = set.run(set.with({"-n"}));
  CHECK(text.out.find("unit 1024 (sector 8192)") != std::string::npos);
  CHECK(text.out.find("1 spare") != std::string::npos);
}

TEST_CASE("neighbouring damage becomes one range") {
  std::vector<fsck::damage> all;
  for (const std::uint64_t unit : {7u, 5u, 6u, 9u})
    all.push_back({fsck::damage_kind::table_copy, "/s", 0, unit, 1, "torn"});
  all.push_back({fsck::damage_kind::no_superblock, "/s", 0, 0, 0, "none"});
  const auto ordered = fsck::in_order(all);
  REQUIRE(ordered.size() == 3);
  CHECK(ordered[0].kind == fsck::damage_kind::no_superblock);
  CHECK(ordered[1].first_unit == 5);
  CHECK(ordered[1].units == 3);
  CHECK(ordered[2].first_unit == 9);
}

TEST_CASE("main is held against what the set remembers") {
  files set;
  const auto main = set.dir.file("main", set.images.main.size());
  std::string bytes(set.images.main.size(), '\0');
  set.images.main.read(std::as_writable_bytes(std::span(bytes)), 0);
  std::ofstream(main, std::ios::binary) << bytes;
  CHECK(set.run(set.with({"-n", "--main", main})).status == 0);
  std::ofstream(main, std::ios::binary) << std::string(bytes.size(), 'x');
  const auto wrong = set.run(set.with({"-n", "--main", main}));
  CHECK(wrong.status == 4);
  CHECK(wrong.out.find("content samples differ") != std::string::npos);
  const auto small = set.dir.file("small", set.images.main.size() / 2);
  CHECK(set.run(set.with({"-n", "--main", small})).status == 4);
}

TEST_CASE("a spare that is older than what this host saw is told") {
  files set;
  const auto clean = nlohmann::json::parse(set.run(set.with({"-n", "--json"})).out);
  REQUIRE(write_host_state({clean["uuid"].get<std::string>(), "pool", 1ull << 40, {}}));
  const auto run = set.run(set.with({"-n"}));
  CHECK(run.status == 4);
  CHECK(run.out.find("older") != std::string::npos);
}

TEST_CASE("a folder is no plan and no undo log") {
  const files set;
  for (const auto* option : {"--apply", "--undo-apply"}) {
    const auto refused = set.run(set.with({option, set.dir.path(), "--json"}));
    CHECK(refused.status == 8);
    CHECK(nlohmann::json::parse(refused.out)["error"]["id"] == "not-a-file");
    CHECK(refused.err.find("is a folder") != std::string::npos);
  }
}
