// SPDX-License-Identifier: GPL-2.0-or-later
// A repair, and the taking back of one, cut off at every write and every flush. What of the unflushed writes
// is on the medium is drawn by seed: 4 draws a cut, 40 with DMREMAP_REPLAY=nightly.
#include "fsck/apply.h"
#include "fsck/repair_file.h"
#include "tests/fsck/corpus.h"
#include "tests/fsck/cut_store.h"
#include "tests/support/memory_store.h"
#include "tests/support/sanitized.h"

#include <catch2/catch.hpp>

using namespace dmremap;
using namespace dmremap::test;

namespace {

struct machine {
  std::shared_ptr<power> supply = std::make_shared<power>();
  std::vector<std::shared_ptr<cut_store>> devices;

  explicit machine(const set_images& images) {
    for (unsigned n = 0; n < images.spares.size(); ++n)
      devices.push_back(std::make_shared<cut_store>(images.spares[n], "/spare" + std::to_string(n), supply));
  }
  [[nodiscard]] std::vector<std::shared_ptr<store>> stores() const {
    return {devices.begin(), devices.end()};
  }
  [[nodiscard]] fsck::set_findings look() const {
    std::vector<fsck::spare_input> spares;
    for (const auto& d : devices)
      spares.push_back({d->identity().path, d});
    auto found = fsck::inspect(spares, {});
    REQUIRE(found);
    return std::move(*found);
  }
  [[nodiscard]] set_images after_cut(const set_images& from, std::uint32_t seed) const {
    std::minstd_rand random(seed * 7919 + 1);
    set_images out{from.main, {}};
    for (const auto& d : devices)
      out.spares.push_back(d->after_cut(random));
    return out;
  }
  [[nodiscard]] set_images visible(const set_images& from) const {
    set_images out{from.main, {}};
    for (const auto& d : devices)
      out.spares.push_back(d->visible());
    return out;
  }
};

struct cut_run {
  set_images left;    ///< on the media
  bool whole = false; ///< it came to its end before the cut
};

/// apply_plan() or undo_plan().
using work = result<fsck::apply_outcome> (*)(const fsck::repair_plan&,
                                             const std::vector<std::shared_ptr<store>>&,
                                             const fsck::show_written&);

cut_run cut(const set_images& from, const fsck::repair_plan& plan, std::uint64_t at, std::uint32_t seed,
            work what) {
  machine m(from);
  m.supply->left = at;
  const auto done = what(plan, m.stores(), {});
  return {done ? m.visible(from) : m.after_cut(from, seed), done.has_value()};
}

/// The undo log as it is after a way through its file.
fsck::repair_plan logged(const fsck::repair_plan& plan) {
  auto read = fsck::parse_plan(fsck::format_plan(plan), "undo");
  REQUIRE(read);
  return std::move(*read);
}

void check_undo(const set_images& cut_off, const set_images& original, const fsck::repair_plan& undo) {
  machine m(cut_off);
  const auto ok = fsck::check_blocks(undo, m.stores());
  REQUIRE(ok);
  REQUIRE(fsck::undo_plan(undo, m.stores()));
  CHECK(m.visible(cut_off).hashes() == original.hashes());
}

/// What an interrupted --apply does on its next run: the same plan once more.
void check_apply(const set_images& cut_off, const set_images& repaired, const fsck::repair_plan& plan) {
  machine m(cut_off);
  REQUIRE(fsck::check_blocks(plan, m.stores()));
  REQUIRE(fsck::apply_plan(plan, m.stores()));
  CHECK(m.visible(cut_off).hashes() == repaired.hashes());
}

std::uint64_t check_kills(const damaged_set& d) {
  INFO(d.name);
  const set_images& sound = base_set(d.spares, d.closed);
  const shown_set oracle = show(sound);
  set_images damaged = sound;
  d.damage(damaged);
  const auto plan = fsck::make_plan(machine(damaged).look(), fsck::is_repairable);
  REQUIRE_FALSE(plan.empty());
  const auto undo = logged(plan);
  machine end(damaged);
  REQUIRE(fsck::apply_plan(plan, end.stores()));
  const set_images repaired_whole = end.visible(damaged);
  const std::uint32_t draws = sanitized ? 1 : nightly() ? 40 : 4;
  std::uint64_t cuts = 0;
  for (std::uint64_t at = 0;; at += sanitized ? 5 : 1) {
    bool whole = false;
    for (std::uint32_t seed = 0; seed < draws; ++seed, ++cuts) {
      INFO("power fails at request " << at << ", seed " << seed);
      const auto repaired = cut(damaged, plan, at, seed, fsck::apply_plan);
      whole = repaired.whole;
      check_undo(repaired.left, damaged, undo);
      check_apply(repaired.left, repaired_whole, undo);
      set_images again = repaired.left;
      const auto second = repair(again);
      CHECK(second.after.clean());
      const shown_set now = show(again);
      CHECK(now.refused.empty());
      if (d.after == expectation::clean)
        CHECK(no_wrong_byte(oracle, now));
      else
        CHECK(now == oracle);
    }
    if (whole)
      break;
  }
  // and the taking back, from the end
  for (std::uint64_t at = 0;; at += sanitized ? 5 : 1) {
    bool whole = false;
    for (std::uint32_t seed = 0; seed < draws; ++seed, ++cuts) {
      INFO("undo, power fails at request " << at << ", seed " << seed);
      const auto undone = cut(repaired_whole, undo, at, seed, fsck::undo_plan);
      whole = undone.whole;
      check_undo(undone.left, damaged, undo);
      check_apply(undone.left, repaired_whole, undo);
      set_images again = undone.left; // or the repair once more
      CHECK(repair(again).after.clean());
      CHECK(no_wrong_byte(oracle, show(again)));
    }
    if (whole)
      break;
  }
  return cuts;
}

} // namespace

