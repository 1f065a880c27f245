// SPDX-License-Identifier: GPL-2.0-or-later
#include "fake_target.h"
#include "fusedisk/messages.h"
#include "fusedisk/replies.h"

#include <catch2/catch.hpp>

using namespace dmremap;

namespace {

std::string say(fake_target& t, const std::vector<std::string>& words) {
  const auto reply = run_message(t, words, 0);
  return reply ? *reply : "Error " + reply.error().id;
}

} // namespace

TEST_CASE("messages act, as one argument or as several") {
  fake_target t;
  CHECK(say(t, {"remap 2048"}) ==
        "1 unit remapped, served from spare sector 8192 on; 2 sectors could not be read and are lost");
  CHECK(say(t, {"remap", "2049"}).substr(0, 6) == "1 unit");
  CHECK(say(t, {"add_remap 1000 5000 100"}) ==
        "12 units remapped, served from spare sector 5000 on; 1 was so before");
  say(t, {"add_remap", "1000", "auto", "8", "/x/spare.img"});
  CHECK(say(t, {"remove_remap 8"}) == "sector 8: written back to main; its remap is gone");
  CHECK(say(t, {"save"}) == "metadata saved");
  CHECK(say(t, {"sync"}) == "metadata and data synced");
  CHECK(say(t, {"clear_stats"}) == "statistics cleared");
  CHECK(say(t, {"reset_breaker"}) == "breaker reset; automatic remapping goes on");
  CHECK(say(t, {"ping"}) == "pong");
  CHECK(t.asked() == std::vector<std::string>{"remap 2048", "remap 2049", "add_remap 1000 5000 100 on 0",
                                              "add_remap 1000 auto 8 on 0", "unmap 8", "save", "sync",
                                              "clear_stats", "reset_breaker"});
}

TEST_CASE("switches") {
  fake_target t;
  CHECK(say(t, {"set_auto_remap 0"}) == "auto_remap=0");
  CHECK_FALSE(t.stats_now.auto_remap);
  CHECK(say(t, {"set_auto_remap 1"}) == "auto_remap=1");
  CHECK(t.stats_now.auto_remap);
  CHECK(say(t, {"set_auto_remap 2"}) == "Error bad-message");
  CHECK(say(t, {"debug 3"}) == "log_level=debug");
  CHECK(say(t, {"debug 0"}) == "log_level=error");
  CHECK(t.level == log_level::error);
  CHECK(say(t, {"debug 4"}) == "Error bad-message");
}

TEST_CASE("what scripts parse has exactly this shape") {
  fake_target t;
  CHECK(
      say(t, {"status"}) ==
      "0 204800 remap v5.0 2/1000 0/1000 2/1000 health=1 errors=W0:R0 auto_remaps=0 manual_remaps=2 scan=0% "
      "metadata=enabled autosave=active saves=5/5");
  spare_status second = t.info_now.spares[0];
  t.info_now.spares[0].usable_units = second.usable_units = 2621440; // 10 GiB each
  t.info_now.spares[0].allocated_units = 131072;                     // 512 MiB
  t.info_now.spares[0].free_units = 2621440 - 131072;
  second.allocated_units = 0;
  second.free_units = 2621440;
  t.info_now.spares.push_back(second);
  CHECK(say(t, {"spare_stats"}) == "Spare Pool Statistics:\n"
                                   "  Devices: 2 total (1 available, 1 in-use, 0 full, 0 failed)\n"
                                   "  Capacity: 20480 MB total, 512 MB allocated, 19968 MB free\n"
                                   "  Allocations: 131072 active, 342 lifetime");
}

TEST_CASE("the status line tells of errors") {
  fake_target t;
  t.stats_now.main_write_errors = 2;
  t.stats_now.spare_write_errors = 1;
  t.stats_now.main_read_errors = 4;
  t.stats_now.breaker_open = true;
  t.stats_now.saves_tried = 6;
  t.info_now.read_only = true;
  CHECK(
      say(t, {"status"}) ==
      "0 204800 remap v5.0 2/1000 0/1000 2/1000 health=0 errors=W3:R4 auto_remaps=0 manual_remaps=2 scan=0% "
      "metadata=enabled autosave=off saves=5/6");
  const std::string health = say(t, {"health"});
  CHECK(health.find("health=0 state=ok\n") == 0);
  CHECK(health.find("reset_breaker") != std::string::npos);
  CHECK(health.find("4 read errors, 2 write errors") != std::string::npos);
}

