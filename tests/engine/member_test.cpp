// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/member.h"

#include "engine/claim.h"
#include "engine/dust_store.h"
#include "engine/file_store.h"
#include "tests/support/store_contract.h"
#include "tests/support/temp_dir.h"

#include <boost/filesystem.hpp>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

using namespace dmremap;
using namespace dmremap::test;

namespace {

/// A run folder of its own for claims, and files to use.
struct fixture {
  temp_dir dir;
  scoped_env run{"DMREMAP_RUN_DIR", dir / "run"};
  std::string main = dir.file("main.img", 4 << 20);
  std::string spare = dir.file("spare.img", 4 << 20);

  static result<std::vector<open_member>> open(const std::vector<std::string>& members,
                                               access_mode mode = access_mode::read_write) {
    std::vector<std::pair<member_role, member_spec>> specs;
    for (const auto& m : members)
      specs.emplace_back(specs.empty() ? member_role::main : member_role::spare, *parse_member(m));
    return open_members(specs, mode);
  }
  static std::string id_of(const std::vector<std::string>& members,
                           access_mode mode = access_mode::read_write) {
    const auto opened = open(members, mode);
    return opened ? "opened" : opened.error().id;
  }
};

/// How many descriptors of this process lead to `path`, and how many of them may write.
std::pair<int, int> descriptors_of(const std::string& path) {
  std::pair<int, int> n{0, 0};
  for (const auto& entry : boost::filesystem::directory_iterator("/proc/self/fd")) {
    boost::system::error_code ec;
    if (boost::filesystem::read_symlink(entry.path(), ec) != path || ec)
      continue;
    ++n.first;
    if ((::fcntl(std::stoi(entry.path().filename().string()), F_GETFL) & O_ACCMODE) != O_RDONLY)
      ++n.second;
  }
  return n;
}

} // namespace

TEST_CASE("a member is parsed and printed back", "[member]") {
  struct row {
    const char *text, *path;
    bool dust;
    std::int64_t start, length; // -1: no range
  };
  for (const row& r : std::vector<row>{
           {"/dev/sdb", "/dev/sdb", false, -1, -1},
           {"/dev/sdb@8+16", "/dev/sdb", false, 8, 16},
           {"/dev/sdb@0+8", "/dev/sdb", false, 0, 8},
           {"dust:/x/main.img", "/x/main.img", true, -1, -1},
           {"dust:/x/main.img@8+4096", "/x/main.img", true, 8, 4096},
           {"/x/a@b", "/x/a@b", false, -1, -1},
           {"/x/a@8", "/x/a@8", false, -1, -1},
           {"/x/a@8+", "/x/a@8+", false, -1, -1},
           {"/x/a@+8", "/x/a@+8", false, -1, -1},
           {"/x/a@8+8b", "/x/a@8+8b", false, -1, -1},
           {"/x/a@8+-8", "/x/a@8+-8", false, -1, -1},
           {"/x/a@8+8/b", "/x/a@8+8/b", false, -1, -1},
           {"/x/user@host@8+16", "/x/user@host", false, 8, 16},
           {"/x/a@1+2@8+16", "/x/a@1+2", false, 8, 16},
           {"/x/dust:a", "/x/dust:a", false, -1, -1},
       }) {
    INFO(r.text);
    const auto m = parse_member(r.text);
    REQUIRE(m);
    CHECK(m->path == r.path);
    CHECK(m->dust == r.dust);
    CHECK(m->start.has_value() == (r.start >= 0));
    if (r.start >= 0) {
      CHECK(m->start == static_cast<std::uint64_t>(r.start));
      CHECK(m->length == static_cast<std::uint64_t>(r.length));
    }
    CHECK(m->text() == r.text);
  }
}

