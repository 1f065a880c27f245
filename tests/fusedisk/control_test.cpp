// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/control_client.h"
#include "engine/dust_store.h"
#include "fake_target.h"
#include "fusedisk/control_commands.h"
#include "fusedisk/control_server.h"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <future>
#include <nlohmann/json.hpp>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

using namespace dmremap;
using nlohmann::json;

namespace {

json ask(control_target& t, const json& request) {
  std::string reply;
  answer_request(t, request.is_string() ? request.get<std::string>() : request.dump(),
                 [&](std::string_view piece) {
                   reply += piece;
                   return true;
                 });
  REQUIRE(!reply.empty());
  REQUIRE(reply.back() == '\n');
  REQUIRE(reply.find('\n') == reply.size() - 1);
  return json::parse(reply);
}

json command(const std::string& name, const json& args = json::object()) {
  return {{"v", 1}, {"cmd", name}, {"args", args}};
}

std::string failure_of(control_target& t, const json& request) {
  const json reply = ask(t, request);
  CHECK(reply.at("ok") == false);
  return reply.at("error").at("id");
}

/// A folder of our own, removed with what the tests put there.
struct temporary_folder {
  temporary_folder() {
    char name[] = "/tmp/dmremap-test.XXXXXX";
    path = ::mkdtemp(name);
  }
  ~temporary_folder() {
    ::unlink((path + "/control").c_str());
    ::rmdir(path.c_str());
  }
  std::string path;
};

} // namespace

TEST_CASE("commands reach the set, and its answers come back") {
  fake_target t;
  CHECK(ask(t, command("ping")).at("text") == "pong");
  const json remapped = ask(t, command("remap", {{"sector", 2048}}));
  CHECK(remapped.at("result") ==
        json{{"units", 1}, {"already", 0}, {"lost_sectors", 2}, {"spare_sector", 8192}});
  ask(t, command("unmap", {{"sector", 8}}));
  ask(t, command("add_remap", {{"dest", 1000}, {"source", 5000}, {"sectors", 100}, {"spare", nullptr}}));
  ask(t,
      command("add_remap", {{"dest", 1000}, {"source", nullptr}, {"sectors", 8}, {"spare", "/x/spare.img"}}));
  const json salvaged = ask(t, command("salvage", {{"sector", nullptr}}));
  CHECK(salvaged.at("result") == json{{"tried", 3}, {"recovered", 1}, {"not_allowed", 1}, {"still_lost", 2}});
  CHECK(ask(t, command("salvaging")).at("result") == json{{"running", true}, {"done", 2}, {"all", 7}});
  ask(t, command("sync"));
  ask(t, command("save"));
  ask(t, command("rename", {{"name", "new"}}));
  CHECK(t.asked() == std::vector<std::string>{"remap 2048", "unmap 8", "add_remap 1000 5000 100 on 0",
                                              "add_remap 1000 auto 8 on 0", "salvage all", "sync", "save",
                                              "rename new"});
  CHECK(ask(t, command("message", {{"words", {"ping"}}, {"sector", 0}})).at("text") == "pong");
  CHECK(ask(t, command("lost")).at("result") == json{{"lost", {{{"sector", 17}, {"count", 3}}}}});
}

