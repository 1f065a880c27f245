// SPDX-License-Identifier: GPL-2.0-or-later
// Damage under right checksums: what faulty programs, old copies and forged fields leave.
#include "tests/fsck/corpus.h"

namespace dmremap::test {
namespace {

using edit = std::function<void(spare_editor&)>;

damaged_set one(std::string name, expectation after, edit e, unsigned spares = 1) {
  return {std::move(name), spares, true, true, after, [e = std::move(e)](set_images& images) {
            spare_editor editor(images.spares[0]);
            e(editor);
          }};
}

/// Slot of a unit that holds a superblock copy, in a block that is in use.
constexpr std::uint32_t block_of_1024 = 1024 / 254;
constexpr unsigned slot_of_1024 = 1024 % 254;

constexpr std::uint64_t kind(std::uint64_t k) {
  return k << 48;
}

struct used_slot {
  std::uint32_t block;
  unsigned index;
  std::uint64_t where, stamp;
};

used_slot used(const spare_editor& e, std::size_t n = 0) {
  const auto [b, i] = e.serving().at(n);
  return {b, i, e.get(e.block(0, b), 32 + 16 * i, 8), e.get(e.block(0, b), 40 + 16 * i, 8)};
}

void put(spare_editor& e, const used_slot& s) {
  e.put_slot(s.block, s.index, s.where, s.stamp);
}

/// The chunk's bit in all superblocks; a chunk is one block on a spare of 16 MiB.
void put_good(spare_editor& e, unsigned replica, std::uint32_t chunk, bool on) {
  const unsigned offset = 1280 + 128 * replica + chunk / 8;
  const auto byte = e.get(0, offset, 1);
  const auto bit = std::uint64_t{1} << chunk % 8;
  e.put_supers(offset, 1, on ? byte | bit : byte & ~bit);
}

void add_slots(std::vector<damaged_set>& all) {
  using x = expectation;
  const auto add = [&](damaged_set d) { all.push_back(std::move(d)); };
  add(one("a slot names a unit behind the end of main", x::left, [](auto& e) {
    auto s = used(e);
    s.where = (s.where & ~0xFFFFFFFFFFFFull) | 5000;
    put(e, s);
  }));
  add(one("a remap in the slot of a superblock's unit", x::left,
          [](auto& e) { e.put_slot(block_of_1024, slot_of_1024, 77, kind(1) | 9); }));
  add(one("the slot of a superblock's unit is free", x::same,
          [](auto& e) { e.put_slot(block_of_1024, slot_of_1024, 0, 0); }));
  add(one("the slot of a superblock's unit is retired", x::same,
          [](auto& e) { e.put_slot(block_of_1024, slot_of_1024, 0, kind(3)); }));
  add(one("a free unit of data is marked as metadata", x::same, [](auto& e) {
    const auto [b, i] = e.free_slot();
    e.put_slot(b, i, 0, kind(4));
  }));
  add(one("an empty slot of an unknown kind", x::same, [](auto& e) {
    const auto [b, i] = e.free_slot();
    e.put_slot(b, i, 0, kind(9));
  }));
  add(one("a remap of an unknown kind", x::left, [](auto& e) {
    auto s = used(e);
    s.stamp = (s.stamp & 0xFFFFFFFFFFFFull) | kind(7);
    put(e, s);
  }));
  add(one("a remap marked as metadata", x::left, [](auto& e) {
    auto s = used(e);
    s.stamp = (s.stamp & 0xFFFFFFFFFFFFull) | kind(4);
    put(e, s);
  }));
  add(one("a remap without a sequence", x::same, [](auto& e) {
    auto s = used(e);
    s.stamp &= ~0xFFFFFFFFFFFFull;
    put(e, s);
  }));
  add(one("reserved bits of a remap are set", x::same, [](auto& e) {
    auto s = used(e);
    s.stamp |= 0x5ull << 56;
    put(e, s);
  }));
  add(one("main may answer for a sector that is not lost", x::clean, [](auto& e) {
    auto s = used(e);
    s.where |= 1ull << 60;
    put(e, s);
  }));
  add(one("two slots for one unit, the second one older", x::safe, [](auto& e) {
    const auto s = used(e, 2);
    const auto [b, i] = e.free_slot();
    e.put_slot(b, i, s.where, kind(1) | 1);
  }));
  add(one("three slots for one unit", x::safe, [](auto& e) {
    const auto s = used(e, 2);
    const auto [b, i] = e.free_slot();
    e.put_slot(b, i, s.where, kind(1) | 1);
    e.put_slot(b, i - 1, s.where, kind(2) | 2);
  }));
  add(one("two slots for one unit with one sequence", x::left, [](auto& e) {
    const auto s = used(e, 2);
    const auto [b, i] = e.free_slot();
    e.put_slot(b, i, s.where, s.stamp);
  }));
  add(one("two slots for one unit, and a newer one in the slot of a superblock's unit", x::left, [](auto& e) {
    const auto s = used(e, 2);
    const auto [b, i] = e.free_slot();
    e.put_slot(b, i, s.where, kind(1) | 1);
    e.put_slot(block_of_1024, slot_of_1024, s.where, kind(1) | 0xFFFFF);
  }));
  add(one("two slots for one unit, both without a sequence", x::left, [](auto& e) {
    auto s = used(e, 2);
    s.stamp &= ~0xFFFFFFFFFFFFull;
    put(e, s);
    const auto [b, i] = e.free_slot();
    e.put_slot(b, i, s.where, s.stamp);
  }));
  add(one("two slots for one unit, the second one without a sequence, and a bad copy", x::safe, [](auto& e) {
    const auto s = used(e, 2);
    const auto [b, i] = e.free_slot();
    e.put_slot(b, i, s.where, kind(1));
    e.put(e.block(3, b), 8, 8, 1);
  }));
  add({"a unit of main on two spares, the second one older", 2, true, true, x::safe, [](set_images& images) {
         spare_editor a(images.spares[0]), b(images.spares[1]);
         const bool first = !a.serving().empty();
         const auto s = used(first ? a : b);
         spare_editor& other = first ? b : a;
         // No block of the other need be in use: both have the blocks of their first data.
         const auto [number, index] = other.free_slot();
         other.put_slot(number, index, s.where, kind(1) | 1);
         const auto sixth = (first ? a : b).get(0, 736 + (first ? 4 : 0), 4);
         (first ? a : b).put(sixth + 1 + number, 32 + 16 * index, 8, s.where);
         (first ? a : b).put(sixth + 1 + number, 40 + 16 * index, 8, kind(1) | 1);
       }});
  add(one("a slot's sequence beyond the reserved range", x::safe, [](auto& e) {
    auto s = used(e);
    s.stamp = (s.stamp & ~0xFFFFFFFFFFFFull) | 0x10000000ull;
    put(e, s);
  }));
  add(one("a block's sequence beyond the reserved range", x::safe,
          [](auto& e) { e.put_blocks(used(e).block, 8, 8, 0x20000000ull); }));
  add(one("a sequence near the last one there is", x::left,
          [](auto& e) { e.put_blocks(used(e).block, 8, 8, 0xFFFFFFFFFF00ull); }));
}

void add_copies(std::vector<damaged_set>& all) {
  using x = expectation;
  const auto add = [&](damaged_set d) { all.push_back(std::move(d)); };
  add(one("one replica has an older version of a block", x::safe, [](auto& e) {
    const auto b = used(e).block;
    e.put(e.block(3, b), 8, 8, 1);
  }));
  add(one("four replicas have an older, empty version of a block", x::safe, [](auto& e) {
    const auto s = used(e);
    for (unsigned r = 1; r < 5; ++r) {
      e.put(e.block(r, s.block), 40 + 16 * s.index, 8, 0);
      e.put(e.block(r, s.block), 8, 8, 1);
    }
  }));
  add(one("two copies of a block with one sequence and different entries", x::left, [](auto& e) {
    const auto s = used(e);
    e.put(e.block(1, s.block), 32 + 16 * s.index, 8, s.where + 1);
  }));
  add(one("a copy of a block with an impossible entry under the same sequence", x::safe, [](auto& e) {
    const auto s = used(e);
    e.put(e.block(0, s.block), 32 + 16 * s.index, 8, 9999);
  }));
  add(one("a block of another spare", x::safe,
          [](auto& e) { e.put(e.block(2, used(e).block), 16, 8, 0x1122334455667788ull); }));
  add(one("superblocks 0 to 2 are older", x::safe, [](auto& e) {
    for (unsigned c = 0; c < 3; ++c)
      e.put(e.super(c), 8, 8, 1);
  }));
  add(one("two superblocks of one sequence disagree on main's size", x::left,
          [](auto& e) { e.put(e.super(4), 144, 8, 99999); }));
  add(one("superblock copy 1 is of another spare", x::safe, [](auto& e) {
    e.put(e.super(1), 16, 8, 0xABCDEF);
    e.put(e.super(1), 472, 8, 0xABCDEF);
  }));
  add(one("half of the superblocks are of another spare", x::safe, [](auto& e) {
    for (unsigned c = 0; c < 10; c += 2) {
      e.put(e.super(c), 16, 8, 0xABCDEF);
      e.put(e.super(c), 472, 8, 0xABCDEF);
    }
  }));
  add(one("a metadata image, not a spare", x::noticed, [](auto& e) { e.put_supers(128, 4, 4); }));
  add(one("an unknown incompatible feature", x::refused, [](auto& e) { e.put_supers(128, 4, 1u << 7); }));
  add(one("an unknown feature that allows reading only", x::refused,
          [](auto& e) { e.put_supers(124, 4, 1u << 9); }));
}

void add_supers(std::vector<damaged_set>& all) {
  using x = expectation;
  const auto add = [&](damaged_set d) { all.push_back(std::move(d)); };
  add(one("all superblocks have a wrong place for replica 2", x::same,
          [](auto& e) { e.put_supers(176, 4, 1700); }));
  add(one("wrong places of the table, and one true head gone", x::same, [](auto& e) {
    e.put_supers(176, 4, 1700); // between the replicas: units of data
    e.fill(e.super(5), 1, 0);
  }));
  add(one("all superblocks have replicas that overlap", x::same, [](auto& e) { e.put_supers(176, 4, 820); }));
  add(one("all superblocks tell of more units than there are", x::same,
          [](auto& e) { e.put_supers(152, 8, 1u << 20); }));
  add(one("more spares than the list has", x::safe, [](auto& e) { e.put_supers(136, 4, 3); }));
  add(one("more commits done than tried", x::safe, [](auto& e) { e.put_supers(1160, 8, 1u << 30); }));
  add(one("a map of an absent spare that the set does not have", x::safe,
          [](auto& e) { e.put_supers(1232 + 5, 1, 1); }));
  add(one("the reserved range ends below what is in use", x::safe, [](auto& e) {
    e.put_supers(192, 8, 1);
    e.put_supers(200, 8, 1);
  }));
  add(one("good superblock copies are marked as bad", x::safe, [](auto& e) { e.put_supers(188, 4, 0x3); }));
  add(one("no replica of a chunk with entries is marked as good", x::same, [](auto& e) {
    const auto b = used(e).block;
    e.put_supers(192, 8, 1); // the superblock is no newer than the entries
    for (unsigned r = 0; r < 5; ++r)
      put_good(e, r, b, false);
  }));
  add({"no replica of a chunk of a protected spare is marked as good", 2, true, true, x::same,
       [](set_images& images) {
         spare_editor a(images.spares[0]), b(images.spares[1]);
         spare_editor& e = a.serving().empty() ? b : a;
         const auto chunk = used(e).block;
         e.put_supers(192, 8, 1);
         for (unsigned r = 0; r < 6; ++r)
           put_good(e, r, chunk, false);
       }});
  add(one("one good replica of a chunk is marked as bad", x::noticed,
          [](auto& e) { put_good(e, 2, used(e).block, false); }));
  add(one("a chunk that was never written is marked as good", x::left, [](auto& e) {
    std::uint32_t b = 16;
    while (b > 0 && e.get(e.block(0, b), 4, 4) == 0x01544D44)
      --b;
    for (unsigned r = 0; r < 5; ++r)
      put_good(e, r, b, true);
  }));
  add(one("a spare that is alone lists a copy of another's table", x::safe, [](auto& e) {
    e.put_supers(736 + 4 * 3, 4, 2600);
    e.put_supers(1168 + 4 * 3, 4, 17);
    e.put_supers(800, 4, 8);
  }));
  add(one("a spare that is alone says another has its table", x::safe, [](auto& e) {
    e.put_supers(728, 4, 1);
    e.put_supers(732, 4, 2600);
  }));
  add(one(
      "the other spare does not list the copy of the table", x::safe,
      [](auto& e) { e.put_supers(732, 4, 3000); }, 2));
  add(one(
      "the copy of a table is listed where another's table lies", x::safe,
      [](auto& e) { e.put_supers(736 + 4, 4, 1640); }, 2));
  add(one(
      "sessions that no other spare knows", x::left,
      [](auto& e) {
        e.put_supers(208, 8, 0x1234);
        e.put_supers(216, 8, 0x1234);
        e.put_supers(224, 8, 0x1234);
        e.put_supers(232, 8, 0x5678);
        e.put_supers(240, 8, 0x5678);
      },
      2));
  add({"one spare given twice", 2, true, true, x::left,
       [](set_images& images) { images.spares[1] = images.spares[0]; }});
  add({"one spare of two is not given", 2, true, true, x::left,
       [](set_images& images) { images.spares.pop_back(); }});
}

} // namespace

std::vector<damaged_set> logic_by_hand() {
  std::vector<damaged_set> all;
  add_slots(all);
  add_copies(all);
  add_supers(all);
  return all;
}

} // namespace dmremap::test
