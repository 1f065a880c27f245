// SPDX-License-Identifier: GPL-2.0-or-later
// The decision tables of dmremap-reassemble(8), row by row. Root: one row needs a loop device.
#include "engine/config.h"
#include "engine/host_state.h"
#include "engine/unique_fd.h"
#include "recover/pairing.h"
#include "recover/reassemble.h"
#include "tests/recover/image_set.h"
#include "tests/support/loop_device.h"

#include <functional>
#include <map>
#include <optional>
#include <sys/socket.h>
#include <sys/un.h>

using namespace dmremap;
using namespace dmremap::test;
using nlohmann::json;

namespace {

ran reassemble(std::vector<std::string> words) {
  return run_program_with(recover::run_reassemble, "dmremap-reassemble", words);
}

/// The cells of a table's rows in a section of the page; its heading left out.
std::vector<std::vector<std::string>> page_rows(const std::string& section) {
  std::vector<std::vector<std::string>> rows;
  for (const auto& item : page_items("dmremap-reassemble.8", section)) {
    std::vector<std::string> cells{""};
    std::istringstream words(item);
    for (std::string word; words >> word;) {
      if (word == "Ta")
        cells.emplace_back();
      else
        cells.back() += (cells.back().empty() ? "" : " ") + word;
    }
    if (cells.front().rfind("Em ", 0) != 0)
      rows.push_back(cells);
  }
  return rows;
}

/// What a row of the second table speaks of, made anew for each.
struct situation {
  host h;
  image_set a{h, "a", 2};
  std::vector<std::string> options;
  std::optional<loop_device> loop;
  unique_fd listener;