TEST_CASE("spares are changed by request") {
  fake_target t;
  t.evacuating = {1, true, t.info_now.spares[0].uuid, "/x/spare.img", 5, 40, {}, std::nullopt};
  const std::string path = "/x/spare.img";
  CHECK(ask(t, command("spare_add", {{"member", "/x/new"}, {"wipe", {"ext4", "xfs"}}, {"destroy_set", "u"}}))
            .at("result") == json{{"member", "/x/new"},
                                  {"uuid", "aaaaaaaa-2222-3333-4444-555555555555"},
                                  {"index", 1},
                                  {"dry_run", false},
                                  {"usable_units", 4000},
                                  {"wiped", {"ext4", "xfs"}},
                                  {"configuration_problem", nullptr}});
  const json planned =
      ask(t, command("spare_add", {{"member", "/x/new"}, {"sparse", true}, {"dry_run", true}})).at("result");
  CHECK(planned.at("uuid").is_null());
  CHECK(planned.at("index").is_null());
  CHECK(planned.at("dry_run") == true);
  CHECK(ask(t, command("spare_remove", {{"spare", path}})).at("result").at("member") == path);
  ask(t, command("spare_remove", {{"spare", "0"}, {"dry_run", true}}));
  json lost = {{"units", 3},
               {"lost_sectors", 24},
               {"free_units", 900},
               {"dry_run", true},
               {"configuration_problem", nullptr}};
  CHECK(ask(t, command("spare_forget", {{"spare", path}, {"dry_run", true}})).at("result") == lost);
  lost["dry_run"] = false;
  CHECK(ask(t, command("spare_forget", {{"spare", path}})).at("result") == lost);
  const json begun = ask(t, command("spare_evacuate", {{"spare", path}})).at("result");
  CHECK(begun.at("running") == true);
  CHECK(begun.at("done") == 5);
  CHECK(begun.at("all") == 40);
  CHECK(ask(t, command("status")).at("result").at("evacuation") == begun);
  t.evacuating.failed = error{"cancelled", path, "5 units were moved", exit_code::failed};
  CHECK(ask(t, command("stop_evacuation")).at("result").at("error").at("id") == "cancelled");
  CHECK(ask(t, command("evacuation")).at("result").at("running") == false);
  ask(t, command("spare_refill", {{"spare", path}}));
  CHECK(t.asked() == std::vector<std::string>{"spare_add /x/new wipe ext4 wipe xfs destroy u",
                                              "spare_add /x/new sparse dry", "spare_remove 66666666",
                                              "spare_remove 66666666 dry", "spare_forget 66666666 dry",
                                              "spare_forget 66666666", "spare_evacuate 66666666",
                                              "stop_evacuation", "spare_refill 66666666"});
  for (const char* name : {"spare_remove", "spare_forget", "spare_evacuate", "spare_refill"}) {
    CHECK(failure_of(t, command(name, {{"spare", "/x/nowhere"}})) == "no-such-spare");
    CHECK(failure_of(t, command(name)) == "bad-request");
    CHECK(request_waits_for_drives(command(name).dump()));
  }
  CHECK(failure_of(t, command("spare_add", {{"member", "/x"}, {"wipe", "ext4"}})) == "bad-request");
  CHECK(failure_of(t, command("spare_forget", {{"spare", path}, {"dry_run", 1}})) == "bad-request");
  CHECK_FALSE(request_waits_for_drives(command("evacuation").dump()));
  t.refusal = {"spare-in-use", path, "no", exit_code::failed};
  CHECK(failure_of(t, command("spare_remove", {{"spare", path}})) == "spare-in-use");
}

TEST_CASE("status carries what the protocol promises") {
  fake_target t;
  const json status = ask(t, command("status")).at("result");
  CHECK(status.at("schema") == 1);
  CHECK(status.at("name") == "fake");
  CHECK(status.at("running") == true);
  CHECK(status.at("answers") == true);
  CHECK(status.at("main") ==
        json{{"path", "/x/main.img"}, {"sectors", 204800}, {"block_bytes", 4096}, {"direct", true}});
  CHECK(status.at("loop") == json{"/dev/loop3"});
  CHECK(status.at("image") == "/mnt/disk.img");
  CHECK(status.at("pid") == 4711);
  CHECK(status.at("spares").at(0).at("usable_units") == 1000);
  CHECK(status.at("spares").at(0).at("free_units") == 748);
  CHECK(status.at("spares").at(0).at("weakest_block_copies") == 4);
  CHECK(status.at("stats").at("lifetime_allocations") == 342);
  CHECK(status.at("dm").get<std::string>().find("0 204800 remap v5.0 2/1000") == 0);
  CHECK(status.at("spares").at(0).at("state") == "present");
  CHECK(status.at("spares").at(0).at("protected_by").is_null());
  CHECK(status.at("evacuation").is_null());
  for (const char* key : {"uuid", "age_seconds", "state", "mountpoint", "read_only", "auto_remap", "notices"})
    CHECK(status.contains(key));
}

TEST_CASE("a table comes row by row, in any size, and stops when the reader goes") {
  fake_target t;
  for (std::uint64_t i = 0; i < 5000; ++i) {
    remap_entry e;
    e.main = main_unit(i * 3);
    e.spare = spare_unit(2048 + i);
    e.sequence = 100 + i;
    e.by_hand = i % 2 == 1;
    t.remaps.push_back(e);
  }
  t.remaps[7].lost = 0x81;
  t.remaps[7].main_may_answer = 0x80;
  t.info_now.main_sectors = 4999 * 24 + 5; // the last unit of main is a partial one
  const json rows = ask(t, command("table")).at("result").at("remaps");
  REQUIRE(rows.size() == 5000);
  CHECK(rows.at(7) == json{{"main_sector", 168},
                           {"spare", t.info_now.spares[0].uuid},
                           {"spare_sector", (2048 + 7) * 8},
                           {"sectors", 8},
                           {"lost_mask", 0x81},
                           {"may_answer_mask", 0x80},
                           {"kind", "explicit"},
                           {"sequence", 107}});
  CHECK(rows.at(4999).at("sectors") == 5);
  unsigned pieces = 0;
  answer_request(t, command("table").dump(), [&](std::string_view) {
    ++pieces;
    return false;
  });
  CHECK(pieces == 1);
}