TEST_CASE("a spare without a superblock is nothing healthy") {
  fake_target t;
  CHECK(say(t, {"status"}).find(" health=1 ") != std::string::npos);
  t.info_now.spares[0].super_copies_valid = t.info_now.spares[0].head_copies_valid = 0;
  CHECK(say(t, {"status"}).find(" health=0 ") != std::string::npos);
  CHECK(say(t, {"health"}) == "health=0 state=a spare cannot be read");
  t.stats_now.main_gone = true; // which is worse
  CHECK(say(t, {"health"}).find("health=0 state=ok\n") == 0);
}

TEST_CASE("metadata_status names copies, sequence, state and capacity of each spare") {
  fake_target t;
  const std::string text = say(t, {"metadata_status"});
  for (const char* part : {"/x/spare.img", "superblock copies 5/5", "table copies 4/5", "sequence 77",
                           "dirty", "1000 units", "2 allocated"})
    CHECK(text.find(part) != std::string::npos);
}

TEST_CASE("messages change the pool of spares") {
  fake_target t;
  spare_status second = t.info_now.spares[0];
  second.index = 3; // places need not follow each other
  second.uuid = "bbbbbbbb-7777-8888-9999-000000000000";
  second.path = "/x/third.img";
  t.info_now.spares.push_back(second);
  CHECK(say(t, {"spare_add", "/x/a name.img"}) ==
        "spare 1 added: aaaaaaaa-2222-3333-4444-555555555555 (4000 units)");
  CHECK(say(t, {"spare_remove /x/third.img"}) ==
        "spare 66666666-7777-8888-9999-000000000000 removed: /x/spare.img is free");
  for (const char* name : {"3", "BBBBBBBB-7777-8888-9999-000000000000", "/x/third.img", "dust:/x/third.img"})
    say(t, {"add_remap", "8", "auto", "8", name});
  say(t, {"add_remap 8 auto 8"});
  t.info_now.spares[0].free_units = 0; // full, but for its head: the next one is taken
  say(t, {"add_remap 8 auto 8"});
  t.info_now.spares[1].present = false;
  t.info_now.spares[1].free_units = 0;
  say(t, {"add_remap 8 auto 8"});
  CHECK(t.asked() == std::vector<std::string>{
                         "spare_add /x/a name.img", "spare_remove bbbbbbbb", "add_remap 8 auto 8 on 3",
                         "add_remap 8 auto 8 on 3", "add_remap 8 auto 8 on 3", "add_remap 8 auto 8 on 3",
                         "add_remap 8 auto 8 on 0", "add_remap 8 auto 8 on 3", "add_remap 8 auto 8 on 0"});
  CHECK(say(t, {"spare_remove 1"}) == "Error no-such-spare");
  t.refusal = {"spare-in-use", "/x/third.img", "Cannot remove spare /x/third.img: 7 active allocations",
               exit_code::failed};
  const auto refused = run_message(t, {"spare_remove", "3"}, 0);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().id == "spare-in-use");
  CHECK(refused.error().text() == "Error: Cannot remove spare /x/third.img: 7 active allocations");
}

TEST_CASE("a spare is full where no remap can be put on it, whatever is free in its head") {
  fake_target t;
  auto& first = t.info_now.spares[0];
  first.usable_units = 8000;
  first.allocated_units = 6000;
  first.free_units = 0;
  spare_status second = first;
  second.index = 1;
  second.free_units = 600;
  t.info_now.spares.push_back(second);
  CHECK(spare_state(t.info_now.spares[0]) == "full");
  CHECK(spare_state(t.info_now.spares[1]) == "present");
  const std::string stats = say(t, {"spare_stats"});
  CHECK(stats.find("2 total (0 available, 1 in-use, 1 full, 0 failed)") != std::string::npos);
  CHECK(stats.find("62 MB total, 46 MB allocated, 2 MB free") != std::string::npos);
  const std::string health = say(t, {"health"});
  CHECK(health.find("spare /x/spare.img is 100 % full") != std::string::npos);
  CHECK(health.find("spare /x/spare.img is 90 % full") != std::string::npos);
  t.info_now.spares[1].free_units = 700;
  CHECK(say(t, {"health"}).find("90 % full") == std::string::npos);
  t.info_now.spares[0].draining = true; // takes nothing new for another reason
  CHECK(spare_state(t.info_now.spares[0]) == "draining");
  CHECK(say(t, {"spare_stats"}).find(" 0 full") != std::string::npos);
}

