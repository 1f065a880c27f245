// SPDX-License-Identifier: GPL-2.0-or-later
// The smaller parts of the daemon: the run folder, the background start, the mount table, the tree, the log.
#include "engine/mount_table.h"
#include "fusedisk/background.h"
#include "fusedisk/events.h"
#include "fusedisk/image_tree.h"
#include "fusedisk/log.h"
#include "fusedisk/run_files.h"

#include <boost/filesystem.hpp>
#include <catch2/catch.hpp>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <sstream>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace dmremap;
namespace fs = boost::filesystem;

namespace {

/// A run folder of the test's own.
struct run_folder {
  run_folder() {
    char name[] = "/tmp/dmremap-test.XXXXXX";
    path = ::mkdtemp(name);
    ::setenv("DMREMAP_RUN_DIR", path.c_str(), 1);
  }
  ~run_folder() {
    ::unsetenv("DMREMAP_RUN_DIR");
    boost::system::error_code ignored;
    fs::remove_all(path, ignored);
  }
  std::string path;
};

std::string content_of(const std::string& path) {
  std::ifstream in(path);
  std::stringstream out;
  out << in.rdbuf();
  return out.str();
}

} // namespace

TEST_CASE("one daemon a name; the folder is private, and gone afterwards") {
  run_folder run;
  const std::string folder = run.path + "/.sets/one";
  {
    auto files = run_files::claim("one");
    REQUIRE(files);
    CHECK((*files)->path() == folder);
    struct stat st {};
    REQUIRE(::stat(folder.c_str(), &st) == 0);
    CHECK((st.st_mode & 0777) == 0700);
    CHECK(content_of(folder + "/pid") == std::to_string(getpid()) + "\n");
    const auto second = run_files::claim("one");
    REQUIRE_FALSE(second);
    CHECK(second.error().id == "in-use");
    CHECK(second.error().why.find(std::to_string(getpid())) != std::string::npos);
    CHECK(run_files::claim("other"));
    REQUIRE((*files)->write_info([] { return std::string("{\"pid\":1}"); }));
    CHECK(content_of(folder + "/info.json") == "{\"pid\":1}\n");
  }
  CHECK_FALSE(fs::exists(folder));
  CHECK(run_files::claim("one"));
}

TEST_CASE("what a dead daemon left is taken over") {
  run_folder run;
  const std::string folder = run.path + "/.sets/one";
  fs::create_directories(folder);
  for (const char* name : {"/control", "/stats", "/info.json"})
    std::ofstream(folder + name) << "old";
  std::ofstream(folder + "/pid") << getpid(); // a number that somebody has again
  auto files = run_files::claim("one");
  REQUIRE(files);
  for (const char* name : {"/control", "/stats", "/info.json"})
    CHECK_FALSE(fs::exists(folder + name));
}

TEST_CASE("a folder of somebody else's, or a link, is not trusted") {
  run_folder run;
  fs::create_directories(run.path + "/.sets");
  fs::create_directories(run.path + "/elsewhere");
  fs::create_symlink(run.path + "/elsewhere", run.path + "/.sets/one");
  CHECK(run_files::claim("one").error().id == "bad-run-dir");
  std::ofstream(run.path + "/.sets/two") << "a file";
  CHECK(run_files::claim("two").error().id == "bad-run-dir");
}

TEST_CASE("a set that is renamed takes its folder along") {
  run_folder run;
  auto files = run_files::claim("one");
  REQUIRE(files);
  REQUIRE((*files)->write_info([] { return std::string("{}"); }));
  fs::create_directories(run.path + "/.sets/two"); // left by a dead daemon
  REQUIRE((*files)->rename("two"));
  CHECK((*files)->path() == run.path + "/.sets/two");
  CHECK(fs::exists(run.path + "/.sets/two/info.json"));
  CHECK_FALSE(fs::exists(run.path + "/.sets/one"));
  CHECK(run_files::claim("two").error().id == "in-use");
  auto other = run_files::claim("one");
  REQUIRE(other);
  CHECK((*other)->rename("two").error().id == "name-taken");
  CHECK((*other)->path() == run.path + "/.sets/one");
  files->reset();
  CHECK_FALSE(fs::exists(run.path + "/.sets/two"));
}