TEST_CASE("settings") {
  fake_target t;
  ask(t, command("set", {{"key", "auto_remap"}, {"value", "0"}}));
  ask(t, command("set", {{"key", "read_retries"}, {"value", "9"}}));
  ask(t, command("set", {{"key", "log_level"}, {"value", "warn"}}));
  CHECK(ask(t, command("get")).at("result") ==
        json{{"auto_remap", "0"}, {"read_retries", "9"}, {"log_level", "warn"}});
  CHECK(ask(t, command("get", {{"key", "read_retries"}})).at("text") == "read_retries=9");
  ask(t, command("set", {{"key", "auto_remap"}, {"value", "1"}, {"dry_run", true}}));
  ask(t, command("set", {{"key", "read_retries"}, {"value", "1"}, {"dry_run", true}}));
  ask(t, command("set", {{"key", "log_level"}, {"value", "debug"}, {"dry_run", true}}));
  CHECK(ask(t, command("get", {{"key", nullptr}})).at("result") ==
        json{{"auto_remap", "0"}, {"read_retries", "9"}, {"log_level", "warn"}});
  CHECK(failure_of(t, command("set", {{"key", "auto_remap"}, {"value", "2"}, {"dry_run", true}})) ==
        "bad-setting");
  CHECK(failure_of(t, command("set", {{"key", "colour"}, {"value", "1"}})) == "bad-setting");
  CHECK(failure_of(t, command("set", {{"key", "read_retries"}, {"value", "-1"}})) == "bad-setting");
  CHECK(failure_of(t, command("set", {{"key", "read_retries"}, {"value", "999999999999"}})) == "bad-setting");
  CHECK(failure_of(t, command("set", {{"key", "auto_remap"}, {"value", 1}})) == "bad-request");
  CHECK(failure_of(t, command("get", {{"key", "colour"}})) == "bad-setting");
}

TEST_CASE("requests that make no sense are refused and change nothing") {
  fake_target t;
  for (const char* text :
       {"", "nonsense", "[]", "{}", R"({"v":1})", R"({"v":1,"cmd":5})", R"({"v":1,"cmd":"remap"})",
        R"({"v":1,"cmd":"remap","args":{"sector":-1}})", R"({"v":1,"cmd":"remap","args":{"sector":1.5}})",
        R"({"v":1,"cmd":"remap","args":{"sector":"1"}})", R"({"v":1,"cmd":"remap","args":[]})",
        R"({"v":1,"cmd":"remap","args":{"sector":18446744073709551615}})",
        R"({"v":1,"cmd":"message","args":{"words":"ping"}})",
        R"({"v":1,"cmd":"message","args":{"words":[1]}})"}) {
    CAPTURE(text);
    const std::string id = failure_of(t, text);
    CHECK((id == "bad-request" || id == "bad-version"));
    CHECK_FALSE((id.empty() ||
                 (request_waits_for_drives(text) && std::string(text).find("remap") == std::string::npos)));
  }
  CHECK(failure_of(t, {{"v", 2}, {"cmd", "ping"}}) == "bad-version");
  CHECK(failure_of(t, command("explode")) == "unknown-command");
  CHECK(failure_of(t, command("stop")) == "image-in-use");
  CHECK(t.asked().empty());
}

TEST_CASE("dust members are told what to fail") {
  fake_target t;
  CHECK(failure_of(t, command("dust", {{"store", "main"}, {"op", "enable"}})) == "not-dust");
  dust_control dust(1000);
  t.dust_now = &dust;
  ask(t, command("dust",
                 {{"store", "main"}, {"op", "addbadblock"}, {"sector", 5}, {"mode", "read"}, {"count", 3}}));
  CHECK(dust.list() == std::vector<dust_range>{{5, 3, dust_mode::read}});
  CHECK(failure_of(t, command("dust", {{"store", "main"}, {"op", "addbadblock"}, {"sector", 5000}})) ==
        "dust-range");
}