TEST_CASE("add_remap auto asks one spare after another for units next to each other") {
  fake_target t;
  spare_status second = t.info_now.spares[0];
  second.index = 3;
  second.free_units = 1;
  t.info_now.spares.push_back(second);
  second.index = 4;
  second.free_units = 2;
  t.info_now.spares.push_back(second);
  t.in_pieces = {0};
  say(t, {"add_remap 4 auto 9"}); // two units
  CHECK(t.asked() == std::vector<std::string>{"add_remap 4 auto 9 on 0", "add_remap 4 auto 9 on 4"});
  t.in_pieces = {0, 4};
  const auto refused = run_message(t, {"add_remap 4 auto 9"}, 0);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().id == "no-spare-capacity");
  CHECK(refused.error().why == "the longest run on 0 has 3; nor has another spare such a run");
  say(t, {"add_remap 8 4096 8"}); // of the head, perhaps: the first with anything free
  CHECK(t.asked().back() == "add_remap 8 4096 8 on 0");
}

TEST_CASE("each spare's state and protection are told") {
  fake_target t;
  CHECK(say(t, {"metadata_status"}).find("protect") ==
        std::string::npos); // of one spare there is nothing to say
  spare_status second = t.info_now.spares[0];
  second.index = 1;
  second.uuid = "bbbbbbbb-7777-8888-9999-000000000000";
  second.path = "/x/second.img";
  second.protected_by = 0;
  t.info_now.spares.push_back(second);
  t.info_now.spares[0].draining = true;
  const auto line = [&](std::size_t n) {
    const auto text = say(t, {"metadata_status"});
    const auto end = text.find('\n');
    return n == 0 ? text.substr(0, end) : text.substr(end + 1);
  };
  CHECK(line(0).find(", draining, not protected against the loss of this spare") != std::string::npos);
  CHECK(line(1).find("2 allocated, protected by spare 0") != std::string::npos);
  t.info_now.spares[1].present = false;
  CHECK(line(1) ==
        "spare bbbbbbbb-7777-8888-9999-000000000000 (/x/second.img): absent, sequence 77, 2 allocated, "
        "protected by spare 0");
  // What is on one that is away counts, what it could take does not.
  CHECK(say(t, {"spare_stats"}).find("Devices: 2 total (0 available, 1 in-use, 0 full, 1 failed)\n") !=
        std::string::npos);
  CHECK(say(t, {"status"}).find(" 2/1002 ") != std::string::npos);
  t.info_now.spares[1].present = true; // it answers, but nothing of its metadata is valid
  t.info_now.spares[1].super_copies_valid = t.info_now.spares[1].head_copies_valid = 0;
  t.info_now.spares[1].free_units = 998;
  CHECK(say(t, {"spare_stats"}).find("Devices: 2 total (0 available, 1 in-use, 0 full, 1 failed)\n") !=
        std::string::npos);
  CHECK(say(t, {"spare_stats"}).find(" 2 MB free\n") != std::string::npos);
  CHECK(say(t, {"status"}).find(" 2/1002 ") != std::string::npos);
}

TEST_CASE("messages that cannot be carried out say why") {
  fake_target t;
  CHECK(say(t, {"remap"}) == "Error bad-message");
  CHECK(say(t, {"remap 1 2"}) == "Error bad-message");
  CHECK(say(t, {"remap -1"}) == "Error bad-message");
  CHECK(say(t, {"remap 99999999999999999999"}) == "Error bad-message");
  CHECK(say(t, {"remap 18014398509481985"}) == "Error bad-message"); // 2^54 + 1: no such byte
  CHECK(say(t, {"add_remap 1 auto 8 /x/unknown"}) == "Error no-such-spare");
  CHECK(say(t, {""}) == "Error bad-message");
  CHECK(say(t, {}) == "Error bad-message");
  CHECK(run_message(t, {"ping"}, 8).error().id == "bad-message");
  CHECK(t.asked().empty());
  const auto unknown = run_message(t, {"remapp 1"}, 0);
  REQUIRE_FALSE(unknown);
  CHECK(unknown.error().id == "unknown-message");
  CHECK(unknown.error().code == exit_code::usage);
  for (const char* name :
       {"remap SECTOR", "add_remap DEST SRC|auto LENGTH [SPARE]", "set_auto_remap 0|1", "help"})
    CHECK(unknown.error().why.find(name) != std::string::npos);
  t.refusal = {"no-spare-capacity", "sector 8", "No spare capacity available", exit_code::failed};
  CHECK(say(t, {"remap 8"}) == "Error no-spare-capacity");
}

TEST_CASE("only messages that touch drives may wait for them") {
  CHECK(waits_for_drives({"remap 8"}));
  CHECK(waits_for_drives({"sync"}));
  CHECK(waits_for_drives({"save"}));
  CHECK(waits_for_drives({"spare_add /x"}));
  CHECK(waits_for_drives({"spare_remove", "/x"}));
  for (const char* quick :
       {"ping", "status", "stats", "health", "help", "debug 1", "reset_breaker", "unknown"})
    CHECK_FALSE(waits_for_drives({quick}));
}