TEST_CASE("a repair that is cut off anywhere is completed, or taken back, by another run") {
  std::uint64_t cuts = 0, sets = 0;
  for (const auto& list : {bytes_by_hand(), logic_by_hand()})
    for (const auto& d : list) {
      const bool repairable =
          d.after == expectation::same || d.after == expectation::safe || d.after == expectation::clean;
      if (!repairable)
        continue;
      cuts += check_kills(d);
      ++sets;
    }
  CHECK(sets > 40);
  WARN(sets << " sets, " << cuts << " cuts");
}

TEST_CASE("a plan in a file is what it was, and a damaged file is refused") {
  set_images images = base_set(2, true);
  bytes_by_hand().front().damage(images);
  auto plan = fsck::make_plan(machine(images).look(), fsck::is_repairable);
  REQUIRE_FALSE(plan.empty());
  plan.writes.front().readable = false;
  plan.summary.push_back("a line\nthat breaks");
  const auto text = fsck::format_plan(plan);
  const auto back = fsck::parse_plan(text, "file");
  REQUIRE(back);
  CHECK(back->fingerprint == plan.fingerprint);
  CHECK(back->set_uuid == plan.set_uuid);
  REQUIRE(back->writes.size() == plan.writes.size());
  for (std::size_t n = 0; n < plan.writes.size(); ++n) {
    const auto &a = back->writes[n], &b = plan.writes[n];
    CHECK(a.now.bytes == b.now.bytes);
    CHECK(a.readable == b.readable);
    if (a.readable)
      CHECK(a.old.bytes == b.old.bytes);
    CHECK(a.unit == b.unit);
    CHECK(a.step == b.step);
    CHECK(a.member == b.member);
  }
  for (std::size_t at = 0; at < text.size(); at += 97) { // any byte
    auto broken = text;
    broken[at] = static_cast<char>(broken[at] ^ 1);
    const auto read = fsck::parse_plan(broken, "file");
    INFO("byte " << at);
    CHECK_FALSE(read.has_value());
    CHECK_FALSE(fsck::parse_plan(text.substr(0, at), "file").has_value());
  }
}

