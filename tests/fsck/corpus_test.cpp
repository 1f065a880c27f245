// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/fsck/corpus.h"
#include "tests/support/mutant_states.h"
#include "tests/support/pool_operations.h"
#include "tests/support/sanitized.h"
#include "tests/support/spare_check.h"

#include <catch2/catch.hpp>
#include <set>

using namespace dmremap;
using namespace dmremap::test;

namespace {

std::string words(const fsck::set_findings& f) {
  std::string out;
  for (const auto& d : f.found)
    out += std::string(fsck::facts_of(d.kind).id) + " " + d.member + "@" + std::to_string(d.first_unit) +
           "+" + std::to_string(d.units) + ": " + d.text + "\n";
  return out;
}

bool noticed(const fsck_run& run) {
  return std::any_of(run.before.found.begin(), run.before.found.end(), [](const fsck::damage& d) {
    return d.kind == fsck::damage_kind::copy_unused || d.kind == fsck::damage_kind::last_copy ||
           d.kind == fsck::damage_kind::metadata_image;
  });
}

/// A repaired set is one that can be worked with: opened for writing, changed, closed; then nothing is wrong.
void check_usable(const set_images& images, const shown_set& oracle) {
  const used_set used = use(images);
  INFO(used.refused);
  REQUIRE(used.refused.empty());
  const auto seen = look(used.after);
  INFO("after its use:\n" + words(seen.before));
  CHECK(seen.before.clean());
  auto expected = oracle.sectors;
  for (std::size_t s = used.unit.value * unit_sectors; s < (used.unit.value + 1) * unit_sectors; ++s)
    expected[s] = used.written;
  CHECK(show(used.after).sectors == expected);
}

/// Another run finds nothing to do.
void check_settled(set_images images, bool clean) {
  const auto before = images.hashes();
  const auto again = repair(images);
  INFO(words(again.before));
  CHECK(again.before.clean() == clean);
  CHECK(again.plan.empty());
  CHECK(images.hashes() == before);
}

void check_case(const damaged_set& d) {
  INFO(d.name);
  const set_images& sound = base_set(d.spares, d.closed);
  const shown_set oracle = show(sound);
  REQUIRE(oracle.refused.empty());
  set_images images = sound;
  d.damage(images);
  const auto seen = look(images);
  INFO(seen.refused + "\n" + words(seen.before));
  if (d.after == expectation::refused) {
    CHECK_FALSE(seen.refused.empty());
    return;
  }
  REQUIRE(seen.refused.empty());
  if (d.after == expectation::noticed) {
    CHECK(noticed(seen));
    CHECK(seen.before.clean());
    return;
  }
  CHECK_FALSE(seen.before.clean()); // never called clean
  if (d.after == expectation::safe) {
    set_images preened = images;
    const auto run = repair(preened, fsck::is_safe);
    INFO("after -p:\n" + words(run.after));
    CHECK(run.after.clean());
    CHECK(show(preened) == oracle);
  }
  const auto run = repair(images);
  INFO("after -y:\n" + words(run.after));
  const shown_set now = show(images);
  CHECK(no_wrong_byte(oracle, now));
  const bool clean = d.after != expectation::left;
  CHECK(run.after.clean() == clean);
  if (d.after == expectation::same || d.after == expectation::safe)
    CHECK(now == oracle);
  if (clean)
    check_usable(images, now);
  check_settled(images, clean);
}

} // namespace

TEST_CASE("damage by hand that checksums show") {
  for (const auto& d : bytes_by_hand())
    check_case(d);
}

TEST_CASE("damage by hand under right checksums") {
  for (const auto& d : logic_by_hand())
    check_case(d);
}

TEST_CASE("the corpus by hand: sixty, half of them with right checksums, each with a name of its own") {
  std::set<std::string> names;
  std::size_t sealed = 0;
  for (const auto& list : {bytes_by_hand(), logic_by_hand()})
    for (const auto& d : list) {
      names.insert(d.name);
      sealed += d.sealed ? 1 : 0;
    }
  CHECK(names.size() == bytes_by_hand().size() + logic_by_hand().size());
  CHECK(names.size() >= 60);
  CHECK(sealed * 2 >= names.size());
}

TEST_CASE("a sound set is clean and nothing is written") {
  for (const unsigned spares : {1u, 2u, 3u})
    for (const bool closed : {true, false}) {
      INFO(spares << " spares, closed: " << closed);
      const auto seen = look(base_set(spares, closed));
      INFO(words(seen.before));
      CHECK(seen.refused.empty());
      CHECK(seen.before.clean());
      CHECK(seen.before.complete);
      check_settled(base_set(spares, closed), true);
    }
}