TEST_CASE("a dump comes through the socket's JSON as it is") {
  fake_target t;
  auto d = std::make_shared<set_dump>();
  d->live = true;
  d->spares.emplace_back();
  d->spares[0].member = "/x/\"quoted\"\n";
  d->spares[0].super.set_name = "fake";
  d->spares[0].super.places.chunk_blocks = 1;
  t.dump_now = d;
  const auto reply = ask(t, command("dump"));
  CHECK(reply.at("ok") == true);
  CHECK(reply.at("result").at("dump") == dump_text(*d));
  CHECK(request_waits_for_drives(command("dump").dump()));
}

TEST_CASE("remap takes a number of sectors") {
  fake_target t;
  ask(t, command("remap", {{"sector", 80}, {"sectors", 24}}));
  CHECK(t.asked() == std::vector<std::string>{"remap 80+24"});
  CHECK(failure_of(t, command("remap", {{"sector", 80}, {"sectors", -1}})) == "bad-request");
}

namespace {

/// Remaps hang until they are released.
class hanging_target final : public control_target {
public:
  explicit hanging_target(fake_target& below) : below_(below) {}
  disk_stats stats() const override { return below_.stats(); }
  daemon_facts facts() const override { return below_.facts(); }
  dated_info info(std::chrono::milliseconds limit) override { return below_.info(limit); }
  std::shared_ptr<const set_dump> dump() const override { return below_.dump(); }
  void for_each_remap(const std::function<void(const remap_entry&)>& v) const override {
    below_.for_each_remap(v);
  }
  std::vector<lost_range> lost() const override { return below_.lost(); }
  unsigned read_retries() const override { return below_.read_retries(); }
  log_level logging() const override { return below_.logging(); }
  void set_auto_remap(bool on) override { below_.set_auto_remap(on); }
  void set_read_retries(unsigned n) override { below_.set_read_retries(n); }
  void set_logging(log_level l) override { below_.set_logging(l); }
  void clear_stats() override { below_.clear_stats(); }
  void reset_breaker() override { below_.reset_breaker(); }
  std::vector<std::string> loops() const override { return below_.loops(); }
  result<remap_reply> remap(sector_number s, std::uint64_t n) override {
    ++hanging;
    released.wait();
    return below_.remap(s, n);
  }
  result<void> unmap(sector_number s) override { return below_.unmap(s); }
  result<remap_reply> add_remap(sector_number d, std::optional<sector_number> s, std::uint64_t n,
                                unsigned i) override {
    return below_.add_remap(d, s, n, i);
  }
  result<salvage_reply> salvage(std::optional<sector_number> s) override { return below_.salvage(s); }
  salvage_state salvaging() const override { return below_.salvaging(); }
  result<void> sync() override { return below_.sync(); }
  result<void> save() override { return below_.save(); }
  result<void> rename(const std::string& n) override { return below_.rename(n); }
  result<std::shared_ptr<dust_control>> dust(const std::string& store) override { return below_.dust(store); }
  result<spare_add_reply> spare_add(const spare_add_request& r) override { return below_.spare_add(r); }
  result<spare_change_reply> spare_remove(const std::string& uuid, bool dry) override {
    return below_.spare_remove(uuid, dry);
  }
  result<spare_forget_reply> spare_forget(const std::string& uuid, bool dry) override {
    return below_.spare_forget(uuid, dry);
  }
  result<evacuation_state> spare_evacuate(const std::string& uuid, bool dry_run, bool partial) override {
    return below_.spare_evacuate(uuid, dry_run, partial);
  }
  result<void> stop_evacuation() override { return below_.stop_evacuation(); }
  result<void> spare_refill(const std::string& uuid) override { return below_.spare_refill(uuid); }
  evacuation_state evacuation() const override { return below_.evacuation(); }
  result<void> stop() override { return below_.stop(); }

  std::promise<void> release;
  std::shared_future<void> released = release.get_future().share();
  std::atomic<int> hanging{0};

private:
  fake_target& below_;
};

} // namespace