TEST_CASE("a relative member becomes absolute", "[member]") {
  const std::string here = boost::filesystem::current_path().string();
  CHECK(parse_member("main.img")->path == here + "/main.img");
  CHECK(parse_member("./main.img@8+8")->path == here + "/main.img");
  CHECK(parse_member("dust:../x")->path == here + "/../x");
}

TEST_CASE("a bad member is a usage error", "[member]") {
  for (const char* text :
       {"", "dust:", "@8+8", "dust:@8+8", "/x@18446744073709551616+8", "/x@8+18446744073709551616",
        "/x@18446744073709551608+8", "/x@18446744073709551608+16", "/x@36028797018963968+8"}) {
    INFO(text);
    const auto m = parse_member(text);
    REQUIRE_FALSE(m);
    CHECK(m.error().id == "bad-member");
    CHECK(m.error().code == exit_code::usage);
  }
  for (const auto& [text, id] : {std::pair{"/x@1+8", "misaligned-range"},
                                 {"/x@1001+5000", "misaligned-range"},
                                 {"/x@8+7", "misaligned-range"},
                                 {"/x@8+0", "too-small-range"}}) {
    const auto m = parse_member(text);
    REQUIRE_FALSE(m);
    CHECK(m.error().id == id);
    CHECK(m.error().code == exit_code::usage);
  }
}

TEST_CASE("ranges of one file share one open and reach their own sectors", "[member]") {
  const fixture f;
  auto opened = f.open({f.main + "@8+1024", f.main + "@2048+1024", f.spare});
  REQUIRE(opened);
  REQUIRE(opened->size() == 3);
  CHECK(descriptors_of(f.main) == std::pair(1, 1));
  CHECK((*opened)[0].io->size() == 1024 * 512);
  CHECK((*opened)[0].io->identity().path == f.main + "@8+1024");
  CHECK((*opened)[2].io->size() == 4 << 20);
  shifted_buffer data(4096, 0);
  fill_random(data.span(), 1);
  REQUIRE((*opened)[1].io->write(data.span(), 8192));
  REQUIRE((*opened)[1].io->flush());
  const std::string file = slurp(f.main);
  CHECK(std::memcmp(file.data() + 2048 * 512 + 8192, data.span().data(), 4096) == 0);
  CHECK(file.find_first_not_of('\0') >= 2048 * 512 + 8192);
}

TEST_CASE("opening writes nothing and read-only opens nothing for writing", "[member]") {
  const fixture f;
  std::filebuf data; // something to lose
  data.open(f.main, std::ios::in | std::ios::out | std::ios::binary);
  data.sputn("precious", 8);
  data.close();
  const std::string before = slurp(f.main) + slurp(f.spare);
  {
    const auto opened = f.open({f.main, f.spare}, access_mode::read_only);
    REQUIRE(opened);
    CHECK(descriptors_of(f.main) == std::pair(1, 0));
    CHECK(descriptors_of(f.spare) == std::pair(1, 0));
    shifted_buffer block(4096, 0);
    CHECK((*opened)[0].io->write(block.span(), 0).error() == io_error::read_only);
    CHECK((*opened)[0].io->zero(0, 4096).error() == io_error::read_only);
    CHECK((*opened)[0].io->flush());
  }
  REQUIRE(f.open({f.main, f.spare}));
  CHECK(slurp(f.main) + slurp(f.spare) == before);
}

