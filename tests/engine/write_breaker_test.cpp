// SPDX-License-Identifier: GPL-2.0-or-later
// When failed writes of main stop being bad places; the clock is the test's own.
#include "engine/write_breaker.h"

#include <catch2/catch.hpp>
#include <chrono>

using namespace dmremap;
using namespace std::chrono_literals;

namespace {

/// 64 units in 10 s.
struct clocked {
  write_breaker breaker;
  write_breaker::time_point now{1h};
  std::uint64_t taken = 1000;

  clocked() { breaker.set_limits(64, 10s); }
  /// Failed writes of a unit each, `pause` before each; how many may be moved before the breaker opens.
  unsigned spent(unsigned writes, std::chrono::milliseconds pause) {
    unsigned n = 0;
    for (unsigned i = 0; i < writes; ++i) {
      now += pause;
      n += breaker.trips(1, taken, now) ? 0 : 1;
    }
    return n;
  }
};

} // namespace

TEST_CASE("with no good write between them failures trip the breaker at any pace", "[write_breaker]") {
  const auto pause = GENERATE(0ms, 157ms, 200ms, 11s, 24h);
  clocked c;
  REQUIRE(c.spent(500, pause) == 64);
  REQUIRE(c.breaker.open());
  SECTION("and again after a reset") {
    c.breaker.reset();
    REQUIRE_FALSE(c.breaker.open());
    REQUIRE(c.spent(500, pause) == 64);
  }
}

TEST_CASE("a main that stops taking writes within a window spends no more than one limit from then on",
          "[write_breaker]") {
  clocked c;
  REQUIRE(c.spent(10, 900ms) == 10);
  ++c.taken;
  REQUIRE(c.spent(500, 900ms) == 64);
}

TEST_CASE("within the window fewer good writes than bad ones trip it", "[write_breaker]") {
  clocked c;
  SECTION("every third write is good") {
    unsigned spent = 0;
    for (unsigned i = 0; i < 200; ++i) {
      spent += c.spent(2, 1ms);
      ++c.taken;
    }
    REQUIRE(spent == 64);
  }
  SECTION("every second one is") {
    REQUIRE(c.spent(1, 1ms) == 1);
    c.taken += 2;
    for (unsigned i = 0; i < 200; ++i) {
      REQUIRE(c.spent(1, 1ms) == 1);
      ++c.taken;
    }
    REQUIRE_FALSE(c.breaker.open());
  }
  SECTION("fewer than the limit in each window, with good ones among them") {
    for (unsigned i = 0; i < 50; ++i) {
      REQUIRE(c.spent(20, 1ms) == 20);
      ++c.taken;
      c.now += 11s;
    }
    REQUIRE_FALSE(c.breaker.open());
  }
}

TEST_CASE("units of one request count each, its failure once", "[write_breaker]") {
  clocked c;
  for (unsigned i = 0; i < 4; ++i)
    REQUIRE_FALSE(c.breaker.trips(16, c.taken, c.now));
  REQUIRE(c.breaker.trips(1, c.taken, c.now));
}

TEST_CASE("what spent nothing is forgotten", "[write_breaker]") {
  clocked c;
  for (unsigned i = 0; i < 500; ++i) {
    REQUIRE_FALSE(c.breaker.trips(16, c.taken, c.now));
    c.breaker.forget(16);
  }
  REQUIRE(c.spent(500, 1ms) == 64);
}

TEST_CASE("an older number of good writes, brought late, undoes nothing", "[write_breaker]") {
  clocked c;
  REQUIRE(c.spent(30, 1ms) == 30);
  c.taken -= 5;
  REQUIRE(c.spent(1, 1ms) == 1);
  c.taken += 5;
  REQUIRE(c.spent(500, 1ms) == 33);
}