TEST_CASE("status and ping are answered though every remap hangs") {
  temporary_folder folder;
  fake_target t;
  hanging_target hanging(t);
  event_log log(log_level::error);
  auto server = control_server::start(folder.path + "/control", hanging, log);
  REQUIRE(server);
  struct stat st {};
  REQUIRE(::stat((folder.path + "/control").c_str(), &st) == 0);
  CHECK((st.st_mode & 0777) == 0600);
  std::vector<std::future<result<json>>> remaps;
  for (int i = 0; i < 10; ++i)
    remaps.push_back(std::async(std::launch::async, [&, i] {
      return control_request(folder.path, "remap", {{"sector", i * 8}}, std::nullopt);
    }));
  while (hanging.hanging < 4) // as many as there are threads for slow requests
    std::this_thread::yield();
  for (const char* quick : {"ping", "status", "stats", "get"}) {
    const auto reply = control_request(folder.path, quick, json::object(), std::chrono::seconds(10));
    REQUIRE(reply);
    CHECK(reply->at("ok") == true);
  }
  CHECK(t.asked().empty());
  hanging.release.set_value();
  for (auto& remap : remaps)
    CHECK(remap.get());
  CHECK(t.asked().size() == 10);
}

TEST_CASE("a request that was taken is answered before the server ends") {
  temporary_folder folder;
  fake_target t;
  hanging_target hanging(t);
  event_log log(log_level::error);
  auto server = control_server::start(folder.path + "/control", hanging, log);
  REQUIRE(server);
  auto remap = std::async(std::launch::async, [&] {
    return control_request(folder.path, "remap", {{"sector", 8}}, std::nullopt);
  });
  while (hanging.hanging < 1)
    std::this_thread::yield();
  auto end = std::async(std::launch::async, [&] { server->reset(); });
  hanging.release.set_value();
  end.get();
  CHECK(remap.get());
}

TEST_CASE("requests that wait when the server ends are refused, those that were begun are answered") {
  temporary_folder folder;
  fake_target t;
  hanging_target hanging(t);
  event_log log(log_level::error);
  auto server = control_server::start(folder.path + "/control", hanging, log);
  REQUIRE(server);
  std::vector<std::future<result<json>>> begun, waiting;
  const auto ask_for = [&](const std::string& what) {
    return std::async(std::launch::async, [&folder, what] {
      return control_request(folder.path, what, {{"sector", 8}}, std::nullopt);
    });
  };
  for (int i = 0; i < 4; ++i)
    begun.push_back(ask_for("remap"));
  while (hanging.hanging < 4) // as many as there are threads for slow requests
    std::this_thread::yield();
  for (int i = 0; i < 3; ++i)
    waiting.push_back(ask_for("unmap"));
  while ((*server)->waiting() < 3)
    std::this_thread::yield();
  (*server)->take_no_more();
  hanging.release.set_value();
  server->reset();
  for (auto& remap : begun)
    CHECK(remap.get());
  for (auto& unmap : waiting) {
    const auto refused = unmap.get();
    REQUIRE_FALSE(refused);
    CHECK(refused.error().id == "stopping");
  }
  CHECK(t.asked().size() == 4); // none of the three was carried out
}

TEST_CASE("clients that send nonsense, too much or nothing harm nobody") {
  temporary_folder folder;
  fake_target t;
  event_log log(log_level::error);
  auto server = control_server::start(folder.path + "/control", t, log);
  REQUIRE(server);
  const auto connect = [&] {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    folder.path.copy(address.sun_path, sizeof address.sun_path - 10);
    std::string(address.sun_path).append("/control").copy(address.sun_path, sizeof address.sun_path - 1);
    REQUIRE(::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    return fd;
  };
  const int silent = connect();
  const int gone = connect();
  ::close(gone);
  const int flood = connect();
  const std::string piece(64 * 1024, 'x');
  std::size_t sent = 0;
  for (ssize_t n = 1; n > 0 && sent <= 4 * control_server::longest_request;) {
    n = ::send(flood, piece.data(), piece.size(), MSG_NOSIGNAL);
    sent += n > 0 ? static_cast<std::size_t>(n) : 0;
  }
  CHECK(sent < 4 * control_server::longest_request); // it was cut off
  const auto reply = control_request(folder.path, "ping", json::object(), std::chrono::seconds(10));
  REQUIRE(reply);
  CHECK(reply->at("text") == "pong");
  ::close(silent);
  ::close(flood);
}

TEST_CASE("a request that is nested very deeply is refused, wherever the nesting is") {
  fake_target t;
  const std::string deep(400'000, '['), end(400'000, ']');
  CHECK(failure_of(t, json(deep)) == "bad-request"); // not even JSON
  const std::string asked =
      R"({"v":1,"cmd":"dust","args":{"store":"main","op":"status","sector":)" + deep + end + "}}";
  CHECK(failure_of(t, json(asked)) == "bad-request");
  CHECK(failure_of(t, json(R"({"v":1,"cmd":"ping","args":)" + deep + end + "}")) == "bad-request");
  CHECK_FALSE(request_waits_for_drives(asked));
}