TEST_CASE("the parent learns that the child serves, and does not wait for its end") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const auto done = run_in_background([&](const serving_hook& serving) -> result<void> {
    serving();
    char wait = 0;
    ::close(ends[1]);
    [[maybe_unused]] const auto n = ::read(ends[0], &wait, 1); // until the parent is gone from here
    return {};
  });
  CHECK(done);
  ::close(ends[0]);
  ::close(ends[1]);
  int status = -1;
  REQUIRE(::wait(&status) > 0);
  CHECK(status == 0);
}

TEST_CASE("the parent learns why the child failed") {
  const auto done = run_in_background([](const serving_hook&) -> result<void> {
    return fail("main-mounted", "/dev/sdb", "it is mounted on /home", exit_code::damaged);
  });
  REQUIRE_FALSE(done);
  CHECK(done.error().id == "main-mounted");
  CHECK(done.error().what == "/dev/sdb");
  CHECK(done.error().why == "it is mounted on /home");
  CHECK(done.error().code == exit_code::damaged);
}

TEST_CASE("the parent learns that the child died") {
  const auto done = run_in_background([](const serving_hook&) -> result<void> {
    ::raise(SIGKILL);
    return {};
  });
  REQUIRE_FALSE(done);
  CHECK(done.error().id == "daemon-died");
}

TEST_CASE("the mount table, with blanks in paths and one mount over another") {
  std::istringstream in(
      "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
      "40 22 0:45 / /mnt/with\\040blank rw,nosuid shared:9 master:2 - fuse.fusedisk dmremap rw\n"
      "41 40 0:46 / /mnt/with\\040blank rw - tmpfs none rw\n"
      "nonsense\n"
      "42 22 0:47 / /mnt/plain rw - fuse.fusedisk dmremap rw\n");
  const auto table = parse_mount_table(in);
  REQUIRE(table.size() == 4);
  CHECK(table[1].point == "/mnt/with blank");
  CHECK(table[1].device == "0:45");
  CHECK(table[1].type == "fuse.fusedisk");
  REQUIRE(topmost_at(table, "/mnt/with blank") != nullptr);
  CHECK(topmost_at(table, "/mnt/with blank")->id == 41);
  CHECK(topmost_at(table, "/mnt/plain")->parent == 22);
  CHECK(topmost_at(table, "/mnt") == nullptr);
  CHECK_FALSE(read_mount_table().empty());
}

TEST_CASE("on a folder the mount shows the image and the control files") {
  const image_tree tree(false, false, 1'000'000 * 512ULL);
  const auto image = tree.find(image_tree::root, "disk.img");
  REQUIRE(image);
  CHECK(tree.is_image(*image));
  CHECK(tree.attributes(*image)->st_size == 512'000'000);
  CHECK(tree.attributes(*image)->st_blocks == 1'000'000);
  CHECK(tree.attributes(*image)->st_mode == (S_IFREG | 0600));
  const auto ctl = tree.find(image_tree::root, "ctl");
  REQUIRE(ctl);
  CHECK(S_ISDIR(tree.attributes(*ctl)->st_mode));
  CHECK(tree.list(*ctl).size() == 2 + image_tree::ctl_names.size());
  for (const auto name : image_tree::ctl_names) {
    const auto inode = tree.find(*ctl, name);
    REQUIRE(inode);
    CHECK(tree.ctl_name(*inode) == name);
    CHECK(tree.attributes(*inode)->st_mode == (S_IFREG | 0400));
  }
  CHECK_FALSE(tree.find(image_tree::root, "other"));
  CHECK_FALSE(tree.find(*image, "disk.img"));
  CHECK_FALSE(tree.attributes(4711));
}