  void run_files(bool alive) {
    const auto dir = set_run_dir("a");
    boost::filesystem::create_directories(dir);
    std::ofstream(dir + "/info.json")
        << json{{"name", "a"}, {"uuid", a.uuid}, {"image", "/none"}, {"main", a.main}, {"spares", a.spares}};
    if (!alive)
      return;
    listener.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const auto path = dir + "/control";
    REQUIRE(path.size() < sizeof address.sun_path);
    std::copy(path.begin(), path.end(), address.sun_path);
    REQUIRE(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(::listen(listener.get(), 8) == 0);
  }
  void lose(unsigned n) const { boost::filesystem::remove(a.spares[n]); }
  void grow_old() const {
    host_state seen;
    seen.uuid = a.uuid;
    seen.name = "a";
    seen.sequence_end = a.super(0).sequence_end + 1;
    REQUIRE(write_host_state(seen));
  }
};

const std::map<std::string, std::function<void(situation&)>>& situations() {
  static const std::map<std::string, std::function<void(situation&)>> all{
      {"all spares and a certain main", [](situation&) {}},
      {"a main that is not certain", [](situation& s) { s.a.work([](disk&) {}, false); }},
      {"nothing of main's size", [](situation& s) { boost::filesystem::remove(s.a.main); }},
      {"nothing but a refused main",
       [](situation& s) { write_bytes(s.a.main, 0, std::string(1u << 20, 'x')); }},
      {"two mains, alike", [](situation& s) { boost::filesystem::copy_file(s.a.main, s.h.image("clone")); }},
      {"two copies of one spare",
       [](situation& s) { boost::filesystem::copy_file(s.a.spares[1], s.h.image("clone")); }},
      {"a missing spare that another protects", [](situation& s) { s.lose(1); }},
      {"a missing spare that another protects, --degraded",
       [](situation& s) {
         s.lose(1);
         s.options = {"--degraded"};
       }},
      {"a missing spare that none protects, --degraded",
       [](situation& s) {
         for (unsigned n = 0; n < 2; ++n)
           boost::filesystem::remove(s.a.spares[n]);
         boost::filesystem::remove(s.a.main);
         s.a = image_set(s.h, "b", 3);
         const auto keeper = s.a.super(0).sixth_host;
         s.lose(0);
         s.lose(keeper);
         s.options = {"--degraded"};
       }},
      {"spares that were in use without each other",
       [](situation& s) {
         const auto change = [](disk& d) { REQUIRE(d.remap(sector_number(240))); };
         s.a.work(change, true, {1});
         s.a.work(change, true, {0});
       }},
      {"metadata older than this host saw", [](situation& s) { s.grow_old(); }},
      {"metadata older than this host saw, --accept-older",
       [](situation& s) {
         s.grow_old();
         s.options = {"--accept-older"};
       }},
      {"a spare that was forgotten, beside the others",
       [](situation& s) { s.a.work([](disk& d) { REQUIRE(d.forget_spare(1)); }, true, {1}); }},
      {"a block without a valid copy",
       [](situation& s) {
         const auto super = s.a.super(0);
         const auto host_path = s.a.spares[1];
         std::uint32_t block = 0;
         while (super.good_replicas(super.places.chunk_of(block)) == 0)
           ++block;
         for (unsigned replica = 0; replica < own_replicas; ++replica)
           damage(s.a.spares[0], super.places.block_place(replica, block));
         damage(host_path, spare_unit(std::uint64_t{super.sixth_start} + 1 + block));
       }},
      {"a member in use by others",
       [](situation& s) { s.loop.emplace(s.a.spares[0], loop_device::options{}); }},
      {"the name of another set",
       [](situation&) {
         set_config other;
         other.name = "a";
         other.uuid = to_text(random_uuid());
         other.main = "/dev/null";
         other.spares = {"/dev/zero"};
         REQUIRE(save_set_config(other, config_write::create));
       }},
      {"a daemon that died", [](situation& s) { s.run_files(false); }},
      {"a set that runs", [](situation& s) { s.run_files(true); }},
  };
  return all;
}

} // namespace

TEST_CASE("each row of the page's table of mains is what is decided") {
  const auto rows = page_rows("THE MAIN");
  const std::map<std::string, main_match::identity> drives{{"same", main_match::identity::same},
                                                           {"not told", main_match::identity::unknown},
                                                           {"another", main_match::identity::differs}};
  const std::map<std::string, recover::content> contents{{"matches", recover::content::matches},
                                                         {"silent", recover::content::silent},
                                                         {"differs", recover::content::differs}};
  unsigned cases = 0;
  for (const auto& row : rows) {
    REQUIRE(row.size() == 4);
    for (const bool configured : {false, true}) {
      if (row[2] != "any" && (row[2] == "yes") != configured)
        continue;
      ++cases;
      INFO(row[0] << ", " << row[1] << ", " << row[2]);
      CHECK(name_of(recover::rate(drives.at(row[0]), contents.at(row[1]), configured)) == row[3]);
    }
  }
  CHECK(cases == 3 * 3 * 2); // every case once
}

TEST_CASE("what content says") {
  main_match m;
  m.taken = m.telling = 3;
  CHECK(recover::content_of(m) == recover::content::silent); // not closed cleanly
  m.samples_valid = true;
  CHECK(recover::content_of(m) == recover::content::matches);
  m.telling = 0;
  CHECK(recover::content_of(m) == recover::content::silent); // all zeros
  m.wrong = 1;
  CHECK(recover::content_of(m) == recover::content::differs);
}

TEST_CASE("each row of the page's table of sets is what happens", "[root]") {
  const auto rows = page_rows("THE SET");
  CHECK(rows.size() == situations().size());
  for (const auto& row : rows) {
    REQUIRE(row.size() == 3);
    INFO(row[0]);
    const auto make = situations().find(row[0]);
    REQUIRE(make != situations().end());
    situation s;
    make->second(s);
    std::vector<std::string> words{"--json", "-n", "--all", s.h.images};
    words.insert(words.end(), s.options.begin(), s.options.end());
    const auto r = reassemble(words);
    const auto doc = r.json();
    REQUIRE(doc["sets"].size() == 1);
    const auto& set = doc["sets"][0];
    INFO(r.out);
    CHECK(set["verdict"] == row[1]);
    CHECK((set["error"].is_null() ? "-" : set["error"]["id"].get<std::string>()) == row[2]);
    CHECK(set["started"] == false);
    const bool well = row[2] == "-";
    CHECK(r.status == (well ? 0 : 4));
    if (row[1] == "certain") {
      CHECK(set["main"] == s.a.main);
      CHECK_FALSE(set["spares"].empty());
    }
  }
}

TEST_CASE("candidates that nothing tells apart are listed") {
  const host h;
  const image_set a(h, "a", 1);
  boost::filesystem::copy_file(a.main, h.image("clone"));
  auto set = reassemble({"--json", "a", h.images}).json()["sets"][0];
  CHECK(set["candidates"] == json({a.main, h.image("clone")}));
  boost::filesystem::copy_file(a.spares[0], h.image("copy"));
  set = reassemble({"--json", "a", h.images}).json()["sets"][0];
  CHECK(set["candidates"] == json({a.spares[0], h.image("copy")}));
  // Named, it is one.
  set = reassemble({"--json", "-n", "a", a.main, a.spares[0]}).json()["sets"][0];
  CHECK(set["verdict"] == "certain");
}

TEST_CASE("a main that was accepted is used, one that is refused is not") {
  const host h;
  image_set a(h, "a", 1);
  a.work([](disk&) {}, false);
  auto set = reassemble({"--json", "-n", "--accept-main", "a", h.images}).json()["sets"][0];
  CHECK(set["verdict"] == "needs --accept-main");
  CHECK(set["main"] == a.main);
  CHECK(set["options"] == json({"accept_main"}));
  a.work([](disk&) {});
  write_bytes(a.main, 0, std::string(unit_bytes, 'x'));
  const auto r = reassemble({"--json", "-n", "--accept-main", "a", h.images});
  CHECK(r.status == 4);
  CHECK(r.json()["sets"][0]["verdict"] == "refused");
}

TEST_CASE("mains that were swapped find back to their sets") {
  const host h;
  const image_set a(h, "a", 1), b(h, "b", 1);
  boost::filesystem::rename(a.main, h.image("x"));
  boost::filesystem::rename(b.main, a.main);
  boost::filesystem::rename(h.image("x"), b.main);
  const auto sets = reassemble({"--json", "-n", "--all", h.images}).json()["sets"];
  REQUIRE(sets.size() == 2);
  CHECK(sets[0]["main"] == b.main);
  CHECK(sets[1]["main"] == a.main);
}

TEST_CASE("two sets of one name are told apart by UUID only") {
  const host h;
  boost::filesystem::create_directory(h.image("one"));
  const image_set first(h, "a", 1);
  boost::filesystem::rename(first.main, h.image("one/main"));
  boost::filesystem::rename(first.spares[0], h.image("one/spare"));
  const image_set second(h, "a", 1);
  write_bytes(h.image("one/main"), 4096 * 64, "other"); // else the mains were alike
  auto sets = reassemble({"--json", "-n", "a", h.images}).json()["sets"];
  REQUIRE(sets.size() == 2);
  for (const auto& set : sets)
    CHECK(set["verdict"] == "refused");
  sets = reassemble({"--json", "-n", second.uuid, h.images}).json()["sets"];
  REQUIRE(sets.size() == 1);
  CHECK(sets[0]["verdict"] == "certain");
}

TEST_CASE("every exit status of the page of dmremap-reassemble happens") {
  const host h;
  const image_set a(h, "a", 2);
  const scoped_env none("DMREMAP_FUSEDISK", "/none/fusedisk");
  const auto items = page_items("dmremap-reassemble.8", "EXIT STATUS");
  REQUIRE(items == std::vector<std::string>{"0", "1", "2", "4"});
  const std::map<std::string, std::vector<std::string>> lines{
      {"0", {"-n", "a", h.images}},
      {"1", {"b", h.images}},
      {"2", {"--no-such-option"}},
      {"4", {"a", a.main, a.spares[0]}},
  };
  for (const auto& item : items)
    CHECK(reassemble(lines.at(item)).status == std::stoi(item));
  CHECK(reassemble({"a", h.images}).status == 1); // nothing to start it with
  CHECK(reassemble({"-n", "--all", h.images, h.image("none")}).status == 1);
  CHECK(reassemble({h.images + "/"}).status == 0); // judged, not started
}
