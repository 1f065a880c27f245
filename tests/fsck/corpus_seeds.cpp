// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/fsck/corpus.h"

#include <cstdlib>
#include <random>

namespace dmremap::test {
namespace {

constexpr unsigned table_blocks = 17;

class damager {
public:
  damager(set_images& images, std::uint32_t seed) : images_(images), random_(seed) {}

  std::string bytes() {
    std::string done;
    for (auto& image : images_.spares) {
      spare_editor e(image);
      // One current copy of every block stays.
      spare_supers(e, below(10), done);
      for (std::uint32_t b = 0; b < table_blocks; ++b)
        if (below(3) == 0)
          copies(e, b, below(5), done);
    }
    return done;
  }

  std::string everywhere() {
    auto& image = images_.spares[below(static_cast<unsigned>(images_.spares.size()))];
    spare_editor e(image);
    std::string done;
    for (unsigned n = 1 + below(2); n > 0; --n) {
      const unsigned size = 1u << below(4);
      if (below(2) == 0) { // what is in use of a superblock: the fields, and the first good bits
        const unsigned offset = 8 + size * below((1400 - 8) / size);
        done += " supers+" + std::to_string(offset) + "/" + std::to_string(size);
        e.put_supers(offset, size, value());
        continue;
      }
      const auto [block, slot] = pick_slot(e);
      const unsigned offset = 32 + 16 * slot + below(16 / size) * size;
      done += " blocks " + std::to_string(block) + "+" + std::to_string(offset) + "/" + std::to_string(size);
      e.put_blocks(block, offset, size, value());
    }
    return done;
  }

  std::string fields() {
    auto& image = images_.spares[below(static_cast<unsigned>(images_.spares.size()))];
    spare_editor e(image);
    std::string done;
    for (unsigned n = 1 + below(3); n > 0; --n) {
      if (below(2) == 0) {
        const unsigned copy = below(10), offset = 8 + 4 * below(500);
        done += " super " + std::to_string(copy) + "+" + std::to_string(offset);
        e.put(e.super(copy), offset, 4, value());
      } else {
        const auto b = below(table_blocks);
        const unsigned replica = below(5), offset = 8 + 4 * below(1022);
        if (e.get(e.block(replica, b), 4, 4) != 0x01544D44)
          continue; // never initialised
        done += " block " + std::to_string(b) + "/" + std::to_string(replica) + "+" + std::to_string(offset);
        e.put(e.block(replica, b), offset, 4, value());
      }
    }
    return done;
  }

private:
  unsigned below(unsigned n) { return static_cast<unsigned>(random_() >> 4) % n; }
  /// One that serves main, where there is one and by half, or any of a block that is in use.
  std::pair<std::uint32_t, unsigned> pick_slot(const spare_editor& e) {
    const auto serving = e.serving();
    if (!serving.empty() && below(2) == 0)
      return serving[below(static_cast<unsigned>(serving.size()))];
    return {e.free_slot().first, below(254)};
  }
  std::uint64_t value() {
    switch (below(4)) {
    case 0:
      return below(20);
    case 1:
      return 0xFFFFFFFFu - below(20);
    case 2:
      return 1u << below(32);
    default:
      return random_();
    }
  }

  void hit(spare_editor& e, std::uint64_t unit, std::string& done) {
    const unsigned how = below(5);
    done += " " + std::to_string(unit) + "/" + std::to_string(how);
    switch (how) {
    case 0:
      return e.fill(unit, 1, 0);
    case 1:
      return e.fill(unit, 1, -1);
    case 2:
      return e.flip(unit, below(4096));
    case 3:
      return e.tear(unit, 1 + below(7));
    default:
      return e.copy(e.super(below(10)), unit);
    }
  }

  void spare_supers(spare_editor& e, unsigned kept, std::string& done) {
    for (unsigned c = 0; c < 10; ++c)
      if (c != kept && below(2) == 0)
        hit(e, e.super(c), done);
  }

  void copies(spare_editor& e, std::uint32_t b, unsigned kept, std::string& done) {
    for (unsigned r = 0; r < 5; ++r)
      if (r != kept && below(2) == 0)
        hit(e, e.block(r, b), done);
  }

  set_images& images_;
  std::minstd_rand random_;
};

} // namespace

bool nightly() {
  const char* const value = std::getenv("DMREMAP_REPLAY");
  return value != nullptr && std::string(value) == "nightly";
}

std::string damage_by_seed(set_images& images, std::uint32_t seed, seeded how) {
  damager d(images, seed * 2654435761u + 1);
  switch (how) {
  case seeded::bytes:
    return d.bytes();
  case seeded::fields:
    return d.fields();
  case seeded::everywhere:
    return d.everywhere();
  }
  return "";
}

} // namespace dmremap::test
