// SPDX-License-Identifier: GPL-2.0-or-later
#include "fsck/slots.h"

#include <fmt/format.h>

namespace dmremap::fsck {
namespace {

slot_verdict wrong_metadata(const slot& s) {
  if (s.serves())
    return {damage_kind::slot_impossible,
            {},
            "the slot of a unit that holds metadata says that a unit of main is served from there"};
  return {damage_kind::slot, slot::make(slot_kind::metadata, main_unit(0), 0, 0, 0),
          "the slot of a unit that holds metadata does not say so"};
}

slot_verdict wrong_remap(const slot& s, std::uint64_t main_units) {
  if (s.main().value >= main_units)
    return {damage_kind::slot_impossible, {}, "a slot names a unit behind the end of main"};
  slot fixed = s;
  std::string text;
  if (const auto beyond = static_cast<std::uint8_t>(s.main_may_answer() & ~s.lost()); beyond != 0) {
    // Which of the two bits is wrong cannot be known: the sector answers with an error until it is written.
    fixed = slot::make(s.kind(), s.main(), static_cast<std::uint8_t>(s.lost() | beyond),
                       static_cast<std::uint8_t>(s.main_may_answer() & ~beyond), s.sequence());
    text = "main may answer for a sector that is not lost: it becomes lost";
  }
  if (s.sequence() == 0)
    text += std::string(text.empty() ? "" : "; ") + "a remap without a sequence";
  if (s.reserved() != 0) {
    fixed.stamp &= ~(0xFFull << 56);
    text += std::string(text.empty() ? "" : "; ") + "reserved bits are set";
  }
  return {damage_kind::slot, fixed, text};
}

} // namespace

std::uint64_t main_units_of(const superblock& s) {
  return (s.main_sectors + unit_sectors - 1) / unit_sectors;
}

std::optional<slot_verdict> check_slot(const slot& s, bool is_metadata, std::uint64_t main_units) {
  const bool known = s.kind() <= slot_kind::metadata && s.reserved() == 0;
  const bool fits = !s.serves() || (s.main().value < main_units && s.sequence() != 0 &&
                                    (s.main_may_answer() & ~s.lost()) == 0);
  if (known && fits && is_metadata == (s.kind() == slot_kind::metadata))
    return std::nullopt;
  if (is_metadata)
    return wrong_metadata(s);
  if (s.serves())
    return wrong_remap(s, main_units);
  if (s.kind() == slot_kind::retired)
    return slot_verdict{damage_kind::slot, slot::make(slot_kind::retired, main_unit(0), 0, 0, s.sequence()),
                        "reserved bits are set"};
  // Free, metadata or unknown kind on a unit of data. A remap has a sequence; without one it cannot have been
  // one.
  if (s.sequence() == 0 && s.where == 0)
    return slot_verdict{damage_kind::slot, slot{},
                        "an empty slot of a unit of data has the wrong kind or reserved bits"};
  if (s.kind() == slot_kind::free)
    return slot_verdict{damage_kind::slot, slot::make(slot_kind::free, main_unit(0), 0, 0, s.sequence()),
                        "reserved bits are set"};
  return slot_verdict{
      damage_kind::slot_impossible,
      {},
      fmt::format("a slot of kind {} that may have been a remap", static_cast<unsigned>(s.kind()))};
}

bool all_slots_possible(const table_block& t, std::uint32_t number, const geometry& g,
                        std::uint64_t main_units) {
  for (std::uint32_t i = 0; i < slots_per_block; ++i)
    if (check_slot(t.slots[i], g.is_metadata(spare_unit(std::uint64_t{number} * slots_per_block + i)),
                   main_units))
      return false;
  return true;
}

} // namespace dmremap::fsck