TEST_CASE("a member that cannot be one is refused with its own id", "[member]") {
  const fixture f;
  CHECK(f.id_of({f.dir / "none"}) == "not-found");
  CHECK(f.id_of({f.main + "/none"}) == "not-found");
  CHECK(f.id_of({f.dir.path()}) == "not-a-device");
  CHECK(f.id_of({"/dev/null"}) == "not-a-device");
  REQUIRE(::mkfifo((f.dir / "fifo").c_str(), 0600) == 0);
  CHECK(f.id_of({f.dir / "fifo"}) == "not-a-device");
  CHECK(f.id_of({f.dir.file("empty", 0)}) == "empty-member");
  CHECK(f.id_of({f.dir.file("tiny", 4095)}) == "empty-member");
  CHECK(f.id_of({f.dir / "tiny@8+8"}) == "empty-member");
  CHECK(f.id_of({f.dir.file("unit", 4096)}) == "opened");
  CHECK(f.id_of({f.main + "@8+8184"}) == "opened");
  CHECK(f.id_of({f.main + "@8+8192"}) == "range-beyond-end");
  CHECK(f.id_of({f.main + "@8192+8"}) == "range-beyond-end");
  const auto spec = [&](std::uint64_t start, std::uint64_t length) {
    member_spec m{f.main, false, start, length};
    const auto opened = open_members({{member_role::main, m}}, access_mode::read_write);
    return opened ? "opened" : opened.error().id;
  };
  CHECK(spec(3, 8) == "misaligned-range");
  CHECK(spec(8, 9) == "misaligned-range");
  CHECK(spec(8, 0) == "too-small-range");
  CHECK(spec(UINT64_MAX - 7, 8) == "range-beyond-end");
}

TEST_CASE("members of one set may not overlap", "[member]") {
  const fixture f;
  ::symlink(f.main.c_str(), (f.dir / "link").c_str());
  REQUIRE(::link(f.main.c_str(), (f.dir / "hard").c_str()) == 0);
  CHECK(f.id_of({f.main, f.main}) == "members-overlap");
  CHECK(f.id_of({f.main, "dust:" + f.main}) == "members-overlap");
  CHECK(f.id_of({f.main, f.dir / "link"}) == "members-overlap");
  CHECK(f.id_of({f.main, f.dir / "hard"}) == "members-overlap");
  CHECK(f.id_of({f.main, f.main + "@0+8"}) == "members-overlap");
  CHECK(f.id_of({f.main + "@0+16", f.main + "@8+16"}) == "members-overlap");
  CHECK(f.id_of({f.main + "@8+16", f.dir / "hard@0+16"}) == "members-overlap");
  CHECK(f.id_of({f.main + "@0+16", f.main + "@16+16"}) == "opened");
}

TEST_CASE("what one set uses is refused to another, which is named", "[member]") {
  const fixture f;
  const auto first = f.open({f.main + "@0+2048", f.spare});
  REQUIRE(first);
  name_claims(*first, "demo");
  const auto refused = [&](const std::string& member, const std::string& id) {
    INFO(member);
    const auto second = f.open({member});
    REQUIRE_FALSE(second);
    CHECK(second.error().id == id);
    CHECK(second.error().why.find("'demo' (process " + std::to_string(::getpid()) + ")") !=
          std::string::npos);
  };
  refused(f.spare, "in-use");
  refused(f.main + "@0+2048", "in-use");
  refused("dust:" + f.main + "@0+2048", "in-use");
  refused(f.main, "members-overlap");
  refused(f.main + "@2040+2048", "members-overlap");
  refused(f.spare + "@8+8", "members-overlap");
  // The same disjoint range of the device is free for another set, again and again.
  for (int round = 0; round < 2; ++round)
    CHECK(f.open({f.main + "@2048+2048"}));
}

TEST_CASE("a claim lasts as long as the store, and no longer", "[member]") {
  const fixture f;
  std::shared_ptr<store> io;
  {
    auto opened = f.open({f.main});
    REQUIRE(opened);
    io = (*opened)[0].io;
  }
  CHECK(f.id_of({f.main}) == "in-use");
  io.reset();
  CHECK(f.id_of({f.main}) == "opened");
  std::size_t records = 0;
  for (const auto& entry : boost::filesystem::directory_iterator(f.dir / "run/.claims"))
    records += entry.path().filename().string().starts_with("owner.") ? 1 : 0;
  CHECK(records == 0);
}