TEST_CASE("on a file the image is the root, and without w where nothing may be written") {
  const image_tree tree(true, true, 4096);
  CHECK(tree.is_image(image_tree::root));
  CHECK(tree.attributes(image_tree::root)->st_mode == (S_IFREG | 0400));
  CHECK(tree.list(image_tree::root).empty());
  CHECK_FALSE(tree.ctl_name(16));
}

TEST_CASE("counters turn into log lines, one an event") {
  disk_stats a, b;
  CHECK(compare_stats(a, b, "/x/main").empty());
  b.reads = 1000;
  b.main_read_errors = 3;
  b.auto_remaps = 2;
  b.lost_sectors = 1;
  b.breaker_open = true;
  b.main_gone = true;
  const auto events = compare_stats(a, b, "/x/main");
  REQUIRE(events.size() == 4);
  CHECK(events[0].text == "3 failed reads of main /x/main");
  CHECK(events[1].text == "1 more sectors lost: they answer EIO until written or salvaged");
  CHECK(compare_stats(b, b, "/x/main").empty());
  const auto better = compare_stats(b, a, "/x/main"); // also what clear_stats looks like
  REQUIRE(better.size() == 2);
  CHECK(better[0].text == "1 fewer sectors lost");
  CHECK(better[1].text == "main /x/main answers again");
}

TEST_CASE("a remap's log line names device, sector, destination and what was lost") {
  disk_info info;
  info.main_path = "/dev/sdb";
  info.spares.emplace_back().path = "/dev/sdc";
  remap_event e{main_unit(100), 0, spare_unit(2048), 0, true};
  CHECK(text_of(e, info) ==
        "main /dev/sdb: write error in the unit at sector 800; moved to spare /dev/sdc sector 16384");
  e.writing = false;
  e.lost = 0x82;
  CHECK(text_of(e, info) ==
        "main /dev/sdb: read error in the unit at sector 800; moved to spare /dev/sdc sector "
        "16384; lost sectors: 801, 807");
}

TEST_CASE("a log whose reader hangs holds up nobody, and says what it left out") {
  std::mutex mutex;
  std::condition_variable changed;
  bool hangs = true;
  std::vector<std::string> lines;
  {
    event_log log(log_level::info);
    log.start([&](log_level, const std::string& line) {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return !hangs; });
      lines.push_back(line);
    });
    log.debug("not wanted");
    for (int i = 0; i < 10'000; ++i)
      log.info(std::to_string(i));
    const std::lock_guard lock(mutex);
    CHECK(lines.empty());
    hangs = false;
    changed.notify_all();
  } // writes what is queued
  REQUIRE(lines.size() >= 100);
  REQUIRE(lines.size() <= event_log::queue_lines + 2);
  CHECK(lines[0] == "0");
  CHECK(lines[1] == "1");
}

TEST_CASE("a flood of lines that requests bring leaves room in the log for what explains it") {
  std::vector<std::string> lines;
  {
    event_log log(log_level::info);
    for (int i = 0; i < 10'000; ++i)
      log.write_often(log_level::error, "a request failed");
    for (int i = 0; i < 20; ++i)
      log.warn("why " + std::to_string(i));
    log.start([&](log_level, const std::string& line) { lines.push_back(line); });
  }
  const auto first = std::find(lines.begin(), lines.end(), "why 0");
  REQUIRE(lines.end() - first == 20);
  CHECK(lines.back() == "why 19");
  // A slow machine lets some more through, now and then: each gap says how long it was.
  const std::string gap = " lines of the log left out: too many at once";
  std::uint64_t left_out = 0, passed = 0;
  for (auto at = lines.begin(); at != first; ++at)
    if (at->ends_with(gap))
      left_out += std::stoull(*at);
    else
      ++passed;
  CHECK((first - 1)->ends_with(gap));
  CHECK(left_out + passed == 10'000);
  CHECK(left_out > passed);
}

TEST_CASE("log levels by name and by number") {
  CHECK(parse_log_level("error") == log_level::error);
  CHECK(parse_log_level("3") == log_level::debug);
  CHECK(parse_log_level("4").error().code == exit_code::usage);
  CHECK(parse_log_level("").error().id == "bad-option");
}