TEST_CASE("700 sets damaged by seed, a current copy of every block left: all is back") {
  const unsigned step = sanitized ? 20 : 1, rounds = nightly() ? 20 : 1;
  for (std::uint32_t seed = 0; seed < 700 * rounds; seed += step) {
    const unsigned spares = 1 + seed % 2;
    const set_images& sound = base_set(spares, seed % 3 != 0);
    static std::map<const set_images*, shown_set> oracles;
    if (oracles[&sound].sectors.empty())
      oracles[&sound] = show(sound);
    set_images images = sound;
    const auto what = damage_by_seed(images, seed, seeded::bytes);
    INFO("seed " << seed << ":" << what);
    const bool changed = images.hashes() != sound.hashes();
    const auto run = repair(images);
    INFO(words(run.before) << "after:\n" << words(run.after));
    REQUIRE(run.refused.empty());
    CHECK(run.after.clean());
    CHECK((changed || run.before.clean()));
    CHECK(show(images) == oracles[&sound]);
    if (seed % 10 == 0) {
      check_settled(images, true);
      check_usable(images, oracles[&sound]);
    }
  }
}

TEST_CASE("300 sets damaged by seed under right checksums: nothing wrong is shown, and the end is settled") {
  const unsigned step = sanitized ? 20 : 1, rounds = nightly() ? 20 : 1;
  unsigned unclean = 0, all = 0;
  for (std::uint32_t seed = 0; seed < 300 * rounds; seed += step, ++all) {
    const set_images& sound = base_set(1 + seed % 2, true);
    set_images images = sound;
    const auto what = damage_by_seed(images, seed + 10000, seeded::fields);
    INFO("seed " << seed << ":" << what);
    const shown_set before = show(images);
    const auto run = repair(images);
    INFO(run.refused + words(run.before) << "after:\n" << words(run.after));
    if (!run.refused.empty())
      continue;
    unclean += run.before.clean() ? 0 : 1;
    if (run.before.clean())
      CHECK(before == show(sound)); // what is called clean shows what it should
    if (run.after.clean())
      check_usable(images, show(images));
    CHECK(no_wrong_byte(show(sound), show(images)));
    check_settled(images, run.after.clean());
  }
  CHECK(unclean * 2 > all); // the rest hit bytes that mean nothing
}

TEST_CASE("300 sets whose copies all say the same wrong thing: the end is settled, and can be used") {
  const unsigned step = sanitized ? 20 : 1, rounds = nightly() ? 20 : 1;
  unsigned unclean = 0, all = 0;
  for (std::uint32_t seed = 0; seed < 300 * rounds; seed += step, ++all) {
    set_images images = base_set(1 + seed % 3, seed % 2 == 0);
    const auto what = damage_by_seed(images, seed + 20000, seeded::everywhere);
    INFO("seed " << seed << ":" << what);
    const auto run = repair(images);
    INFO(run.refused + words(run.before) << "after:\n" << words(run.after));
    if (!run.refused.empty())
      continue;
    unclean += run.before.clean() ? 0 : 1;
    // Such an entry can be a remap like any other, and what is said of main that of another main: without
    // main no checker can know. A spare that says that it was away is looked at once it is back.
    const shown_set now = show(images);
    if (run.after.clean() && !now.refused.starts_with("main-") && !run.has(fsck::damage_kind::spare_returned))
      check_usable(images, now);
    check_settled(images, run.after.clean());
  }
  CHECK(unclean * 3 > all);
}

TEST_CASE("a chunk that a newer superblock does not tell of is said, and not taken in") {
  set_images images = base_set(1, true);
  spare_editor e(images.spares[0]);
  const auto chunk = e.serving().at(0).first; // one block each on a spare of 16 MiB
  for (unsigned r = 0; r < 5; ++r) {
    const unsigned offset = 1280 + 128 * r + chunk / 8;
    e.put_supers(offset, 1, e.get(0, offset, 1) & ~(std::uint64_t{1} << chunk % 8));
  }
  const auto before = images.hashes();
  const auto run = repair(images);
  INFO(words(run.before));
  CHECK(run.has(fsck::damage_kind::chunk_old));
  CHECK_FALSE(run.has(fsck::damage_kind::chunk_unmarked));
  CHECK_FALSE(run.after.clean());
  CHECK(images.hashes() == before);
}

TEST_CASE("a spare whose removal was cut off when its superblocks were erased is none, and not rebuilt") {
  const set_state start = pool_start("fresh");
  crash_run run(start, {});
  REQUIRE(run.open());
  const std::size_t from = run.position();
  run.remove_spare(0);
  run.finish();
  const auto cut_off = state_where(run, from, [&](const crash_state& crash) {
    for (unsigned copy = 0; copy < super_copies; ++copy)
      if (sequence_of(crash.devices[1]->content.at(unit_of_super(start.spares[0].content, copy))) != 0)
        return false;
    return true;
  });
  REQUIRE(cut_off);
  set_images images{cut_off->main, {cut_off->spares[0].content, cut_off->spares[1].content}};
  const fsck_run done = repair(images);
  INFO(words(done.before));
  CHECK(done.refused.empty());
  CHECK(done.has(fsck::damage_kind::spare_removed));
  CHECK_FALSE(done.has(fsck::damage_kind::superblock_gone)); // -y would never be done with it
  for (const auto& written : done.plan.writes)
    CHECK(written.member == 1); // which has listed its map
}