TEST_CASE("a set that fails to open lets go of what it had", "[member]") {
  const fixture f;
  const auto other = f.open({f.spare});
  REQUIRE(other);
  CHECK(f.id_of({f.main, f.spare}) == "in-use");
  CHECK(f.id_of({f.main}) == "opened");
}

TEST_CASE("readers share, writers do not", "[member]") {
  const fixture f;
  {
    const auto reader = f.open({f.main}, access_mode::read_only);
    REQUIRE(reader);
    CHECK(f.id_of({f.main}, access_mode::read_only) == "opened");
    CHECK(f.id_of({f.main}, access_mode::read_write) == "in-use");
  }
  const auto writer = f.open({f.main});
  REQUIRE(writer);
  CHECK(f.id_of({f.main}, access_mode::read_only) == "in-use");
}

TEST_CASE("a dust member fails what it was told to, in its own sectors", "[member]") {
  const fixture f;
  auto opened = f.open({"dust:" + f.main + "@8+1024", f.spare});
  REQUIRE(opened);
  REQUIRE((*opened)[0].dust);
  CHECK_FALSE((*opened)[1].dust);
  CHECK((*opened)[0].io->identity().path == "dust:" + f.main + "@8+1024");
  REQUIRE((*opened)[0].dust->add(0, 1, dust_mode::read));
  shifted_buffer block(4096, 0);
  CHECK((*opened)[0].io->read(block.span(), 0).error() == io_error::medium);
  CHECK((*opened)[0].io->read(block.span(), 4096));
  CHECK((*opened)[0].dust->failed_reads() == 1);
}

TEST_CASE("a dust member starts with the bad sectors of the file beside it", "[member]") {
  const fixture f;
  (void)f.dir.text_file("main.img.dust", "# a drill\n16 read\n\n24 write 2 # two\n40\n");
  {
    const auto opened = f.open({"dust:" + f.main});
    REQUIRE(opened);
    const std::vector<dust_range> expected{
        {16, 1, dust_mode::read}, {24, 2, dust_mode::write}, {40, 1, dust_mode::both}};
    CHECK((*opened)[0].dust->list() == expected);
  }
  CHECK((*f.open({f.main}))[0].dust == nullptr);
  for (const char* bad : {"x", "8 foo", "8192", "8 read 0", "8 read 1 1", "-1"}) {
    INFO(bad);
    (void)f.dir.text_file("main.img.dust", std::string("8\n") + bad + "\n");
    const auto opened = f.open({"dust:" + f.main});
    REQUIRE_FALSE(opened);
    CHECK(opened.error().id == "bad-dust-file");
    CHECK(opened.error().what == f.main + ".dust:2");
  }
}

TEST_CASE("a user without permission is told so", "[member][root]") {
  const fixture f{temp_dir("/tmp")}; // the user must get there, whatever TMPDIR is
  REQUIRE(::chmod(f.dir.path().c_str(), 0711) == 0);
  REQUIRE(::chmod(f.main.c_str(), 0644) == 0);
  REQUIRE(::chmod(f.spare.c_str(), 0600) == 0);
  REQUIRE(::mkdir((f.dir / "locked").c_str(), 0700) == 0);
  REQUIRE(::mkdir((f.dir / "user").c_str(), 0700) == 0);
  REQUIRE(::chown((f.dir / "user").c_str(), 65534, 65534) == 0);
  const scoped_env run("DMREMAP_RUN_DIR", f.dir / "user/run");
  REQUIRE(::seteuid(65534) == 0);
  const auto write = f.id_of({f.main});
  const auto read = f.id_of({f.main}, access_mode::read_only);
  const auto closed = f.id_of({f.spare}, access_mode::read_only);
  const auto hidden = f.id_of({f.dir / "locked/x"});
  REQUIRE(::seteuid(0) == 0);
  CHECK(write == "no-permission");
  CHECK(read == "opened");
  CHECK(closed == "no-permission");
  CHECK(hidden == "no-permission");
}
