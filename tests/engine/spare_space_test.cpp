// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/spare_space.h"

#include <catch2/catch.hpp>
#include <random>

using namespace dmremap;

namespace {

/// What take() gives of a copy is the room.
std::uint64_t given(spare_space space) {
  return space.take(UINT64_MAX).size();
}

/// A run of that length is there, and none that is longer.
bool is_longest(const spare_space& space, std::uint64_t length) {
  spare_space one = space, other = space;
  return (length == 0 || one.take_run(length)) && !other.take_run(length + 1);
}

} // namespace

TEST_CASE("the room of a spare is what automatic allocation gives, not what is free") {
  const auto g = *make_geometry(16u << 20);
  spare_space space(g);
  const std::uint64_t empty = space.room();
  CHECK(empty == given(space));
  CHECK(empty < space.usable() - space.allocated()); // the head is for add_remap by hand
  const auto all = space.take(UINT64_MAX);
  CHECK(all.size() == empty);
  CHECK(space.room() == 0);
  CHECK(space.longest_run() == 0);
  CHECK(space.usable() - space.allocated() > 900);
  spare_unit head(1);
  while (!space.is_free(head))
    head = head.plus(1);
  REQUIRE(head < g.first_automatic());
  REQUIRE(space.take_these(head, 1));
  space.give_back(head);
  CHECK(space.room() == 0); // there, nothing comes and goes
  space.give_back(all.back());
  CHECK(space.room() == 1);
  CHECK(given(space) == 1);
}

TEST_CASE("chunks that cannot change are no room, and are room again once they can") {
  const auto g = *make_geometry(16u << 20);
  spare_space space(g);
  const std::uint64_t empty = space.room();
  for (std::uint32_t chunk = 0; chunk < g.chunks(); ++chunk) {
    INFO(chunk);
    space.set_chunk_usable(chunk, false);
    space.set_chunk_usable(chunk, false);
    CHECK(space.room() == given(space));
    CHECK(is_longest(space, space.longest_run()));
    space.set_chunk_usable(chunk, true);
    CHECK(space.room() == empty);
  }
}

TEST_CASE("the room and the longest run are right after any sequence of changes") {
  const auto g = *make_geometry(16u << 20);
  spare_space space(g);
  std::mt19937 random(17);
  const auto below = [&](std::uint64_t n) {
    return std::uniform_int_distribution<std::uint64_t>(0, n - 1)(random);
  };
  space.note_slot(spare_unit(2000), false);
  space.note_slot(spare_unit(2001), true);
  std::vector<spare_unit> held = {spare_unit(2000)};
  std::optional<spare_unit> guest;
  for (unsigned step = 0; step < 400; ++step) {
    switch (below(7)) {
    case 0:
      for (const spare_unit u : space.take(below(300)))
        held.push_back(u);
      break;
    case 1:
      if (const std::uint64_t count = 1 + below(200); const auto run = space.take_run(count))
        for (std::uint64_t n = 0; n < count; ++n)
          held.push_back(run->plus(n));
      break;
    case 2:
      if (const spare_unit u(below(g.units)); space.take_these(u, 1))
        held.push_back(u);
      break;
    case 3:
      space.set_chunk_usable(static_cast<std::uint32_t>(below(g.chunks())), below(3) != 0);
      break;
    case 4:
      if (guest) {
        space.unhost(*guest, 18);
        guest.reset();
      } else if (guest = space.find_host_run(18); guest) {
        REQUIRE(space.host(*guest, 18));
      }
      break;
    default:
      for (std::uint64_t n = below(150); n > 0 && !held.empty(); --n) {
        std::swap(held[below(held.size())], held.back());
        space.give_back(held.back());
        held.pop_back();
      }
    }
    REQUIRE(space.room() == given(space));
    if (step % 8 == 0)
      REQUIRE(is_longest(space, space.longest_run()));
  }
}
