// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/member.h"

#include <catch2/catch.hpp>

using namespace dmremap;

TEST_CASE("a member is a path", "[member]") {
  const auto m = parse_member("/dev/sdb");
  REQUIRE(m);
  CHECK(m->path == "/dev/sdb");
  CHECK_FALSE(m->start);
}
