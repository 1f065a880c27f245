// SPDX-License-Identifier: GPL-2.0-or-later
// Damage that checksums show: what bad sectors, torn writes, strays and overwrites leave.
#include "tests/fsck/corpus.h"

namespace dmremap::test {
namespace {

using edit = std::function<void(spare_editor&)>;

/// Damage of the first spare.
damaged_set one(std::string name, expectation after, edit e, unsigned spares = 1, bool closed = true) {
  return {std::move(name), spares, closed, false, after, [e = std::move(e)](set_images& images) {
            spare_editor editor(images.spares[0]);
            e(editor);
          }};
}

std::uint32_t used_block(const spare_editor& e) {
  return e.serving().front().first;
}

} // namespace

std::vector<damaged_set> bytes_by_hand() {
  std::vector<damaged_set> all;
  const auto add = [&](damaged_set d) { all.push_back(std::move(d)); };
  using x = expectation;
  add(one("first superblock overwritten with zeros", x::safe, [](auto& e) { e.fill(0, 1, 0); }));
  add(one("first superblock overwritten with a boot sector", x::safe, [](auto& e) { e.fill(0, 1, 0xEB); }));
  add(one("one bit of superblock copy 2 flipped", x::safe, [](auto& e) { e.flip(e.super(2), 300); }));
  add(one("superblock copy 3 torn after one sector", x::safe, [](auto& e) { e.tear(e.super(3), 1); }));
  add(one("superblock copy 4 torn after seven sectors", x::safe, [](auto& e) { e.tear(e.super(4), 7); }));
  add(one("the head of replica 3 overwritten", x::safe, [](auto& e) { e.fill(e.super(8), 1, -1); }));
  add(one("the five superblocks at the front overwritten with noise", x::safe, [](auto& e) {
    for (unsigned c = 0; c < 5; ++c)
      e.fill(e.super(c), 1, -1);
  }));
  add(one("the five heads overwritten", x::safe, [](auto& e) {
    for (unsigned c = 5; c < 10; ++c)
      e.fill(e.super(c), 1, 0);
  }));
  add(one("nine superblocks gone, the last head left", x::safe, [](auto& e) {
    for (unsigned c = 0; c < 9; ++c)
      e.fill(e.super(c), 1, -1);
  }));
  add(one("the first 4 MiB zeroed", x::safe, [](auto& e) { e.fill(0, 1024, 0); }));
  add(one("the last fifth overwritten", x::safe, [](auto& e) { e.fill(3276, 820, -1); }));
  add(one("superblock copy 1 in the place of copy 2", x::safe,
          [](auto& e) { e.copy(e.super(1), e.super(2)); }));
  add(one("a table block in the place of a superblock", x::safe,
          [](auto& e) { e.copy(e.block(0, used_block(e)), e.super(3)); }));
  add(one("one copy of a table block overwritten", x::safe,
          [](auto& e) { e.fill(e.block(2, used_block(e)), 1, -1); }));
  add(one("four of five copies of a table block overwritten", x::safe, [](auto& e) {
    const auto b = used_block(e);
    for (const unsigned r : {0u, 1u, 2u, 4u})
      e.fill(e.block(r, b), 1, 0);
  }));
  add(one("replica 0 of the table zeroed as a whole", x::safe, [](auto& e) { e.fill(e.super(5), 18, 0); }));
  add(one("replicas 1 to 4 of the table overwritten with noise", x::safe, [](auto& e) {
    for (unsigned c = 6; c < 10; ++c)
      e.fill(e.super(c), 18, -1);
  }));
  add(one("a copy of a table block torn in the middle", x::safe,
          [](auto& e) { e.tear(e.block(1, used_block(e)), 4); }));
  add(one("table blocks of two replicas swapped", x::safe, [](auto& e) {
    const auto b = used_block(e);
    e.copy(e.block(0, b), 2000); // a unit of data that is not in use
    e.copy(e.block(1, b), e.block(0, b));
    e.copy(2000, e.block(1, b));
  }));
  add(one("a table block in the place of its neighbour", x::safe,
          [](auto& e) { e.copy(e.block(3, used_block(e) + 1), e.block(3, used_block(e))); }));
  add(one("a different copy of every table block damaged", x::safe, [](auto& e) {
    for (std::uint32_t b = 0; b < 17; ++b)
      e.flip(e.block(b % 5, b), 100);
  }));
  add(one("all copies of a table block that holds entries gone", x::left, [](auto& e) {
    const auto b = used_block(e);
    for (unsigned r = 0; r < 5; ++r)
      e.fill(e.block(r, b), 1, 0);
  }));
  add(one("all ten superblocks of the only spare gone", x::left, [](auto& e) {
    for (unsigned c = 0; c < 10; ++c)
      e.fill(e.super(c), 1, -1);
  }));
  add(one("all ten superblocks torn", x::left, [](auto& e) {
    for (unsigned c = 0; c < 10; ++c)
      e.flip(e.super(c), 200);
  }));
  add(one("nothing but noise on the whole spare", x::refused, [](auto& e) { e.fill(0, 4096, -1); }));
  add(one("nothing but zeros on the whole spare", x::refused, [](auto& e) { e.fill(0, 4096, 0); }));
  add(one(
      "all ten superblocks of one of two spares gone", x::same,
      [](auto& e) {
        for (unsigned c = 0; c < 10; ++c)
          e.fill(e.super(c), 1, -1);
      },
      2));
  add({"all superblocks of one of two spares gone, and its head on the other", 2, true, false, x::same,
       [](set_images& images) {
         spare_editor lost(images.spares[0]), other(images.spares[1]);
         for (unsigned c = 0; c < 10; ++c)
           lost.fill(lost.super(c), 1, -1);
         other.fill(other.get(0, 736, 4), 1, 0);
       }});
  add({"the copy of a table on the other spare overwritten", 2, true, false, x::safe, [](set_images& images) {
         spare_editor host(images.spares[1]);
         host.fill(host.get(0, 736, 4), 18, -1);
       }});
  add({"all five own copies of a table block gone, the sixth left", 2, true, false, x::safe,
       [](set_images& images) {
         spare_editor e(images.spares[0]);
         const auto used = e.serving();
         const std::uint32_t b = used.empty() ? 0 : used.front().first;
         for (unsigned r = 0; r < 5; ++r)
           e.fill(e.block(r, b), 1, -1);
       }});
  return all;
}

} // namespace dmremap::test