TEST_CASE("a plan whose numbers are none is refused, also where its checksum is right") {
  set_images images = base_set(2, true);
  bytes_by_hand().front().damage(images);
  const auto text = fsck::format_plan(fsck::make_plan(machine(images).look(), fsck::is_repairable));
  const auto with = [&](const std::string& key, const std::string& value) {
    const auto at = text.find('"' + key + "\":") + key.size() + 3;
    auto edited = text.substr(0, at) + value + text.substr(text.find_first_of(",}", at));
    const auto last = edited.rfind("{\"crc32\":");
    const auto crc = crc32_of(std::as_bytes(std::span(edited.data(), last)));
    return edited.replace(last, edited.find(',', last) - last, "{\"crc32\":" + std::to_string(crc));
  };
  REQUIRE(fsck::parse_plan(with("unit", "77"), "file")->writes.front().unit == 77);
  for (const auto& [key, value] :
       std::vector<std::pair<std::string, std::string>>{{"member", "4294967296"}, // not member 0
                                                        {"member", "-4294967296"},
                                                        {"member", "2"},
                                                        {"member", "true"},
                                                        {"unit", "1.5"},
                                                        {"unit", "4294967296"},
                                                        {"group", "-1"},
                                                        {"step", "1e30"},
                                                        {"step", "0"},
                                                        {"dmremap_repair", "2.5"},
                                                        {"dmremap_repair", "1e30"},
                                                        {"dmremap_repair", "\"2\""},
                                                        {"fingerprint", "-1"},
                                                        {"supers", "1e30"}}) {
    INFO(key << " " << value);
    const auto read = fsck::parse_plan(with(key, value), "file");
    REQUIRE_FALSE(read);
    CHECK(read.error().id == "bad-repair-file");
  }
}

TEST_CASE("a plan is refused where a block has changed since") {
  set_images images = base_set(1, true);
  bytes_by_hand().front().damage(images);
  const auto plan = fsck::make_plan(machine(images).look(), fsck::is_repairable);
  spare_editor(images.spares[0]).fill(plan.writes.front().unit, 1, 0x77);
  const auto checked = fsck::check_blocks(plan, machine(images).stores());
  REQUIRE_FALSE(checked);
  CHECK(checked.error().id == "metadata-changed");
}

TEST_CASE("where a copy cannot be written the rest is repaired and the failure told") {
  set_images images = base_set(1, true);
  spare_editor e(images.spares[0]);
  e.fill(e.super(1), 1, 0);
  e.fill(e.super(7), 1, 0);
  auto spare = std::make_shared<memory_store>(images.spares[0]);
  spare->add_bad({e.super(1) * 8, 8, direction::write});
  auto found = fsck::inspect({{"/spare0", spare}}, {});
  REQUIRE(found);
  const auto done = fsck::apply_plan(fsck::make_plan(*found, fsck::is_safe), {spare});
  REQUIRE(done);
  CHECK(done->failures.size() == 1);
  const auto after = fsck::inspect({{"/spare0", spare}}, {});
  REQUIRE(after);
  CHECK_FALSE(after->clean());
}

TEST_CASE("a flush that fails is an error, not a repair") {
  set_images images = base_set(1, true);
  spare_editor e(images.spares[0]);
  e.fill(e.super(1), 1, 0);
  auto spare = std::make_shared<memory_store>(images.spares[0]);
  auto found = fsck::inspect({{"/spare0", spare}}, {});
  REQUIRE(found);
  spare->fail_flushes(1);
  const auto done = fsck::apply_plan(fsck::make_plan(*found, fsck::is_safe), {spare});
  REQUIRE_FALSE(done);
  CHECK(done.error().id == "flush-failed");
}
