// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/store.h"

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <thread>
#include <vector>

namespace dmremap::test {

/// Makes an empty store of at least 1 MiB, all zeros. Called once for each part of the contract.
using store_factory = std::function<std::shared_ptr<store>()>;

/// Memory that starts `shift` bytes behind an alignment of 4096.
class shifted_buffer {
public:
  shifted_buffer(std::size_t bytes, std::size_t shift) : memory_(bytes + shift + 4096), bytes_(bytes) {
    const auto at = reinterpret_cast<std::uintptr_t>(memory_.data());
    offset_ = (4096 - at % 4096) % 4096 + shift;
  }
  [[nodiscard]] std::span<std::byte> span() { return {memory_.data() + offset_, bytes_}; }

private:
  std::vector<std::byte> memory_;
  std::size_t bytes_, offset_ = 0;
};

inline void fill_random(std::span<std::byte> out, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  for (auto& b : out)
    b = static_cast<std::byte>(random());
}

[[nodiscard]] inline bool equal(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

[[nodiscard]] inline bool all_zero(std::span<const std::byte> a) {
  return std::all_of(a.begin(), a.end(), [](std::byte b) { return b == std::byte{0}; });
}

namespace contract {

inline void keeps_what_was_written(store& s) {
  const std::size_t bs = s.block_size();
  for (const std::size_t shift : {std::size_t{0}, std::size_t{512}, std::size_t{8}, std::size_t{1}}) {
    for (const std::size_t length : {bs, 2 * bs, std::size_t{64} << 10, (std::size_t{512} << 10) - bs}) {
      INFO("memory shifted by " << shift << ", length " << length);
      shifted_buffer out(length, shift);
      shifted_buffer in(length, shift);
      fill_random(out.span(), length + shift);
      REQUIRE(s.write(out.span(), bs));
      REQUIRE(s.read(in.span(), bs));
      REQUIRE(equal(in.span(), out.span()));
    }
  }
}

inline void touches_only_the_range(store& s) {
  const std::size_t bs = s.block_size();
  shifted_buffer whole(16 * bs, 0);
  fill_random(whole.span(), 1);
  REQUIRE(s.write(whole.span(), 0));
  shifted_buffer one(bs, 0);
  fill_random(one.span(), 2);
  REQUIRE(s.write(one.span(), 5 * bs));
  std::memcpy(whole.span().data() + 5 * bs, one.span().data(), bs);
  shifted_buffer back(16 * bs, 0);
  REQUIRE(s.read(back.span(), 0));
  CHECK(equal(back.span(), whole.span()));
}

inline void reaches_the_ends(store& s) {
  const std::uint64_t bs = s.block_size();
  shifted_buffer out(bs, 0);
  shifted_buffer in(bs, 0);
  fill_random(out.span(), 3);
  REQUIRE(s.write(out.span(), s.size() - bs));
  REQUIRE(s.read(in.span(), s.size() - bs));
  CHECK(equal(in.span(), out.span()));
  // Nothing at all is a valid request, at the very end, too.
  CHECK(s.read({}, s.size()));
  CHECK(s.write({}, s.size()));
  CHECK(s.zero(s.size(), 0));
}

inline void refuses_bad_requests(store& s) {
  const std::uint64_t bs = s.block_size();
  shifted_buffer before(4 * bs, 0);
  fill_random(before.span(), 4);
  REQUIRE(s.write(before.span(), s.size() - 4 * bs));
  shifted_buffer memory(2 * bs, 0);
  const auto invalid = [](const io_result& r) { return !r && r.error() == io_error::invalid; };
  const auto both_refuse = [&](std::size_t length, std::uint64_t offset) {
    INFO("length " << length << ", offset " << offset);
    CHECK(invalid(s.read(memory.span().first(length), offset)));
    CHECK(invalid(s.write(memory.span().first(length), offset)));
    CHECK(invalid(s.zero(offset, length)));
  };
  both_refuse(bs, s.size());
  both_refuse(2 * bs, s.size() - bs);
  both_refuse(bs, UINT64_MAX - bs + 1);
  both_refuse(bs, std::uint64_t{1} << 63);
  both_refuse(bs - 1, 0);
  both_refuse(bs, 1);
  both_refuse(bs, bs / 2);
  shifted_buffer after(4 * bs, 0);
  REQUIRE(s.read(after.span(), s.size() - 4 * bs));
  CHECK(equal(after.span(), before.span()));
}

inline void zeroes_or_changes_nothing(store& s) {
  const std::size_t bs = s.block_size();
  const std::size_t total = 256 << 10;
  shifted_buffer before(total, 0);
  fill_random(before.span(), 5);
  REQUIRE(s.write(before.span(), 0));
  const std::size_t from = 3 * bs;
  const std::size_t length = total - 7 * bs;
  const io_result zeroed = s.zero(from, length);
  shifted_buffer after(total, 0);
  REQUIRE(s.read(after.span(), 0));
  if (zeroed) {
    CHECK(all_zero(after.span().subspan(from, length)));
    CHECK(equal(after.span().first(from), before.span().first(from)));
    CHECK(equal(after.span().subspan(from + length), before.span().subspan(from + length)));
  } else {
    CHECK(zeroed.error() == io_error::unsupported);
    CHECK(equal(after.span(), before.span()));
  }
}

inline void serves_many_threads(store& s) {
  const std::size_t bs = s.block_size();
  const std::size_t share = 128 << 10;
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      shifted_buffer out(4 * bs, t % 2 == 0 ? 0 : 24);
      shifted_buffer in(4 * bs, 0);
      for (std::uint64_t round = 0; round < 32; ++round) {
        fill_random(out.span(), round * 4 + t);
        const std::uint64_t offset = t * share + round % 8 * 4 * bs % share;
        if (!s.write(out.span(), offset) || !s.read(in.span(), offset) || !equal(in.span(), out.span()) ||
            !s.flush())
          ++failures;
      }
    });
  }
  for (auto& t : threads)
    t.join();
  CHECK(failures == 0);
}

} // namespace contract

/// Everything that store.h promises of any store, to be run against each implementation.
inline void check_store_contract(const store_factory& make) {
  {
    const auto s = make();
    REQUIRE(s);
    CHECK((s->block_size() == 512 || s->block_size() == 4096));
    CHECK(s->size() % s->block_size() == 0);
    REQUIRE(s->size() >= (1u << 20));
    CHECK_FALSE(s->identity().path.empty());
    shifted_buffer start(4096, 0);
    REQUIRE(s->read(start.span(), 0));
    CHECK(all_zero(start.span()));
    CHECK(s->flush());
  }
  for (const auto part :
       {contract::keeps_what_was_written, contract::touches_only_the_range, contract::reaches_the_ends,
        contract::refuses_bad_requests, contract::zeroes_or_changes_nothing, contract::serves_many_threads}) {
    const auto s = make();
    REQUIRE(s);
    part(*s);
    CHECK(s->flush());
  }
}

} // namespace dmremap::test
